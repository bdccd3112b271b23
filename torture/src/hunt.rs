//! Batch after batch of sequences on both builds, until a limit or an interruption.
//!
//! A batch rides in lockstep, which compares all that its code does. Where that tells a difference, each build runs the batch by
//! itself and says what every sequence comes to: so one that differs hides no other. What is found is made short, and its form
//! is left out of what is generated from then on; the rest of the batch rides again.

mod batch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use iced_x86::Code;
use lockstep::comparator::Pair;
use qemu::build::{Build, Mode};
use reduce::features::{self, Features};
use reduce::image::{Setting, Tells};
use reduce::subject::{self, Subject, runs};
use reduce::subjects::Subjects;
use serde::Serialize;

use crate::finding::Finding;
use crate::forms::Forms;
use crate::generator::Generator;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Subject(#[from] subject::Error),
    #[error(transparent)]
    Ride(#[from] lockstep::ride::Error),
    #[error("`{folder}` can't be written to: {why}")]
    Folder { folder: PathBuf, why: std::io::Error },
    #[error("there is no feature `{0}`; there are: {1}")]
    Feature(String, String),
    #[error("these builds leave nothing to generate: they have no feature in common but {0}")]
    NoForms(String),
    #[error("both builds have to be qemu-x86_64, or both qemu-system-x86_64: `{0}` is {1}")]
    Architecture(PathBuf, String),
}

pub struct Request<'a> {
    pub builds: Pair<&'a Build>,
    pub probe: &'a Path,
    /// Options of QEMU's for both sides, and for one each.
    pub options: &'a [String],
    pub extra: Pair<&'a [String]>,
    pub seed: u64,
    /// Features that count as had by all.
    pub features: &'a [String],
    /// How many sequences a batch has.
    pub batch: usize,
    pub batches: Option<u64>,
    pub time: Option<Duration>,
    /// Where findings are kept.
    pub folder: &'a Path,
    pub interrupts: &'a AtomicU32,
}

/// What a hunt came to.
#[derive(Debug, Clone, Serialize)]
pub struct Hunted {
    pub seed: u64,
    pub builds: Pair<Subjected>,
    pub features: Vec<&'static str>,
    /// How many forms of instructions there were to choose from.
    pub forms: usize,
    pub batches: u64,
    pub sequences: u64,
    /// Instructions generated, no sequence twice.
    pub generated: u64,
    /// Instructions executed and found equal in lockstep, with those around the sequences.
    pub compared: u64,
    pub seconds: f64,
    pub generated_a_minute: u64,
    pub ended_by: &'static str,
    pub findings: Vec<Finding>,
    /// Forms that end the guest on both builds, and were generated no more.
    pub left_out: Vec<String>,
    /// Batches without a verdict, and why.
    pub troubles: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Subjected {
    pub path: String,
    pub version: String,
    pub sha256: String,
    pub options: Vec<String>,
}

/// How far a hunt is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub batches: u64,
    pub generated: u64,
    pub findings: usize,
}

/// What is told while it goes on.
pub enum Told<'a> {
    Progress(Progress),
    Found(&'a Finding),
}

struct Hunt<'a> {
    request: &'a Request<'a>,
    subjects: Subjects<'a>,
    setting: Setting,
    until: Option<Instant>,
    forms: Forms,
    /// Forms that are known to be wrong, and generated no more.
    known: Vec<Code>,
    hunted: Hunted,
    /// Whether the last batch had a difference: then the next is looked at without a ride first, which would only say so.
    suspicious: bool,
}

/// Why it goes no further.
enum Stop {
    Interrupted,
    Time,
    Error(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        match error.into() {
            Error::Subject(subject::Error::Interrupted) => Stop::Interrupted,
            error => Stop::Error(error),
        }
    }
}

/// Hunts.
///
/// # Errors
/// Where nothing can be run. What was found before stays found, and is kept.
pub fn hunt(request: &Request, tell: &mut dyn FnMut(Told)) -> Result<Hunted, Error> {
    // Whether it can be written to is not found out when something is to be kept.
    std::fs::create_dir_all(request.folder)
        .map_err(|why| Error::Folder { folder: request.folder.to_owned(), why })?;
    let hunted = run(request, tell);
    // It stays only with something in it.
    let _ = std::fs::remove_dir(request.folder);
    hunted
}

fn run(request: &Request, tell: &mut dyn FnMut(Told)) -> Result<Hunted, Error> {
    let subject =
        |build, own| Subject { build, options: request.options, own, interrupts: request.interrupts };
    let subjects = Subjects(Pair {
        a: subject(request.builds.a, request.extra.a),
        b: subject(request.builds.b, request.extra.b),
    });
    let modes = Pair { a: request.builds.a.mode, b: request.builds.b.mode };
    if modes.a != modes.b {
        let emulates =
            if modes.b == Mode::User { "one for single programs" } else { "one of a whole machine" };
        return Err(Error::Architecture(request.builds.b.path.clone(), emulates.to_owned()));
    }
    let began = Instant::now();
    let features = features(request, subjects)?;
    let forms = Forms::of(&features);
    if forms.count() == 0 {
        return Err(Error::NoForms(features.names().join(", ")));
    }
    let subjected = |build: &Build, own: &[String]| Subjected {
        path: build.path.display().to_string(),
        version: build.version.clone(),
        sha256: build.sha256.clone(),
        options: [request.options, own].concat(),
    };
    let mut hunt = Hunt {
        request,
        subjects,
        setting: Setting {
            runs: runs(modes.a),
            tells: Tells::Nothing,
            avx: features.avx(),
            mxcsr_mask: u32::MAX,
        },
        hunted: Hunted {
            seed: request.seed,
            builds: Pair {
                a: subjected(request.builds.a, request.extra.a),
                b: subjected(request.builds.b, request.extra.b),
            },
            features: features.names(),
            forms: forms.count(),
            batches: 0,
            sequences: 0,
            generated: 0,
            compared: 0,
            seconds: 0.0,
            generated_a_minute: 0,
            ended_by: "batches",
            findings: Vec::new(),
            left_out: Vec::new(),
            troubles: Vec::new(),
        },
        until: request.time.and_then(|time| began.checked_add(time)),
        forms,
        known: Vec::new(),
        suspicious: false,
    };
    let mut generator = Generator::new(request.seed);
    let ended_by = loop {
        if request.batches.is_some_and(|batches| hunt.hunted.batches >= batches) {
            break "batches";
        }
        if request.time.is_some_and(|time| began.elapsed() >= time) {
            break "time";
        }
        if request.interrupts.load(Ordering::Relaxed) > 0 {
            break "interruption";
        }
        let first = hunt.hunted.sequences;
        let numbers = first..first + request.batch as u64;
        let batch: Vec<_> = numbers.map(|number| generator.sequence(number, &hunt.forms)).collect();
        match hunt.batch(&batch, tell) {
            Ok(()) => {}
            Err(Stop::Interrupted) => break "interruption",
            Err(Stop::Time) => break "time",
            Err(Stop::Error(error)) if hunt.hunted.findings.is_empty() => return Err(error),
            // What is found stays found.
            Err(Stop::Error(error)) => {
                hunt.hunted.troubles.push(error.to_string());
                break "trouble";
            }
        }
        let hunted = &mut hunt.hunted;
        hunted.batches += 1;
        hunted.sequences += batch.len() as u64;
        hunted.generated += batch.iter().map(|sequence| sequence.instructions as u64).sum::<u64>();
        let progress = Progress {
            batches: hunted.batches,
            generated: hunted.generated,
            findings: hunted.findings.len(),
        };
        tell(Told::Progress(progress));
    };
    let mut hunted = hunt.hunted;
    hunted.ended_by = ended_by;
    hunted.seconds = began.elapsed().as_secs_f64();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate"
    )]
    {
        hunted.generated_a_minute = (hunted.generated as f64 / hunted.seconds.max(0.001) * 60.0) as u64;
    }
    Ok(hunted)
}

/// What both builds and this processor have, and what is asked for.
fn features(request: &Request, subjects: Subjects) -> Result<Features, Error> {
    let mut features = subjects.features()?;
    for name in request.features {
        if !features.add(name) {
            return Err(Error::Feature(name.clone(), features::names().join(", ")));
        }
    }
    Ok(features)
}
