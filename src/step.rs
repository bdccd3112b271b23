//! `tandem step`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::bisect::bisection::{line, try_commit};
use ::bisect::builds::Outcome as Built;
use ::bisect::repository::{Commit, Repository};
use ::bisect::search::Mark;
use ::bisect::trial::firmware;

use crate::Failure;
use crate::bisect::{Tried, show};
use crate::progress::{Progress, say};

/// Try the QEMU tree that is checked out here, for `git bisect run tandem step --good REV -- ARGS`.
///
/// The tree is built as it is, out of tree, and its guest is compared with the good build's run, which the first call
/// stores. Exit codes, as `git bisect run` wants them: 0 good, 1 bad, 125 skip (it does not build or start, or there is no
/// verdict), 128 trouble, with which git ends the bisection.
#[derive(clap::Args)]
pub struct Arguments {
    /// The QEMU tree that is checked out
    #[arg(long, value_name = "QEMU_TREE", default_value = ".")]
    repo: PathBuf,
    /// A commit on which the guest runs as it should; it is built once, and not checked out here
    #[arg(long, value_name = "REV", required_unless_present = "good_build")]
    good: Option<String>,
    /// An executable on which it does, instead
    #[arg(long, value_name = "QEMU", conflicts_with = "good")]
    good_build: Option<PathBuf>,
    #[command(flatten)]
    tried: Tried,
}

/// What `git bisect run` takes for the end of everything.
const TROUBLE: u8 = 128;

/// A command line that makes no sense. `git bisect run` would take clap's own exit code for a bad commit.
pub fn misused(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    let is_step = std::env::args_os().nth(1).is_some_and(|word| word == "step");
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_step => ExitCode::from(TROUBLE),
        code => ExitCode::from(u8::try_from(code).unwrap_or(2)),
    }
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match step(arguments) {
        Ok(Mark::Good) => ExitCode::from(0),
        Ok(Mark::Bad) => ExitCode::from(1),
        Ok(Mark::Skip) => ExitCode::from(125),
        Err(Failure(line)) => {
            eprintln!("tandem: {line}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn step(arguments: &Arguments) -> Result<Mark, Failure> {
    let tried = &arguments.tried;
    let probe = qemu::run::probe()?;
    let target = tried.target()?;
    let repository = Repository::find(&arguments.repo)?;
    let good = arguments.good.as_deref().map(|rev| repository.commit(rev)).transpose()?;
    let cache = tried.cache()?;
    let builder = tried.builder(&repository, &cache, &target);
    let mut progress = Progress::new("step");
    // First, because it may be edited while the good one is built.
    let objects = builder.objects()?;
    let tree = repository.checked_out(&objects.folder)?;
    let commit = head(&repository, tree)?;
    let kept = match &good {
        Some(good) => {
            let mut says = |far: &str| progress.doing(&format!("good {}: {far}", good.short()));
            match builder.build(&good.tree, good.short(), &mut says)? {
                Built::Built(kept) => Some(kept),
                Built::Unbuildable { why, log } => {
                    let log = log.display();
                    return Err(Failure(format!(
                        "the good commit {} does not build: {why}; all of it is in `{log}`",
                        good.short()
                    )));
                }
            }
        }
        None => None,
    };
    let own = arguments.good_build.as_deref().unwrap_or(Path::new(""));
    let executable = kept.as_ref().map_or(own, |kept| &kept.executable);
    let firmware = match &good {
        Some(good) if tried.lacks_firmware(&target) => firmware(&repository, &cache, &good.tree)?,
        None if tried.lacks_firmware(&target) => firmware(&repository, &cache, &commit.tree)?,
        _ => None,
    };
    let trial = tried.trial(&cache, &probe, firmware.as_ref().map(|entry| &*entry.folder))?;
    let good = trial.good(executable, &mut |doing, at| {
        show(&mut progress, &::bisect::bisection::Event::Doing(doing, Some(at)));
    })?;
    let tried = try_commit(&builder, &trial, &good, &commit, &mut |event| show(&mut progress, &event))?;
    progress.done();
    say(&line(&tried.step));
    Ok(tried.step.mark)
}

/// The commit that is checked out, with the tree as it is.
fn head(repository: &Repository, tree: String) -> Result<Commit, Failure> {
    let mut commit = repository.commit("HEAD")?;
    if commit.tree != tree {
        commit.subject.push_str(", and what is changed there");
        commit.tree = tree;
    }
    Ok(commit)
}
