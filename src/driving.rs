//! The guest that runs on builds which are compared, and what drives it.

use std::path::{Path, PathBuf};

use ::lockstep::comparator::Pair;
use ::lockstep::made::{Made, Making};
use ::lockstep::ride::Driven;
use ::recorder::account::grouped;
use ::recorder::reader::Reader;
use qemu::build::Build;

use crate::Failure;
use crate::interrupt::INTERRUPTS;
use crate::progress::Progress;

#[derive(clap::Args)]
pub struct Arguments {
    /// Drive the guest by this recording. Without one it runs live, in virtual time; one that can't, because it has a drive, a
    /// network or an interactive input, is recorded first (on side A, or the good build), and driven by that. Ctrl-C
    /// ends the recording, and what was recorded is compared
    #[arg(long, value_name = "FILE")]
    pub recording: Option<PathBuf>,
    /// Record the guest first, whatever it is, and end that when this appears on its console
    #[arg(long, value_name = "REGEX", conflicts_with = "recording")]
    pub until: Option<regex::bytes::Regex>,
    /// The same after so many instructions, at the next full chunk
    #[arg(long, value_name = "N", conflicts_with = "recording")]
    pub until_icount: Option<u64>,
    /// QEMU's arguments for the guest; with a recording they replace the recorded ones. For a program's QEMU: its options if
    /// any, the program, and the program's arguments
    #[arg(last = true, value_name = "ARGS", required_unless_present = "recording")]
    pub guest: Vec<String>,
}

/// What a guest is driven by where it does not run live.
pub struct Source {
    recording: Option<Reader>,
    made: Option<Made>,
}

impl Arguments {
    /// The guest's own arguments, where there are any.
    pub fn given(&self) -> Option<&[String]> {
        (!self.guest.is_empty()).then_some(&self.guest)
    }

    /// Opens the recording, or makes one where the guest can't run live.
    pub fn source(&self, build: &Build, probe: &Path, extra: Pair<&[String]>) -> Result<Source, Failure> {
        let recording = self.recording.as_deref().map(Reader::open).transpose()?;
        let made = match recording {
            Some(_) => None,
            None => made(Making {
                build,
                probe,
                arguments: &self.guest,
                extra,
                until: self.until.clone(),
                until_icount: self.until_icount,
                interrupts: &INTERRUPTS,
            })?,
        };
        Ok(Source { recording, made })
    }
}

impl Source {
    pub fn driven(&mut self) -> Driven<'_> {
        match (&mut self.recording, &mut self.made) {
            (Some(recording), _) => Driven::Recording(recording),
            (None, Some(made)) => Driven::Made(made),
            (None, None) => Driven::Live,
        }
    }
}

/// Records the guest where it can't run live.
fn made(making: Making) -> Result<Option<Made>, Failure> {
    let Some(because) = making.because()? else { return Ok(None) };
    eprintln!("tandem: recording on QEMU {} first: {because}; Ctrl-C ends that", making.build.version);
    let mut progress = Progress::new("recording");
    let made = making.make(because, &mut |instructions| progress.show(instructions, String::new));
    progress.done();
    let made = made?;
    let recorded = &made.recorded;
    let instructions = grouped(recorded.instructions);
    eprintln!("tandem: recorded {instructions} instructions; ended by: {}", recorded.ended_by);
    Ok(Some(made))
}
