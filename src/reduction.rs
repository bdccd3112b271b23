//! What `--reduce` does with a divergence: a program of a few instructions on which the builds still part.

use std::fs;
use std::path::{Path, PathBuf};

use ::lockstep::comparator::Pair;
use ::lockstep::excerpt::excerpt;
use ::lockstep::report::Report;
use ::lockstep::ride::Request;
use qemu::arguments::Arguments as Line;
use qemu::build::Mode;
use qemu::program::Program;
use reduce::cut::{self, cut};

use crate::Failure;
use crate::interrupt::INTERRUPTS;

/// Where the program goes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Cut the code that shows the difference out of an x86-64 guest, and keep it here: a program of at most 64 instructions, with the
    /// registers and the memory that it needs, on which the builds still part, as assembly source and to be run
    #[arg(long, value_name = "FOLDER")]
    reduce: Option<PathBuf>,
}

/// A folder that is there, and empty.
pub struct Folder<'a>(&'a Path);

impl Arguments {
    /// The folder. It is found out before the ride whether it can be written to: a ride may take minutes.
    pub fn folder(&self) -> Result<Option<Folder<'_>>, Failure> {
        self.reduce.as_deref().map(Folder::prepare).transpose()
    }
}

impl<'a> Folder<'a> {
    fn prepare(path: &'a Path) -> Result<Self, Failure> {
        let cannot =
            |why: &dyn std::fmt::Display| Failure(format!("nothing can be kept in `{}`: {why}", path.display()));
        fs::create_dir_all(path).map_err(|error| cannot(&error))?;
        let mut there = fs::read_dir(path).map_err(|error| cannot(&error))?;
        if there.next().is_some() {
            return Err(cannot(&"there is something in it already; name another folder"));
        }
        // As root, and on a file system that is only to be read, nothing else tells.
        tempfile::tempfile_in(path).map_err(|error| cannot(&error))?;
        Ok(Folder(path))
    }

    /// Reduces what `report` tells, and says in it what came of that. `request`: what it is the report of.
    pub fn fill(&self, request: Request, report: &mut Report) {
        if report.divergence.is_none() {
            return;
        }
        match self.reduced(request, report) {
            Ok(reduction) => report.reduction = Some(reduction),
            Err(why) => report.notes.push(format!("not reduced: {why}")),
        }
    }

    fn reduced(
        &self,
        request: Request,
        report: &Report,
    ) -> Result<::lockstep::report::Reduction, Box<dyn std::error::Error>> {
        let Request { builds, extra, .. } = request;
        let given = request.arguments.unwrap_or(&report.builds.a.line);
        let processor = match builds.a.mode {
            Mode::System => Line::parse(given).value("cpu").map(str::to_owned),
            Mode::User => Program::parse(given).ok().and_then(|program| program.value("cpu").map(str::to_owned)),
        };
        let options: Vec<_> = processor.into_iter().flat_map(|name| ["-cpu".to_owned(), name]).collect();
        let excerpt = excerpt(request, report)?;
        let request = cut::Request {
            builds: Pair { a: builds.a, b: builds.b },
            options: &options,
            extra,
            folder: self.0,
            summary: &report.summary,
            interrupts: &INTERRUPTS,
        };
        Ok(cut(&request, &excerpt)?)
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        // It stays only with something in it.
        let _ = fs::remove_dir(self.0);
    }
}
