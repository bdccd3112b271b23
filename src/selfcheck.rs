//! `tandem selfcheck`

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::PathBuf;

use ::lockstep::comparator::Pair;
use ::lockstep::report::Verdict;
use ::lockstep::selfcheck::{NAMES, Request, check, settings};
use ::lockstep::text::{render, tried_line};
use qemu::build::Build;

use crate::interrupt::INTERRUPTS;
use crate::lockstep::Format;
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, driving, report};

/// Ride a QEMU build against itself, with settings that must not change the guest: one instruction a block, no chaining
/// of blocks, a tiny buffer for them, one that is mapped twice.
#[derive(clap::Args)]
pub struct Arguments {
    /// The QEMU
    #[arg(value_name = "QEMU")]
    build: PathBuf,
    #[command(flatten)]
    driving: driving::Arguments,
    /// Try this setting only; may be given again
    #[arg(long, value_name = "NAME", value_parser = NAMES)]
    setting: Vec<String>,
    #[command(flatten)]
    told: report::Arguments,
    /// How the result is printed; the data is documented in lockstep/REPORT.md
    #[arg(long, default_value = "text")]
    format: Format,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let build = Build::inspect(&arguments.build)?;
    let symbols = arguments.told.symbols()?;
    let page = arguments.told.page()?;
    let probe = qemu::run::probe()?;
    let text = arguments.format == Format::Text;
    let medium = report::medium();
    let mut settings = settings(&build);
    settings.retain(|setting| {
        arguments.setting.is_empty() || arguments.setting.iter().any(|name| name == setting.name)
    });
    let mut source = arguments.driving.source(&build, &probe, Pair { a: &[], b: &[] })?;
    let progress = RefCell::new(Progress::new("selfcheck"));
    let request = Request {
        build: &build,
        probe: &probe,
        arguments: arguments.driving.given(),
        driven: source.driven(),
        explain: page.is_some() || text && std::io::stdout().is_terminal(),
        blocks: arguments.told.blocks(),
        symbols: symbols.as_ref(),
        interrupts: &INTERRUPTS,
    };
    let checked = check(
        request,
        &settings,
        &mut |setting, equal| progress.borrow_mut().show(equal, || format!(", {}", setting.name)),
        &mut |tried| {
            if text {
                progress.borrow().console(tried_line(tried, medium).as_bytes());
            }
        },
    );
    progress.into_inner().done();
    let mut checked = checked?;
    if let Some(report) = &mut checked.report {
        report.again = Some(report::again());
    }
    if text {
        if let Some(report) = &checked.report {
            say(&format!("\n{}", render(report, medium).trim_end()));
        }
    } else {
        say(&serde_json::to_string_pretty(&checked)?);
    }
    if let Some(page) = page {
        page.write(&::lockstep::html::selfcheck(&checked))?;
    }
    Ok(match checked.verdict {
        Verdict::Same => Outcome::Same,
        Verdict::Different => Outcome::Different,
        Verdict::Trouble => {
            eprintln!("tandem: no verdict: a setting ended in trouble, or the build takes none");
            Outcome::Trouble
        }
    })
}
