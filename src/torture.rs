//! `tandem torture`

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::lockstep::comparator::Pair;
use ::recorder::account::grouped;
use ::torture::finding::Finding;
use ::torture::hunt::{Hunted, Progress as Far, Request, Told, hunt};
use clap::ValueEnum;

use crate::interrupt::INTERRUPTS;
use crate::lockstep::Format;
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, sides};

/// Run random code on two QEMU builds, and reduce what they disagree on to a few instructions.
///
/// Each finding is checked on the real processor here, and kept as a program that tests for it.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    sides: sides::Arguments,
    /// What the code is made from: the same seed, builds and features make the same code. One that is new each time where
    /// none is given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The processor that code is made for
    #[arg(long, default_value = "x86_64")]
    isa: Isa,
    /// Ends after so many minutes, with the batch or with what is being made of a difference. Without a limit it goes on until Ctrl-C
    #[arg(long, value_name = "N", value_parser = minutes)]
    minutes: Option<Duration>,
    /// Ends after so many batches
    #[arg(long, value_name = "N")]
    batches: Option<u64>,
    /// How many sequences run in one start of the builds
    #[arg(long, value_name = "N", default_value = "4000", value_parser = clap::value_parser!(u16).range(1..=10000))]
    batch_size: u16,
    /// Use these features of the processor too, though a build or this processor says that it has them not; may be several,
    /// with commas between
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    features: Vec<String>,
    /// Where findings are kept, instead of in torture-SEED
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, default_value = "text")]
    format: Format,
    /// Options of QEMU's for both sides, instead of `-cpu max`, and for a machine `-M pc`, `-m 64`
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Isa {
    #[value(name = "x86_64")]
    X86_64,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "a number of minutes is wanted, as 10 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|_| "so many minutes there are not".to_owned())
}

fn found(finding: &Finding) -> String {
    let mut lines = vec![format!(
        "FOUND in sequence {}: `{}`, {} (reduced to {}, {})",
        finding.sequence,
        finding.instruction,
        finding.wrong.said(),
        finding.instructions,
        finding.folder.display()
    )];
    lines.extend(finding.code.iter().map(|line| format!("    {line}")));
    for unequal in &finding.differs {
        let real = unequal.real.as_ref().map_or_else(String::new, |real| format!(", real {real}"));
        lines.push(format!("  {}: A {}, B {}{real}", unequal.name, unequal.a, unequal.b));
    }
    if let Some(Pair { a, b }) = &finding.ended {
        lines.push(format!("  on A it {a}; on B it {b}"));
    }
    lines.push(format!("  in lockstep {}", finding.lockstep));
    lines.join("\n")
}

fn summary(hunted: &Hunted) -> String {
    let count = hunted.findings.len();
    let verdict = if count > 0 {
        format!("DIFFERENT: {count} finding{}", if count == 1 { "" } else { "s" })
    } else {
        "the same".to_owned()
    };
    let mut lines = vec![format!(
        "{verdict}; seed {}, {} sequences, {} generated instructions of {} forms in {:.0} s ({} a minute), {} executed ones compared; ended by {}",
        hunted.seed,
        grouped(hunted.sequences),
        grouped(hunted.generated),
        hunted.forms,
        hunted.seconds,
        grouped(hunted.generated_a_minute),
        grouped(hunted.compared),
        hunted.ended_by
    )];
    for finding in &hunted.findings {
        lines.push(format!(
            "  {:>5} x {}: {} ({})",
            finding.times,
            finding.instruction,
            finding.wrong.said(),
            finding.folder.display()
        ));
    }
    lines.extend(
        hunted.left_out.iter().map(|form| format!("  left out, because both builds end in it: {form}")),
    );
    lines.extend(hunted.troubles.iter().map(|trouble| format!("  no verdict: {trouble}")));
    lines.join("\n")
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let Isa::X86_64 = arguments.isa;
    let Pair { a, b } = arguments.sides.builds()?;
    let probe = qemu::run::probe()?;
    let seed = arguments.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    let folder = arguments.output.clone().unwrap_or_else(|| PathBuf::from(format!("torture-{seed}")));
    let text = arguments.format == Format::Text;
    if text {
        eprintln!("tandem: seed {seed}");
    }
    let mut progress = Progress::new("torture");
    let request = Request {
        builds: Pair { a: &a, b: &b },
        probe: &probe,
        options: &arguments.options,
        extra: arguments.sides.extra(),
        seed,
        features: &arguments.features,
        batch: arguments.batch_size.into(),
        batches: arguments.batches,
        time: arguments.minutes,
        folder: &folder,
        interrupts: &INTERRUPTS,
    };
    let hunted = hunt(&request, &mut |told| match told {
        Told::Progress(Far { batches, generated, findings }) => {
            progress.generated(generated, || format!(", {batches} batches, {findings} findings"));
        }
        Told::Found(finding) if text => progress.console(format!("{}\n", found(finding)).as_bytes()),
        Told::Found(_) => {}
    });
    progress.done();
    let hunted = hunted?;
    if text {
        say(&summary(&hunted));
    } else {
        say(&serde_json::to_string_pretty(&hunted)?);
    }
    Ok(if !hunted.findings.is_empty() {
        Outcome::Different
    } else if hunted.troubles.is_empty() {
        Outcome::Same
    } else {
        Outcome::Trouble
    })
}
