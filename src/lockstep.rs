//! `tandem lockstep`

use std::io::IsTerminal;
use std::path::PathBuf;

use ::lockstep::comparator::Pair;
use ::lockstep::depth::Depth;
use ::lockstep::made::{Made, Making};
use ::lockstep::report::{Report, Verdict};
use ::lockstep::ride::{Driven, Request, ride};
use ::lockstep::text::render;
use ::recorder::account::grouped;
use ::recorder::reader::Reader;
use clap::ValueEnum;
use qemu::build::Build;

use crate::interrupt::INTERRUPTS;
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, reduction, report};

/// Ride two QEMU builds side by side to the first instruction at which they part.
#[derive(clap::Args)]
pub struct Arguments {
    /// The QEMU of side A: of a whole machine (qemu-system-...) or of one Linux program (qemu-x86_64 and others)
    #[arg(long, value_name = "QEMU")]
    a: PathBuf,
    /// The QEMU of side B
    #[arg(long, value_name = "QEMU")]
    b: PathBuf,
    /// An argument for side A only
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    a_arg: Vec<String>,
    /// An argument for side B only
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    b_arg: Vec<String>,
    /// Drive both sides by this recording. Without one both run live, in virtual time; a guest that can't, because it has a
    /// drive, a network or an interactive input, is recorded on side A first, and both are driven by that. Ctrl-C ends the
    /// recording, and what was recorded is compared
    #[arg(long, value_name = "FILE")]
    recording: Option<PathBuf>,
    /// Record the guest first, whatever it is, and end that when this appears on its console
    #[arg(long, value_name = "REGEX", conflicts_with = "recording")]
    until: Option<regex::bytes::Regex>,
    /// The same after so many instructions, at the next full chunk
    #[arg(long, value_name = "N", conflicts_with = "recording")]
    until_icount: Option<u64>,
    /// How much is compared, instead of the most that the older of both builds can give: the instructions, what they write to
    /// memory as well, or the registers too
    #[arg(long, value_name = "DEPTH")]
    compare: Option<Compare>,
    /// Compare what is read from memory as well
    #[arg(long)]
    loads: bool,
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
    /// QEMU's arguments for the guest; with a recording they replace the recorded ones. For a program's QEMU: its options if
    /// any, the program, and the program's arguments
    #[arg(last = true, value_name = "ARGS", required_unless_present = "recording")]
    guest: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compare {
    Flow,
    Stores,
    Full,
}

impl From<Compare> for Depth {
    fn from(compare: Compare) -> Self {
        match compare {
            Compare::Flow => Depth::Flow,
            Compare::Stores => Depth::Stores,
            Compare::Full => Depth::Full,
        }
    }
}

/// Records the guest where it can't run live.
pub fn made(making: Making) -> Result<Option<Made>, Failure> {
    let Some(because) = making.because()? else { return Ok(None) };
    eprintln!("tandem: recording on QEMU {} first: {because}; Ctrl-C ends that", making.build.version);
    let mut progress = Progress::new("recording");
    let made = making.make(because, &mut |instructions| progress.show(instructions, String::new));
    progress.done();
    let made = made?;
    let recorded = &made.recorded;
    let instructions = grouped(recorded.instructions);
    eprintln!("tandem: recorded {instructions} instructions; ended by: {}", recorded.ended_by);
    Ok(Some(made))
}

/// What drives both sides.
pub fn driven<'a>(recording: &'a mut Option<Reader>, made: &'a mut Option<Made>) -> Driven<'a> {
    match (recording, made) {
        (Some(recording), _) => Driven::Recording(recording),
        (None, Some(made)) => Driven::Made(made),
        (None, None) => Driven::Live,
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let a = Build::inspect_any(&arguments.a)?;
    let b = if arguments.b == arguments.a { a.clone() } else { Build::inspect_any(&arguments.b)? };
    let symbols = arguments.told.symbols()?;
    let page = arguments.told.page()?;
    let folder = arguments.reduction.folder()?;
    let probe = qemu::run::probe()?;
    let mut recording = arguments.recording.as_deref().map(Reader::open).transpose()?;
    let extra = Pair { a: &*arguments.a_arg, b: &*arguments.b_arg };
    let mut made = match recording {
        Some(_) => None,
        None => made(Making {
            build: &a,
            probe: &probe,
            arguments: &arguments.guest,
            extra,
            until: arguments.until.clone(),
            until_icount: arguments.until_icount,
            interrupts: &INTERRUPTS,
        })?,
    };
    let mut progress = Progress::new("in lockstep");
    let request = Request {
        builds: Pair { a: &a, b: &b },
        probe: &probe,
        arguments: (!arguments.guest.is_empty()).then_some(&arguments.guest),
        extra,
        depth: arguments.compare.map(Into::into),
        loads: arguments.loads,
        driven: Driven::Live,
        explain: arguments.explain
            || !arguments.no_explain
                && (page.is_some() || arguments.format == Format::Text && std::io::stdout().is_terminal()),
        blocks: arguments.told.blocks(),
        symbols: symbols.as_ref(),
        interrupts: &INTERRUPTS,
    };
    let lent = Request { driven: driven(&mut recording, &mut made), ..request };
    let report = ride(lent, &mut |equal| progress.show(equal, String::new));
    progress.done();
    let mut report = Report { again: Some(report::again()), ..report? };
    if let Some(folder) = folder {
        let lent = Request { driven: driven(&mut recording, &mut made), ..request };
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
