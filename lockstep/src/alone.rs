//! One QEMU by itself, to its end: what its probe says, and what it comes to that it says no more. What [`crate::ride`] does
//! with two, where the other is a file.

use std::ffi::OsString;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use qemu::build::Mode;
use qemu::run::{self, Happening, Plan, Run, Typing, describe};
use recorder::account::grouped;
use replayer::source::Source;
use trace::message::{FromProbe, Look, Point, ToProbe, Watch};

use crate::comparator::Side;
use crate::drive::{Drive, source_of};
use crate::ride::Request;
use crate::standing::{Standing, WORK};

/// How long it may go without a full chunk.
const STALL: Duration = Duration::from_secs(30);

/// How long nothing is heard of it before it is asked where it is, and how long it is between two questions.
const SILENCE: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_secs(1);

/// How long it may take to end where it is told to.
const END: Duration = Duration::from_secs(10);

/// How much of a console is kept for comparing, bytes.
const CONSOLE: usize = 16 << 20;

/// Why it does not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fate {
    #[error("QEMU died ({ending}){}{said}", by_then(*.started))]
    Died { ending: String, started: Option<u64>, said: String },
    #[error("QEMU stood still in one instruction, for {} s of work, when {} had started", WORK.as_secs(), grouped(*.started))]
    Hung { started: u64 },
    #[error("QEMU stood still for {} s{}", STALL.as_secs(), by_then(*.started))]
    Stalled { started: Option<u64> },
    #[error("the probe can't go on: {0}")]
    Probe(String),
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Io(String),
}

fn by_then(started: Option<u64>) -> String {
    started.map_or_else(String::new, |started| format!(" when {} instructions had started", grouped(started)))
}

pub(crate) struct Alone {
    pub run: Run,
    come: Receiver<Happening>,
    pub console: Vec<u8>,
    /// Where a user program was when it may have gone, and where a QEMU was that a signal ended.
    leaving: Option<FromProbe>,
    dying: Option<u64>,
    is_program: bool,
    moved: Instant,
    standing: Standing,
    asked: Instant,
    /// Whether it was told to end because it stood still, and made to.
    pub stalled: bool,
    aborted: bool,
}

impl Alone {
    /// Starts side B of what is requested; its guest waits for the first instruction.
    pub fn start(
        request: &Request,
        drive: &Drive,
        environment: Option<&[(OsString, OsString)]>,
    ) -> Result<Self, run::Error> {
        let (tell, come) = channel();
        let log = source_of(&drive.sources, Side::B).map(Source::log);
        let passed: Vec<_> = log.into_iter().collect();
        let plan = Plan {
            build: request.builds.b,
            arguments: &drive.lines.b,
            folder: &drive.folders.b,
            probe: Some(request.probe),
            typed: Typing::Nothing,
            passed: &passed,
            commanded: false,
            environment,
            console: None,
        };
        let run = Run::start(&plan, move |happening| drop(tell.send(happening)))?;
        Ok(Alone {
            run,
            come,
            console: Vec::new(),
            leaving: None,
            dying: None,
            is_program: request.builds.b.mode == Mode::User,
            moved: Instant::now(),
            standing: Standing::default(),
            asked: Instant::now(),
            stalled: false,
            aborted: false,
        })
    }

    /// Lets it go from its first instruction.
    pub fn go(&mut self, credit: u64, keeps: u32, look: &Look) {
        let (from, watch, look) = (Point::START, Watch::default(), look.clone());
        self.run.say(&ToProbe::Go { credit, from, watch, keeps, look });
    }

    /// Waits for what comes next; `None` where it is time to look around.
    pub fn next(&mut self, interrupts: &AtomicU32) -> Result<Option<FromProbe>, Fate> {
        if interrupts.load(Ordering::Relaxed) > 0 {
            return Err(Fate::Interrupted);
        }
        match self.come.recv_timeout(Duration::from_millis(100)) {
            Ok(Happening::Probe(message)) => self.said(message),
            Ok(Happening::Console(bytes)) => {
                self.wrote(&bytes);
                Ok(None)
            }
            Ok(Happening::ProbeGone(Some(why))) => Err(Fate::Probe(why)),
            Ok(Happening::ProbeGone(None)) => self.gone(),
            Err(RecvTimeoutError::Disconnected) => Err(Fate::Stalled { started: None }),
            Err(RecvTimeoutError::Timeout) => self.waited(),
        }
    }

    fn said(&mut self, message: FromProbe) -> Result<Option<FromProbe>, Fate> {
        match message {
            FromProbe::Failure(why) => Err(Fate::Probe(why)),
            FromProbe::Dying { started, .. } => {
                self.dying = Some(started);
                Ok(None)
            }
            FromProbe::At { started, worked } => {
                if self.standing.told(started, Duration::from_nanos(worked)) {
                    self.moved = Instant::now();
                }
                Ok(None)
            }
            FromProbe::Registers(_) => Ok(None),
            leaving @ FromProbe::Leaving { .. } => {
                self.leaving = Some(leaving);
                Ok(None)
            }
            message => {
                self.moved = Instant::now();
                self.standing.forget();
                self.leaving = None;
                Ok(Some(message))
            }
        }
    }

    /// The probe is gone: so is a program that has said that it may be, or QEMU has died.
    fn gone(&mut self) -> Result<Option<FromProbe>, Fate> {
        if let Some(FromProbe::Leaving { position, digest, memory, calls }) = self.leaving.take() {
            let (samples, vcpus) = (Vec::new(), vec![position]);
            let recorded = position;
            return Ok(Some(FromProbe::End { position, recorded, digest, memory, samples, calls, vcpus }));
        }
        let status = self.run.wait().map_err(|why| Fate::Io(why.to_string()))?;
        if let (true, Some(started)) = (self.standing.for_long(), self.dying) {
            return Err(Fate::Hung { started });
        }
        if self.stalled {
            return Err(Fate::Stalled { started: self.dying });
        }
        let mut said = self.run.last_words();
        // What a program can't be loaded for is said there.
        let console = String::from_utf8_lossy(&self.console);
        if let (true, "", Some(line)) = (self.is_program, &*said, console.lines().last()) {
            said = format!(", it said: {line}");
        }
        Err(Fate::Died { ending: describe(status), started: self.dying, said })
    }

    /// Nothing came for a while.
    fn waited(&mut self) -> Result<Option<FromProbe>, Fate> {
        if !self.is_program && !self.stalled {
            if self.standing.for_long() {
                (self.stalled, self.aborted, self.moved) = (true, true, Instant::now());
                self.run.abort();
            } else if self.moved.elapsed() >= SILENCE && self.asked.elapsed() >= PAUSE {
                self.asked = Instant::now();
                self.run.ask_where();
            }
        }
        let patience = if self.stalled { END } else { STALL };
        if self.moved.elapsed() <= patience || self.standing.works() && !self.aborted {
            return Ok(None);
        }
        if self.is_program || self.aborted {
            return Err(Fate::Stalled { started: None });
        }
        // Told to end, its probe says how far it is; one that does not end loops, and its probe says where when it is made to.
        self.moved = Instant::now();
        if self.stalled {
            self.aborted = true;
            self.run.abort();
        } else {
            self.stalled = true;
            self.run.ask_to_end();
        }
        Ok(None)
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let room = CONSOLE.saturating_sub(self.console.len());
        self.console.extend(&bytes[..bytes.len().min(room)]);
    }

    /// Lets it end, and hears what its guest wrote last.
    pub fn end(&mut self) -> Result<ExitStatus, Fate> {
        self.run.say(&ToProbe::Finish);
        let status = self.run.wait().map_err(|why| Fate::Io(why.to_string()))?;
        while let Ok(happening) = self.come.try_recv() {
            if let Happening::Console(bytes) = happening {
                self.wrote(&bytes);
            }
        }
        Ok(status)
    }
}
