//! Runs a program on the real processor.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::case::{Case, End};
use crate::elf;
use crate::image::{self, Image, Setting, Tells, Where};

/// How long it may run: it takes milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// A file without a name, that what is started here can open by a path as long as it is held.
#[derive(Debug)]
pub struct Unnamed {
    _file: File,
    path: PathBuf,
}

impl Unnamed {
    /// With these bytes.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn holding(bytes: &[u8]) -> io::Result<Self> {
        let mut written = tempfile::tempfile()?;
        written.write_all(bytes)?;
        let own = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        nix::sys::stat::fchmod(&written, nix::sys::stat::Mode::S_IRWXU).map_err(io::Error::from)?;
        // Nobody executes what is open to be written.
        let file = File::open(own(&written))?;
        // Under the same number: in a namespace of users nobody may look at what this process has open.
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
            .map_err(io::Error::from)?;
        let path = PathBuf::from(own(&file));
        Ok(Unnamed { _file: file, path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What a program has come to.
#[derive(Debug)]
pub struct Ran {
    pub said: Vec<u8>,
    /// `None`: it did not end.
    pub status: Option<ExitStatus>,
}

impl Ran {
    /// The signal that killed it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|status| status.signal())
    }
}

/// Runs the program `file` here.
///
/// # Errors
/// Where it can't be started: this processor is another, or this is not Linux.
pub fn run(file: &[u8]) -> io::Result<Ran> {
    let program = Unnamed::holding(file)?;
    let mut command = Command::new(program.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    end_with_parent(&mut command);
    // What another thread is just starting has for a moment open what was written here.
    let began = Instant::now();
    let mut child = loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && began.elapsed() < LIMIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            started => break started?,
        }
    };
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut stdout) = stdout {
            let _ = stdout.read_to_end(&mut said);
        }
        said
    });
    let began = Instant::now();
    let mut pause = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if began.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    Ok(Ran { said: reader.join().unwrap_or_default(), status })
}

/// What the real processor makes of a case; `None` where it does not come to its end, or this processor is another.
///
/// # Errors
/// Where the program can't be made.
pub fn end(setting: Setting, case: &Case) -> Result<Option<End>, image::Error> {
    let setting = Setting { runs: Where::Linux, tells: Tells::Ends, ..setting };
    let image = Image::new(setting, std::slice::from_ref(case))?;
    let ran = run(&elf::program(&image));
    Ok(ran.ok().filter(|ran| ran.signal().is_none()).and_then(|ran| End::from_bytes(&ran.said)))
}

/// The kernel is to kill what is started with this program; and it leaves no core.
#[allow(unsafe_code)]
fn end_with_parent(command: &mut Command) {
    let prepare = || {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: between fork and exec two system calls are made, and nothing else.
    unsafe { command.pre_exec(prepare) };
}
