//! Rides two builds in lockstep: starts both, feeds the comparator, and asks both probes for the place where they
//! part.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use qemu::arguments::{Arguments, Refusal};
use qemu::build::Build;
use qemu::run::{self, Happening, Plan, Run, Typing, describe};
use recorder::reader::Reader;
use replayer::death::Death;
use replayer::source::{self, Source};
use replayer::verify::console_difference;
use trace::message::{CHUNK, FromProbe, Point, ToProbe, Watch, Window};

use crate::comparator::{Comparator, KEPT, Order, OutOfTurn, Pair, Side};
use crate::expansion::{expand, first_difference};
use crate::explain;
use crate::report::{Compared, Divergence, Kind, Report, Ridden, Verdict};
use recorder::account::grouped;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("side {0}: {1}")]
    Run(Side, run::Error),
    #[error("side {0}: {1}")]
    Refused(Side, Refusal),
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("side A is a {0} and side B a {1}: two builds of one guest architecture are needed")]
    Targets(String, String),
}

/// What came instead of a verdict. The report says it too.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    OutOfTurn(#[from] OutOfTurn),
    #[error("the QEMU of side {side} died ({ending}){}{said}", by_then(*.started))]
    Died { side: Side, ending: String, started: Option<u64>, said: String },
    #[error("the probe of side {0} can't go on: {1}")]
    Probe(Side, String),
    #[error("{0} for {limit} s", limit = STALL.as_secs())]
    Stalled(String),
    #[error("interrupted")]
    Interrupted,
    #[error("the digests of chunk {0} differ, but the instructions that the probes name do not")]
    Unfound(u64),
    #[error("the probe of side {0} has forgotten where they part")]
    Forgotten(Side),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How many instructions had started when a QEMU died, where that is known.
fn by_then(started: Option<u64>) -> String {
    started.map_or_else(String::new, |started| format!(" when {} instructions had started", grouped(started)))
}

/// How long both sides may go without a full chunk.
const STALL: Duration = Duration::from_secs(30);

/// How long one side may go on after the other has ended, at least.
const AFTER_END: Duration = Duration::from_secs(10);

pub struct Request<'a> {
    pub builds: Pair<&'a Build>,
    pub probe: &'a Path,
    /// The guest's arguments; where a recording drives, they replace the recorded ones.
    pub arguments: Option<&'a [String]>,
    /// Added to one side only.
    pub extra: Pair<&'a [String]>,
    pub driven: Driven<'a>,
    /// Whether a divergence is to be explained by what the builds make of its block.
    pub explain: bool,
    pub interrupts: &'a AtomicU32,
}

/// What drives the two runs.
pub enum Driven<'a> {
    /// Nothing: both run live.
    Live,
    /// One recording drives both.
    Recording(&'a mut Reader),
    /// Each has its own; what is to be compared is what was recorded.
    Recordings(Pair<&'a mut Reader>),
}

/// What the two runs are started with.
struct Drive {
    lines: Pair<Vec<String>>,
    folders: Pair<PathBuf>,
    /// The same as the report shows it.
    shown: Pair<Vec<String>>,
    /// None, one for both, or one each.
    sources: Vec<Source>,
    least: u64,
    compares_console: bool,
}

impl Drive {
    fn of(request: &mut Request) -> Result<Self, Error> {
        let given = request.arguments.map(<[String]>::to_vec);
        let here = std::env::current_dir;
        let mut shown = None;
        let (sources, least, recorded) = match &mut request.driven {
            Driven::Live => (Vec::new(), 0, Vec::new()),
            Driven::Recording(recording) => {
                let source = Source::unpack(recording, given.as_deref(), None)?;
                (vec![source], recording.ending.instructions(), recording.manifest.arguments.clone())
            }
            Driven::Recordings(Pair { a, b }) => {
                let recorded = a.manifest.arguments.clone();
                shown = Some(Pair { a: recorded.clone(), b: b.manifest.arguments.clone() });
                (vec![Source::unpack(a, None, None)?, Source::unpack(b, None, None)?], 0, recorded)
            }
        };
        let folder = |side| source_of(&sources, side).map_or_else(here, |source| Ok(source.folder.clone()));
        let folders = Pair { a: folder(Side::A)?, b: folder(Side::B)? };
        let mut lines = Pair { a: Vec::new(), b: Vec::new() };
        let mut compares_console = true;
        for side in [Side::A, Side::B] {
            let extra = *request.extra.get(side);
            let mut all = given.clone().unwrap_or_else(|| recorded.clone());
            all.extend_from_slice(extra);
            let parsed = Arguments::parse(&all);
            // A monitor prints QEMU's version.
            compares_console &=
                parsed.value("monitor") != Some("stdio") && parsed.value("qmp") != Some("stdio");
            *lines.get_mut(side) = if let Some(source) = source_of(&sources, side) {
                // For its refusals: the recorded line is taken as it is.
                parsed.comparable().map_err(|refusal| Error::Refused(side, refusal))?;
                source.line.iter().chain(extra).cloned().collect()
            } else {
                parsed.deterministic().map_err(|refusal| Error::Refused(side, refusal))?.line
            };
        }
        let shown = shown.unwrap_or_else(|| lines.clone());
        Ok(Drive { lines, shown, folders, sources, least, compares_console })
    }

    /// Explains a divergence that has a block, or notes why it can't.
    fn explain(&self, request: &Request, reached: Duration, report: &mut Report) {
        let Some(divergence) = &report.divergence else { return };
        let Some(guilty) = divergence.guilty.clone() else { return };
        let logs = Pair::of(|side| source_of(&self.sources, side).map(Source::log));
        let explained = explain::explain(&explain::Request {
            builds: request.builds,
            drives: Pair::of(|side| explain::Drive {
                line: self.lines.get(side),
                folder: self.folders.get(side),
                passed: logs.get(side).as_slice(),
            }),
            guilty,
            mode: divergence.mode,
            reached,
            interrupts: request.interrupts,
        });
        match explained {
            Ok(explanation) => report.explanation = Some(explanation),
            Err(why) => report.notes.push(format!("no explanation: {why}")),
        }
    }

    fn driven_by(&self) -> &'static str {
        match self.sources.len() {
            0 => "live",
            1 => "recording",
            _ => "recordings",
        }
    }
}

/// What a side is driven by: its own recording, or the one for both.
fn source_of(sources: &[Source], side: Side) -> Option<&Source> {
    let own = match side {
        Side::A => 0,
        Side::B => 1,
    };
    sources.get(own).or(sources.first())
}

/// Rides until the builds part or both have ended. `progress` gets the instructions found equal.
///
/// # Errors
/// Where no ride came about. Trouble on the way is in the report.
pub fn ride(mut request: Request, progress: &mut dyn FnMut(u64)) -> Result<Report, Error> {
    let drive = Drive::of(&mut request)?;
    let (tell, come) = channel();
    let start = |side: Side| {
        let log = source_of(&drive.sources, side).map(Source::log);
        let plan = Plan {
            build: request.builds.get(side),
            arguments: drive.lines.get(side),
            folder: drive.folders.get(side),
            probe: Some(request.probe),
            typed: Typing::Nothing,
            passed: log.as_slice(),
            commanded: false,
        };
        let tell = tell.clone();
        Run::start(&plan, move |happening| drop(tell.send((side, happening))))
            .map_err(|error| Error::Run(side, error))
    };
    let runs = Pair { a: start(Side::A)?, b: start(Side::B)? };
    drop(tell);
    if runs.a.target != runs.b.target {
        return Err(Error::Targets(runs.a.target.clone(), runs.b.target.clone()));
    }
    let builds = Pair::of(|side| {
        let (build, run) = (request.builds.get(side), runs.get(side));
        Ridden {
            path: build.path.display().to_string(),
            version: build.version.clone(),
            sha256: build.sha256.clone(),
            plugin_api: run.plugin_api,
            target: run.target.clone(),
            line: drive.shown.get(side).clone(),
        }
    });
    let mut what = vec!["control flow", "exit status"];
    if drive.compares_console {
        what.push("console");
    }
    let mut ride = Ride {
        comparator: Comparator::new(drive.least),
        runs,
        come,
        consoles: Pair::default(),
        answers: Pair::default(),
        dying: Pair::default(),
        moved: Instant::now(),
        one_ended: None,
        stalled: false,
    };
    let began = Instant::now();
    let found = ride.follow(request.interrupts, progress);
    let reached = began.elapsed();
    let equal = ride.comparator.equal();
    let mut report = Report {
        verdict: Verdict::Trouble,
        summary: String::new(),
        compared: Compared { instructions: equal * CHUNK, chunks: equal, what, driven_by: drive.driven_by() },
        builds,
        divergence: None,
        explanation: None,
        notes: Vec::new(),
    };
    let decided = found.and_then(|order| ride.conclude(order, drive.compares_console, &mut report));
    if let Err(trouble) = decided {
        let least = report.compared.instructions.max(equal * CHUNK);
        report.summary = format!("{trouble}; the same up to instruction {} at least", grouped(least));
    }
    // Both QEMUs are in the way of two others.
    drop(ride);
    if request.explain {
        drive.explain(&request, reached, &mut report);
    }
    Ok(report)
}

struct Ride {
    comparator: Comparator,
    runs: Pair<Run>,
    come: Receiver<(Side, Happening)>,
    consoles: Pair<Vec<u8>>,
    answers: Pair<Option<Option<Window>>>,
    /// How many instructions of a side had started when a signal ended its QEMU.
    dying: Pair<Option<u64>>,
    moved: Instant,
    one_ended: Option<Instant>,
    /// Whether the sides were told to end because they stood still.
    stalled: bool,
}

/// How much of a console is kept for comparing, bytes.
const CONSOLE: usize = 16 << 20;

impl Ride {
    /// Waits for what comes next; `None` where it is time to look around.
    fn next(&mut self, interrupts: &AtomicU32) -> Result<Option<(Side, FromProbe)>, Trouble> {
        if interrupts.load(Ordering::Relaxed) > 0 {
            return Err(Trouble::Interrupted);
        }
        match self.come.recv_timeout(Duration::from_millis(100)) {
            Ok((side, Happening::Probe(FromProbe::Failure(why)))) => Err(Trouble::Probe(side, why)),
            Ok((side, Happening::Probe(FromProbe::Dying { started, .. }))) => {
                *self.dying.get_mut(side) = Some(started);
                Ok(None)
            }
            Ok((side, Happening::Probe(message))) => {
                self.moved = Instant::now();
                Ok(Some((side, message)))
            }
            Ok((side, Happening::Console(bytes))) => {
                let console = self.consoles.get_mut(side);
                let room = CONSOLE.saturating_sub(console.len());
                console.extend(&bytes[..bytes.len().min(room)]);
                Ok(None)
            }
            Ok((side, Happening::ProbeGone(Some(why)))) => Err(Trouble::Probe(side, why)),
            Ok((side, Happening::ProbeGone(None))) => {
                let started = *self.dying.get(side);
                let run = self.runs.get_mut(side);
                let ending = describe(run.wait()?);
                let said = run.last_words();
                Err(Trouble::Died { side, ending, started, said })
            }
            Err(RecvTimeoutError::Disconnected) => Err(Trouble::Stalled("nothing came".to_owned())),
            Err(RecvTimeoutError::Timeout) => {
                if self.moved.elapsed() > STALL {
                    if self.stalled {
                        return Err(Trouble::Stalled("neither side filled a chunk or ended".to_owned()));
                    }
                    // A replay that has parted from its recording waits for ever for an event that does not come.
                    // Told to end, the probes say how far they are, and that can be compared.
                    self.stalled = true;
                    self.moved = Instant::now();
                    self.runs.a.ask_to_end();
                    self.runs.b.ask_to_end();
                }
                Ok(None)
            }
        }
    }

    /// Runs both sides up to a decision.
    fn follow(&mut self, interrupts: &AtomicU32, progress: &mut dyn FnMut(u64)) -> Result<Order, Trouble> {
        for side in [Side::A, Side::B] {
            self.runs.get_mut(side).say(&ToProbe::Go {
                credit: Comparator::first_credit(),
                from: Point::START,
                watch: Watch::default(),
                keeps: KEPT,
            });
        }
        loop {
            let orders = match self.next(interrupts)? {
                Some((side, FromProbe::Chunk { index, digest })) => {
                    self.comparator.chunk(side, index, digest)?
                }
                Some((side, FromProbe::End { position, digest })) => {
                    self.one_ended.get_or_insert_with(Instant::now);
                    self.comparator.ended(side, position, digest)
                }
                Some((side, FromProbe::Digests(Some(digests)))) if digests.len() == 1 => {
                    self.comparator.answered(side, digests[0])
                }
                Some((side, FromProbe::Digests(_))) => return Err(Trouble::Forgotten(side)),
                Some((side, message)) => {
                    return Err(Trouble::Probe(side, format!("it said {message:?} out of turn")));
                }
                None => {
                    let waited = self.one_ended.is_some_and(|since| since.elapsed() > AFTER_END);
                    match self.comparator.left_behind() {
                        Some((side, at)) if waited => return Ok(Order::Ended { side, at }),
                        _ => Vec::new(),
                    }
                }
            };
            progress(self.comparator.equal() * CHUNK);
            for order in orders {
                match order {
                    Order::Credit(side, credit) => self.runs.get_mut(side).say(&ToProbe::Credit(credit)),
                    Order::Ask(side, at) => {
                        self.runs.get_mut(side).say(&ToProbe::Digests { from: at, to: at })
                    }
                    decided => return Ok(decided),
                }
            }
        }
    }

    /// Makes the decision a verdict.
    fn conclude(&mut self, order: Order, compares_console: bool, report: &mut Report) -> Result<(), Trouble> {
        match order {
            Order::Same { position } if self.stalled => {
                return Err(Trouble::Stalled(format!(
                    "both sides stood still after instruction {}",
                    grouped(position)
                )));
            }
            Order::Ended { side, at } if self.stalled => {
                report.compared.instructions = at;
                return Err(Trouble::Stalled(format!(
                    "side {side} stood still after instruction {}, the same up to there, and waited for an event that \
                     did not come",
                    grouped(at)
                )));
            }
            Order::Same { position } => {
                let statuses = self.end()?;
                report.compared.instructions = position;
                report.compared.chunks = position.div_ceil(CHUNK);
                if statuses.a != statuses.b {
                    report.verdict = Verdict::Different;
                    report.divergence = Some(Divergence::without_instruction(Kind::ExitStatus, position));
                    report.summary = format!(
                        "the same {} instructions, but A ends with {}, B with {}",
                        grouped(position),
                        describe(statuses.a),
                        describe(statuses.b)
                    );
                } else if let Some(line) =
                    console_difference(&self.consoles.a, &self.consoles.b).filter(|_| compares_console)
                {
                    report.verdict = Verdict::Different;
                    report.divergence = Some(Divergence::without_instruction(Kind::Console, position));
                    report.summary = format!(
                        "the same {} instructions, but the consoles differ in line {line}",
                        grouped(position)
                    );
                } else {
                    report.verdict = Verdict::Same;
                    report.summary = format!(
                        "{} instructions, {} chunks, no divergence",
                        grouped(position),
                        position.div_ceil(CHUNK)
                    );
                }
            }
            Order::Ended { side, at } => {
                // A log that does not fit ends QEMU in order.
                let run = self.runs.get_mut(side);
                run.say(&ToProbe::Finish);
                let status = run.wait()?;
                if Death::is_one(run, status) {
                    report.compared.instructions = at;
                    let (ending, said) = (describe(status), run.last_words());
                    return Err(Trouble::Died { side, ending, started: Some(at), said });
                }
                report.verdict = Verdict::Different;
                report.compared.instructions = at;
                report.compared.chunks = at / CHUNK;
                report.divergence = Some(Divergence::without_instruction(Kind::End, at));
                report.summary = format!(
                    "the same up to instruction {}, where the guest on {side} ends and the other does not",
                    grouped(at)
                );
            }
            Order::Parted { chunk } => {
                let first = chunk.saturating_sub(1);
                let mut windows = Pair { a: Vec::new(), b: Vec::new() };
                for index in first..=chunk {
                    for side in [Side::A, Side::B] {
                        let window = self.window(side, index)?;
                        windows.get_mut(side).push(window);
                    }
                }
                let (a, b) = (expand(&windows.a), expand(&windows.b));
                let streams = Pair {
                    a: a.ok_or_else(|| Trouble::Probe(Side::A, "its window makes no sense".to_owned()))?,
                    b: b.ok_or_else(|| Trouble::Probe(Side::B, "its window makes no sense".to_owned()))?,
                };
                let at = first_difference(&streams.a, &streams.b).ok_or(Trouble::Unfound(chunk))?;
                let (divergence, notes) = Divergence::of(&report.builds.a.target, &streams, at);
                report.verdict = Verdict::Different;
                report.compared.instructions = divergence.icount.a;
                report.compared.chunks = chunk;
                report.summary = divergence.summary();
                report.notes = notes;
                report.divergence = Some(divergence);
            }
            Order::Credit(..) | Order::Ask(..) => {}
        }
        Ok(())
    }

    /// Lets both QEMUs end, and hears what their guests wrote last.
    fn end(&mut self) -> Result<Pair<ExitStatus>, Trouble> {
        for side in [Side::A, Side::B] {
            self.runs.get_mut(side).say(&ToProbe::Finish);
        }
        let statuses = Pair { a: self.runs.a.wait()?, b: self.runs.b.wait()? };
        while let Ok((side, happening)) = self.come.try_recv() {
            if let Happening::Console(bytes) = happening {
                self.consoles.get_mut(side).extend(bytes);
            }
        }
        Ok(statuses)
    }

    fn window(&mut self, side: Side, index: u64) -> Result<Window, Trouble> {
        self.runs.get_mut(side).say(&ToProbe::Window(index));
        // Interrupting what takes milliseconds would only lose the result.
        let never = AtomicU32::new(0);
        loop {
            if let Some((from, FromProbe::Window(window))) = self.next(&never)? {
                *self.answers.get_mut(from) = Some(window);
            }
            if let Some(answer) = self.answers.get_mut(side).take() {
                return answer.ok_or(Trouble::Forgotten(side));
            }
        }
    }
}
