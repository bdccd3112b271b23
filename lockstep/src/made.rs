//! A recording that is made for a lockstep, where the guest can't run live: two live runs of one that waits for disks, networks
//! or people differ by themselves, so what comes from outside is recorded on side A, and both sides are driven by that.
//!
//! It has no name in the file system, and is gone with the lockstep.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use qemu::arguments::{Arguments, Time};
use qemu::build::{Build, Mode};
use recorder::account::grouped;
use recorder::reader::{self, Reader};
use recorder::record::stop::Limits;
use recorder::record::{self, Output, Request, Show, record};
use regex::bytes::Regex;
use serde::Serialize;

use crate::comparator::{Pair, Side};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("side A can't be recorded: {0}")]
    Record(record::Error),
    #[error("side A can't be recorded: {why}, at icount {icount}")]
    Log { why: String, icount: u64 },
    #[error("a recording can't be written to the folder for temporary files: {0}; TMPDIR names another")]
    Temporary(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] reader::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("{0} says where a recording ends, and programs are not recorded: they run live")]
    Program(&'static str),
}

impl From<record::Error> for Error {
    fn from(error: record::Error) -> Self {
        match error {
            // What is written is not kept.
            record::Error::Log { why, icount, .. } => Error::Log { why, icount },
            error => Error::Record(error),
        }
    }
}

/// How long a guest that does nothing is waited for.
const NO_PROGRESS: Duration = Duration::from_secs(60);

/// What may be recorded.
pub struct Making<'a> {
    /// Of side A.
    pub build: &'a Build,
    pub probe: &'a Path,
    pub arguments: &'a [String],
    /// Added to one side only.
    pub extra: Pair<&'a [String]>,
    /// Where the user wants it to end: at a text on the guest's console, after so many instructions.
    pub until: Option<Regex>,
    pub until_icount: Option<u64>,
    /// As [`record::Request`] has it. One ends the recording, and is taken away.
    pub interrupts: &'a AtomicU32,
}

/// How a recording came about. Documented in `lockstep/REPORT.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    pub because: String,
    pub instructions: u64,
    pub ended_by: String,
}

/// A recording that was made.
pub struct Made {
    pub recording: Reader,
    pub recorded: Recorded,
    /// What a user should know of it.
    pub notes: Vec<String>,
    /// It has no name: whoever reads it finds it by this.
    _file: File,
}

impl Making<'_> {
    /// Why the guest has to be recorded first; `None` where it runs live.
    ///
    /// # Errors
    /// Where the user wants an end, and nothing can be recorded that would have it.
    pub fn because(&self) -> Result<Option<String>, Error> {
        let until = match (&self.until, self.until_icount) {
            (Some(_), _) => Some("--until"),
            (None, Some(_)) => Some("--until-icount"),
            (None, None) => None,
        };
        if self.build.mode == Mode::User {
            return until.map_or(Ok(None), |option| Err(Error::Program(option)));
        }
        let outside = [Side::A, Side::B].into_iter().find_map(|side| self.parsed(side).outside());
        Ok(outside
            .map(|outside| outside.to_string())
            .or_else(|| until.map(|option| format!("{option} says where it ends"))))
    }

    fn parsed(&self, side: Side) -> Arguments {
        Arguments::parse(&[self.arguments, *self.extra.get(side)].concat())
    }

    /// Records the guest. `because`: why; `progress` gets the instructions so far.
    ///
    /// # Errors
    /// Where nothing can be recorded, or the user wants everything to end.
    pub fn make(self, because: String, progress: &mut dyn FnMut(u64)) -> Result<Made, Error> {
        let outside = [Side::A, Side::B].into_iter().any(|side| self.parsed(side).time() == Time::Host);
        let file = tempfile::tempfile()?;
        let request = Request {
            build: self.build,
            probe: Some(self.probe),
            arguments: &[self.arguments, self.extra.a].concat(),
            time: if outside { Time::Host } else { Time::Virtual },
            output: Output::Unnamed(&file),
            compact: true,
            limits: Limits {
                until: self.until,
                until_icount: self.until_icount,
                no_progress: Some(NO_PROGRESS),
                ..Limits::default()
            },
            script: None,
            typed: None,
            interrupts: self.interrupts,
        };
        let mut show = Show { console: &mut |_| {}, progress: &mut |instructions, _| progress(instructions) };
        let done = record(request, &mut show)?;
        let mut notes = Vec::new();
        let recorded = Recorded {
            because,
            instructions: done.ending.instructions(),
            ended_by: done.ending.cause.clone(),
        };
        let so_far = grouped(recorded.instructions);
        match self.interrupts.load(Ordering::Relaxed) {
            0 => {}
            1 => {
                self.interrupts.fetch_sub(1, Ordering::Relaxed);
                notes.push(format!(
                    "a signal ended the recording after {so_far} instructions, and these were compared"
                ));
            }
            _ => return Err(Error::Interrupted),
        }
        if let Some(trouble) = done.trouble {
            notes.push(format!(
                "the recording ended after {so_far} instructions, and these were compared: {trouble}"
            ));
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Made { recording: Reader::open(&path)?, recorded, notes, _file: file })
    }
}
