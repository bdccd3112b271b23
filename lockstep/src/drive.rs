//! What two runs are started with: the command lines of both, and what drives them.

use std::path::PathBuf;
use std::time::Duration;

use qemu::arguments::Arguments;
use qemu::build::Mode;
use qemu::program::Program;
use replayer::source::Source;

use crate::comparator::{Pair, Side};
use crate::explain;
use crate::made::{Made, Recorded};
use crate::report::Report;
use crate::ride::{Driven, Error, Request};

/// What the two runs are started with.
pub(crate) struct Drive {
    pub lines: Pair<Vec<String>>,
    pub folders: Pair<PathBuf>,
    /// The same as the report shows it.
    pub shown: Pair<Vec<String>>,
    /// None, one for both, or one each.
    pub sources: Vec<Source>,
    pub least: u64,
    pub compares_console: bool,
    /// Of a recording that was made for it.
    pub recorded: Option<Recorded>,
    pub notes: Vec<String>,
}

impl Drive {
    pub fn of(request: &mut Request) -> Result<Self, Error> {
        match (request.builds.a.mode, request.builds.b.mode) {
            (Mode::System, Mode::System) => {}
            (Mode::User, Mode::User) => return Drive::of_program(request),
            (a, _) => {
                let user = if a == Mode::User { Side::A } else { Side::B };
                return Err(Error::Modes { user, system: user.other() });
            }
        }
        let given = request.arguments.map(<[String]>::to_vec);
        let here = std::env::current_dir;
        let mut shown = None;
        let (mut made, mut notes) = (None, Vec::new());
        let (sources, least, recorded) = match &mut request.driven {
            Driven::Live => (Vec::new(), 0, Vec::new()),
            Driven::Recording(recording) => {
                let source = Source::unpack(recording, given.as_deref(), None)?;
                (vec![source], recording.ending.instructions(), recording.manifest.arguments.clone())
            }
            Driven::Made(Made { recording, recorded, notes: known, .. }) => {
                (made, notes) = (Some(recorded.clone()), known.clone());
                let source = Source::unpack(recording, given.as_deref(), None)?;
                (vec![source], recording.ending.instructions(), Vec::new())
            }
            Driven::Recordings(Pair { a, b }) => {
                let recorded = a.manifest.arguments.clone();
                shown = Some(Pair { a: recorded.clone(), b: b.manifest.arguments.clone() });
                (vec![Source::unpack(a, None, None)?, Source::unpack(b, None, None)?], 0, recorded)
            }
        };
        let folder = |side| source_of(&sources, side).map_or_else(here, |source| Ok(source.folder.clone()));
        let folders = Pair { a: folder(Side::A)?, b: folder(Side::B)? };
        let mut lines = Pair { a: Vec::new(), b: Vec::new() };
        let mut compares_console = true;
        for side in [Side::A, Side::B] {
            let extra = *request.extra.get(side);
            let mut all = given.clone().unwrap_or_else(|| recorded.clone());
            all.extend_from_slice(extra);
            let parsed = Arguments::parse(&all);
            // A monitor prints QEMU's version.
            compares_console &=
                parsed.value("monitor") != Some("stdio") && parsed.value("qmp") != Some("stdio");
            *lines.get_mut(side) = if let Some(source) = source_of(&sources, side) {
                if shown.is_some() {
                    source.line.clone()
                } else {
                    source.replaying(&all).map_err(|refusal| Error::Refused(side, refusal))?
                }
            } else {
                // Since then a turn is as long for each (`icount_percpu_budget` in accel/tcg/tcg-accel-ops-icount.c).
                let build = request.builds.get(side);
                if parsed.vcpus() > 1 && build.release() < (8, 1) {
                    return Err(Error::Turns(side, build.version.clone()));
                }
                parsed.deterministic().map_err(|refusal| Error::Refused(side, refusal))?.line
            };
        }
        let shown = shown.unwrap_or_else(|| lines.clone());
        Ok(Drive { lines, shown, folders, sources, least, compares_console, recorded: made, notes })
    }

    /// Explains a divergence that has a block, or notes why it can't. `reached`: how long it took to come there.
    pub fn explain(&self, request: &Request, reached: Duration, report: &mut Report) {
        let Some(divergence) = &report.divergence else { return };
        let Some(guilty) = divergence.guilty.clone() else { return };
        let logs = Pair::of(|side| source_of(&self.sources, side).map(Source::log));
        let explained = explain::explain(&explain::Request {
            builds: request.builds,
            drives: Pair::of(|side| explain::Drive {
                line: self.lines.get(side),
                folder: self.folders.get(side),
                passed: logs.get(side).as_slice(),
            }),
            guilty,
            mode: divergence.mode,
            reached,
            interrupts: request.interrupts,
        });
        match explained {
            Ok(explanation) => {
                if let Some(divergence) = &mut report.divergence {
                    divergence.stage = Some(explanation.stage);
                }
                report.explanation = Some(explanation);
            }
            Err(why) => report.notes.push(format!("no explanation: {why}")),
        }
    }

    /// A user program is its own guest, whose only drive is that it is started alike.
    fn of_program(request: &Request) -> Result<Self, Error> {
        let given = match (&request.driven, request.arguments) {
            (Driven::Live, Some(given)) => given,
            _ => return Err(Error::NoRecordings),
        };
        let program = Program::parse(given)?;
        let lines = Pair::of(|side| program.line(request.extra.get(side)));
        let here = std::env::current_dir()?;
        program.look_for(&here)?;
        Ok(Drive {
            shown: lines.clone(),
            lines,
            folders: Pair { a: here.clone(), b: here },
            sources: Vec::new(),
            least: 0,
            compares_console: true,
            recorded: None,
            notes: Vec::new(),
        })
    }

    pub fn driven_by(&self) -> &'static str {
        match self.sources.len() {
            0 => "live",
            1 => "recording",
            _ => "recordings",
        }
    }
}

/// What a side is driven by: its own recording, or the one for both.
pub(crate) fn source_of(sources: &[Source], side: Side) -> Option<&Source> {
    let own = match side {
        Side::A => 0,
        Side::B => 1,
    };
    sources.get(own).or(sources.first())
}
