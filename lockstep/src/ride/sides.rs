//! Both QEMUs while they run: what they say, what they are told, and what it comes to that they say no more.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use qemu::build::Mode;
use qemu::run::{Happening, Plan, Run, Typing, describe};
use replayer::source::Source;
use trace::message::{CHUNK, FromProbe, Look, Point, Sample, Step, ToProbe, Watch, Window};

use super::{Error, Request, Trouble};
use crate::calls;
use crate::comparator::{Comparator, End, KEPT, Order, Pair, Side};
use crate::drive::{Drive, source_of};
use crate::report::Consoles;
use crate::standing::Standing;

/// How long both sides may go without a full chunk.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// How long nothing is heard of any side before they are asked where they are, and how long it is between two questions.
const SILENCE: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_secs(1);

/// How long they may take to end where they are told to.
const END: Duration = Duration::from_secs(10);

/// How long what a guest has written may take to come here.
pub(crate) const COMING: Duration = Duration::from_millis(30);

/// How long one side may go on after the other has ended, at least.
const AFTER_END: Duration = Duration::from_secs(10);

/// How much of a console is kept for comparing, bytes.
const CONSOLE: usize = 16 << 20;

pub(crate) struct Ride {
    pub(super) comparator: Comparator,
    pub(super) runs: Pair<Run>,
    pub(super) come: Receiver<(Side, Happening)>,
    pub(super) consoles: Pair<Vec<u8>>,
    pub(super) answers: Pair<Option<Option<Window>>>,
    /// Where a user program was when it may have gone, and whether its probe is.
    pub(super) leaving: Pair<Option<FromProbe>>,
    pub(super) gone: Pair<bool>,
    pub(super) is_program: bool,
    /// The names of the registers that are read, and the steps of what is looked at closely.
    pub names: Pair<Vec<String>>,
    pub steps: Pair<Vec<Step>>,
    /// The positions of samples, and how much of its console a side had written there, where that goes to a file: where that
    /// became more, and at the sample before each.
    pub written: Pair<Vec<(u64, u64)>>,
    /// How many instructions each vCPU of a side has executed.
    pub(super) vcpus: Pair<Vec<u64>>,
    /// How many instructions of a side had started when a signal ended its QEMU.
    pub(super) dying: Pair<Option<u64>>,
    pub(super) moved: Instant,
    /// Whether a side that says nothing stands still, and when that was asked.
    pub(super) standing: Pair<Standing>,
    pub(super) asked: Instant,
    pub(super) one_ended: Option<Instant>,
    /// Whether the sides were told to end because they stood still, and made to.
    pub(super) stalled: bool,
    pub(super) aborted: bool,
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
        let telling = |side: Side| {
            let tell = tell.clone();
            move |happening| drop(tell.send((side, happening)))
        };
        let begin = |side: Side| {
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
                environment: None,
                console: consoles.map(|files| files.get(side).as_fd()),
            };
            Run::begin(&plan, telling(side)).map_err(|error| Error::Run(side, error))
        };
        // Neither waits for the other to come up.
        let (a, b) = (begin(Side::A)?, begin(Side::B)?);
        let come_up = |run: Run, side| run.come_up(telling(side)).map_err(|error| Error::Run(side, error));
        let runs = Pair { a: come_up(a, Side::A)?, b: come_up(b, Side::B)? };
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
                    let recorded = position;
                    let end = FromProbe::End { position, recorded, digest, memory, samples, calls, vcpus };
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
    pub(super) fn ask(&mut self) {
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
    pub(super) fn hear(&mut self) -> Consoles {
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

    pub(super) fn wrote(&mut self, side: Side, bytes: &[u8]) {
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

    /// What user programs do that fill no chunk.
    pub(super) fn waiting(&self) -> String {
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
        for side in [Side::A, Side::B] {
            self.go(side, Comparator::first_credit(), KEPT, look);
        }
        loop {
            let orders = match self.next(interrupts)? {
                Some((side, FromProbe::Chunk { index, digest, memory, samples, calls })) => {
                    self.comparator.chunk(side, index, (digest, memory), (samples, calls))?
                }
                Some((
                    side,
                    FromProbe::End { position, recorded, digest, memory, samples, calls, vcpus },
                )) => {
                    *self.vcpus.get_mut(side) = vcpus;
                    self.one_ended.get_or_insert_with(Instant::now);
                    self.comparator.ended(side, End { position, recorded, digest, memory }, (samples, calls))
                }
                Some((side, FromProbe::UpTo(Some(digests)))) if digests.len() == 1 => {
                    self.comparator.answered(side, digests[0])
                }
                Some((side, FromProbe::UpTo(None))) if self.comparator.is_shorter(side) => Vec::new(),
                Some((side, FromProbe::UpTo(_))) => return Err(Trouble::Forgotten(side)),
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
                    Order::Ask(side, at) => self.runs.get_mut(side).say(&ToProbe::UpTo { from: at, to: at }),
                    decided => return Ok(decided),
                }
            }
        }
    }

    /// The instructions of a chunk, and of the one before, on both sides.
    pub fn windows(&mut self, chunk: u64) -> Result<Pair<Vec<Window>>, Trouble> {
        Ok(Pair { a: self.windows_of(Side::A, chunk)?, b: self.windows_of(Side::B, chunk)? })
    }

    /// The same on one side.
    pub fn windows_of(&mut self, side: Side, chunk: u64) -> Result<Vec<Window>, Trouble> {
        (chunk.saturating_sub(1)..=chunk).map(|index| self.window(side, index)).collect()
    }

    /// Runs both up to the end of chunk `last`, or to their own, where they wait; `meanwhile` gets what else the probes say.
    pub fn run_up_to(
        &mut self,
        last: u64,
        interrupts: &AtomicU32,
        mut meanwhile: impl FnMut(&mut Self, Side, FromProbe) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let mut ended = Pair { a: false, b: false };
        while !(ended.a && ended.b) {
            match self.next(interrupts)? {
                Some((side, FromProbe::Chunk { index, .. })) if index >= last => *ended.get_mut(side) = true,
                Some((side, FromProbe::End { .. })) => *ended.get_mut(side) = true,
                Some((side, message)) => meanwhile(self, side, message)?,
                None => {}
            }
        }
        Ok(())
    }

    /// The instructions from the chunk before `first` to chunk `last`, as far as each side has come.
    pub fn windows_from(&mut self, first: u64, last: u64) -> Result<Pair<Vec<Window>>, Trouble> {
        let mut windows = Pair { a: Vec::new(), b: Vec::new() };
        for side in [Side::A, Side::B] {
            for index in first.saturating_sub(1)..=last {
                match self.window(side, index) {
                    Ok(window) => windows.get_mut(side).push(window),
                    // It has ended before.
                    Err(Trouble::Forgotten(_)) => break,
                    Err(trouble) => return Err(trouble),
                }
            }
        }
        Ok(windows)
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
