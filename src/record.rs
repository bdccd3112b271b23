//! `tandem record`

use std::cell::RefCell;
use std::path::PathBuf;

use ::lockstep::report::grouped;
use ::recorder::record::{Request, Show, record};
use clap::ValueEnum;
use qemu::arguments::Time;
use qemu::build::Build;

use crate::interrupt::INTERRUPTS;
use crate::progress::Progress;
use crate::{Failure, Outcome};

/// Record a guest, given by QEMU's own command line.
///
/// The guest's console goes to standard output. Ctrl-C ends the guest and keeps the recording; a second one ends
/// everything at once.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recording to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What the guest's time follows [default: virtual, or host for a guest with a drive, a network or interactive
    /// input]
    #[arg(long)]
    time: Option<Policy>,
    /// QEMU and its arguments
    #[arg(last = true, required = true, value_name = "QEMU ARGS")]
    line: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    /// The instruction count alone: the same run each time
    Virtual,
    /// The host's clock while the guest idles
    Host,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let (name, guest) = arguments.line.split_first().ok_or_else(|| Failure("no QEMU given".to_owned()))?;
    let build = Build::inspect(name.as_ref())?;
    let probe = qemu::run::probe()?;
    let suits = qemu::arguments::Arguments::parse(guest).time();
    let (time, why) = match arguments.time {
        Some(Policy::Virtual) => (Time::Virtual, "as --time says"),
        Some(Policy::Host) => (Time::Host, "as --time says"),
        None if suits == Time::Virtual => (suits, "the guest has no drive, network or interactive input"),
        None => (suits, "the guest has a drive, a network or interactive input"),
    };
    eprintln!("tandem: recording on QEMU {}, in {time} time: {why}", build.version);
    let progress = RefCell::new(Progress::new("recording"));
    let request = Request {
        build: &build,
        probe: &probe,
        arguments: guest,
        time,
        output: &arguments.output,
        interrupts: &INTERRUPTS,
    };
    let mut show = Show {
        console: &mut |bytes| progress.borrow().console(bytes),
        progress: &mut |instructions, bytes| {
            progress.borrow_mut().show(instructions, || format!(", {} bytes", grouped(bytes)));
        },
    };
    let recorded = record(&request, &mut show);
    progress.borrow().done();
    let recorded = recorded?;
    eprintln!(
        "tandem: recorded {} instructions, {} events, {} chunks of witness in {} bytes to {}; ended by: {}",
        grouped(recorded.ending.position),
        grouped(recorded.ending.events),
        recorded.chunks,
        grouped(recorded.bytes),
        arguments.output.display(),
        recorded.ending.cause,
    );
    Ok(Outcome::Same)
}
