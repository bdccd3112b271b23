//! A replay that is commanded: it runs to an icount and stands there, or makes single steps, and can be asked what its
//! guest looks like.
//!
//! QEMU stops a replay by its icount (`replay-break`), and stands still a moment later: an interrupt or exception that
//! the log has at that icount may or may not have been taken by then. A single step is exact; [`crate::seek`] knows
//! when it takes one.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use qemu::arguments::Refusal;
use qemu::build::Build;
use qemu::monitor::{self, Monitor};
use qemu::run::{self, Controls, Happening, Plan, Run, Typing, describe};
use qemu::stub::{self, Stub, from_hex};
use recorder::account::grouped;
use serde_json::{Value, json};
use trace::block::Instruction;
use trace::codec;
use trace::message::{Asked, FromProbe, Look, Point, Standing, ToProbe, Watch};

use crate::breaks::{self, Break, Kind};
use crate::death::Death;
use crate::forgotten::{Rearming, hpet, riscv};
use crate::image::STATE;
use crate::registers;
use crate::source::{Source, State};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Run(#[from] run::Error),
    #[error(transparent)]
    Monitor(#[from] monitor::Error),
    #[error(transparent)]
    Stub(#[from] stub::Error),
    #[error("the probe can't go on: {0}")]
    Probe(String),
    #[error("QEMU died at icount {icount} or soon after ({ending}{}){said}", by_then(*.started))]
    Died { icount: u64, ending: String, started: Option<u64>, said: String },
    #[error("the replay stands still after icount {icount}, {limit} s without a full chunk", limit = limit.as_secs())]
    Stalled { icount: u64, limit: Duration },
    #[error("QEMU itself ends before icount {wanted}; say `end-1` for the last moment of the guest")]
    Exits { wanted: u64 },
    #[error("QEMU can't keep the machine's state: {0}")]
    NotKept(String),
    #[error("QEMU's open files can't be looked at: {0}")]
    Files(#[from] std::io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("interrupted at icount {0}")]
    Interrupted(u64),
    #[error("QEMU tells of the machine's timers what this tandem can't read: {0}")]
    Timers(String),
    #[error("QEMU tells registers that this tandem can't read; what it told begins with: {0}")]
    Registers(String),
}

/// How many instructions had started when QEMU died, where that is known.
fn by_then(started: Option<u64>) -> String {
    started.map_or_else(String::new, |started| {
        format!(
            "; {} instructions of the stream had started, and `tandem replay` says at which icount",
            grouped(started)
        )
    })
}

/// Where a machine begins.
#[derive(Debug, Clone, Copy)]
pub enum Start<'f> {
    /// Before the first instruction.
    Beginning,
    /// There as well, with an empty image that states can be kept in.
    Keeping(&'f File),
    /// In the state that is kept in an image.
    Kept { machine: &'f File, drives: &'f [File], point: Point, rearms: bool },
}

/// What is the same of an address through all mappings of its page, bytes: no page is smaller on the targets that QEMU
/// gives one block to several mappings of (x86, aarch64, RISC-V).
const PAGE: u64 = 1 << 12;

/// x86's `hlt`, as the stub tells memory.
const HALT: &[u8] = b"f4";

/// x86's `int3`, `int`, `into` and `int1`: they are retired, and their exception is taken before anything else.
const TRAPS: [&[u8]; 4] = [b"cc", b"cd", b"ce", b"f1"];

/// How an instruction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Plainly,
    /// The processor waits for an interrupt, and takes it within the step that made it wait.
    Waiting,
    /// The processor takes an exception that comes behind an instruction, within the same step.
    Trapping,
}

/// How long QEMU may take to be gone once it is ending.
const EXIT: Duration = Duration::from_secs(10);

/// What all machines of a recording have in common.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    pub source: &'a Source,
    pub build: &'a Build,
    pub probe: &'a Path,
    pub interrupts: &'a AtomicU32,
    /// How long it may go without a full chunk.
    pub patience: Duration,
}

/// A guest that stands still. Dropping it kills QEMU.
pub struct Machine<'a> {
    setting: Setting<'a>,
    run: Run,
    monitor: Monitor,
    stub: Stub,
    asking: UnixStream,
    come: Receiver<Happening>,
    /// How many instructions have been retired, by QEMU's count.
    icount: u64,
    /// How the stub told the last stop.
    stop: Vec<u8>,
    /// The timers of a machine that is kept or restored, where QEMU forgets them.
    timers: Option<riscv::Timers>,
}

/// What a run of a machine tells while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A chunk is full: its index and the digest at its end.
    Chunk { index: u64, digest: u64 },
    /// The instruction that is looked for starts: so many were before it.
    Found { position: u64 },
}

/// Why a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Where it was sent.
    Reached,
    /// The guest has ended before.
    Ended,
    /// It doesn't: who was told something needs it no more.
    Told,
}

impl<'a> Machine<'a> {
    /// Starts QEMU and has it stand where `start` says. To be called on the main thread.
    ///
    /// # Errors
    /// Where QEMU does not come up.
    pub fn start(setting: Setting<'a>, start: Start, watch: Watch) -> Result<Self, Error> {
        let (tell, come) = channel();
        let (state, point, rearms) = match start {
            Start::Beginning => (None, Point::START, false),
            Start::Keeping(machine) => {
                (Some(State { machine, drives: &[], restored: None }), Point::START, false)
            }
            Start::Kept { machine, drives, point, rearms } => {
                (Some(State { machine, drives, restored: Some(STATE) }), point, rearms)
            }
        };
        let mut passed = vec![setting.source.log()];
        if let Some(state) = &state {
            passed.push(state.machine.as_fd());
            passed.extend(state.drives.iter().map(AsFd::as_fd));
        }
        let plan = Plan {
            build: setting.build,
            arguments: &setting.source.commanded(state.as_ref())?,
            folder: &setting.source.folder,
            probe: Some(setting.probe),
            typed: Typing::Nothing,
            passed: &passed,
            commanded: true,
            environment: None,
            console: None,
        };
        let mut run = Run::start(&plan, move |happening| drop(tell.send(happening)))?;
        let controls = run.controls().ok_or_else(|| Error::Probe("it has no controls".to_owned()))?;
        let Controls { monitor, stub, asking } = controls;
        run.say(&ToProbe::Go { credit: u64::MAX, from: point, watch, keeps: 0, look: Look::default() });
        let up = || -> Result<_, Error> {
            let mut monitor = Monitor::greet(monitor)?;
            let stub = Stub::attach(stub)?;
            let icount = monitor.icount()?;
            Ok((monitor, stub, icount))
        };
        match up() {
            Ok((monitor, stub, icount)) => {
                let (stop, timers) = (Vec::new(), None);
                let mut machine = Machine { setting, run, monitor, stub, asking, come, icount, stop, timers };
                if !matches!(start, Start::Beginning) && machine.is_riscv() {
                    machine.timers = riscv::Timers::find(&mut machine)?;
                }
                match machine.timers {
                    Some(timers) if rearms => timers.rearm(&mut machine)?,
                    None if rearms => hpet::rearm(&mut machine.stub)?,
                    _ => {}
                }
                Ok(machine)
            }
            Err(error) => Err(Self::died(&mut run, 0, &come).unwrap_or(error)),
        }
    }

    /// What QEMU died of, where it has died.
    fn died(run: &mut Run, icount: u64, come: &Receiver<Happening>) -> Option<Error> {
        let status = run.ended(Duration::from_millis(500))?;
        let started = come.try_iter().find_map(|happening| match happening {
            Happening::Probe(FromProbe::Dying { started, .. }) => Some(started),
            _ => None,
        });
        Some(Error::Died { icount, ending: describe(status), started, said: run.last_words() })
    }

    /// A signal ends QEMU.
    fn dying(&mut self, started: u64) -> Error {
        let ending = self.run.ended(EXIT).map_or_else(|| "by a signal".to_owned(), describe);
        Error::Died { icount: self.icount, ending, started: Some(started), said: self.run.last_words() }
    }

    /// QEMU has come to an orderly exit, by itself or because its log does not fit.
    fn exited(&mut self, wanted: u64, position: u64) -> Error {
        self.run.say(&ToProbe::Finish);
        match self.run.ended(EXIT) {
            Some(status) if Death::is_one(&self.run, status) => Error::Died {
                icount: self.icount,
                ending: describe(status),
                started: Some(position),
                said: self.run.last_words(),
            },
            _ => Error::Exits { wanted },
        }
    }

    fn or_died(&mut self, error: impl Into<Error>) -> Error {
        Self::died(&mut self.run, self.icount, &self.come).unwrap_or_else(|| error.into())
    }

    /// Instructions retired, by QEMU's count.
    #[must_use]
    pub fn icount(&self) -> u64 {
        self.icount
    }

    /// Runs until `icount` instructions are retired, or the guest ends, or `tell` says that it is enough.
    ///
    /// # Errors
    /// Where it does not get there, or `tell` fails.
    pub fn run_to<E: From<Error>>(
        &mut self,
        icount: u64,
        tell: &mut dyn FnMut(Told) -> Result<bool, E>,
    ) -> Result<Stop, E> {
        self.stop.clear();
        if icount <= self.icount {
            return Ok(Stop::Reached);
        }
        self.monitor.stop_at(icount).map_err(|error| self.or_died(error))?;
        self.stub.go().map_err(|error| self.or_died(error))?;
        self.wait(icount, tell)
    }

    /// Executes one instruction, or takes one interrupt or exception.
    ///
    /// # Errors
    /// Where QEMU does not.
    pub fn step<E: From<Error>>(&mut self, tell: &mut dyn FnMut(Told) -> Result<bool, E>) -> Result<Stop, E> {
        self.stub.step().map_err(|error| self.or_died(error))?;
        self.wait(self.icount, tell)
    }

    /// Waits until the guest stands still.
    fn wait<E: From<Error>>(
        &mut self,
        wanted: u64,
        tell: &mut dyn FnMut(Told) -> Result<bool, E>,
    ) -> Result<Stop, E> {
        let mut moved = Instant::now();
        loop {
            let stopped = self.stub.stopped(Duration::from_millis(20));
            let stopped = stopped.map_err(|error| self.or_died(error))?;
            for happening in self.come.try_iter().collect::<Vec<_>>() {
                moved = Instant::now();
                let told = match happening {
                    Happening::Console(_) => continue,
                    Happening::Probe(FromProbe::Chunk { index, digest, .. }) => Told::Chunk { index, digest },
                    Happening::Probe(FromProbe::Found { position }) => Told::Found { position },
                    Happening::Probe(FromProbe::Failure(why)) | Happening::ProbeGone(Some(why)) => {
                        return Err(Error::Probe(why).into());
                    }
                    Happening::Probe(FromProbe::End { position, .. }) => {
                        return Err(self.exited(wanted, position).into());
                    }
                    Happening::Probe(FromProbe::Dying { started, .. }) => {
                        return Err(self.dying(started).into());
                    }
                    Happening::Probe(other) => {
                        return Err(Error::Probe(format!("it said {other:?} out of turn")).into());
                    }
                    Happening::ProbeGone(None) => {
                        let gone = Error::Probe("it is gone".to_owned());
                        return Err(self.or_died(gone).into());
                    }
                };
                if !tell(told)? {
                    return Ok(Stop::Told);
                }
            }
            if let Some(stop) = stopped {
                self.stop = stop;
                break;
            }
            if self.setting.interrupts.load(Ordering::Relaxed) > 0 {
                return Err(Error::Interrupted(self.icount).into());
            }
            if moved.elapsed() > self.setting.patience {
                return Err(Error::Stalled { icount: self.icount, limit: self.setting.patience }.into());
            }
        }
        self.icount = self.monitor.icount().map_err(|error| self.or_died(error))?;
        if self.watched().is_some() {
            // QEMU starts an instruction a second time to find out what it accesses (accel/tcg's cpu_check_watchpoint).
            self.say(if self.tells_before() { Asked::Unmade } else { Asked::Twice })?;
        }
        Ok(if self.icount < wanted { Stop::Ended } else { Stop::Reached })
    }

    /// Has a guest stand still that was interrupted on its way.
    ///
    /// # Errors
    /// Where it does not.
    pub fn halt<E: From<Error>>(&mut self, tell: &mut dyn FnMut(Told) -> Result<bool, E>) -> Result<Stop, E> {
        self.stub.halt().map_err(|error| self.or_died(error))?;
        self.wait(self.icount, tell)
    }

    /// Sets breaks, or takes them away again.
    ///
    /// # Errors
    /// Where QEMU can't.
    pub fn set(&mut self, breaks: &[Break], set: bool) -> Result<(), Error> {
        for stop in breaks {
            self.order(&stop.packet(set))?;
        }
        Ok(())
    }

    /// The access to watched memory that made it stop last.
    #[must_use]
    pub fn watched(&self) -> Option<(Kind, u64)> {
        breaks::watched(&self.stop)
    }

    /// Whether the processor tells an access to watched memory before it is made (`gdb_stop_before_watchpoint` in
    /// target/arm/cpu.c and target/riscv/cpu.c, 7.2 and 10.0; x86 doesn't).
    #[must_use]
    pub fn tells_before(&self) -> bool {
        matches!(&*self.run.target, "aarch64" | "arm" | "riscv64" | "riscv32")
    }

    /// Whether the processor writes to memory when it takes an interrupt or an exception.
    #[must_use]
    pub fn delivers_through_memory(&self) -> bool {
        matches!(&*self.run.target, "x86_64" | "i386")
    }

    /// What comes with the next instruction, where the log has a delivery right behind it.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn next_ends(&mut self) -> Result<Ends, Error> {
        if !self.delivers_through_memory() {
            return Ok(Ends::Plainly);
        }
        let text = self.registers()?;
        let next = registers::next(&text).ok_or_else(|| Self::unread(&text))?;
        let code = self.ask(&format!("m{next:x},1"))?;
        Ok(match &*code {
            HALT => Ends::Waiting,
            code if TRAPS.contains(&code) || registers::traces(&text) => Ends::Trapping,
            _ => Ends::Plainly,
        })
    }

    /// What QEMU's gdb stub answers to `packet`, which must not make the guest run.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn ask(&mut self, packet: &str) -> Result<Vec<u8>, Error> {
        self.stub.ask(packet).map_err(|error| self.or_died(error))
    }

    /// Has QEMU's gdb stub do what `packet` says, which must not make the guest run.
    ///
    /// # Errors
    /// Where it doesn't.
    pub(crate) fn order(&mut self, packet: &str) -> Result<(), Error> {
        self.stub.order(packet).map_err(|error| self.or_died(error))
    }

    /// What QEMU's monitor for people answers to `line`.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub(crate) fn human(&mut self, line: &str) -> Result<String, Error> {
        self.monitor.human(line).map_err(|error| self.or_died(error))
    }

    /// How many instructions of the stream are behind the guest.
    ///
    /// # Errors
    /// Where the probe does not say.
    pub fn position(&mut self) -> Result<u64, Error> {
        let standing = self.standing()?;
        // What will start again is not in the stream yet.
        let again = match standing.unfinished {
            Some(last) => self.is_next(&last)?,
            None => false,
        };
        Ok(standing.point.position - u64::from(again))
    }

    /// Whether the guest stands before `instruction`, whose page may be mapped at several addresses.
    fn is_next(&mut self, instruction: &Instruction) -> Result<bool, Error> {
        let next = self.next_address()?;
        if next == instruction.address || !(next ^ instruction.address).is_multiple_of(PAGE) {
            return Ok(next == instruction.address);
        }
        let code = self.ask(&format!("m{next:x},{:x}", instruction.bytes.len()))?;
        Ok(from_hex(&code).is_some_and(|code| code == instruction.bytes))
    }

    /// Where the guest stands, as the probe sees it.
    ///
    /// # Errors
    /// Where the probe does not say.
    pub fn standing(&mut self) -> Result<Standing, Error> {
        self.say(Asked::Where)
    }

    /// Where the probe has found what is watched for, when it was on its way still as the guest came to stand.
    ///
    /// # Errors
    /// Where the probe does not tell.
    pub fn found(&mut self) -> Result<u64, Error> {
        loop {
            match self.come.recv_timeout(self.setting.patience) {
                Ok(Happening::Probe(FromProbe::Found { position })) => return Ok(position),
                Ok(Happening::Console(_) | Happening::Probe(FromProbe::Chunk { .. })) => {}
                Ok(other) => return Err(Error::Probe(format!("it said {other:?} out of turn"))),
                Err(_) => return Err(self.or_died(Error::Probe("it does not say what it found".to_owned()))),
            }
        }
    }

    fn say(&mut self, asked: Asked) -> Result<Standing, Error> {
        let gone = |why: String| Error::Probe(why);
        codec::write(&mut self.asking, &asked).map_err(|error| gone(error.to_string()))?;
        match codec::read(&mut self.asking) {
            Ok(Some(standing)) => Ok(standing),
            Ok(None) => Err(self.or_died(gone("it does not say where the guest stands".to_owned()))),
            Err(error) => Err(gone(error.to_string())),
        }
    }

    /// Keeps the machine's state in the image that it was started with, beside those before; gives back its name.
    ///
    /// # Errors
    /// Where QEMU can't, at this moment or at all.
    pub fn keep(&mut self) -> Result<String, Error> {
        let name = format!("{STATE}-{}", self.icount);
        let told = self.human(&format!("savevm {name}"))?;
        let told = told.trim();
        if told.is_empty() { Ok(name) } else { Err(Error::NotKept(told.to_owned())) }
    }

    /// The files that QEMU has made for what the guest writes to its drives, in the order of the command line.
    ///
    /// # Errors
    /// Where they can't be found.
    pub fn drives(&mut self) -> Result<Vec<File>, Error> {
        let not =
            |why: &str| Error::NotKept(format!("{why}, so what the guest wrote to its drives is not known"));
        let told = self.monitor.execute("query-block", &json!({})).map_err(|error| self.or_died(error))?;
        let drives = told.as_array().ok_or_else(|| not("QEMU does not tell its drives"))?;
        // A temporary snapshot is a qcow2 file in front of another, and its name is gone.
        let open = self.run.open_files()?;
        let file = |drive: &Value| {
            let inserted = drive.get("inserted")?;
            let driver = inserted.get("drv")?.as_str()?;
            let name = inserted.get("file")?.as_str()?;
            // What a single name can't say is told in JSON.
            let parts = name.strip_prefix("json:").and_then(|json| serde_json::from_str::<Value>(json).ok());
            let name =
                parts.as_ref().map_or(Some(name), |parts| parts.pointer("/file/filename")?.as_str())?;
            let gone = format!("{name} (deleted)");
            open.iter().find(|(path, _)| driver == "qcow2" && *path == gone).map(|(_, file)| file)
        };
        let files: Vec<_> = drives.iter().filter_map(file).map(File::open).collect();
        if files.len() != self.setting.source.drives() {
            return Err(not("QEMU's temporary files are not where they should be"));
        }
        files.into_iter().collect::<Result<_, _>>().map_err(|error| not(&error.to_string()))
    }

    fn is_riscv(&self) -> bool {
        matches!(&*self.run.target, "riscv64" | "riscv32")
    }

    /// The timers of a machine that is kept or restored, where QEMU forgets them.
    pub(crate) fn timers(&self) -> Option<riscv::Timers> {
        self.timers
    }

    /// What those timers are like.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub(crate) fn timers_state(&mut self) -> Result<Option<riscv::State>, Error> {
        self.timers.map(|timers| timers.state(self)).transpose()
    }

    /// What has to be done behind a restore for what this build may forget.
    pub(crate) fn rearming(&self) -> Rearming {
        match &*self.run.target {
            "x86_64" | "i386" => Rearming::Perhaps { first: self.run.plugin_api >= hpet::FORGETS_FROM },
            _ if self.timers.is_some() => Rearming::Always,
            _ => Rearming::Never,
        }
    }

    /// The guest's registers, as QEMU prints them.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn registers(&mut self) -> Result<String, Error> {
        self.human("info registers")
    }

    /// The address of the next instruction.
    ///
    /// # Errors
    /// Where QEMU is gone, or the target is none of those known.
    pub fn next_address(&mut self) -> Result<u64, Error> {
        let text = self.registers()?;
        registers::next(&text).ok_or_else(|| Self::unread(&text))
    }

    fn unread(registers: &str) -> Error {
        Error::Registers(registers.chars().take(60).collect())
    }

    /// The next `count` instructions as QEMU disassembles them, a line each with its address; fewer where memory ends.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn disassembly(&mut self, count: usize) -> Result<Vec<(u64, String)>, Error> {
        let next = self.next_address()?;
        let told = self.human(&format!("x/{count}i {next:#x}"))?;
        let line = |line: &str| {
            let (address, rest) = line.split_once(':')?;
            let address = u64::from_str_radix(address.trim().strip_prefix("0x")?, 16).ok()?;
            Some((address, rest.trim().to_owned()))
        };
        Ok(told.lines().filter_map(line).collect())
    }
}
