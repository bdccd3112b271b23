//! `tandem replay`

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ::recorder::account::grouped;
use ::recorder::reader::Reader;
use qemu::build::Build;
use replayer::machine::Setting;
use replayer::moment::Moment;
use replayer::pieces::{self, Listener};
use replayer::source::Source;
use replayer::symbols::Symbols;
use replayer::verify::{self, STALL, Verdict};

use crate::interrupt::INTERRUPTS;
use crate::progress::Progress;
use crate::show::Format;
use crate::{Failure, Outcome, index, moment};

/// Replay a recording and prove that it is the same run.
///
/// The guest's console goes to standard output, and the verdict behind it.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recording
    #[arg(value_name = "FILE")]
    recording: PathBuf,
    /// Replay on this QEMU instead of the one that recorded
    #[arg(long, value_name = "QEMU")]
    build: Option<PathBuf>,
    /// The folder into which `tandem unpack` has put the guest's files
    #[arg(long, value_name = "FOLDER")]
    files: Option<PathBuf>,
    /// How many QEMUs prove it at once, each a piece that begins at a checkpoint (`tandem index` makes them); as it is, one
    /// for each processor, as far as length and memory allow it
    #[arg(short, long, value_name = "N", conflicts_with = "at")]
    jobs: Option<NonZeroUsize>,
    /// Go to a moment and show the guest there: ICOUNT, end, end-N, instruction:N (as lockstep counts), console:REGEX or
    /// pc:ADDRESS[#N], the Nth time. Several are gone to in the order given
    #[arg(long, value_name = "MOMENT")]
    at: Vec<Moment>,
    /// Replay from the beginning to the moment, without checkpoints and making none
    #[arg(long, requires = "at")]
    no_checkpoints: bool,
    /// An ELF file with the names of the guest's code
    #[arg(long, value_name = "FILE", requires = "at")]
    symbols: Option<PathBuf>,
    /// How the moments are shown
    #[arg(long, value_enum, requires = "at", default_value_t = Format::Text)]
    format: Format,
}

/// The build to replay on: the one that is named, or the one that recorded.
pub fn build(recording: &Reader, named: Option<&PathBuf>) -> Result<Build, Failure> {
    let recorded = &recording.manifest.build;
    if named.is_none() && recorded.is_unchanged() {
        return Ok(recorded.clone());
    }
    let build = Build::inspect(named.unwrap_or(&recorded.path))?;
    if named.is_none() && build.sha256 != recorded.sha256 {
        return Err(Failure(format!(
            "`{}` is no longer the QEMU that recorded (it was {}, it is {}); say --build {} to replay on it all the \
             same, or name another",
            build.path.display(),
            recorded.version,
            build.version,
            build.path.display()
        )));
    }
    Ok(build)
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut recording = Reader::open(&arguments.recording)?;
    let build = build(&recording, arguments.build.as_ref())?;
    let probe = qemu::run::probe()?;
    let source = Source::unpack(&mut recording, None, arguments.files.as_deref())?;
    let setting =
        Setting { source: &source, build: &build, probe: &probe, interrupts: &INTERRUPTS, patience: STALL };
    if !arguments.at.is_empty() {
        let symbols = arguments.symbols.as_deref().map(Symbols::read).transpose()?;
        if !arguments.no_checkpoints {
            recording = index::for_seeks(recording, setting, index::LONG)?;
        }
        let checkpoints = !arguments.no_checkpoints;
        let shown = moment::Shown { checkpoints, symbols: symbols.as_ref(), format: arguments.format };
        return moment::show(&mut recording, setting, &arguments.at, &shown);
    }
    let total = recording.ending.instructions();
    let cut = recording.ending.cut.then_some(recording.ending.icount);
    let progress = RefCell::new(Progress::new("replaying"));
    let mut listener = Listener {
        console: &mut |bytes| progress.borrow().console(bytes),
        progress: &mut |instructions| {
            progress.borrow_mut().show(instructions, || format!(" of {}", grouped(total)));
        },
        doubt: &mut |why| {
            progress.borrow().notice(&format!(
                "tandem: its pieces are no proof: {why}; replaying it from the beginning to find out"
            ));
        },
    };
    let proof = pieces::verify(&mut recording, setting, arguments.jobs, &mut listener);
    progress.borrow().done();
    let proof = match proof {
        Err(verify::Error::Died(mut death)) => {
            let mut progress = Progress::new("QEMU died; replaying again to find where");
            death.locate(&mut recording, setting, &mut |instructions| {
                progress.show(instructions, String::new)
            });
            progress.done();
            Err(verify::Error::Died(death))
        }
        proof => proof,
    }?;
    match proof.verdict {
        Verdict::Identical { instructions, chunks } => {
            let on = cut.map_or_else(String::new, |icount| {
                format!("; replayed on to icount {}, where the recording was cut off", grouped(icount))
            });
            let by = match proof.jobs {
                1 => String::new(),
                jobs => format!(", by {jobs} QEMUs at once"),
            };
            progress.borrow().verdict(&format!(
                "identical: {} instructions, {chunks} chunks{by}{on}",
                grouped(instructions)
            ));
            Ok(Outcome::Same)
        }
        Verdict::Unproven { instructions } => {
            progress.borrow().verdict(&format!(
                "replayed: {} instructions to the recording's end; recorded without a witness, so nothing is proven",
                grouped(instructions)
            ));
            Ok(Outcome::Same)
        }
        Verdict::Different { chunk, from, to } => {
            progress.borrow().verdict(&format!(
                "different: chunk {chunk}, instructions {} to {}; everything before is identical",
                grouped(from),
                grouped(to)
            ));
            Ok(Outcome::Different)
        }
        Verdict::OtherConsole { line } => {
            progress.borrow().verdict(&format!(
                "different: the same instructions, but another console, from line {line} on"
            ));
            Ok(Outcome::Different)
        }
        Verdict::EndedEarly { at, instructions } => {
            progress.borrow().verdict(&format!(
                "different: the replay ended after {} of {} instructions, identical up to the last full chunk",
                grouped(at),
                grouped(instructions)
            ));
            Ok(Outcome::Different)
        }
    }
}
