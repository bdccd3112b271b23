//! Both builds: what cases come to on them, and a case of which something shows there, made as short as it can be while that
//! does.

use iced_x86::Code;
use lockstep::comparator::Pair;

use crate::case::Case;
use crate::features::Features;
use crate::image::{Image, Setting, Tells, Where};
use crate::subject::{Came, Error, Subject};
use crate::{elf, flags, native, shorter};

/// A case of which something shows on both builds, made short.
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
    /// What both builds have, and the real processor here where it can tell.
    ///
    /// # Errors
    /// Where they can't be asked.
    pub fn features(&self) -> Result<Features, Error> {
        let setting = Setting { runs: Where::Linux, tells: Tells::Ends, avx: false, mxcsr_mask: u32::MAX };
        let asking = Features::asking();
        let told = |came: &[Came]| {
            let states: Vec<_> = came.iter().filter_map(Came::end).map(|end| end.state).collect();
            Features::told(&states)
        };
        let mut features = told(&self.0.a.run(setting, &asking)?);
        features.keep(&told(&self.0.b.run(setting, &asking)?));
        if let Ok(here) = native::run(&elf::program(&Image::new(setting, &asking)?)) {
            let size = here.said.len() / asking.len();
            let came: Vec<_> = here.said.chunks(size.max(1)).map(|bytes| Came::To(bytes.to_vec())).collect();
            features.keep(&told(&came));
        }
        Ok(features)
    }

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
        let case = shorter::shortest(case, |cases| self.show(setting, cases, shows))?;
        self.first_part(setting, &case, shows)
    }

    /// The shortest part from its beginning of which `shows` holds, and its last instruction.
    ///
    /// # Errors
    /// As [`Subjects::run`].
    pub fn first_part(&self, setting: Setting, case: &Case, shows: Shows) -> Result<Option<Reduced>, Error> {
        let tells = Setting { tells: Tells::Ends, ..setting };
        let mut parts = shorter::parts(case);
        let came = self.run(tells, &parts)?;
        let Some(first) = came.iter().position(shows) else { return Ok(None) };
        let case = parts.swap_remove(first);
        // By itself it lies elsewhere, as it does where it is kept.
        let came = self.run(tells, std::slice::from_ref(&case))?;
        let Some(ends) = came.into_iter().next().filter(shows) else { return Ok(None) };
        let guilty = case.pieces.last().map(shorter::told).unwrap_or_default();
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
