//! From the place where two guests part to a program of a few instructions on which the builds still do.
//!
//! What was executed there becomes cases: with the block's code alone, with more and more of what came before, with operands
//! in memory as they were and as plain addresses. Both builds run all of them, and say on which they differ; one such is made
//! short. Nothing is taken for granted: a case that does not differ is none, whatever the guest did.

mod places;
mod registers;
mod taken;

use std::path::Path;

use lockstep::comparator::Pair;
use lockstep::excerpt::{self, Excerpt, Moment, excerpt};
use lockstep::report::reduction::Wrong;
use lockstep::report::{Reduction, Report};
use lockstep::ride::Request;
use qemu::arguments::Arguments as Line;
use qemu::build::Mode;
use qemu::program::Program;

use self::taken::Operands;
use crate::case::{AF, CF, Case, OF, PF, SF, ZF};
use crate::image::{Setting, Tells};
use crate::judged::{Judged, judge};
use crate::kept::keep;
use crate::subject::{self, Subject, runs};
use crate::subjects::{Reduced, Subjects, differs};

/// How long a program may be, instructions.
const MOST: usize = 64;

/// How far before the guilty instruction cases begin with any instruction, and with how many blocks.
const CLOSE: usize = 16;
const BLOCKS: usize = 24;

/// Flags are not told: all of them are tried clear and set.
const FLAGS: [u64; 2] = [0, CF | PF | AF | ZF | SF | OF];

/// On how many of the cases that differ it is tried to find one on which one build is right.
const TRIED: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the instruction can't be had in a program of 64-bit code that needs no more than registers and memory (system calls, devices, what rules the machine, and x87 are not cut out)"
    )]
    NeedsMore,
    #[error(
        "the difference shows in none of {0} programs that were cut out: it comes of more than this code, its registers and memory"
    )]
    Nowhere(usize),
    #[error("{0} instructions are left, and {MOST} are the most")]
    TooLong(usize),
    #[error(transparent)]
    Missing(#[from] excerpt::Missing),
    #[error(transparent)]
    Subject(#[from] subject::Error),
}

/// Cuts a program out of the guests whose divergence `report` tells, and keeps it in `folder`. What comes of that, the report says
/// too. `request`: the one that it is the report of.
pub fn reduce(request: Request, folder: &Path, report: &mut Report) {
    if report.divergence.is_none() {
        return;
    }
    match reduced(request, folder, report) {
        Ok(reduction) => report.reduction = Some(reduction),
        Err(why) => report.notes.push(format!("not reduced: {why}")),
    }
}

fn reduced(request: Request, folder: &Path, report: &Report) -> Result<Reduction, Error> {
    let Request { builds, extra, interrupts, .. } = request;
    let given = request.arguments.unwrap_or(&report.builds.a.line);
    let processor = match builds.a.mode {
        Mode::System => Line::parse(given).value("cpu").map(str::to_owned),
        Mode::User => Program::parse(given).ok().and_then(|program| program.value("cpu").map(str::to_owned)),
    };
    let options: Vec<_> = processor.into_iter().flat_map(|name| ["-cpu".to_owned(), name]).collect();
    let subject = |build, own| Subject { build, options: &options, own, interrupts };
    let subjects = Subjects(Pair { a: subject(builds.a, extra.a), b: subject(builds.b, extra.b) });
    let excerpt = excerpt(request, report)?;
    let setting = Setting {
        runs: runs(builds.a.mode),
        tells: Tells::Ends,
        avx: subjects.features()?.avx(),
        mxcsr_mask: u32::MAX,
    };
    let (whole, reduced, judged) = cut(subjects, setting, &excerpt)?;
    if judged.code.len() > MOST {
        return Err(Error::TooLong(judged.code.len()));
    }
    let mut heading = vec![format!("cut out of: {}", report.summary), judged.wrong.said().to_owned()];
    heading.extend(judged.said());
    keep(folder, setting, &heading, (&whole, &reduced.case), judged.expected.as_ref(), setting.runs)?;
    Ok(Reduction {
        folder: folder.display().to_string(),
        code: judged.code,
        wrong: judged.wrong,
        differs: judged.differs,
        ended: judged.ended,
    })
}

/// A case of `excerpt` on which the builds differ, the same made short, and what is to be said of that.
fn cut(subjects: Subjects, setting: Setting, excerpt: &Excerpt) -> Result<(Case, Reduced, Judged), Error> {
    let (mut tried, mut found) = (0, None);
    for cases in waves(excerpt) {
        tried += cases.len();
        let show = subjects.show(setting, &cases, differs)?;
        let differing = cases.iter().zip(show).filter(|(_, shows)| *shows).map(|(case, _)| case);
        let mut shortest: Vec<&Case> = differing.collect();
        shortest.sort_by_key(|case| case.pieces.len());
        for case in shortest.into_iter().take(TRIED) {
            let Some(reduced) = subjects.reduce(setting, case, differs)? else { continue };
            let judged = judge(setting, &reduced).map_err(subject::Error::from)?;
            let is_plain = matches!(judged.wrong, Wrong::A | Wrong::B);
            if found.is_none() || is_plain {
                found = Some((case.clone(), reduced, judged));
            }
            if is_plain {
                break;
            }
        }
        if found.is_some() {
            break;
        }
    }
    found.ok_or(if tried == 0 { Error::NeedsMore } else { Error::Nowhere(tried) })
}

/// Cases of `excerpt`, those first that have least around the guilty instruction.
fn waves(excerpt: &Excerpt) -> impl Iterator<Item = Vec<Case>> {
    let own = [&excerpt.sides.a, &excerpt.sides.b];
    let stretches: Vec<_> = own.into_iter().filter_map(|moments| Stretches::of(excerpt, moments)).collect();
    (0..3).map(move |wave| {
        let mut cases: Vec<Case> = Vec::new();
        for stretches in &stretches {
            let begins = match wave {
                0 => vec![stretches.block()],
                1 => stretches.close(),
                _ => stretches.blocks_before(),
            };
            let ranges = begins.into_iter().flat_map(|from| stretches.ends.iter().map(move |&to| (from, to)));
            for (from, to) in ranges {
                let moments = &stretches.moments[from..to];
                for operands in [Operands::AsTheyAre, Operands::Addresses] {
                    for flags in FLAGS {
                        let guilty = stretches.guilty - from;
                        let case = taken::case(excerpt, moments, guilty, operands, flags);
                        cases.extend(case.filter(|case| !cases.contains(case)));
                    }
                }
            }
        }
        cases
    })
}

/// Where cases begin and end in what one side executed, as indices.
struct Stretches<'e> {
    moments: &'e [Moment],
    guilty: usize,
    ends: Vec<usize>,
}

impl<'e> Stretches<'e> {
    fn of(excerpt: &Excerpt, moments: &'e [Moment]) -> Option<Self> {
        let at = |position| moments.iter().position(|moment| moment.position == position);
        let guilty = at(excerpt.guilty)?;
        let shows = moments.iter().rposition(|moment| moment.position <= excerpt.shows).unwrap_or(guilty);
        let end = |from: usize| {
            let behind = moments.get(from + 1..).unwrap_or_default();
            from + 1 + behind.iter().position(|moment| moment.begins).unwrap_or(behind.len())
        };
        let mut ends = vec![end(guilty), end(shows.max(guilty)), guilty + 1];
        ends.dedup();
        Some(Stretches { moments, guilty, ends })
    }

    /// Where the guilty instruction's block begins.
    fn block(&self) -> usize {
        self.moments[..=self.guilty].iter().rposition(|moment| moment.begins).unwrap_or(0)
    }

    fn close(&self) -> Vec<usize> {
        (self.guilty.saturating_sub(CLOSE)..=self.guilty).rev().collect()
    }

    fn blocks_before(&self) -> Vec<usize> {
        let before = (0..self.block()).rev().filter(|&index| self.moments[index].begins);
        before.take(BLOCKS).collect()
    }
}
