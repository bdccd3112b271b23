//! A sequence of which something shows on the builds, made as short as it can be while that does.

use iced_x86::Code;
use lockstep::comparator::Pair;
use reduce::case::{Case, Piece, State};
use reduce::image::{Setting, Tells};
use reduce::{delta, flags};

use super::{single, told};
use crate::subject::{Came, Error, Subject};

/// A sequence on which builds differ, made short.
pub struct Reduced {
    pub case: Case,
    pub ends: Pair<Came>,
    /// The guilty instruction.
    pub guilty: (Code, String),
}

/// What is looked for in what a case came to on both.
pub type Shows = fn(&Pair<Came>) -> bool;

/// Both builds.
#[derive(Clone, Copy)]
pub struct Subjects<'a>(pub Pair<Subject<'a>>);

impl Subjects<'_> {
    /// What `cases` come to on both.
    ///
    /// # Errors
    /// Where they can't be run.
    pub fn run(&self, setting: Setting, cases: &[Case]) -> Result<Vec<Pair<Came>>, Error> {
        if cases.is_empty() {
            return Ok(Vec::new());
        }
        // A thread that has started a QEMU stays until that has ended.
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| self.0.a.run(setting, cases));
            let b = self.0.b.run(setting, cases);
            let gone = |_| Err(std::io::Error::other("a thread is gone").into());
            (a.join().unwrap_or_else(gone), b)
        });
        let (a, b) = (a?, b?);
        Ok(a.into_iter().zip(b).map(|(a, b)| Pair { a, b }).collect())
    }

    /// Of which of `cases` `shows` holds, as of their differing. Of one that acts on what is undefined nothing does.
    ///
    /// # Errors
    /// As [`Subjects::run`].
    pub fn show(&self, setting: Setting, cases: &[Case], shows: Shows) -> Result<Vec<bool>, Error> {
        let setting = Setting { tells: Tells::Numbers, ..setting };
        let fit: Vec<_> = cases.iter().map(|case| flags::undefined(&case.pieces).is_ok()).collect();
        let chosen: Vec<_> =
            cases.iter().zip(&fit).filter(|(_, fit)| **fit).map(|(case, _)| case.clone()).collect();
        let mut came = self.run(setting, &chosen)?.into_iter();
        let shows = |fit: &bool| *fit && came.next().is_some_and(|came| shows(&came));
        Ok(fit.iter().map(shows).collect())
    }

    /// Makes a case on which `shows` holds short.
    ///
    /// # Errors
    /// As [`Subjects::run`].
    pub fn reduce(&self, setting: Setting, case: &Case, shows: Shows) -> Result<Option<Reduced>, Error> {
        let with = |pieces: &[Piece]| Case { pieces: pieces.to_vec(), ..case.clone() };
        let pieces = delta::shortest(&case.pieces, |candidates| {
            let cases: Vec<_> = candidates.iter().map(|pieces| with(pieces)).collect();
            self.show(setting, &cases, shows)
        })?;
        // Of a piece's instructions each may be needed by the next.
        let mut case = with(&pieces);
        let simpler = simpler(&case);
        let kept = delta::shortest(&(0..simpler.len()).collect::<Vec<_>>(), |candidates| {
            let cases: Vec<_> = candidates.iter().map(|kept| without(&case, &simpler, kept)).collect();
            self.show(setting, &cases, shows)
        })?;
        case = without(&case, &simpler, &kept);
        self.first_part(setting, &case, shows)
    }

    /// The shortest part from its beginning of which `shows` holds, and its last instruction.
    ///
    /// # Errors
    /// As [`Subjects::run`].
    pub fn first_part(&self, setting: Setting, case: &Case, shows: Shows) -> Result<Option<Reduced>, Error> {
        let tells = Setting { tells: Tells::Ends, ..setting };
        let instructions = single(&case.pieces);
        let parts = (1..=instructions.len())
            .map(|count| Case { pieces: instructions[..count].to_vec(), ..case.clone() });
        let mut parts: Vec<_> = parts.filter(|part| flags::undefined(&part.pieces).is_ok()).collect();
        let mut came = self.run(tells, &parts)?;
        let Some(first) = came.iter().position(shows) else { return Ok(None) };
        let (case, ends) = (parts.swap_remove(first), came.swap_remove(first));
        let guilty = case.pieces.last().map(told).unwrap_or_default();
        Ok(Some(Reduced { case, ends, guilty }))
    }
}

#[must_use]
pub fn differs(came: &Pair<Came>) -> bool {
    match (&came.a, &came.b) {
        // How one dies is told by each build's own words.
        (Came::Died(_) | Came::Hung, Came::Died(_) | Came::Hung) => false,
        (a, b) => a != b,
    }
}

/// Whether both end in it, which is no difference between them.
#[must_use]
pub fn both_die(came: &Pair<Came>) -> bool {
    !matches!(came.a, Came::To(_)) && !matches!(came.b, Came::To(_))
}

/// What of a start can be made simpler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    General(usize),
    Vector(usize),
    Mmx(usize),
    Flags,
    Mxcsr,
    /// So many bytes of memory from here on.
    Memory(usize),
}

/// What memory is made simpler by, bytes.
const STRETCH: usize = 64;

fn simpler(case: &Case) -> Vec<Part> {
    let general = (0..16).filter(|&number| number != reduce::case::RSP && number != reduce::case::R15);
    let mut parts: Vec<_> = general.map(Part::General).collect();
    parts.extend((0..16).map(Part::Vector));
    parts.extend((0..8).map(Part::Mmx));
    parts.extend([Part::Flags, Part::Mxcsr]);
    // The counters of loops stay.
    parts.extend((STRETCH..case.memory.len()).step_by(STRETCH).map(Part::Memory));
    parts
}

/// `case` with all `parts` zero but for those with these numbers.
fn without(case: &Case, parts: &[Part], kept: &[usize]) -> Case {
    let mut case = case.clone();
    let State { gpr, rflags, mxcsr, vectors, mmx } = &mut case.start;
    for (number, part) in parts.iter().enumerate().filter(|(number, _)| !kept.contains(number)) {
        let _ = number;
        match *part {
            Part::General(number) => gpr[number] = 0,
            Part::Vector(number) => vectors[number] = [0; 32],
            Part::Mmx(number) => mmx[number] = 0,
            Part::Flags => *rflags = 0,
            Part::Mxcsr => *mxcsr = reduce::case::MXCSR,
            Part::Memory(from) => case.memory[from..from + STRETCH].fill(0),
        }
    }
    case
}
