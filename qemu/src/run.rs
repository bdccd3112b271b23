//! A build that is running with the probe inside.
//!
//! Nothing of a run has a name in the file system: the probe's socket is one end of a socket pair, the log that
//! QEMU writes is a pipe, the log that it reads an unnamed file, all passed as open descriptors. So there is
//! nothing to clean up, whoever dies; and QEMU itself is killed by the kernel when the thread that started it
//! ends (`PR_SET_PDEATHSIG`), which therefore has to be the main thread.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trace::codec;
use trace::message::{API, ASKED, FromProbe, PRELOADED, PRELOADED_FD, PROTOCOL, ToProbe};

use crate::apart::run_apart;
use crate::arguments::Arguments;
use crate::build::{Build, Mode};

/// What happens to a run, in the order in which it is seen on each of its streams.
#[derive(Debug)]
pub enum Happening {
    /// Bytes on QEMU's standard output: the guest's console.
    Console(Vec<u8>),
    Probe(FromProbe),
    /// The probe will say nothing more: QEMU ended, or what came was not a message (then why).
    ProbeGone(Option<String>),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no probe at `{0}`: build it (cargo build --release), or say in TANDEM_PROBE where libtandem_probe.so lies"
    )]
    NoProbe(PathBuf),
    #[error("`{path}` can't be started: {why}")]
    Start { path: PathBuf, why: io::Error },
    #[error("`{0}` was built without plugins (--disable-plugins), which Tandem needs; use a build with them")]
    NoPlugins(PathBuf),
    #[error("`{path}` ended before the guest's first instruction ({ending}): {said}")]
    Stillborn { path: PathBuf, ending: String, said: String },
    #[error("`{0}` did not load the probe within {limit} s", limit = START_LIMIT.as_secs())]
    Mute(PathBuf),
    #[error(
        "`{path}` loaded a probe of another release (protocol {theirs}, expected {PROTOCOL}); rebuild, or unset TANDEM_PROBE"
    )]
    OtherProbe { path: PathBuf, theirs: u32 },
    #[error("the connection to the probe failed: {0}")]
    Link(#[from] codec::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How long QEMU may take to load the probe.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long QEMU may take to end once the probe has let it go.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How long the console is left to gather where nobody answers it: QEMU writes each byte by itself, and is held up where
/// somebody waits for it.
const GATHERING: Duration = Duration::from_millis(5);
/// How much of QEMU's standard error is kept, bytes.
const KEPT_ERRORS: usize = 16 << 10;

/// The probe's socket in a user program's QEMU: high enough for the program not to come by it.
const PROGRAM_SOCKET: RawFd = 1000;

/// What QEMU says and goes on: warnings, and of modules of another build's (util/error-report.c and util/module.c).
const HARMLESS: [&str; 4] =
    ["warning: ", "info: ", "ailed to initialize module", "Only modules from the same build can be loaded"];

/// Where the built probe lies: `TANDEM_PROBE`, or beside the program, or beside its folder (as for tests).
///
/// # Errors
/// Where there is none.
pub fn probe() -> Result<PathBuf, Error> {
    const NAME: &str = "libtandem_probe.so";
    if let Some(path) = std::env::var_os("TANDEM_PROBE") {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(std::path::absolute(&path)?) } else { Err(Error::NoProbe(path)) };
    }
    let program = std::env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("/")).join(NAME);
    if beside.is_file() { Ok(beside) } else { Err(Error::NoProbe(beside)) }
}

/// What to start.
pub struct Plan<'a> {
    pub build: &'a Build,
    pub arguments: &'a [String],
    /// Where QEMU is started: what relative paths in the arguments mean.
    pub folder: &'a Path,
    /// `None`: without it, and so without digests.
    pub probe: Option<&'a Path>,
    /// Whether something will be typed into QEMU's standard input.
    pub typed: Typing,
    /// Descriptors besides the probe's socket that QEMU shall have, under the same numbers.
    pub passed: &'a [BorrowedFd<'a>],
    /// Whether it stands still before the first instruction, and then does as [`Controls`] tell it.
    pub commanded: bool,
    /// The file that its standard output goes to, where not to who started it.
    pub console: Option<BorrowedFd<'a>>,
    /// What its environment is, where not that of who started it.
    pub environment: Option<&'a [(OsString, OsString)]>,
}

/// The ends of what commands a QEMU, before anything is said on them.
#[derive(Debug)]
pub struct Controls {
    pub monitor: UnixStream,
    pub stub: UnixStream,
    /// Where the probe is asked while the guest stands still.
    pub asking: UnixStream,
}

/// A running QEMU. Dropping it kills it.
pub struct Run {
    path: PathBuf,
    child: Child,
    /// `None` where there is none.
    probe: Option<UnixStream>,
    /// Takes what is typed.
    typing: Option<Sender<Vec<u8>>>,
    errors: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
    controls: Option<Controls>,
    /// The end of a replay's monitor for people.
    waking: Option<UnixStream>,
    /// What the probe said of the build; without one nothing.
    pub plugin_api: i32,
    pub target: String,
    /// As which process QEMU sees itself.
    pub pid: u32,
}

impl Run {
    /// Starts a build, and waits until its probe has spoken: the guest stands before its first instruction.
    /// `tell` is called from other threads with what happens after [`Run::go`]. To be called on the main thread.
    ///
    /// # Errors
    /// Where QEMU does not come up with the probe.
    pub fn start(plan: &Plan, tell: impl Fn(Happening) + Clone + Send + 'static) -> Result<Self, Error> {
        Run::begin(plan, tell.clone())?.come_up(tell)
    }

    /// Starts a build as [`start`](Self::start) does, and waits for nothing: [`come_up`](Self::come_up) does.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn begin(plan: &Plan, tell: impl Fn(Happening) + Clone + Send + 'static) -> Result<Self, Error> {
        let (host, guest) = UnixStream::pair()?;
        let mut passed: Vec<RawFd> = plan.passed.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new(&plan.build.path);
        if let Some(environment) = plan.environment {
            command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        }
        // Of a user program's QEMU all that comes behind the program is that one's.
        let is_user = plan.build.mode == Mode::User;
        if !is_user {
            command.args(plan.arguments);
        }
        command
            .current_dir(plan.folder)
            .stdin(if matches!(plan.typed, Typing::Nothing) { Stdio::null() } else { Stdio::piped() })
            .stdout(match plan.console {
                Some(file) => Stdio::from(file.try_clone_to_owned()?),
                None => Stdio::piped(),
            })
            .stderr(Stdio::piped())
            .process_group(0);
        let (mut plugin, mut given) = (Vec::new(), Vec::new());
        if let Some(probe) = plan.probe {
            let fd = if is_user { PROGRAM_SOCKET } else { guest.as_raw_fd() };
            plugin.push(format!("{},fd={fd}", probe.display()));
            if is_user {
                given.push((guest.as_raw_fd(), fd));
            } else {
                passed.push(fd);
            }
        }
        let mut theirs = Vec::new();
        let mut pair = || -> io::Result<_> {
            let (ours, end) = UnixStream::pair()?;
            let fd = end.as_raw_fd();
            theirs.push(end);
            passed.push(fd);
            Ok((ours, fd))
        };
        let mut controls = None;
        if plan.commanded {
            let ((monitor, fd), (stub, stub_fd), (asking, asking_fd)) = (pair()?, pair()?, pair()?);
            command
                .arg("-S")
                .args(["-chardev", &format!("socket,id=tandem-monitor,fd={fd}")])
                .args(["-mon", "chardev=tandem-monitor,mode=control"])
                .args(["-chardev", &format!("socket,id=tandem-stub,fd={stub_fd}")])
                .args(["-gdb", "chardev:tandem-stub"]);
            plugin.push(format!("asking={asking_fd}"));
            controls = Some(Controls { monitor, stub, asking });
        }
        // A replay would sleep wherever the recording did, and longer where something from outside woke that. A monitor
        // for people is what its main loop can be woken through: one for programs has a thread of its own, and the vCPU
        // wakes that too, whenever a timer has run out (monitor/qmp.c and util/async.c, 7.2 and 10.0).
        let mut waking = None;
        if plan.probe.is_some() && plan.arguments.iter().any(|argument| argument.contains("rr=replay")) {
            let (ours, fd) = pair()?;
            command
                .args(["-chardev", &format!("socket,id=tandem-waking,fd={fd}")])
                .args(["-mon", "chardev=tandem-waking,mode=readline"]);
            plugin.push(format!("waking={}", ours.as_raw_fd()));
            waking = Some(ours);
        }
        if plan.probe.is_some() {
            if !is_user
                && Arguments::parse(plan.arguments).vcpus() > 1
                && let Some(offset) = plan.build.current_cpu()
            {
                plugin.push(format!("current={offset}"));
            }
            command.arg("-plugin").arg(plugin.join(","));
            match plan.build.plugin_api() {
                Some(level) => command.env(API, level.to_string()),
                None => command.env_remove(API),
            };
        }
        passed.extend(waking.iter().map(AsRawFd::as_raw_fd));
        // By its number: the linker takes no path with a space in it.
        let opened = plan.probe.filter(|_| is_user).map(File::open).transpose()?;
        if is_user {
            // What is told to the probe, and that it hears of the program's end, is no business of the program's.
            const PRELOAD: &str = "LD_PRELOAD";
            let preload = std::env::var(PRELOAD);
            let own = preload.map_or(["-U", PRELOAD].map(str::to_owned), |given| {
                ["-E".to_owned(), format!("{PRELOAD}={given}")]
            });
            if let Some(probe) = &opened {
                given.push((probe.as_raw_fd(), PRELOADED_FD));
                command.env(PRELOAD, PRELOADED);
            }
            command.args(["-U", API]).args(own).args(plan.arguments);
        }
        hand_over(&mut command, passed, Signal::SIGKILL);
        if is_user {
            run_apart(&mut command, given);
        }
        let mut child = command.spawn().map_err(|why| Error::Start { path: plan.build.path.clone(), why })?;
        drop((guest, theirs));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let tell = tell.clone();
            let pause = if matches!(plan.typed, Typing::Nothing) { GATHERING } else { Duration::ZERO };
            readers.push(std::thread::spawn(move || {
                read_all(stdout, |bytes| {
                    tell(Happening::Console(bytes.to_vec()));
                    std::thread::sleep(pause);
                });
            }));
        }
        if let Some(stderr) = child.stderr.take() {
            let errors = Arc::clone(&errors);
            readers.push(std::thread::spawn(move || {
                read_all(stderr, |bytes| {
                    if let Ok(mut kept) = errors.lock() {
                        kept.extend_from_slice(bytes);
                        let over = kept.len().saturating_sub(KEPT_ERRORS);
                        kept.drain(..over);
                    }
                });
            }));
        }
        let taken = if let Typing::Taken(taken) = &plan.typed { Some(Arc::clone(taken)) } else { None };
        let typing = child.stdin.take().map(|stdin| type_in(stdin, taken));
        let path = plan.build.path.clone();
        Ok(Run {
            path,
            child,
            probe: plan.probe.is_some().then_some(host),
            typing,
            errors,
            readers,
            ended: None,
            controls,
            waking,
            plugin_api: 0,
            target: String::new(),
            pid: 0,
        })
    }

    /// Waits until the probe of what was begun has spoken. `tell`: as when it was.
    ///
    /// # Errors
    /// Where QEMU does not come up with the probe.
    pub fn come_up(mut self, tell: impl Fn(Happening) + Send + 'static) -> Result<Self, Error> {
        let Some(mut from) = self.greet()? else { return Ok(self) };
        self.readers.push(std::thread::spawn(move || {
            loop {
                match codec::read(&mut from) {
                    Ok(Some(message)) => tell(Happening::Probe(message)),
                    Ok(None) => return tell(Happening::ProbeGone(None)),
                    // A killed QEMU leaves a connection that is reset, or a message cut short.
                    Err(codec::Error::Io(_)) => return tell(Happening::ProbeGone(None)),
                    Err(error) => return tell(Happening::ProbeGone(Some(error.to_string()))),
                }
            }
        }));
        Ok(self)
    }

    /// Waits for the probe's first words; gives back where it will say more.
    fn greet(&mut self) -> Result<Option<UnixStream>, Error> {
        let Some(probe) = &mut self.probe else { return Ok(None) };
        probe.set_read_timeout(Some(START_LIMIT))?;
        let hello = codec::read::<FromProbe>(probe);
        probe.set_read_timeout(None)?;
        let from = probe.try_clone()?;
        match hello {
            Ok(Some(FromProbe::Hello { protocol, .. })) if protocol != PROTOCOL => {
                Err(Error::OtherProbe { path: self.path.clone(), theirs: protocol })
            }
            Ok(Some(FromProbe::Hello { plugin_api, target, pid, .. })) => {
                self.plugin_api = plugin_api;
                self.target = target;
                self.pid = pid;
                Ok(Some(from))
            }
            Err(codec::Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                Err(Error::Mute(self.path.clone()))
            }
            _ => {
                let status = self.wait()?;
                let said = self.errors();
                let words =
                    ["plugin interface not enabled", "-plugin: invalid option", "unknown option 'plugin'"];
                if words.iter().any(|words| said.contains(words)) {
                    return Err(Error::NoPlugins(self.path.clone()));
                }
                Err(self.stillborn(status))
            }
        }
    }

    /// What there is to say of a QEMU that has ended before the guest's first instruction.
    #[must_use]
    pub fn stillborn(&self, status: ExitStatus) -> Error {
        let said = self.said().unwrap_or_else(|| "it said nothing".to_owned());
        Error::Stillborn { path: self.path.clone(), ending: describe(status), said }
    }

    /// What commands it, the first time that this is asked; only where the plan says so.
    pub fn controls(&mut self) -> Option<Controls> {
        self.controls.take()
    }

    /// Where a replay with the probe can be asked by [`monitor::icount`](crate::monitor::icount), the first time that
    /// this is asked.
    pub fn asked(&mut self) -> Option<UnixStream> {
        self.waking.take()
    }

    /// Tells the probe something. Where QEMU has just died the message is lost: a
    /// [`Happening::ProbeGone`] says so.
    pub fn say(&mut self, message: &ToProbe) {
        if let Some(probe) = &mut self.probe {
            let _ = codec::write(probe, message);
        }
    }

    /// Types `bytes` into QEMU's standard input, at a pace that a guest can follow.
    pub fn type_in(&self, bytes: Vec<u8>) {
        if let Some(typing) = &self.typing {
            let _ = typing.send(bytes);
        }
    }

    /// Ends QEMU in order, as its own window would: it finishes its log.
    pub fn ask_to_end(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends QEMU so that its probe says where it was.
    pub fn abort(&mut self) {
        self.signal(Signal::SIGABRT);
    }

    /// Has the probe say where the guest is, which the vCPU's thread does wherever it is, but where it waits for the host.
    pub fn ask_where(&mut self) {
        if let Ok(asked) = Signal::try_from(ASKED) {
            self.signal(asked);
        }
    }

    /// Ends QEMU at once.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&mut self, signal: Signal) {
        if let (None, Ok(pid)) = (self.ended, i32::try_from(self.child.id())) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// The number of QEMU's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What QEMU has open: the name of each file as the kernel tells it, and a path by which it can be opened.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn open_files(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let folder = format!("/proc/{}/fd", self.child.id());
        let entries = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
        let named = |path: PathBuf| Some((std::fs::read_link(&path).ok()?.to_str()?.to_owned(), path));
        Ok(entries.filter_map(named).collect())
    }

    /// The number of the system call in which a user program's QEMU waits, of this machine's, where that can be told.
    #[must_use]
    pub fn waits_in(&self) -> Option<i64> {
        let process = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
        // The last of two, where it runs apart.
        let qemu = children.split_whitespace().last().map_or_else(|| process.to_string(), str::to_owned);
        let call = std::fs::read_to_string(format!("/proc/{qemu}/syscall")).ok()?;
        call.split_whitespace().next()?.parse().ok()
    }

    /// How QEMU has ended, where it does within `limit`.
    pub fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => return self.wait().ok(),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    /// Waits until QEMU has ended and all that it said has been told; kills it where it does not end.
    ///
    /// # Errors
    /// Where it can't be waited for.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if begin.elapsed() > END_LIMIT {
                self.kill();
                break self.child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.ended = Some(status);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(status)
    }

    /// The last that QEMU said on its standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        self.errors.lock().map(|kept| String::from_utf8_lossy(&kept).trim().to_owned()).unwrap_or_default()
    }

    /// The last line that QEMU said there of what is wrong, as the end of a sentence; empty where it said none.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.said().map(|line| format!(", it said: {line}")).unwrap_or_default()
    }

    fn said(&self) -> Option<String> {
        let errors = self.errors();
        let mut lines = errors.lines().rev().map(str::trim);
        let last = lines.find(|line| !line.is_empty() && !HARMLESS.iter().any(|words| line.contains(words)));
        last.map(str::to_owned)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait();
    }
}

/// How a process ended, in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(Ok(signal))) => format!("killed by {signal}"),
        _ => "ended".to_owned(),
    }
}

/// How fast is typed. While it records, QEMU asks a serial port for room before it queues what came and not when it
/// hands that over, so that what comes faster than the guest reads is lost (replay/replay-char.c, 7.2 and 10.0).
const BETWEEN_KEYS: Duration = Duration::from_millis(8);

/// How much may be typed that the guest has not taken yet, bytes: half of the smallest buffer that a serial port with
/// one has (16550A).
const AHEAD: u64 = 8;

/// Whether something is typed into QEMU's standard input.
#[derive(Debug, Clone)]
pub enum Typing {
    Nothing,
    /// At a steady pace, which a guest that is held up may not keep.
    Steady,
    /// As the guest takes it: how many bytes it has had, and run on after.
    Taken(Arc<AtomicU64>),
}

/// Passes on what is typed, on a thread of its own: a guest that reads nothing holds nobody up. The thread ends when
/// QEMU does or nothing more can be typed.
fn type_in(mut to: ChildStdin, taken: Option<Arc<AtomicU64>>) -> Sender<Vec<u8>> {
    let (typing, typed) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for (before, byte) in (0_u64..).zip(typed.iter().flatten()) {
            while let Some(taken) = &taken
                && before >= taken.load(Ordering::Relaxed) + AHEAD
            {
                // Who counts is gone: so is QEMU.
                if Arc::strong_count(taken) == 1 {
                    return;
                }
                std::thread::sleep(BETWEEN_KEYS);
            }
            if to.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(BETWEEN_KEYS);
        }
    });
    typing
}

fn read_all(mut from: impl Read, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => take(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Leaves `passed` open in the child, and ties its life to this thread's: it gets `signal` when that ends.
#[allow(unsafe_code)]
pub fn hand_over(command: &mut Command, passed: Vec<RawFd>, signal: Signal) {
    let parent = std::process::id();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The parent may have died before the line above.
        if u32::try_from(nix::unistd::getppid().as_raw()) != Ok(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for &fd in &passed {
            // SAFETY: the parent holds `fd` open until the child is started.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; nothing allocates or locks.
    unsafe { command.pre_exec(prepare) };
}
