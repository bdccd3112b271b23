//! `tandem index`

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use ::recorder::account::grouped;
use ::recorder::checkpoint;
use ::recorder::reader::Reader;
use qemu::build::Build;
use replayer::index::{Made, index, usual};
use replayer::machine::Setting;
use replayer::source::Source;
use replayer::verify::STALL;

use crate::interrupt::INTERRUPTS;
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, replay};

/// Put checkpoints into a recording, from which `tandem replay --at` begins: replays it once, and proves each checkpoint by restoring it.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recording
    #[arg(value_name = "FILE")]
    recording: PathBuf,
    /// How many instructions apart; as it is, a 64th of the recording and 100 million at the least
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000_000..))]
    every: Option<u64>,
    /// Take all checkpoints out again
    #[arg(long, conflicts_with = "every")]
    remove: bool,
    /// Replay on this QEMU instead of the one that recorded: a checkpoint serves the build that made it
    #[arg(long, value_name = "QEMU", conflicts_with = "remove")]
    build: Option<PathBuf>,
    /// The folder into which `tandem unpack` has put the guest's files
    #[arg(long, value_name = "FOLDER", conflicts_with = "remove")]
    files: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let path = arguments.recording.display();
    if arguments.remove {
        let removed = checkpoint::remove(&arguments.recording)?;
        say(&format!("{path} has {removed} checkpoints less"));
        return Ok(Outcome::Same);
    }
    let mut recording = Reader::open(&arguments.recording)?;
    let build = replay::build(&recording, arguments.build.as_ref())?;
    let probe = qemu::run::probe()?;
    let source = Source::unpack(&mut recording, None, arguments.files.as_deref())?;
    let setting =
        Setting { source: &source, build: &build, probe: &probe, interrupts: &INTERRUPTS, patience: STALL };
    let before = recording.bytes();
    let made = make(&mut recording, setting, arguments.every)?;
    let after = Reader::open(&arguments.recording)?.bytes();
    for (icount, why) in &made.failed {
        say(&format!("no checkpoint at icount {}: {why}", grouped(*icount)));
    }
    if made.kept == 0 {
        return Err(Failure(format!(
            "no checkpoint could be made for `{path}`; a seek replays it from the beginning"
        )));
    }
    say(&format!(
        "{path} has {} checkpoints, each proven by a restore: {} bytes, {} before",
        made.kept,
        grouped(after),
        grouped(before)
    ));
    Ok(Outcome::Same)
}

/// From how many instructions on a recording gets its checkpoints before it is gone about in: a whole replay then takes
/// longer than somebody waits twice.
pub const LONG: u64 = 2_500_000_000;

/// The same before it is debugged: each step back begins at a checkpoint.
pub const LONG_FOR_STEPS: u64 = 200_000_000;

/// The recording with checkpoints for this build, where it has so many instructions as `long` and none yet.
pub fn for_seeks(mut recording: Reader, setting: Setting, long: u64) -> Result<Reader, Failure> {
    let path = recording.path().to_owned();
    if recording.ending.instructions() < long || has(&mut recording, setting.build)? {
        return Ok(recording);
    }
    eprintln!(
        "tandem: making checkpoints in `{}` once; `tandem index --remove` takes them out",
        path.display()
    );
    match make(&mut recording, setting, None) {
        Ok(made) => {
            if let (0, Some((icount, why))) = (made.kept, made.failed.first()) {
                eprintln!("tandem: no checkpoint at icount {}: {why}", grouped(*icount));
            }
        }
        // Of a recording that can't be written, for instance. The seek works all the same.
        Err(Failure(why)) if INTERRUPTS.load(Ordering::Relaxed) == 0 => {
            eprintln!("tandem: no checkpoints can be made ({why}); each seek replays from the beginning");
        }
        Err(failure) => return Err(failure),
    }
    Ok(Reader::open(&path)?)
}

/// Whether there is a checkpoint that `build` can begin with.
fn has(recording: &mut Reader, build: &Build) -> Result<bool, Failure> {
    for icount in recording.checkpoints() {
        if recording.checkpoint(icount)?.is_some_and(|checkpoint| checkpoint.build == build.sha256) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the checkpoints, and shows how far that is.
fn make(recording: &mut Reader, setting: Setting, every: Option<u64>) -> Result<Made, Failure> {
    let total = recording.ending.instructions();
    let every = every.unwrap_or_else(|| usual(total));
    let progress = RefCell::new(Progress::new("making checkpoints"));
    let made = index(recording, setting, every, &mut |instructions| {
        progress.borrow_mut().show(instructions, || format!(" of {}", grouped(total)));
    });
    progress.borrow().done();
    Ok(made?)
}
