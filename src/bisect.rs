//! `tandem bisect`

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use ::bisect::bisection::{Bisection, Event};
use ::bisect::builds::{Builder, Target};
use ::bisect::cache::Cache;
use ::bisect::found::render;
use ::bisect::repository::Repository;
use ::bisect::trial::{Telling, Trial, firmware};
use qemu::arguments::Arguments as Line;

use crate::interrupt::INTERRUPTS;
use crate::lockstep::Format;
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, depth, driving, reduction, report};

/// Find the first commit of QEMU's on which a guest runs differently.
///
/// `git bisect` searches, in a repository of its own: nothing of yours is touched. Each commit is built out of tree and kept,
/// and its guest is compared with the run of the good build, which was stored, up to the first difference.
#[derive(clap::Args)]
pub struct Arguments {
    /// A checkout or a clone of QEMU's source
    #[arg(long, value_name = "QEMU_TREE", default_value = ".")]
    repo: PathBuf,
    /// A commit on which the guest runs as it should
    #[arg(long, value_name = "REV")]
    good: String,
    /// A commit on which it does not
    #[arg(long, value_name = "REV")]
    bad: String,
    /// Follow only the first parent of merges, as git has it
    #[arg(long)]
    first_parent: bool,
    /// Leave this commit out, as `git bisect skip`; may be given again
    #[arg(long, value_name = "REV")]
    skip: Vec<String>,
    #[command(flatten)]
    pub tried: Tried,
    #[command(flatten)]
    told: report::Arguments,
    #[command(flatten)]
    reduction: reduction::Arguments,
    /// How the result is printed; the data is documented in bisect/RESULT.md
    #[arg(long, default_value = "text")]
    format: Format,
}

/// What is built of a commit, and what runs on it.
#[derive(clap::Args)]
pub struct Tried {
    /// What is emulated, as QEMU's configure names it: CPU-softmmu, or CPU-linux-user for a program
    #[arg(long, value_name = "TARGET", default_value = "x86_64-softmmu")]
    target: String,
    /// A shell's line that builds a commit instead of QEMU's own configure and ninja. It runs in a folder of its own that
    /// stays from commit to commit, with TANDEM_SOURCE (the source), TANDEM_BUILD (that folder), TANDEM_TARGET, and
    /// TANDEM_EXECUTABLE, which is where it has to put the executable
    #[arg(long, value_name = "CMD")]
    build_cmd: Option<String>,
    /// How large builds and runs that are kept may be together (as 500M or 8G); those not used for longest go first
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = crate::record::size)]
    cache_size: u64,
    #[command(flatten)]
    driving: driving::Arguments,
    #[command(flatten)]
    depth: depth::Arguments,
}

impl Tried {
    pub fn cache(&self) -> Result<Cache, Failure> {
        Ok(Cache::open(::corpus::cache()?.join("bisect"), self.cache_size)?)
    }

    pub fn target(&self) -> Result<Target, Failure> {
        Ok(Target::parse(&self.target)?)
    }

    pub fn builder<'a>(
        &'a self,
        repository: &'a Repository,
        cache: &'a Cache,
        target: &'a Target,
    ) -> Builder<'a> {
        Builder { repository, cache, target, command: self.build_cmd.as_deref(), interrupts: &INTERRUPTS }
    }

    /// The guest, with the firmware of `tree` where its own line names none.
    pub fn trial<'a>(
        &self,
        cache: &'a Cache,
        probe: &'a std::path::Path,
        firmware: Option<&std::path::Path>,
    ) -> Result<Trial<'a>, Failure> {
        let mut arguments = self.driving.guest.clone();
        if let Some(folder) = firmware {
            arguments.extend(["-L".to_owned(), folder.display().to_string()]);
        }
        let recording = self.driving.recording.as_deref().map(std::path::absolute).transpose()?;
        Ok(Trial {
            cache,
            probe,
            arguments,
            recording,
            until: self.driving.until.clone(),
            until_icount: self.driving.until_icount,
            depth: self.depth.depth(),
            loads: self.depth.loads,
            interrupts: &INTERRUPTS,
        })
    }

    /// Whether the guest needs firmware from the source.
    pub fn lacks_firmware(&self, target: &Target) -> bool {
        !target.is_program
            && self.driving.recording.is_none()
            && Line::parse(&self.driving.guest).value("L").is_none()
    }
}

/// Shows what happens.
pub fn show(progress: &mut Progress, event: &Event) {
    match event {
        Event::Doing(doing, Some(at)) if *at > 0 => progress.show(*at, || format!(" ({doing})")),
        Event::Doing(doing, _) => progress.doing(doing),
        Event::Done(line) => progress.notice(&format!("tandem: {line}")),
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let symbols = arguments.told.symbols()?;
    let page = arguments.told.page()?;
    let folder = arguments.reduction.folder()?;
    let probe = qemu::run::probe()?;
    let target = arguments.tried.target()?;
    let repository = Repository::find(&arguments.repo)?;
    let (good, bad) = (repository.commit(&arguments.good)?, repository.commit(&arguments.bad)?);
    repository.between(&good, &bad)?;
    let skip = arguments.skip.iter().map(|rev| repository.commit(rev)).collect::<Result<_, _>>()?;
    let cache = arguments.tried.cache()?;
    let builder = arguments.tried.builder(&repository, &cache, &target);
    let firmware = if arguments.tried.lacks_firmware(&target) {
        firmware(&repository, &cache, &good.tree)?
    } else {
        None
    };
    let trial = arguments.tried.trial(&cache, &probe, firmware.as_ref().map(|entry| &*entry.folder))?;
    let text = arguments.format == Format::Text;
    let bisection = Bisection {
        repository: &repository,
        builder: &builder,
        trial: &trial,
        good,
        bad,
        first_parent: arguments.first_parent,
        skip,
        telling: Telling {
            explain: true,
            blocks: arguments.told.blocks(),
            symbols: symbols.as_ref(),
            reduce: folder.as_ref().map(reduction::Folder::path),
        },
        interrupts: &INTERRUPTS,
    };
    let mut progress = Progress::new("bisect");
    let found = bisection.run(&mut |event| show(&mut progress, &event));
    progress.done();
    // What git or a build then says is only that it was interrupted too.
    let mut found = found.map_err(|error| match error.to_string() {
        said if INTERRUPTS.load(Ordering::Relaxed) > 0 && !said.starts_with("interrupted") => {
            Failure("interrupted".to_owned())
        }
        said => Failure(said),
    })?;
    found.report.again = Some(report::again());
    if text {
        say(render(&found, report::medium()).trim_end());
    } else {
        say(&serde_json::to_string_pretty(&found)?);
    }
    if let Some(page) = page {
        page.write(&::lockstep::html::render(&found.report))?;
    }
    Ok(Outcome::Same)
}
