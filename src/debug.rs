//! `tandem debug`

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ::recorder::reader::Reader;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use replayer::debugger::{Link, Over, Said, serve};
use replayer::machine::Setting;
use replayer::moment::Moment;
use replayer::seek::{self, Seeker};
use replayer::source::Source;
use replayer::symbols::Symbols;
use replayer::verify::STALL;

use crate::interrupt::{self, INTERRUPTS};
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, index, replay};

/// Debug a recording with gdb, forwards and backwards.
///
/// Starts a gdb with the guest stopped at the moment: `stepi`, `continue`, breakpoints, watchpoints, `reverse-stepi`,
/// `reverse-continue` and the like work as usual; `when` says at which moment it is, `seek MOMENT` goes to one. The
/// guest can't be changed: it is a recording.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recording
    #[arg(value_name = "FILE")]
    recording: PathBuf,
    /// Begin at this moment, named as for `tandem replay --at`; else at the guest's first instruction
    #[arg(long, value_name = "MOMENT")]
    at: Option<Moment>,
    /// An ELF file with the names of the guest's code, vmlinux for one
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    /// Start no gdb: wait for one on this machine's own network
    #[arg(long)]
    no_gdb: bool,
    /// The port to wait on; else a free one
    #[arg(long, value_name = "PORT", requires = "no_gdb", default_value_t = 0)]
    port: u16,
    /// The gdb to start; else `gdb` or, for another processor than this machine's, `gdb-multiarch`
    #[arg(long, value_name = "GDB", conflicts_with = "no_gdb")]
    gdb: Option<PathBuf>,
    /// Replay on this QEMU instead of the one that recorded
    #[arg(long, value_name = "QEMU")]
    build: Option<PathBuf>,
    /// The folder into which `tandem unpack` has put the guest's files
    #[arg(long, value_name = "FOLDER")]
    files: Option<PathBuf>,
    /// More arguments for gdb
    #[arg(last = true, value_name = "GDB ARGUMENTS", conflicts_with = "no_gdb")]
    more: Vec<String>,
}

/// gdb's Ctrl-C. That of the terminal is gdb's too, and counted elsewhere.
static HALTS: AtomicU32 = AtomicU32::new(0);

/// How often is looked whether somebody came, or wants an end.
const TURN: Duration = Duration::from_millis(50);

/// What gdb is told first. The moment changes behind its back in `seek`, where it also has to read anew what its
/// watchpoints watch, which enabling them does; and a replay may need its time for an answer.
const COMMANDS: &str = "\
set remotetimeout 3600
define when
monitor when
end
document when
Says at which moment of the recording the guest stands.
end
define seek
monitor seek $arg0
maintenance flush register-cache
maintenance flush dcache
frame
python [(setattr(b, 'enabled', False), setattr(b, 'enabled', True)) for b in gdb.breakpoints() or () \
if b.enabled and b.type not in (gdb.BP_BREAKPOINT, gdb.BP_HARDWARE_BREAKPOINT)]
end
document seek
Goes to a moment of the recording: seek ICOUNT, end, end-N, instruction:N, 'console:REGEX' or pc:ADDRESS[#N].
end
";

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut recording = Reader::open(&arguments.recording)?;
    // What is no ELF file is said in a line, before anything is started.
    arguments.symbols.as_deref().map(Symbols::read).transpose()?;
    let build = replay::build(&recording, arguments.build.as_ref())?;
    let probe = qemu::run::probe()?;
    let gdb = match (arguments.no_gdb, &arguments.gdb) {
        (true, _) => None,
        (false, Some(gdb)) => Some(gdb.clone()),
        (false, None) => Some(gdb(&recording.manifest.target)?),
    };
    let source = Source::unpack(&mut recording, None, arguments.files.as_deref())?;
    let mut setting =
        Setting { source: &source, build: &build, probe: &probe, interrupts: &INTERRUPTS, patience: STALL };
    recording = index::for_seeks(recording, setting, index::LONG_FOR_STEPS)?;
    // From here on Ctrl-C ends no more than the way that the guest is on.
    setting.interrupts = &HALTS;
    let progress = RefCell::new(Some(Progress::new("seeking")));
    let mut on = |instructions| {
        if let Some(progress) = &mut *progress.borrow_mut() {
            progress.show(instructions, String::new);
        }
    };
    let mut seeker = Seeker::new(&mut recording, setting, &mut on);
    pass_on();
    let reached = match &arguments.at {
        Some(moment) => moment.reach(&mut seeker).map_err(Failure::from),
        None => Ok(()),
    };
    // The terminal is gdb's now.
    if let Some(progress) = progress.take() {
        progress.done();
    }
    reached?;
    match gdb {
        Some(gdb) => with_gdb(&mut seeker, &gdb, arguments),
        None => wait_for_gdb(&mut seeker, arguments.port),
    }
}

/// The gdb for guests of `target`.
fn gdb(target: &str) -> Result<PathBuf, Failure> {
    let own = matches!(target, "x86_64" | "i386") && cfg!(target_arch = "x86_64");
    let names = if own { ["gdb", "gdb-multiarch"] } else { ["gdb-multiarch", "gdb"] };
    let folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let mut found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    found.find(|path| path.is_file()).ok_or_else(|| {
        let package = names[0];
        Failure(format!("no `{package}` to be found; install it, name yours with --gdb, or say --no-gdb"))
    })
}

/// Where nobody but this program is at the terminal: whom Ctrl-C ends.
static ENDS: OnceLock<Said> = OnceLock::new();

/// Makes of Ctrl-C what stops the guest on its way.
fn pass_on() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(TURN);
            if INTERRUPTS.swap(0, Ordering::Relaxed) > 0 {
                HALTS.fetch_add(1, Ordering::Relaxed);
                if let Some(said) = ENDS.get() {
                    said.over();
                }
            }
        }
    });
}

/// Tells what gdb says, until nothing more comes.
fn listen(mut from: impl Read + Send + 'static, said: Said, closed: impl Fn() -> bool + Send + 'static) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        loop {
            match from.read(&mut piece) {
                Ok(length) if length > 0 => said.bytes(&piece[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ if closed() => return said.over(),
                _ => std::thread::sleep(TURN),
            }
        }
    });
}

/// Has a gdb of our own at the guest, over a terminal of its own: it has no name that could be left behind.
fn with_gdb(seeker: &mut Seeker, gdb: &Path, arguments: &Arguments) -> Result<Outcome, Failure> {
    let (ours, name) = terminal()?;
    let mut commands = tempfile::tempfile()?;
    commands.write_all(COMMANDS.as_bytes())?;
    let mut command = Command::new(gdb);
    command.args(["-q", "-x", &format!("/proc/self/fd/{}", commands.as_raw_fd())]);
    command.args(["-ex", &format!("target remote {name}")]);
    command.args(&arguments.more);
    if let Some(symbols) = &arguments.symbols {
        command.arg(symbols);
    }
    qemu::run::hand_over(&mut command, vec![commands.as_raw_fd()], Signal::SIGTERM);
    interrupt::leave_all_but_ctrl_c();
    let child = command.spawn();
    let mut child = child.map_err(|why| Failure(format!("`{}` can't be started: {why}", gdb.display())))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (mut link, said) = Link::new(Box::new(ours.try_clone()?), &HALTS);
    // gdb closes its end when it detaches and may open it again.
    listen(ours, said.clone(), || false);
    let ended = std::thread::spawn(move || {
        let ended = child.wait();
        said.over();
        ended
    });
    let served = loop {
        match serve(seeker, &mut link, &mut complain) {
            Ok(Over::Detached) => {}
            Ok(Over::Gone) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if let (Err(error), false) = (&served, link.is_over()) {
        eprintln!("tandem: {error}");
        // It would wait for an answer for ever.
        let _ = kill(pid, Signal::SIGTERM);
    }
    let ended = ended.join().map_err(|_| Failure("gdb can't be waited for".to_owned()))??;
    Ok(if served.is_ok() && ended.success() { Outcome::Same } else { Outcome::Trouble })
}

fn complain(error: &seek::Error) {
    eprintln!("tandem: {error}; the guest stays where it was");
}

/// A terminal that nobody sees: our end of it, and the name of the other.
fn terminal() -> Result<(File, String), Failure> {
    let ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let mut raw = tcgetattr(&ours)?;
    cfmakeraw(&mut raw);
    tcsetattr(&ours, SetArg::TCSANOW, &raw)?;
    let name = ptsname_r(&ours)?;
    Ok((File::from(OwnedFd::from(ours)), name))
}

/// Waits for a gdb on the loopback network, and serves it.
fn wait_for_gdb(seeker: &mut Seeker, port: u16) -> Result<Outcome, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|why| {
        Failure(format!("port {port} can't be waited on: {why}; without --port a free one is taken"))
    })?;
    say(&format!("waiting for gdb: target remote {}", listener.local_addr()?));
    listener.set_nonblocking(true)?;
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::sleep(TURN),
            Err(error) => return Err(error.into()),
        }
        if HALTS.load(Ordering::Relaxed) > 0 {
            return Ok(Outcome::Same);
        }
    };
    // One gdb, and nobody after it.
    drop(listener);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let (mut link, said) = Link::new(Box::new(stream.try_clone()?), &HALTS);
    let _ = ENDS.set(said.clone());
    listen(stream, said, || true);
    serve(seeker, &mut link, &mut complain)?;
    Ok(Outcome::Same)
}
