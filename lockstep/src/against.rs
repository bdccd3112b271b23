//! A build against a stored run: [`store`] runs one build and keeps what its probe says, [`compare`] runs another and has the
//! same comparator that a ride has look at both. It ends at the first difference, and says where that is only roughly:
//! who wants more rides both.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use qemu::build::{Build, Mode};
use qemu::run::{self, describe};
use recorder::account::grouped;
use replayer::death::Death;
use replayer::verify::console_difference;
use trace::access::Memory;
use trace::message::{CHUNK, FromProbe, Look, PROTOCOL, ToProbe};

use crate::alone::Alone;
use crate::calls;
use crate::comparator::{Comparator, End, KEPT, Order, OutOfTurn, Pair, Parted, Side};
use crate::depth::{self, Depth};
use crate::drive::Drive;
use crate::ride::{Driven, Error as Ride, Request};
use crate::stored::{self, Head, Reader, Told, Writer};

pub use crate::alone::Fate;

/// So many digests before its end a stored run knows: two live runs of one guest end a few instructions apart.
const BEFORE: u64 = 1 << 12;

/// So far apart two ends are not by chance (`AFTER_END` of the comparator).
const APART: u64 = 64 * CHUNK;

/// How long a run may go on after the stored one's end, at least.
const AFTER_END: Duration = Duration::from_secs(10);

/// A build, and a guest on it.
pub struct Guest<'a> {
    pub build: &'a Build,
    pub probe: &'a Path,
    /// QEMU's arguments; where a recording drives and there are some, they replace the recorded ones.
    pub arguments: &'a [String],
    pub driven: Driven<'a>,
    pub depth: Option<Depth>,
    pub loads: bool,
    /// What a user program finds in its environment.
    pub environment: Option<&'a [(OsString, OsString)]>,
    pub interrupts: &'a AtomicU32,
}

/// What a build did that was compared with a stored run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Same {
        instructions: u64,
    },
    Different {
        /// All is the same up to here.
        after: u64,
        /// In words.
        what: String,
    },
    /// QEMU did not come to the guest's first instruction, or nothing can be said.
    NoVerdict(String),
    /// It differs, and when it is run again not so: an input does.
    Varies(String),
    /// The stored run does not know what has to be asked: only a ride of both builds tells.
    Unknown(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ride(#[from] Ride),
    #[error(transparent)]
    Stored(#[from] stored::Error),
    #[error("the guest comes to no end on this build: {0}")]
    NoEnd(Fate),
    #[error("{0}")]
    Start(run::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("the stored run makes no sense: {0}")]
    OutOfTurn(#[from] OutOfTurn),
    #[error("the probe said {0} out of turn")]
    Probe(String),
}

impl<'a> Guest<'a> {
    fn request(&mut self) -> Request<'_> {
        Request {
            builds: Pair { a: self.build, b: self.build },
            probe: self.probe,
            arguments: (!self.arguments.is_empty()).then_some(self.arguments),
            extra: Pair { a: &[], b: &[] },
            driven: self.driven.again(),
            depth: self.depth,
            loads: self.loads,
            explain: false,
            blocks: 0,
            symbols: None,
            interrupts: self.interrupts,
        }
    }
}

/// What is looked at of a build at this level of the plugin interface.
fn look(request: &Request, drive: &Drive, levels: Pair<i32>, target: &str) -> Result<Look, Ride> {
    let (mut look, _) = depth::look(request.depth, request.loads, levels)?;
    let mode = request.builds.b.mode;
    look.until = (drive.least > 0).then_some(drive.least);
    if mode == Mode::User {
        look.calls = calls::does(target);
    }
    Ok(look)
}

/// Runs a guest, and keeps what its probe says in the file `path`. `progress` gets the instructions so far; gives back how
/// many there are.
///
/// # Errors
/// Where the guest does not run to its end.
pub fn store(mut guest: Guest, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<u64, Error> {
    let (interrupts, environment, mode) = (guest.interrupts, guest.environment, guest.build.mode);
    let mut request = guest.request();
    let drive = Drive::of(&mut request)?;
    let mut alone = Alone::start(&request, &drive, environment).map_err(Error::Start)?;
    let level = alone.run.plugin_api;
    let target = alone.run.target.clone();
    let look = look(&request, &drive, Pair { a: level, b: level }, &target)?;
    let head = Head {
        protocol: PROTOCOL,
        version: request.builds.b.version.clone(),
        sha256: request.builds.b.sha256.clone(),
        plugin_api: level,
        target,
        pid: alone.run.pid,
        line: drive.lines.b.clone(),
        look,
    };
    let mut writer = Writer::create(path, &head)?;
    let mut filled = 0;
    alone.go(Comparator::first_credit(), KEPT, &head.look);
    let no_end = |fate| if fate == Fate::Interrupted { Error::Interrupted } else { Error::NoEnd(fate) };
    let end = loop {
        match alone.next(interrupts).map_err(no_end)? {
            Some(FromProbe::Chunk { digest, memory, samples, calls, .. }) => {
                filled += 1;
                alone.run.say(&ToProbe::Credit(filled + Comparator::first_credit()));
                writer.tell(&Told::Chunk { digest, memory, samples, calls })?;
                progress(filled * CHUNK);
            }
            Some(FromProbe::End { position, recorded, digest, memory, samples, calls, .. }) => {
                break (End { position, recorded, digest, memory }, samples, calls);
            }
            Some(message) => return Err(Error::Probe(format!("{message:?}"))),
            None => {}
        }
    };
    let (End { position, recorded, digest, memory }, samples, calls) = end;
    if alone.stalled {
        return Err(Error::NoEnd(Fate::Stalled { started: Some(position) }));
    }
    // One that went with its program can't be asked, and needs not: programs end at one and the same instruction.
    let mut before = Vec::new();
    if mode == Mode::System && position > 0 {
        let from = position.saturating_sub(BEFORE).max(1);
        alone.run.say(&ToProbe::UpTo { from, to: position });
        before = loop {
            match alone.next(interrupts).map_err(no_end)? {
                Some(FromProbe::UpTo(digests)) => break digests.unwrap_or_default(),
                Some(message) => return Err(Error::Probe(format!("{message:?}"))),
                None => {}
            }
        };
    }
    writer.tell(&Told::End { position, recorded, digest, memory, samples, calls, before })?;
    let status = alone.end().map_err(no_end)?;
    let ending = describe(status);
    if position == 0 || mode == Mode::System && Death::is_one(&alone.run, status) {
        let (started, said) = (Some(position), alone.run.last_words());
        return Err(no_end(Fate::Died { ending, started, said }));
    }
    let console = std::mem::take(&mut alone.console);
    writer.tell(&Told::Ended { status: ending, console })?;
    writer.finish()?;
    Ok(position)
}

/// The digests at a position, that of memory where it was still known.
type UpTo = (u64, Option<Memory>);

/// The stored side of a comparison.
struct Stored {
    reader: Reader,
    filled: u64,
    /// Where it ended, and the digests at the positions before.
    end: Option<(u64, Vec<UpTo>)>,
}

impl Stored {
    /// Gives the comparator all up to the end of `credit` chunks.
    fn run_up_to(&mut self, credit: u64, comparator: &mut Comparator) -> Result<Vec<Order>, Error> {
        let mut orders = Vec::new();
        while self.filled < credit && self.end.is_none() {
            match self.reader.next_told()? {
                Some(Told::Chunk { digest, memory, samples, calls }) => {
                    let more = comparator.chunk(Side::A, self.filled, (digest, memory), (samples, calls))?;
                    self.filled += 1;
                    orders.extend(more);
                }
                Some(Told::End { position, recorded, digest, memory, samples, calls, before }) => {
                    self.end = Some((position, before));
                    let end = End { position, recorded, digest, memory };
                    orders.extend(comparator.ended(Side::A, end, (samples, calls)));
                }
                Some(Told::Ended { .. }) | None => {
                    return Err(Error::Probe("an end".to_owned()));
                }
            }
        }
        Ok(orders)
    }

    /// The digests at a position, where it is one of the last.
    fn up_to(&self, at: u64) -> Option<UpTo> {
        let (end, before) = self.end.as_ref()?;
        one_of_the_last(*end, before, at)
    }

    /// Where it ended.
    fn last(&mut self) -> Result<u64, Error> {
        while self.end.is_none() {
            match self.reader.next_told()? {
                Some(Told::End { position, before, .. }) => self.end = Some((position, before)),
                Some(_) => {}
                None => return Err(Error::Probe("nothing".to_owned())),
            }
        }
        Ok(self.end.as_ref().map_or(0, |(end, _)| *end))
    }
}

/// The digests at a position, of those of the last positions, the last at the end.
fn one_of_the_last<T: Copy>(end: u64, before: &[T], at: u64) -> Option<T> {
    let back = usize::try_from(end.checked_sub(at)?).ok()?;
    before.get(before.len().checked_sub(back + 1)?).copied()
}

/// Runs a guest and compares it with the stored run `path` of another build. `progress` gets the instructions found equal.
///
/// # Errors
/// Where the stored run can't be read, or the guest can't be run like that on any build.
pub fn compare(mut guest: Guest, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Found, Error> {
    let is_program = guest.build.mode == Mode::User;
    let first = once(&mut guest, path, progress)?;
    let Once { found: Found::Different { .. }, .. } = first else { return Ok(first.found) };
    // What parts one build from itself is an input (`crate::programs`), or chance. That it works for seconds in one instruction is
    // neither, and would take as long again.
    let times = match (first.hung, first.input) {
        (true, _) => 0,
        (false, true) => 3,
        (false, false) => 1,
    };
    for _ in 0..times {
        let again = once(&mut guest, path, progress)?;
        let same = if is_program {
            (&again.found, again.seen) == (&first.found, first.seen)
        } else {
            // Where a machine ends is not the same to the instruction.
            matches!(again.found, Found::Different { .. })
        };
        if !same {
            return Ok(Found::Varies(
                "it differs from the good build's run, and when it is run again not so: an input differs"
                    .to_owned(),
            ));
        }
    }
    Ok(first.found)
}

struct Once {
    found: Found,
    /// What was seen where they part.
    seen: Pair<u64>,
    /// Whether a system call came to something else.
    input: bool,
    hung: bool,
}

fn once(guest: &mut Guest, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Once, Error> {
    let (interrupts, environment, mode) = (guest.interrupts, guest.environment, guest.build.mode);
    let reader = Reader::open(path)?;
    let mut request = guest.request();
    let drive = Drive::of(&mut request)?;
    let no_verdict = |why: String| {
        Ok(Once { found: Found::NoVerdict(why), seen: Pair::default(), input: false, hung: false })
    };
    let mut alone = match Alone::start(&request, &drive, environment) {
        Ok(alone) => alone,
        Err(why @ (run::Error::Io(_) | run::Error::NoProbe(_) | run::Error::OtherProbe { .. })) => {
            return Err(Error::Start(why));
        }
        Err(why) => return no_verdict(why.to_string()),
    };
    let head = &reader.head;
    let levels = Pair { a: head.plugin_api, b: alone.run.plugin_api };
    if alone.run.target != head.target {
        return Err(Ride::Targets(head.target.clone(), alone.run.target.clone()).into());
    }
    match look(&request, &drive, levels, &head.target) {
        Ok(look) if look == head.look => {}
        _ => {
            return no_verdict(format!(
                "this build tells plugins less than the good one (its plugin interface is at level {}, the good one's at {})",
                levels.b, levels.a
            ));
        }
    }
    let looks_at_values = head.look.values && (head.look.stores || head.look.loads) || head.look.registers;
    if mode == Mode::User && looks_at_values && head.pid != alone.run.pid {
        return no_verdict(
            "the kernel lets this user make no PID namespace, and the program keeps its process id in memory: `--compare flow` \
             compares the instructions alone"
                .to_owned(),
        );
    }
    let mut comparator =
        if mode == Mode::User { Comparator::of_programs(&head.target) } else { Comparator::new(drive.least) };
    alone.go(Comparator::first_credit(), KEPT, &head.look);
    let mut stored = Stored { reader, filled: 0, end: None };
    let decided = follow(&mut stored, &mut alone, &mut comparator, interrupts, progress);
    let hung = matches!(decided, Err(Stop::Fate(Fate::Hung { .. })));
    let found = match decided {
        Ok(decided) => conclude(decided, stored, alone, (mode, drive.compares_console))?,
        Err(Stop::Fate(Fate::Interrupted)) => return Err(Error::Interrupted),
        Err(Stop::Fate(fate)) => broken(fate, &mut stored, comparator.equal() * CHUNK)?,
        Err(Stop::Error(error)) => return Err(error),
    };
    Ok(Once { found, seen: comparator.seen(), input: comparator.calls().outcome.is_some(), hung })
}

enum Stop {
    Fate(Fate),
    Error(Error),
}

impl From<Fate> for Stop {
    fn from(fate: Fate) -> Self {
        Stop::Fate(fate)
    }
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

/// What following both comes to.
enum Decided {
    By(Order),
    /// The run ended at `at`, before the stored one, which does not know its digest there.
    Unknown {
        at: u64,
    },
}

/// Follows both sides up to a decision.
fn follow(
    stored: &mut Stored,
    alone: &mut Alone,
    comparator: &mut Comparator,
    interrupts: &AtomicU32,
    progress: &mut dyn FnMut(u64),
) -> Result<Decided, Stop> {
    let mut orders: VecDeque<Order> =
        stored.run_up_to(Comparator::first_credit(), comparator).map_err(Stop::Error)?.into();
    let (mut stored_ended, mut unknown) = (None, None);
    loop {
        while let Some(order) = orders.pop_front() {
            match order {
                Order::Credit(Side::A, credit) => {
                    orders.extend(stored.run_up_to(credit, comparator).map_err(Stop::Error)?);
                }
                Order::Credit(Side::B, credit) => alone.run.say(&ToProbe::Credit(credit)),
                Order::Ask(Side::A, at) => {
                    orders.extend(stored.run_up_to(at / CHUNK + 1, comparator).map_err(Stop::Error)?);
                    match stored.up_to(at) {
                        Some(digests) => orders.extend(comparator.answered(Side::A, digests)),
                        // It has ended before: that is asked of the other then.
                        None if comparator.is_shorter(Side::A) => {}
                        None => unknown = Some(at),
                    }
                }
                Order::Ask(Side::B, at) => alone.run.say(&ToProbe::UpTo { from: at, to: at }),
                decided => return Ok(Decided::By(decided)),
            }
        }
        if let Some(at) = unknown {
            return Ok(Decided::Unknown { at });
        }
        if stored.end.is_some() && stored_ended.is_none() {
            stored_ended = Some(Instant::now());
        }
        let more = match alone.next(interrupts)? {
            Some(FromProbe::Chunk { index, digest, memory, samples, calls }) => {
                comparator.chunk(Side::B, index, (digest, memory), (samples, calls))?
            }
            Some(FromProbe::End { position, recorded, digest, memory, samples, calls, .. }) => {
                let end = End { position, recorded, digest, memory };
                comparator.ended(Side::B, end, (samples, calls))
            }
            Some(FromProbe::UpTo(Some(digests))) if digests.len() == 1 => {
                comparator.answered(Side::B, digests[0])
            }
            Some(FromProbe::UpTo(None)) if comparator.is_shorter(Side::B) => Vec::new(),
            Some(message) => return Err(Fate::Probe(format!("it said {message:?} out of turn")).into()),
            None => {
                let waited = stored_ended.is_some_and(|since| since.elapsed() > AFTER_END);
                match comparator.left_behind() {
                    Some((side, at)) if waited => return Ok(Decided::By(Order::Ended { side, at })),
                    _ => Vec::new(),
                }
            }
        };
        progress(comparator.equal() * CHUNK);
        orders.extend(more);
    }
}

/// A QEMU that died, or stood still: that is a difference where the stored run went on.
fn broken(fate: Fate, stored: &mut Stored, equal: u64) -> Result<Found, Error> {
    let started = match fate {
        Fate::Died { started, .. } => started,
        Fate::Hung { started } => Some(started),
        // It came nowhere near the next chunk's end.
        Fate::Stalled { started } => Some(started.unwrap_or(equal)),
        _ => None,
    };
    let end = stored.last()?;
    Ok(match (started, &fate) {
        (Some(started), _) if started > 0 && started < end => {
            Found::Different { after: equal, what: fate.to_string() }
        }
        _ => Found::NoVerdict(fate.to_string()),
    })
}

fn stood_still(at: u64) -> String {
    Fate::Stalled { started: Some(at) }.to_string()
}

fn conclude(
    decided: Decided,
    mut stored: Stored,
    mut alone: Alone,
    (mode, console): (Mode, bool),
) -> Result<Found, Error> {
    let io = |fate: Fate| if fate == Fate::Interrupted { Error::Interrupted } else { Error::NoEnd(fate) };
    let position = match decided {
        Decided::Unknown { at } => {
            let end = stored.last()?;
            let goes_on = format!(
                "the guest ends after {} instructions, and the good build's after {}",
                grouped(at),
                grouped(end)
            );
            return Ok(if at == 0 {
                let status = alone.end().map_err(io)?;
                let (ending, said) = (describe(status), alone.run.last_words());
                Found::NoVerdict(Fate::Died { ending, started: Some(0), said }.to_string())
            } else if alone.stalled {
                Found::Different { after: at / CHUNK * CHUNK, what: stood_still(at) }
            } else if mode == Mode::User || end - at > APART {
                // A program ends at one and the same instruction.
                Found::Different { after: at / CHUNK * CHUNK, what: goes_on }
            } else {
                Found::Unknown(goes_on)
            });
        }
        Decided::By(Order::Parted(Parted { after, before, flow, .. })) => {
            let what = if flow { "other instructions" } else { "other values" };
            let what = format!("{what} before instruction {}", grouped(before));
            return Ok(Found::Different { after, what });
        }
        Decided::By(Order::Ended { side, at }) => {
            let what = if side == Side::A {
                "the guest goes on where it ended on the good build"
            } else {
                "the guest ends too early"
            };
            let what = if alone.stalled { stood_still(at) } else { what.to_owned() };
            return Ok(Found::Different { after: at, what });
        }
        Decided::By(Order::Again { .. }) => {
            return Ok(Found::Unknown(
                "the guest ends elsewhere than on the good build, and goes on to write to memory".to_owned(),
            ));
        }
        Decided::By(Order::Same { position }) => position,
        Decided::By(Order::Credit(..) | Order::Ask(..)) => {
            return Err(Error::Probe("no decision".to_owned()));
        }
    };
    if alone.stalled {
        return Ok(Found::Different { after: position, what: stood_still(position) });
    }
    stored.last()?;
    let Some(Told::Ended { status, console: theirs }) = stored.reader.next_told()? else {
        return Err(Error::Probe("no end".to_owned()));
    };
    let ours = describe(alone.end().map_err(io)?);
    if ours != status {
        let what = format!("QEMU ends with {ours}, and the good build's with {status}");
        return Ok(Found::Different { after: position, what });
    }
    if let Some(line) = console_difference(&theirs, &alone.console).filter(|_| console) {
        return Ok(Found::Different {
            after: position,
            what: format!("the console is another from line {line} on"),
        });
    }
    Ok(Found::Same { instructions: position })
}

#[cfg(test)]
mod tests {
    use super::one_of_the_last;

    #[test]
    fn the_last_digests_are_known_by_their_positions() {
        let before = [5, 6, 7];
        let of = |at| one_of_the_last(100, &before, at);
        assert_eq!([98, 99, 100].map(of), [Some(5), Some(6), Some(7)]);
        assert_eq!([0, 97, 101].map(of), [None; 3]);
        assert_eq!(one_of_the_last::<u64>(100, &[], 100), None);
    }
}
