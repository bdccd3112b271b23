//! A whole bisection: controls first, then commit by commit as git wants them, and at last both builds side by side.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use lockstep::against;
use lockstep::comparator::Pair;
use lockstep::report::Verdict;
use qemu::build::{self, Build};
use recorder::account::grouped;

use crate::builds::{self, Builder, Kept, Outcome};
use crate::cache;
use crate::found::{Found, Step};
use crate::hunks;
use crate::repository::{self, Commit, Repository};
use crate::search::{self, Mark, Next, Search};
use crate::trial::{self, Good, Telling, Trial};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the {which} commit {commit} does not build: {why}; all of it is in `{log}`")]
    Unbuildable { which: &'static str, commit: String, why: String, log: String },
    #[error("the bad commit {commit} can't be compared: {why}")]
    NoBad { commit: String, why: String },
    #[error("good {good} and bad {bad} run the guest the same ({} instructions): nothing to look for", grouped(*.instructions))]
    Same { good: String, bad: String, instructions: u64 },
    #[error(
        "no commit is the first bad one: it is one of {commits}, and all that are left were skipped; the log of git bisect is `{log}`"
    )]
    Skipped { commits: String, log: String },
    #[error("{commit} is the first bad commit, but side by side with its parent {parent}: {summary}")]
    NoReport { commit: String, parent: String, summary: String },
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error(transparent)]
    Builds(#[from] builds::Error),
    #[error(transparent)]
    Trial(#[from] trial::Error),
    #[error(transparent)]
    Search(#[from] search::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Inspect(#[from] build::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("interrupted; the log of git bisect is `{0}`")]
    Interrupted(String),
}

pub struct Bisection<'a> {
    pub repository: &'a Repository,
    pub builder: &'a Builder<'a>,
    pub trial: &'a Trial<'a>,
    pub good: Commit,
    pub bad: Commit,
    pub first_parent: bool,
    pub skip: Vec<Commit>,
    pub telling: Telling<'a>,
    pub interrupts: &'a AtomicU32,
}

/// What happens meanwhile.
pub enum Event<'e> {
    /// What is done now, and at which instruction it is where it is the guest that runs.
    Doing(&'e str, Option<u64>),
    /// A line that stays.
    Done(&'e str),
}

pub type Tell<'t> = &'t mut dyn FnMut(Event);

/// What trying a commit came to.
pub struct Tried {
    pub step: Step,
    pub instructions: u64,
}

/// Builds a tree and compares it with the good build's run.
///
/// # Errors
/// Where nothing can be tried.
pub fn try_commit(
    builder: &Builder,
    trial: &Trial,
    good: &Good,
    commit: &Commit,
    tell: Tell,
) -> Result<Tried, Error> {
    let name = commit.short().to_owned();
    let mut step = Step {
        commit: commit.clone(),
        mark: Mark::Skip,
        because: String::new(),
        built: 0.0,
        ran: 0.0,
        log: None,
    };
    let mut says = |far: &str| tell(Event::Doing(&format!("{name}: {far}"), None));
    let kept = match builder.build(&commit.tree, &name, &mut says)? {
        Outcome::Built(kept) => kept,
        Outcome::Unbuildable { why, log } => {
            step.because = format!("it does not build: {why}");
            step.log = Some(log.display().to_string());
            return Ok(Tried { step, instructions: 0 });
        }
    };
    step.built = kept.took.map_or(0.0, |took| took.as_secs_f64());
    let begun = Instant::now();
    let found = trial.compare(good, &kept.executable, &mut |doing, at| {
        tell(Event::Doing(&format!("{name}: {doing}"), Some(at)));
    })?;
    step.ran = begun.elapsed().as_secs_f64();
    let mut instructions = 0;
    (step.mark, step.because) = match found {
        against::Found::Same { instructions: all } => {
            instructions = all;
            (Mark::Good, format!("the same {} instructions", grouped(all)))
        }
        against::Found::Different { after, what } => {
            (Mark::Bad, format!("the same {} instructions, then {what}", grouped(after)))
        }
        against::Found::NoVerdict(why) | against::Found::Varies(why) | against::Found::Unknown(why) => {
            (Mark::Skip, format!("no verdict: {why}"))
        }
    };
    Ok(Tried { step, instructions })
}

/// A step in a line.
#[must_use]
pub fn line(step: &Step) -> String {
    let Step { commit, mark, because, built, ran, log } = step;
    let built = match (*built, log) {
        (_, Some(log)) => format!(", its log is {log}"),
        (0.0, None) => ", the build was kept".to_owned(),
        (built, None) => format!(", built in {built:.1} s"),
    };
    let ran = if *ran > 0.0 { format!(", compared in {ran:.1} s") } else { String::new() };
    format!("{} {}: {because}{built}{ran} ({})", commit.short(), mark.name(), commit.subject)
}

impl Bisection<'_> {
    /// Finds the first bad commit.
    ///
    /// # Errors
    /// Where there is none, or it can't be told.
    pub fn run(&self, tell: Tell) -> Result<Found, Error> {
        let good_kept = self.build_end("good", &self.good, tell)?;
        let good =
            self.trial.good(&good_kept.executable, &mut |doing, at| tell(Event::Doing(doing, Some(at))))?;
        tell(Event::Done(&match good.runs {
            0 => format!("good {}: its run was kept", self.good.short()),
            runs => format!(
                "good {}: ran once to be stored, and {} times the same as that",
                self.good.short(),
                runs - 1
            ),
        }));
        let bad = try_commit(self.builder, self.trial, &good, &self.bad, tell)?;
        match bad.step.mark {
            Mark::Bad => tell(Event::Done(&line(&bad.step))),
            Mark::Good => {
                let (good, bad_name) = (self.good.short().to_owned(), self.bad.short().to_owned());
                return Err(Error::Same { good, bad: bad_name, instructions: bad.instructions });
            }
            Mark::Skip if bad.step.log.is_some() => {
                return Err(Error::Unbuildable {
                    which: "bad",
                    commit: self.bad.short().to_owned(),
                    why: bad.step.because,
                    log: bad.step.log.unwrap_or_default(),
                });
            }
            Mark::Skip => {
                return Err(Error::NoBad { commit: self.bad.short().to_owned(), why: bad.step.because });
            }
        }
        let ends = (&self.good, &self.bad);
        let (search, next) =
            Search::start(self.repository, self.trial.cache, ends, self.first_parent, &self.skip)?;
        let log = self.trial.cache.folder("logs")?;
        let log = log.join(format!("{}-{}.bisect", self.good.short(), self.bad.short()));
        let searched = self.search(&search, next, &good, tell);
        fs::write(&log, search.log()?)?;
        let log = log.display().to_string();
        let (first, steps) = match searched {
            Ok((Next::Found(id), steps)) => (self.repository.described(&id)?, steps),
            Ok((Next::Skipped(ids), _)) => {
                let short = ids.iter().map(|id| id.get(..12).unwrap_or(id)).collect::<Vec<_>>();
                return Err(Error::Skipped { commits: short.join(", "), log });
            }
            Ok((Next::Try { .. }, _)) => return Err(Error::Interrupted(log)),
            Err(_) if self.interrupts.load(Ordering::Relaxed) > 0 => return Err(Error::Interrupted(log)),
            Err(error) => return Err(error),
        };
        tell(Event::Done(&format!("first bad commit: {} ({})", first.short(), first.subject)));
        self.found(first, &good, steps, log, tell)
    }

    /// Builds one of both ends, which has to build.
    fn build_end(&self, which: &'static str, commit: &Commit, tell: Tell) -> Result<Kept, Error> {
        let name = commit.short();
        let built = self.builder.build(&commit.tree, name, &mut |far| {
            tell(Event::Doing(&format!("{which} {name}: {far}"), None));
        })?;
        match built {
            Outcome::Built(kept) => {
                if let Some(took) = kept.took {
                    tell(Event::Done(&format!("{which} {name}: built in {:.1} s", took.as_secs_f64())));
                }
                Ok(kept)
            }
            Outcome::Unbuildable { why, log } => Err(Error::Unbuildable {
                which,
                commit: name.to_owned(),
                why,
                log: log.display().to_string(),
            }),
        }
    }

    /// Commit by commit, until git has one.
    fn search(
        &self,
        search: &Search,
        mut next: Next,
        good: &Good,
        tell: Tell,
    ) -> Result<(Next, Vec<Step>), Error> {
        let mut steps = Vec::new();
        while let Next::Try { commit, left } = &next {
            if self.interrupts.load(Ordering::Relaxed) > 0 {
                break;
            }
            let commit = self.repository.described(commit)?;
            let tried = try_commit(self.builder, self.trial, good, &commit, tell)?;
            let left = left.map_or_else(String::new, |left| format!(", about {left} left"));
            tell(Event::Done(&format!("step {}{left}: {}", steps.len() + 1, line(&tried.step))));
            next = search.mark(&commit.id, tried.step.mark)?;
            steps.push(tried.step);
        }
        Ok((next, steps))
    }

    /// The first bad commit side by side with its parent.
    fn found(
        &self,
        commit: Commit,
        good: &Good,
        steps: Vec<Step>,
        log: String,
        tell: Tell,
    ) -> Result<Found, Error> {
        let parent = self.repository.parent(&commit)?;
        let sides =
            Pair { a: self.build_end("parent", &parent, tell)?, b: self.build_end("bad", &commit, tell)? };
        let builds =
            Pair { a: Build::inspect_any(&sides.a.executable)?, b: Build::inspect_any(&sides.b.executable)? };
        let report =
            self.trial.ride(Pair { a: &builds.a, b: &builds.b }, good, &self.telling, &mut |doing, at| {
                tell(Event::Doing(doing, Some(at)))
            })?;
        if self.interrupts.load(Ordering::Relaxed) > 0 {
            return Err(Error::Interrupted(log));
        }
        if report.verdict != Verdict::Different {
            let (commit, parent) = (commit.short().to_owned(), parent.short().to_owned());
            return Err(Error::NoReport { commit, parent, summary: report.summary });
        }
        let (author, date, message) = self.repository.message(&commit)?;
        let mut hunks = hunks::hunks(&self.repository.diff(&parent, &commit)?);
        let divergence = report.divergence.as_ref();
        let instruction = divergence.and_then(|divergence| divergence.instruction.a.as_deref());
        hunks::order(&mut hunks, divergence.and_then(|divergence| divergence.stage), instruction);
        let good_runs = good.runs;
        Ok(Found { commit, parent, author, date, message, hunks, good_runs, steps, log, report })
    }
}
