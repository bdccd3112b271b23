//! Rides two builds in lockstep: starts both, feeds the comparator, and finds out where and why they part.

mod ending;
pub(crate) mod naming;
pub(crate) mod sides;
mod trouble;

use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use qemu::build::{Build, Mode};
use recorder::account::grouped;
use recorder::reader::Reader;
use replayer::symbols::Symbols;
use trace::message::{CHUNK, Look};

use self::naming::{explained, of_zoomed, part};
use self::sides::{Ride, STALL};
use crate::broken::Broken;
use crate::calls::{self, Input};
use crate::comparator::{Order, Pair, Parted};
use crate::depth::{self, Depth};
use crate::drive::Drive;
use crate::made::Made;
use crate::printable::printable;
use crate::programs::{self, Cause, First};
use crate::report::{Compared, Consoles, Divergence, Kind, Report, Ridden, Telling, Verdict};
use crate::standing::WORK;
use crate::{held, unseen, zoom};

pub use self::trouble::Error;
pub(crate) use self::trouble::Trouble;

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
    #[must_use]
    pub fn again(&mut self) -> Driven<'_> {
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
    look.until = (drive.least > 0).then_some(drive.least);
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
        reduction: None,
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

/// How often both are run once more where one side no longer knows what it had done where the other ended.
const ENDS: u32 = 8;

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
    let (mut look, mut found) = (look.clone(), ride.follow(look, request.interrupts, progress));
    for _ in 0..ENDS {
        let Ok(Order::Again { until }) = found else { break };
        ride.kill();
        // Where a run ends that goes on until QEMU's main loop comes to stop it is another place each time.
        look.until = Some(look.until.map_or(until, |before| before.min(until)));
        ride = Ride::start(request, drive).map_err(|error| Trouble::Again(Box::new(error)))?;
        found = ride.follow(&look, request.interrupts, progress);
    }
    let look = &look;
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
            let order = match (order, look.until) {
                (Order::Same { position }, Some(until)) => Order::Same { position: position.min(until) },
                (order, _) => order,
            };
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
