//! `tandem lockstep`

use std::io::IsTerminal;

use ::lockstep::comparator::Pair;
use ::lockstep::report::{Report, Verdict};
use ::lockstep::ride::{Driven, Request, ride};
use ::lockstep::text::render;
use ::recorder::account::grouped;
use clap::ValueEnum;

use crate::interrupt::INTERRUPTS;
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, depth, driving, reduction, report, sides};

/// Ride two QEMU builds side by side to the first instruction at which they part.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    sides: sides::Arguments,
    #[command(flatten)]
    driving: driving::Arguments,
    #[command(flatten)]
    depth: depth::Arguments,
    /// Run both builds once more and show what each makes of the guilty block: guest code, TCG ops, host code. As text on
    /// a terminal, or with --report, it is done anyway
    #[arg(long, overrides_with = "no_explain")]
    explain: bool,
    /// Leave that out
    #[arg(long, overrides_with = "explain")]
    no_explain: bool,
    #[command(flatten)]
    told: report::Arguments,
    #[command(flatten)]
    reduction: reduction::Arguments,
    /// How the report is printed; the data is documented in lockstep/REPORT.md
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let Pair { a, b } = arguments.sides.builds()?;
    let symbols = arguments.told.symbols()?;
    let page = arguments.told.page()?;
    let folder = arguments.reduction.folder()?;
    let probe = qemu::run::probe()?;
    let extra = arguments.sides.extra();
    let mut source = arguments.driving.source(&a, &probe, extra)?;
    let mut progress = Progress::new("in lockstep");
    let request = Request {
        builds: Pair { a: &a, b: &b },
        probe: &probe,
        arguments: arguments.driving.given(),
        extra,
        depth: arguments.depth.depth(),
        loads: arguments.depth.loads,
        driven: Driven::Live,
        explain: arguments.explain
            || !arguments.no_explain
                && (page.is_some() || arguments.format == Format::Text && std::io::stdout().is_terminal()),
        blocks: arguments.told.blocks(),
        symbols: symbols.as_ref(),
        interrupts: &INTERRUPTS,
    };
    let lent = Request { driven: source.driven(), ..request };
    let report = ride(lent, &mut |equal| progress.show(equal, String::new));
    progress.done();
    let mut report = Report { again: Some(report::again()), ..report? };
    if let Some(folder) = folder {
        let lent = Request { driven: source.driven(), ..request };
        reduce::cut::reduce(lent, folder.path(), &mut report);
    }
    match arguments.format {
        Format::Text => say(render(&report, report::medium()).trim_end()),
        Format::Json => say(&serde_json::to_string_pretty(&report)?),
    }
    if report.verdict == Verdict::Trouble {
        eprintln!("tandem: no verdict, {} instructions compared", grouped(report.compared.instructions));
    }
    if let Some(page) = page {
        page.write(&::lockstep::html::render(&report))?;
    }
    Ok(match report.verdict {
        Verdict::Same => Outcome::Same,
        Verdict::Different => Outcome::Different,
        Verdict::Trouble => Outcome::Trouble,
    })
}
