//! Rides two builds in lockstep: starts both, feeds the comparator, and finds out where and why they part.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use qemu::arguments::Refusal;
use qemu::build::{Build, Mode};
use qemu::monitor;
use qemu::run::{self, Happening, Plan, Run, Typing, describe};
use recorder::reader::Reader;
use replayer::death::Death;
use replayer::source::{self, Source};
use replayer::symbols::Symbols;
use replayer::verify::console_difference;
use trace::message::{CHUNK, Call, FromProbe, Look, Point, Sample, Step, ToProbe, Watch, Window};

use crate::broken::Broken;
use crate::calls::{self, Input};
use crate::comparator::{Comparator, KEPT, Order, OutOfTurn, Pair, Parted, Samples, Side};
use crate::depth::{self, Depth, TooDeep};
use crate::difference::{Difference, What};
use crate::disassembly::asks_qemu;
use crate::drive::{Drive, source_of};
use crate::expansion::{Executed, expand, first_difference};
use crate::held;
use crate::made::Made;
use crate::printable::printable;
use crate::programs::{self, Cause, First};
use crate::report::{Compared, Consoles, Divergence, Kind, Report, Ridden, Telling, Verdict};
use crate::standing::{Standing, WORK};
use crate::texts;
use crate::unseen;
use crate::zoom;
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
    #[error(transparent)]
    TooDeep(#[from] TooDeep),
    #[error(
        "side {user} emulates single programs and side {system} a whole machine: two builds of one kind are needed"
    )]
    Modes { user: Side, system: Side },
    #[error(
        "a recording is of a whole machine, and these builds emulate single programs: give a program behind `--` instead"
    )]
    NoRecordings,
    #[error(transparent)]
    Program(#[from] qemu::program::Refusal),
    #[error(
        "side {0}: QEMU {1} gives a vCPU no turn while another is busy up to the next timer, and guests that wait for one another stand still; take 8.1 or later, or one vCPU"
    )]
    Turns(Side, String),
    #[error("side A is a {0} and side B a {1}: two builds of one guest architecture are needed")]
    Targets(String, String),
}

/// What came instead of a verdict. The report says it too.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    OutOfTurn(#[from] OutOfTurn),
    #[error("the QEMU of side {side} died ({ending}){}{said}", by_then(*.started))]
    Died { side: Side, ending: String, started: Option<u64>, said: String },
    #[error("the QEMU of side {side} ended before its guest's first instruction ({ending}){said}")]
    Stillborn { side: Side, ending: String, said: String },
    #[error("the probe of side {0} can't go on: {1}")]
    Probe(Side, String),
    #[error("the QEMUs of both sides {0}")]
    Both(String),
    #[error("{0} for {limit} s", limit = STALL.as_secs())]
    Stalled(String),
    #[error("interrupted")]
    Interrupted,
    #[error(
        "the vCPUs took turns differently: behind instruction {}, the same up to there, vCPU {} executes on A and vCPU {} on B; QEMU's builds choose turns themselves, so this is no verdict on what they make of the guest",
        grouped(*.at), .vcpus.a, .vcpus.b
    )]
    Turns { at: u64, vcpus: Pair<u32> },
    #[error("the digests of chunk {0} differ, but the instructions that the probes name do not")]
    Unfound(u64),
    #[error("the probe of side {0} has forgotten where they part")]
    Forgotten(Side),
    #[error(
        "this guest is not deterministic with these settings: {0}; what differs is an input and not what either build makes of it"
    )]
    Undeterministic(String),
    #[error(
        "values differ in chunk {0}, each time that the builds are run; but where they are looked at closely nothing does"
    )]
    Hidden(u64),
    #[error("{} differs in each run of one build too: an input that differs, and not what either build makes of it", .0.described())]
    Input(Input),
    #[error("registers can't be read: {0}")]
    Unread(monitor::Error),
    #[error("{0}")]
    Again(Box<Error>),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How many instructions had started when a QEMU died, where that is known.
fn by_then(started: Option<u64>) -> String {
    started.map_or_else(String::new, |started| format!(" when {} instructions had started", grouped(started)))
}

/// How long both sides may go without a full chunk.
const STALL: Duration = Duration::from_secs(30);

/// How long nothing is heard of any side before they are asked where they are, and how long it is between two questions.
const SILENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(1);

/// How long they may take to end where they are told to.
const END: Duration = Duration::from_secs(10);

/// How long what a guest has written may take to come here.
pub(crate) const COMING: Duration = Duration::from_millis(30);

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
    /// How much is compared; where nobody says, the most that both builds can give.
    pub depth: Option<Depth>,
    /// Whether what is read from memory is compared as well.
    pub loads: bool,
    /// Whether a divergence is to be explained by what the builds make of its block.
    pub explain: bool,
    /// How many of the last blocks up to a divergence are told, and the names of the guest's code.
    pub blocks: usize,
    pub symbols: Option<&'a Symbols>,
    pub interrupts: &'a AtomicU32,
}

impl Request<'_> {
    /// How a divergence of guests of QEMU's target `target` is told.
    pub(crate) fn telling<'t>(&'t self, target: &'t str) -> Telling<'t> {
        Telling { target, blocks: self.blocks, symbols: self.symbols }
    }
}

/// What drives the two runs.
pub enum Driven<'a> {
    /// Nothing: both run live.
    Live,
    /// One recording drives both.
    Recording(&'a mut Reader),
    /// One that was made for it does.
    Made(&'a mut Made),
    /// Each has its own; what is to be compared is what was recorded.
    Recordings(Pair<&'a mut Reader>),
}

impl Driven<'_> {
    /// The same for one more ride.
    pub(crate) fn again(&mut self) -> Driven<'_> {
        match self {
            Driven::Live => Driven::Live,
            Driven::Recording(recording) => Driven::Recording(recording),
            Driven::Made(made) => Driven::Made(made),
            Driven::Recordings(Pair { a, b }) => Driven::Recordings(Pair { a, b }),
        }
    }
}

/// Rides until the builds part or both have ended. `progress` gets the instructions found equal.
///
/// # Errors
/// Where no ride came about. Trouble on the way is in the report.
pub fn ride(mut request: Request, progress: &mut dyn FnMut(u64)) -> Result<Report, Error> {
    let drive = Drive::of(&mut request)?;
    let ride = Ride::start(&request, &drive)?;
    let targets = Pair::of(|side| ride.runs.get(side).target.clone());
    if targets.a != targets.b {
        return Err(Error::Targets(targets.a, targets.b));
    }
    // Two recordings differ in what they took in, and so in all values.
    let depth = if drive.driven_by() == "recordings" { Some(Depth::Flow) } else { request.depth };
    let levels = Pair::of(|side| ride.runs.get(side).plugin_api);
    let (mut look, mut what) = depth::look(depth, request.loads, levels)?;
    let is_program = request.builds.a.mode == Mode::User;
    let mut notes = drive.notes.clone();
    if is_program {
        look.calls = calls::does(&targets.a);
        what.push("system calls");
        // What the program is told of its process it keeps in memory.
        if ride.runs.a.pid != ride.runs.b.pid && request.depth.is_none() {
            programs::without_values(&mut look, &mut what);
            notes.push(programs::OTHER_PROCESSES.to_owned());
        }
    }
    let builds = Pair::of(|side| {
        let build = request.builds.get(side);
        Ridden {
            path: build.path.display().to_string(),
            version: build.version.clone(),
            sha256: build.sha256.clone(),
            plugin_api: *levels.get(side),
            target: targets.get(side).clone(),
            line: drive.shown.get(side).clone(),
        }
    });
    what.push("exit status");
    if drive.compares_console {
        what.push("console");
    }
    let began = Instant::now();
    let mut report = Report {
        verdict: Verdict::Trouble,
        summary: String::new(),
        compared: Compared {
            instructions: 0,
            chunks: 0,
            what,
            driven_by: drive.driven_by(),
            vcpus: None,
            recorded: drive.recorded.clone(),
        },
        builds,
        divergence: None,
        input: None,
        explanation: None,
        console: None,
        notes,
        again: None,
    };
    let (mut equal, mut came) = (0, Duration::ZERO);
    let progress = &mut |now: u64| {
        if now > equal {
            (equal, came) = (now, began.elapsed());
        }
        progress(now);
    };
    let mut decided = decide(ride, &request, &drive, &look, levels, &mut report, progress);
    if let (Err(trouble @ (Trouble::Input(_) | Trouble::Undeterministic(_))), None) =
        (&decided, request.depth)
        && is_program
        && programs::without_values(&mut look, &mut report.compared.what)
    {
        report.notes.push(format!("values were compared too, and are not in this verdict: {trouble}"));
        decided = Ride::start(&request, &drive)
            .map_err(|error| Trouble::Again(Box::new(error)))
            .and_then(|ride| decide(ride, &request, &drive, &look, levels, &mut report, progress));
    }
    if let Err(trouble) = decided {
        let least = grouped(report.compared.instructions);
        // It may have the last words of a QEMU.
        report.summary = printable(&format!("{trouble}; the same up to instruction {least} at least"));
    }
    // A program's code is found by its instructions, but nothing says when it is reached.
    if request.explain && !is_program {
        // It took no time to come to a hang but up to the last full chunk.
        let hangs = report.divergence.as_ref().is_some_and(|divergence| divergence.kind == Kind::Hang);
        drive.explain(&request, if hangs { came } else { began.elapsed() }, &mut report);
    }
    Ok(report)
}

/// Runs both sides, and makes a verdict of what comes of it.
fn decide(
    mut ride: Ride,
    request: &Request,
    drive: &Drive,
    look: &Look,
    levels: Pair<i32>,
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Trouble> {
    let found = ride.follow(look, request.interrupts, progress);
    let equal = ride.comparator.equal();
    (report.compared.instructions, report.compared.chunks) = (equal * CHUNK, equal);
    report.console = Some(Consoles::by_now(&ride.consoles));
    let again = zoom::Again { request, drive, look, levels };
    let target = report.builds.a.target.clone();
    let outcome = ride.comparator.calls().outcome;
    report.input = outcome.map(|calls| Input::of(&target, &calls));
    let is_program = request.builds.a.mode == Mode::User;
    let decided = found.and_then(|order| match order {
        Order::Parted(Parted { before: 0, .. }) if is_program => Err(ride.stillborn()?),
        Order::Parted(parted) => {
            report.compared.chunks = parted.chunk;
            let (at, unlike) = (ride.comparator.seen(), ride.comparator.unlike());
            let samples = ride.comparator.samples();
            let seen = if parted.flow || unlike.is_some() { Some(ride.windows(parted.chunk)?) } else { None };
            report.console = Some(ride.hear());
            // Two QEMUs at a time are enough.
            ride.kill();
            if is_program {
                let first = First { parted, seen: at, windows: seen.as_ref(), outcome };
                match programs::cause(&again, &first, &target)? {
                    Cause::Builds => {}
                    Cause::SystemCall(input) => {
                        input_is_the_builds(input, report);
                        return Ok(());
                    }
                    Cause::Input(input) => return Err(varies(input, report)),
                }
            }
            part(&again, parted, seen, (unlike, samples), report)
        }
        // Live nothing is waited for that the other side does not wait for too.
        Order::Ended { side, at } if ride.stalled && drive.sources.is_empty() => {
            let ending = format!("stood still for {} s", STALL.as_secs());
            let broken = Broken { side, kind: Kind::Hang, ending, said: String::new(), started: at };
            broken.conclude(&again, &mut ride, report)?;
            report.console = Some(ride.hear());
            Ok(())
        }
        order => {
            ride.conclude(order, drive.compares_console, report)?;
            report.console =
                Some(Consoles::by_now(&ride.consoles)).filter(|_| report.verdict != Verdict::Same);
            if is_program && outcome.is_some() {
                let consoles = std::mem::take(&mut ride.consoles);
                ride.kill();
                after_an_input(&again, order, &consoles, report)?;
            }
            Ok(())
        }
    });
    // Who dies of a signal from outside is no divergence, and of that nobody tells where it was.
    if let Err(Trouble::Died { side, ending, started: Some(started), said }) = &decided {
        let (kind, ending) = if ride.standing.get(*side).for_long() {
            (Kind::Hang, format!("stood still ({} s of work in one instruction)", WORK.as_secs()))
        } else if ride.stalled {
            (Kind::Hang, "stood still".to_owned())
        } else {
            (Kind::Crash, format!("died ({ending})"))
        };
        let broken = Broken { side: *side, kind, ending, said: said.clone(), started: *started };
        broken.conclude(&again, &mut ride, report)?;
        report.console = Some(ride.hear());
        return Ok(());
    }
    decided?;
    let unseen = report.divergence.as_ref().map(|divergence| divergence.kind);
    if let Some(kind @ (Kind::Console | Kind::ExitStatus)) = unseen
        && (look.registers || held::is_wanted(&again))
        && !is_program
    {
        ride.kill();
        let end = report.compared.instructions;
        let looked = if look.registers {
            unseen::explain(&again, end, kind == Kind::Console).and_then(|zoomed| {
                zoomed.map(|zoomed| of_zoomed(request.telling(&target), &zoomed)).transpose()
            })
        } else {
            held::look(&again, end, &target)
        };
        let looked = looked.map(|named| {
            if let Some(named) = named {
                explained(named, kind, report);
            }
        });
        // What is found stays found.
        if let Err(why) = looked {
            report.notes.push(format!("no instruction can be named: {why}"));
        }
    }
    Ok(())
}

/// A system call that came to something else is what an input has made of it.
fn varies(input: Option<Input>, report: &mut Report) -> Trouble {
    report.input.clone_from(&input);
    input.map_or_else(
        || {
            Trouble::Undeterministic(
                "run again, one build does not do what it did, and no system call came to anything else before".to_owned(),
            )
        },
        Trouble::Input,
    )
}

/// The same where it does so each time.
fn input_is_the_builds(input: Input, report: &mut Report) {
    report.verdict = Verdict::Different;
    report.compared.instructions = input.icount;
    report.summary = format!(
        "{} is so each time: it is the builds' system calls that differ, not the code that they generate",
        input.described()
    );
    report.divergence = Some(Divergence::without_instruction(Kind::SystemCall, input.icount));
    report.input = Some(input);
}

/// Both sides of a user program have ended, after a system call that came to something else on either.
fn after_an_input(
    again: &zoom::Again,
    order: Order,
    consoles: &Pair<Vec<u8>>,
    report: &mut Report,
) -> Result<(), Trouble> {
    let Some(input) = report.input.clone() else { return Ok(()) };
    if report.verdict == Verdict::Same {
        report.notes.push(format!("{} differs, and nothing that was compared does", input.described()));
        return Ok(());
    }
    let mut ride = zoom::start(again)?;
    let once_more = ride.follow(again.look, again.request.interrupts, &mut |_| {})?;
    let same = once_more == order && {
        let mut second = report.clone();
        ride.conclude(once_more, again.drive.compares_console, &mut second)?;
        second.summary == report.summary && ride.consoles == *consoles
    };
    if same {
        let target = &report.builds.a.target;
        let outcome = ride.comparator.calls().outcome.map(|calls| Input::of(target, &calls));
        if outcome.as_ref() == Some(&input) {
            report.notes.push(format!("{} is so each time", input.described()));
        }
        return Ok(());
    }
    report.verdict = Verdict::Trouble;
    report.divergence = None;
    Err(Trouble::Input(input))
}

/// Finds the instruction at which two runs part. `seen`: the instructions of the chunk in which theirs differ, or user
/// programs' system calls, which are `unlike`; `samples`: the last that were equal and the first that were not.
fn part(
    again: &zoom::Again,
    parted: Parted,
    mut seen: Option<Pair<Vec<Window>>>,
    (unlike, samples): (Option<Pair<Call>>, Option<Samples>),
    report: &mut Report,
) -> Result<(), Trouble> {
    let target = report.builds.a.target.clone();
    // The instructions of whole chunks take much memory: none are kept while both run again.
    let mut turns = None;
    let (apart, at) = match &seen {
        Some(windows) => {
            let streams = streams_of(windows)?;
            let apart = first_difference(&streams.a, &streams.b);
            if apart.is_none() && unlike.is_none() {
                return Err(Trouble::Unfound(parted.chunk));
            }
            let first = Pair::of(|side| apart.and_then(|at| streams.get(side).get(at)));
            let at = first.a.or(first.b).map(|executed| executed.position);
            // Where one side has ended nobody took its turn.
            if let (Some(at), Pair { a: Some(a), b: Some(b) }) = (at, first) {
                let vcpus = Pair { a: a.vcpu, b: b.vcpu };
                turns = (a.vcpu != b.vcpu).then_some(Trouble::Turns { at, vcpus });
            }
            (apart, at)
        }
        None => (None, None),
    };
    let zoomed = zoom::at_once(again, parted, at, samples).and_then(|zoomed| match zoomed {
        None => zoom::zoom(again, parted, at),
        zoomed => Ok(zoomed),
    });
    let zoomed = match zoomed {
        // A side that dies soon behind can't be asked.
        Err(Trouble::Died { .. }) if seen.is_some() => None,
        Err(Trouble::Died { side, ending, said, .. }) => {
            return Err(Trouble::Died { side, ending, started: None, said });
        }
        zoomed => zoomed?,
    };
    if let (Some(turns), Some(at)) = (turns, at) {
        let before = |zoomed: &zoom::Zoomed| {
            let Difference { to, what, .. } = &zoomed.difference;
            *to < at || *to == at && matches!(what, What::Access(_))
        };
        if !zoomed.as_ref().is_some_and(before) {
            report.compared.instructions = at;
            return Err(turns);
        }
    }
    if held::is_wanted(again) {
        let to = zoomed.as_ref().map(|zoomed| zoomed.difference.to).or(at.map(|at| at + 1));
        match held::look(again, to.unwrap_or(parted.before), &target) {
            Ok(Some(mut named)) => {
                // What is said of the place where it shows without registers may explain it too.
                if let Some(zoomed) = &zoomed {
                    let shows = of_zoomed(again.request.telling(&target), zoomed)?;
                    if shows.divergence.icount != named.divergence.icount {
                        let summary = shows.divergence.summary();
                        named.notes.push(format!("without registers it shows here: {summary}"));
                        named.notes.extend(shows.notes);
                    }
                }
                found(named, report);
                return Ok(());
            }
            Ok(None) => report.notes.push(held::NOTHING.to_owned()),
            Err(Trouble::Interrupted) => return Err(Trouble::Interrupted),
            // What is found stays found.
            Err(why) => report.notes.push(format!("no registers can be told: {why}")),
        }
    }
    if let (None, Some(windows)) = (&zoomed, &mut seen)
        && asks_qemu(&target)
    {
        texts::fill(again, &mut [&mut windows.a, &mut windows.b])?;
    }
    let telling = again.request.telling(&target);
    if let Some(zoomed) = &zoomed {
        found(of_zoomed(telling, zoomed)?, report);
        return Ok(());
    }
    let (divergence, notes) = match (&seen, apart) {
        (Some(windows), Some(at)) => {
            let mut streams = streams_of(windows)?;
            let last = at.checked_sub(1).and_then(|at| streams.a.get(at)).map(|executed| executed.vcpu);
            let vcpu = turns_of(&mut streams, last);
            let at = first_difference(&streams.a, &streams.b).unwrap_or(streams.a.len());
            let (divergence, notes) = Divergence::of(telling, &streams, at);
            (Divergence { vcpu, ..divergence }, notes)
        }
        (Some(windows), None) => match &unlike {
            Some(unlike) => Divergence::of_calls(telling, &streams_of(windows)?, unlike),
            None => return Err(Trouble::Hidden(parted.chunk)),
        },
        (None, _) => return Err(Trouble::Hidden(parted.chunk)),
    };
    found(Named { divergence, notes, console: None }, report);
    Ok(())
}

/// A divergence whose instruction has a name.
pub(crate) struct Named {
    pub divergence: Divergence,
    /// What there is to say of it.
    pub notes: Vec<String>,
    /// What the guests had written by then, where that is known exactly.
    pub console: Option<Consoles>,
}

fn found(named: Named, report: &mut Report) {
    let Named { divergence, notes, console } = named;
    report.verdict = Verdict::Different;
    report.compared.instructions = divergence.icount.a;
    report.summary = divergence.summary();
    report.notes.extend(notes);
    report.console = console.or(report.console.take());
    report.divergence = Some(divergence);
}

/// Leaves of both streams what `vcpu` executed, where there are others; gives it back then.
fn turns_of(streams: &mut Pair<Vec<Executed<'_>>>, vcpu: Option<u32>) -> Option<u32> {
    let vcpu = vcpu?;
    let others = |stream: &[Executed]| stream.iter().any(|executed| executed.vcpu != vcpu);
    if vcpu == 0 && !others(&streams.a) && !others(&streams.b) {
        return None;
    }
    for side in [Side::A, Side::B] {
        streams.get_mut(side).retain(|executed| executed.vcpu == vcpu);
    }
    Some(vcpu)
}

/// What was only to be seen from outside comes of an instruction.
fn explained(named: Named, seen: Kind, report: &mut Report) {
    let Named { divergence, notes, console } = named;
    let before = std::mem::replace(&mut report.summary, divergence.summary());
    report.notes = notes;
    report.notes.push(format!("seen first in {seen}: {before}"));
    report.compared.instructions = divergence.icount.a;
    // Where only the consoles differ the line says more in which they do.
    if divergence.kind != Kind::Console && console.is_some() {
        report.console = console;
    }
    report.divergence = Some(divergence);
}

/// The divergence that was looked at closely.
pub(crate) fn of_zoomed(telling: Telling, zoomed: &zoom::Zoomed) -> Result<Named, Trouble> {
    let mut streams = streams_of(&zoomed.windows)?;
    let vcpu = turns_of(&mut streams, Some(zoomed.difference.vcpu));
    let (divergence, notes) = Divergence::zoomed(telling, &streams, zoomed);
    let divergence = Divergence { vcpu, ..divergence };
    let console = zoomed.written.at(divergence.icount.a);
    Ok(Named { divergence, notes, console })
}

/// The instructions of both sides' windows.
pub(crate) fn streams_of(windows: &Pair<Vec<Window>>) -> Result<Pair<Vec<Executed<'_>>>, Trouble> {
    Ok(Pair { a: stream_of(Side::A, &windows.a)?, b: stream_of(Side::B, &windows.b)? })
}

/// The instructions of one side's windows.
pub(crate) fn stream_of(side: Side, windows: &[Window]) -> Result<Vec<Executed<'_>>, Trouble> {
    expand(windows).ok_or_else(|| Trouble::Probe(side, "its window makes no sense".to_owned()))
}

pub(crate) struct Ride {
    comparator: Comparator,
    runs: Pair<Run>,
    come: Receiver<(Side, Happening)>,
    consoles: Pair<Vec<u8>>,
    answers: Pair<Option<Option<Window>>>,
    /// Where a user program was when it may have gone, and whether its probe is.
    leaving: Pair<Option<FromProbe>>,
    gone: Pair<bool>,
    is_program: bool,
    /// The names of the registers that are read, and the steps of what is looked at closely.
    pub names: Pair<Vec<String>>,
    pub steps: Pair<Vec<Step>>,
    /// The positions of samples, and how much of its console a side had written there, where that goes to a file: where that
    /// became more, and at the sample before each.
    pub written: Pair<Vec<(u64, u64)>>,
    /// How many instructions each vCPU of a side has executed.
    vcpus: Pair<Vec<u64>>,
    /// How many instructions of a side had started when a signal ended its QEMU.
    dying: Pair<Option<u64>>,
    moved: Instant,
    /// Whether a side that says nothing stands still, and when that was asked.
    standing: Pair<Standing>,
    asked: Instant,
    one_ended: Option<Instant>,
    /// Whether the sides were told to end because they stood still, and made to.
    stalled: bool,
    aborted: bool,
}

/// Keeps of `samples` how much was written, without those between two of the same.
fn note(written: &mut Vec<(u64, u64)>, samples: &[Sample]) {
    for sample in samples {
        let of_now = |&(_, before): &(u64, u64)| before == sample.written;
        if let [.., before, last] = &mut **written
            && of_now(before)
            && of_now(last)
        {
            last.0 = sample.position;
        } else {
            written.push((sample.position, sample.written));
        }
    }
}

/// What a QEMU is given beside its line.
#[derive(Default)]
pub(crate) struct Given {
    pub arguments: Vec<String>,
    pub passed: Option<OwnedFd>,
}

/// How much of a console is kept for comparing, bytes.
const CONSOLE: usize = 16 << 20;

impl Ride {
    /// Starts both; their guests wait for the first instruction.
    pub fn start(request: &Request, drive: &Drive) -> Result<Self, Error> {
        Self::start_with(request, drive, None)
    }

    /// The same, with their consoles going to files, where there are any.
    pub fn start_with(
        request: &Request,
        drive: &Drive,
        consoles: Option<&Pair<File>>,
    ) -> Result<Self, Error> {
        Self::start_given(request, drive, consoles, &Pair::default())
    }

    /// The same, with something more given to each.
    pub fn start_given(
        request: &Request,
        drive: &Drive,
        consoles: Option<&Pair<File>>,
        given: &Pair<Given>,
    ) -> Result<Self, Error> {
        let (tell, come) = channel();
        let start = |side: Side| {
            let Given { arguments, passed } = given.get(side);
            let log = source_of(&drive.sources, side).map(Source::log);
            let passed: Vec<_> = log.into_iter().chain(passed.as_ref().map(AsFd::as_fd)).collect();
            let plan = Plan {
                build: request.builds.get(side),
                arguments: &[&drive.lines.get(side)[..], arguments].concat(),
                folder: drive.folders.get(side),
                probe: Some(request.probe),
                typed: Typing::Nothing,
                passed: &passed,
                commanded: false,
                console: consoles.map(|files| files.get(side).as_fd()),
            };
            let tell = tell.clone();
            Run::start(&plan, move |happening| drop(tell.send((side, happening))))
                .map_err(|error| Error::Run(side, error))
        };
        let runs = Pair { a: start(Side::A)?, b: start(Side::B)? };
        let is_program = request.builds.a.mode == Mode::User;
        Ok(Ride {
            comparator: if is_program {
                Comparator::of_programs(&runs.a.target)
            } else {
                Comparator::new(drive.least)
            },
            runs,
            come,
            leaving: Pair::default(),
            gone: Pair::default(),
            is_program,
            consoles: Pair::default(),
            answers: Pair::default(),
            names: Pair::default(),
            steps: Pair::default(),
            written: Pair::default(),
            vcpus: Pair::default(),
            dying: Pair::default(),
            moved: Instant::now(),
            standing: Pair::default(),
            asked: Instant::now(),
            one_ended: None,
            stalled: false,
            aborted: false,
        })
    }

    /// Waits for what comes next; `None` where it is time to look around.
    pub fn next(&mut self, interrupts: &AtomicU32) -> Result<Option<(Side, FromProbe)>, Trouble> {
        if interrupts.load(Ordering::Relaxed) > 0 {
            return Err(Trouble::Interrupted);
        }
        match self.come.recv_timeout(Duration::from_millis(100)) {
            Ok((side, Happening::Probe(FromProbe::Failure(why)))) => Err(Trouble::Probe(side, why)),
            Ok((side, Happening::Probe(FromProbe::Dying { started, .. }))) => {
                *self.dying.get_mut(side) = Some(started);
                Ok(None)
            }
            Ok((side, Happening::Probe(FromProbe::At { started, worked }))) => {
                if self.standing.get_mut(side).told(started, Duration::from_nanos(worked)) {
                    self.moved = Instant::now();
                }
                Ok(None)
            }
            Ok((side, Happening::Probe(FromProbe::Registers(names)))) => {
                *self.names.get_mut(side) = names;
                Ok(None)
            }
            Ok((side, Happening::Probe(FromProbe::Steps(steps)))) => {
                self.moved = Instant::now();
                self.standing.get_mut(side).forget();
                self.steps.get_mut(side).extend(steps);
                Ok(None)
            }
            Ok((side, Happening::Probe(leaving @ FromProbe::Leaving { .. }))) => {
                *self.leaving.get_mut(side) = Some(leaving);
                Ok(None)
            }
            Ok((side, Happening::Probe(message))) => {
                self.moved = Instant::now();
                self.standing.get_mut(side).forget();
                *self.leaving.get_mut(side) = None;
                if let FromProbe::Chunk { samples, .. } | FromProbe::End { samples, .. } = &message {
                    note(self.written.get_mut(side), samples);
                }
                Ok(Some((side, message)))
            }
            Ok((side, Happening::Console(bytes))) => {
                self.wrote(side, &bytes);
                Ok(None)
            }
            Ok((side, Happening::ProbeGone(Some(why)))) => Err(Trouble::Probe(side, why)),
            Ok((side, Happening::ProbeGone(None))) => {
                *self.gone.get_mut(side) = true;
                if let Some(FromProbe::Leaving { position, digest, memory, calls }) =
                    self.leaving.get_mut(side).take()
                {
                    let (samples, vcpus) = (Vec::new(), vec![position]);
                    let end = FromProbe::End { position, digest, memory, samples, calls, vcpus };
                    return Ok(Some((side, end)));
                }
                let started = *self.dying.get(side);
                let run = self.runs.get_mut(side);
                let ending = describe(run.wait()?);
                let mut said = run.last_words();
                // What a program can't be loaded for is said there.
                let console = String::from_utf8_lossy(self.consoles.get(side));
                if let (true, "", Some(line)) = (self.is_program, &*said, console.lines().last()) {
                    said = format!(", it said: {line}");
                }
                Err(Trouble::Died { side, ending, started, said })
            }
            Err(RecvTimeoutError::Disconnected) => Err(Trouble::Stalled("nothing came".to_owned())),
            Err(RecvTimeoutError::Timeout) => {
                self.ask();
                let patience = if self.stalled { END } else { STALL };
                if self.moved.elapsed() > patience && !(self.standing.a.works() || self.standing.b.works()) {
                    if self.is_program {
                        return Err(Trouble::Stalled(self.waiting()));
                    }
                    if self.aborted {
                        return Err(Trouble::Stalled("neither side filled a chunk or ended".to_owned()));
                    }
                    if self.stalled {
                        // One that does not even end loops in what it generated, or in itself: its probe says where when a
                        // signal makes it.
                        self.aborted = true;
                        self.moved = Instant::now();
                        for side in [Side::A, Side::B] {
                            if self.comparator.ended_at(side).is_none() {
                                self.runs.get_mut(side).abort();
                            }
                        }
                        return Ok(None);
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

    /// Nothing came for a while: finds out whether a side stands still in one instruction, and has it end.
    fn ask(&mut self) {
        if self.is_program || self.stalled {
            return;
        }
        for side in [Side::A, Side::B] {
            if self.standing.get(side).for_long() {
                (self.stalled, self.aborted, self.moved) = (true, true, Instant::now());
                return self.runs.get_mut(side).abort();
            }
        }
        if self.moved.elapsed() >= SILENCE && self.asked.elapsed() >= PAUSE {
            self.asked = Instant::now();
            self.runs.a.ask_where();
            self.runs.b.ask_where();
        }
    }

    /// One side is gone, and the other has all the time again.
    pub fn is_alone(&mut self) {
        (self.stalled, self.aborted, self.moved) = (false, false, Instant::now());
        self.standing = Pair::default();
    }

    /// Has both end at once.
    pub fn kill(&mut self) {
        self.runs.a.kill();
        self.runs.b.kill();
    }

    /// What the guests have written by now. What else comes meanwhile is lost.
    fn hear(&mut self) -> Consoles {
        let until = Instant::now() + COMING;
        while let Ok((side, happening)) =
            self.come.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if let Happening::Console(bytes) = happening {
                self.wrote(side, &bytes);
            }
        }
        Consoles::by_now(&self.consoles)
    }

    fn wrote(&mut self, side: Side, bytes: &[u8]) {
        let console = self.consoles.get_mut(side);
        let room = CONSOLE.saturating_sub(console.len());
        console.extend(&bytes[..bytes.len().min(room)]);
    }

    /// The guest's architecture, by QEMU's name.
    pub fn target(&self) -> &str {
        &self.runs.a.target
    }

    /// Where a side has ended.
    pub fn ended_at(&self, side: Side) -> Option<u64> {
        self.comparator.ended_at(side)
    }

    /// How many chunks a side has filled.
    pub fn filled(&self, side: Side) -> u64 {
        self.comparator.filled(side)
    }

    /// Lets a side run on.
    pub fn credit(&mut self, side: Side, credit: u64) {
        self.runs.get_mut(side).say(&ToProbe::Credit(credit));
    }

    /// Lets a side run on that waits where it was to be held.
    pub fn on(&mut self, side: Side) {
        self.runs.get_mut(side).say(&ToProbe::On);
    }

    /// What a side's QEMU has said on its standard error.
    pub fn errors(&self, side: Side) -> String {
        self.runs.get(side).errors()
    }

    /// One side has ended before its first instruction.
    fn stillborn(&mut self) -> Result<Trouble, Trouble> {
        for side in [Side::A, Side::B] {
            self.runs.get_mut(side).say(&ToProbe::Finish);
        }
        // The other runs on for as long as it has credit.
        let ended = |run: &mut Run| run.ended(Duration::from_millis(500)).filter(|status| !status.success());
        let (side, status) = match ended(&mut self.runs.a) {
            Some(status) => (Side::A, status),
            None => (Side::B, self.runs.b.wait()?),
        };
        let said = self.runs.get(side).last_words();
        Ok(Trouble::Stillborn { side, ending: describe(status), said })
    }

    /// What user programs do that fill no chunk.
    fn waiting(&self) -> String {
        let of = |side| match self.runs.get(side).waits_in() {
            Some(number) => {
                let call = calls::name("x86_64", number).unwrap_or("unknown");
                format!("side {side} waited in the system call `{call}`")
            }
            None => format!("side {side} ran without filling a chunk"),
        };
        format!("{} and {}", of(Side::A), of(Side::B))
    }

    /// What was seen where they part, and the user programs' system calls.
    pub fn seen(&self) -> Pair<u64> {
        self.comparator.seen()
    }

    pub fn calls(&self) -> &calls::Calls {
        self.comparator.calls()
    }

    /// Lets a side go from its first instruction.
    pub fn go(&mut self, side: Side, credit: u64, keeps: u32, look: &Look) {
        let (from, watch, look) = (Point::START, Watch::default(), look.clone());
        self.runs.get_mut(side).say(&ToProbe::Go { credit, from, watch, keeps, look });
    }

    /// Runs both sides up to a decision.
    pub fn follow(
        &mut self,
        look: &Look,
        interrupts: &AtomicU32,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Order, Trouble> {
        if look.again {
            self.comparator.leaves_out();
        }
        for side in [Side::A, Side::B] {
            self.go(side, Comparator::first_credit(), KEPT, look);
        }
        loop {
            let orders = match self.next(interrupts)? {
                Some((side, FromProbe::Chunk { index, digest, memory, samples, calls })) => {
                    self.comparator.chunk(side, index, (digest, memory), (samples, calls))?
                }
                Some((side, FromProbe::End { position, digest, memory, samples, calls, vcpus })) => {
                    *self.vcpus.get_mut(side) = vcpus;
                    self.one_ended.get_or_insert_with(Instant::now);
                    self.comparator.ended(side, position, (digest, memory), (samples, calls))
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
                    Order::Ask(side, _) if *self.gone.get(side) => return Err(Trouble::Forgotten(side)),
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
            Order::Same { position: 0 } => {
                let statuses = self.end()?;
                let (ending, said) = (describe(statuses.a), self.runs.a.last_words());
                return Err(Trouble::Stillborn { side: Side::A, ending, said });
            }
            Order::Same { position } => {
                if self.vcpus.a.len() > 1 {
                    report.compared.vcpus = Some(self.vcpus.clone());
                }
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
            Order::Credit(..) | Order::Ask(..) | Order::Parted(_) => {}
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
                self.wrote(side, &bytes);
            }
        }
        Ok(statuses)
    }

    /// The instructions of a chunk, and of the one before, on both sides.
    pub fn windows(&mut self, chunk: u64) -> Result<Pair<Vec<Window>>, Trouble> {
        Ok(Pair { a: self.windows_of(Side::A, chunk)?, b: self.windows_of(Side::B, chunk)? })
    }

    /// The same on one side.
    pub fn windows_of(&mut self, side: Side, chunk: u64) -> Result<Vec<Window>, Trouble> {
        (chunk.saturating_sub(1)..=chunk).map(|index| self.window(side, index)).collect()
    }

    pub fn window(&mut self, side: Side, index: u64) -> Result<Window, Trouble> {
        if *self.gone.get(side) {
            return Err(Trouble::Forgotten(side));
        }
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
