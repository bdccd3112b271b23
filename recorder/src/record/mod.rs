//! Records a guest: runs it with QEMU's log on a pipe and the probe on a socket, and writes both as they come.
//!
//! [`intake`] makes frames of the log, [`session`] follows the run and writes what comes, [`stop`] says when it is
//! to end early, [`script`] what is typed meanwhile.

mod intake;
pub mod script;
mod session;
pub mod stop;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use std::sync::mpsc::{Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};

use qemu::arguments::{Arguments, Refusal, Time};
use qemu::build::Build;
use qemu::run::{self, Happening, Plan, Run, Typing};
use trace::message::{CHUNK, Look, Point, ToProbe, Watch};

use crate::format::Kind;
use crate::frame::Frame;
use crate::log::Version;
use crate::manifest::{Ending, GuestFile, Manifest};
use crate::writer::{self, Writer};
use intake::Taken;
use script::Script;
use session::Session;
use stop::Limits;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Run(#[from] run::Error),
    #[error(transparent)]
    Write(#[from] writer::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("`{0}`, which the command line names, can't be read: {1}")]
    GuestFile(PathBuf, io::Error),
    #[error("{why}; what was written up to icount {icount} is left in `{kept}`")]
    Log { why: String, icount: u64, kept: PathBuf },
    #[error("the manifest can't be written: {0}")]
    Manifest(#[from] serde_json::Error),
}

/// Where the recording goes.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// A file of this name, which is not there yet.
    Named(&'a Path),
    /// An empty file without a name, which is gone with the last who has it open.
    Unnamed(&'a File),
}

/// What to record.
pub struct Request<'a> {
    pub build: &'a Build,
    /// `None`: without a witness, and so without proof.
    pub probe: Option<&'a Path>,
    /// The guest's arguments as the user gave them.
    pub arguments: &'a [String],
    pub time: Time,
    pub output: Output<'a>,
    /// Whether events that no replay needs are left out.
    pub compact: bool,
    pub limits: Limits,
    pub script: Option<Script>,
    /// What the user types.
    pub typed: Option<Box<dyn Read + Send>>,
    /// How often the user has asked for an end: once, and the guest is ended in order; again, and at once.
    pub interrupts: &'a AtomicU32,
}

/// What the caller shows while it records.
pub struct Show<'a> {
    /// Bytes from the guest's console.
    pub console: &'a mut dyn FnMut(&[u8]),
    /// Instructions so far, and bytes of the recording.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// What was recorded.
#[derive(Debug)]
pub struct Recorded {
    pub ending: Ending,
    /// What went wrong, if anything; what was recorded before it is kept all the same.
    pub trouble: Option<String>,
    /// The line at which the script still waited, if it did.
    pub script_waits_at: Option<usize>,
    pub chunks: u64,
    pub bytes: u64,
}

/// What comes from the run and the threads that follow it.
enum Come {
    Run(Happening),
    Frame(Frame, Taken),
    /// The log's end, or what is wrong with it.
    LogEnd(Result<(), String>),
    Typed(Vec<u8>),
}

/// Records until the guest ends, or is ended.
///
/// # Errors
/// Where nothing can be recorded, or what was recorded can't be written; what has been written is kept.
pub fn record(request: Request, show: &mut Show) -> Result<Recorded, Error> {
    let parsed = Arguments::parse(request.arguments);
    let (log, log_end) = io::pipe()?;
    // Fewer stalls of QEMU while a frame is compressed; the kernel may grant less.
    let _ = nix::fcntl::fcntl(&log, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
    let line = parsed.recorded(request.time, &format!("/proc/self/fd/{}", log_end.as_raw_fd()))?.line;
    let folder = std::env::current_dir()?;
    let files = GuestFile::all(&parsed, &folder).map_err(|(path, error)| Error::GuestFile(path, error))?;
    let mut writer = match request.output {
        Output::Named(path) => Writer::create(path, request.limits.size)?,
        Output::Unnamed(file) => Writer::create_in(file.try_clone()?)?,
    };
    let version = Version::written_by(request.build.release());
    let manifest = Manifest {
        tandem: env!("CARGO_PKG_VERSION").to_owned(),
        build: request.build.clone(),
        target: request.build.target(),
        arguments: request.arguments.to_vec(),
        folder: folder.clone(),
        line: line.clone(),
        time: request.time,
        log: version.word(),
        files,
        began: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        witness: request.probe.map(|_| CHUNK),
        compacted: request.compact,
    };
    // Before QEMU is started: from then on a recorder that dies leaves a recording.
    let manifest = serde_json::to_vec(&manifest).map_err(Error::from);
    if let Err(error) = manifest.and_then(|manifest| Ok(writer.append(Kind::Manifest, 0, &manifest)?)) {
        writer.abandon();
        return Err(error);
    }
    let typed = Arc::new(AtomicU64::new(0));
    let (tell, come) = channel();
    let told = tell.clone();
    let plan = Plan {
        build: request.build,
        arguments: &line,
        folder: &folder,
        probe: request.probe,
        typed: match (request.script.is_some() || request.typed.is_some(), request.probe) {
            (false, _) => Typing::Nothing,
            // Without a probe QEMU's log comes late.
            (true, None) => Typing::Steady,
            (true, Some(_)) => Typing::Taken(Arc::clone(&typed)),
        },
        passed: &[log_end.as_fd()],
        commanded: false,
        environment: None,
        console: None,
    };
    let mut run = match Run::start(&plan, move |happening| drop(told.send(Come::Run(happening)))) {
        Ok(run) => run,
        Err(error) => {
            writer.abandon();
            return Err(error.into());
        }
    };
    drop(log_end);
    let waiting = Arc::new(AtomicUsize::new(0));
    let (taken, intake_tells) = (Arc::clone(&waiting), tell.clone());
    std::thread::spawn(move || intake::read_log(log, version, request.compact, intake_tells, taken, typed));
    if let Some(typed) = request.typed {
        std::thread::spawn(move || read_typed(typed, &tell));
    }
    // What is asked for at the end reaches back by less than a chunk.
    run.say(&ToProbe::Go {
        credit: u64::MAX,
        from: Point::START,
        watch: Watch::default(),
        keeps: 2,
        look: Look::default(),
    });
    let has_witness = request.probe.is_some();
    let mut session = Session::new(writer, run, has_witness, request.limits, request.script, waiting);
    session.follow(request.interrupts, show, &come);
    session.close(show, &come)
}

/// Passes on what the user types. Nobody waits for this thread: it may wait for the user for ever.
fn read_typed(mut typed: Box<dyn Read + Send>, tell: &Sender<Come>) {
    let mut buffer = [0; 4096];
    while let Ok(n) = typed.read(&mut buffer) {
        if n == 0 || tell.send(Come::Typed(buffer[..n].to_vec())).is_err() {
            return;
        }
    }
}
