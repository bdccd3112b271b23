//! `tandem diff`

use std::ops::ControlFlow;
use std::path::PathBuf;

use ::lockstep::comparator::{Pair, Side};
use ::lockstep::inputs::differences;
use ::lockstep::report::{BLOCKS, Verdict};
use ::lockstep::ride::{Driven, Request, ride};
use ::lockstep::text::recordings::{consoles, inputs};
use ::lockstep::text::render;
use ::recorder::reader::Reader;
use serde_json::json;

use crate::interrupt::INTERRUPTS;
use crate::lockstep::Format;
use crate::progress::{Progress, say};
use crate::{Failure, Outcome, replay, report};

/// Compare two recordings of one guest: the first inputs that differ, the first instruction at which the runs part,
/// and their consoles.
///
/// Both are replayed, each on the build that recorded it. Exit code 0 says that the guest did the same in both.
#[derive(clap::Args)]
pub struct Arguments {
    /// One recording
    #[arg(value_name = "A.tdm")]
    a: PathBuf,
    /// The other
    #[arg(value_name = "B.tdm")]
    b: PathBuf,
    /// How the report is printed; `run` in the data is documented in lockstep/REPORT.md
    #[arg(long, default_value = "text")]
    format: Format,
}

/// The most of a console that is compared, bytes.
const CONSOLE: usize = 4 << 20;

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let (mut a, mut b) = (Reader::open(&arguments.a)?, Reader::open(&arguments.b)?);
    let builds = Pair { a: replay::build(&a, None)?, b: replay::build(&b, None)? };
    let probe = qemu::run::probe()?;
    let differing = differences(Pair { a: &mut a, b: &mut b })?;
    let consoles = consoles(&console(&mut a)?, &console(&mut b)?);
    let mut progress = Progress::new("in lockstep");
    let request = Request {
        builds: Pair { a: &builds.a, b: &builds.b },
        probe: &probe,
        arguments: None,
        extra: Pair::of(|_: Side| &[][..]),
        depth: None,
        loads: false,
        driven: Driven::Recordings(Pair { a: &mut a, b: &mut b }),
        explain: false,
        blocks: BLOCKS,
        symbols: None,
        interrupts: &INTERRUPTS,
    };
    let report = ride(request, &mut |equal| progress.show(equal, String::new));
    progress.done();
    let report = report?;
    match arguments.format {
        Format::Text => {
            say(&inputs(&differing));
            say(&render(&report, report::medium()));
            say(if consoles.is_empty() { "console: the same" } else { consoles.trim_end() });
        }
        Format::Json => {
            let page = json!({ "inputs": differing, "run": report, "console": consoles });
            say(&serde_json::to_string_pretty(&page)?);
        }
    }
    Ok(match report.verdict {
        Verdict::Trouble => Outcome::Trouble,
        // Inputs that differ and change nothing, as the host's date in a guest that does not ask for it, are told only.
        Verdict::Same if consoles.is_empty() => Outcome::Same,
        Verdict::Same | Verdict::Different => Outcome::Different,
    })
}

/// What the guest wrote, without what would move the cursor of who reads it.
fn console(recording: &mut Reader) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    recording.console(|_, piece| {
        bytes.extend_from_slice(piece);
        if bytes.len() < CONSOLE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let shown =
        |char: char| if char.is_control() && char != '\n' && char != '\t' { '\u{fffd}' } else { char };
    Ok(text.replace("\r\n", "\n").chars().map(shown).collect())
}
