//! Goes to a moment of a recording, forwards and backwards.
//!
//! A moment is given by QEMU's icount, or by a position in the stream of instructions, and means the same state each
//! time: what was retired before is done, the interrupts that the log has there are taken, and the next instruction has
//! not started. An instruction that faults has started and is not retired, so several positions can share an icount; an
//! icount alone means the first of them.
//!
//! Where the log has an interrupt or an exception at an icount, QEMU's own stop there is one of two states by chance
//! (see [`crate::machine`]). Then the last instruction before is executed as a single step, which ends right behind it,
//! and each interrupt is taken by one more. A processor that waits takes its interrupt within the step that made it wait:
//! then one step too many executes an instruction, which the position shows, and the way is gone again with one less.

mod backward;
mod death;
mod deliveries;
pub mod travel;

use std::ops::ControlFlow;

use recorder::checkpoint::{self, Checkpoint};
use recorder::log::event::Event;
use recorder::reader::{self, Reader};
use trace::message::{CHUNK, Watch};

pub use self::death::Again;
use self::deliveries::Known;
use crate::image::restored;
use crate::machine::{self, Ends, Machine, Setting, Start, Stop, Told};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Recording(#[from] reader::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error("a checkpoint can't be written to the folder for temporary files: {0}; TMPDIR names another")]
    Temporary(#[from] std::io::Error),
    #[error(transparent)]
    Machine(#[from] machine::Error),
    #[error(
        "this replay is not the recorded run: chunk {chunk}, instructions {from} to {to}, differs from the witness; everything before is identical"
    )]
    Different { chunk: u64, from: u64, to: u64 },
    #[error("icount {wanted} is behind the recording's end, which is at icount {end}")]
    Behind { wanted: u64, end: u64 },
    #[error("the guest ended at icount {at}, before icount {wanted}")]
    Ended { at: u64, wanted: u64 },
    #[error(
        "instruction {wanted} of the stream can't be reached: at icount {icount} it is instruction {position}"
    )]
    Unreachable { wanted: u64, icount: u64, position: u64 },
}

/// What was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The position of the instruction that is wanted, where there is one: so many are before it.
    pub wanted: Option<u64>,
    /// Where there is none: how many there are.
    pub seen: u64,
}

/// A recording that can be gone about in.
pub struct Seeker<'a> {
    recording: &'a mut Reader,
    setting: Setting<'a>,
    machine: Option<Machine<'a>>,
    /// How many exceptions have been taken where the machine stands since the last instruction was retired.
    faults: usize,
    uses_checkpoints: bool,
    known: Known,
    /// Told how far a machine has run, now and then.
    progress: &'a mut dyn FnMut(u64),
}

/// So many instructions take longer than to start a machine from a checkpoint.
const WORTH: u64 = 100_000_000;

impl<'a> Seeker<'a> {
    pub fn new(recording: &'a mut Reader, setting: Setting<'a>, progress: &'a mut dyn FnMut(u64)) -> Self {
        Seeker {
            recording,
            setting,
            machine: None,
            faults: 0,
            uses_checkpoints: true,
            known: Known::default(),
            progress,
        }
    }

    /// Has every way begin where the recording does.
    #[must_use]
    pub fn without_checkpoints(self) -> Self {
        Seeker { uses_checkpoints: false, ..self }
    }

    #[must_use]
    pub fn setting(&self) -> Setting<'a> {
        self.setting
    }

    pub fn recording(&mut self) -> &mut Reader {
        self.recording
    }

    /// The machine, which stands where was gone last; at first before the guest's first instruction.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn machine(&mut self) -> Result<&mut Machine<'a>, Error> {
        let machine = match self.machine.take() {
            Some(machine) => machine,
            None => self.nearest(0, 0, Watch::default())?,
        };
        Ok(self.machine.insert(machine))
    }

    /// A new machine that stands as near as can be, but not behind `icount` or `position`.
    fn nearest(&mut self, icount: u64, position: u64, watch: Watch) -> Result<Machine<'a>, Error> {
        // Two QEMUs at a time are one too many.
        self.machine = None;
        self.faults = 0;
        let Some((_, checkpoint)) = self.checkpoint(icount, position)? else {
            return Ok(Machine::start(self.setting, Start::Beginning, watch)?);
        };
        let files = restored::<Error>(self.recording, &checkpoint)?;
        let Checkpoint { point, rearms, .. } = checkpoint;
        let start = match files.split_first() {
            Some((machine, drives)) => Start::Kept { machine, drives, point, rearms },
            None => Start::Beginning,
        };
        Ok(Machine::start(self.setting, start, watch)?)
    }

    /// The last checkpoint that is not behind `icount` or `position`, and its icount.
    fn checkpoint(&mut self, icount: u64, position: u64) -> Result<Option<(u64, Checkpoint)>, Error> {
        if !self.uses_checkpoints {
            return Ok(None);
        }
        let mut before = self.recording.checkpoints();
        before.retain(|&checkpoint| checkpoint <= icount);
        while let Some(icount) = before.pop() {
            let Some(checkpoint) = self.recording.checkpoint(icount)? else { continue };
            if checkpoint.build == self.setting.build.sha256 && checkpoint.point.position <= position {
                return Ok(Some((icount, checkpoint)));
            }
        }
        Ok(None)
    }

    /// Goes to the moment at which `icount` instructions are retired.
    ///
    /// # Errors
    /// Where there is none, or the replay is not the recorded run.
    pub fn to(&mut self, icount: u64) -> Result<(), Error> {
        let end = self.recording.ending.icount;
        if icount > end {
            return Err(Error::Behind { wanted: icount, end });
        }
        let deliveries = self.deliveries(icount)?;
        if icount == 0 || deliveries.is_plain() {
            self.come_near(icount, u64::MAX)?;
            return self.run_to(icount);
        }
        for fewer in 0.. {
            self.come_near(icount - 1, u64::MAX)?;
            self.run_to(icount - 1)?;
            let waits = self.machine()?.next_ends()? == Ends::Waiting;
            while self.machine()?.icount() < icount {
                self.step()?;
            }
            let interrupts = deliveries.interrupts(self.faults).saturating_sub(fewer + usize::from(waits));
            if self.take(interrupts)? || interrupts == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Goes to the moment at which `position` instructions of the stream have started, and the next one has not.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn to_position(&mut self, position: u64) -> Result<(), Error> {
        // No position is less than its icount.
        self.come_near(position, position)?;
        // By leaps as long as no fault on the way can make them too long.
        loop {
            let machine = self.machine()?;
            let (icount, now) = (machine.icount(), machine.position()?);
            let left = position.saturating_sub(now);
            let faults = self.exceptions(icount, icount + left)?;
            if left <= faults {
                break;
            }
            self.run_to(icount + left - faults)?;
        }
        let icount = self.machine()?.icount();
        self.to(icount)?;
        loop {
            let machine = self.machine()?;
            let (icount, now) = (machine.icount(), machine.position()?);
            if now == position {
                return Ok(());
            }
            if now > position {
                return Err(Error::Unreachable { wanted: position, icount, position: now });
            }
            self.step()?;
            let here = self.machine()?.icount();
            let deliveries = self.deliveries(here)?.interrupts(self.faults);
            if deliveries > 0 && !self.take(deliveries)? {
                self.to(here)?;
            }
        }
    }

    /// Looks for what `watch` names, up to the moment `icount`.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn find(&mut self, watch: Watch, icount: u64) -> Result<Found, Error> {
        let until = watch.until;
        let mut machine = self.nearest(0, 0, watch)?;
        let mut found = None;
        let Seeker { recording, progress, .. } = self;
        let stop = machine.run_to(icount, &mut |told| {
            if let Told::Found { position } = told {
                found = Some(position);
                return Ok(false);
            }
            check(recording, progress, told)
        })?;
        // Where it is found nobody asks how many there were.
        let seen = if stop == Stop::Told { 0 } else { machine.standing()?.seen };
        if found.is_none() && seen >= until {
            found = Some(machine.found()?);
        }
        Ok(Found { wanted: found, seen })
    }

    /// Makes sure that the machine does not stand behind `icount` or `position`, nor far before.
    fn come_near(&mut self, icount: u64, position: u64) -> Result<(), Error> {
        let stands = match &mut self.machine {
            Some(machine) if machine.icount() <= icount => {
                (machine.position()? <= position).then_some(machine.icount())
            }
            _ => None,
        };
        if let Some(at) = stands {
            let far = icount > at + WORTH;
            if !far || self.checkpoint(icount, position)?.is_none_or(|(ahead, _)| ahead <= at + WORTH) {
                return Ok(());
            }
        }
        self.begin_near(icount, position)
    }

    /// Has a new machine stand as near as can be, but not behind `icount` or `position`.
    fn begin_near(&mut self, icount: u64, position: u64) -> Result<(), Error> {
        let machine = self.nearest(icount, position, Watch::default())?;
        self.machine = Some(machine);
        Ok(())
    }

    fn run_to(&mut self, icount: u64) -> Result<(), Error> {
        self.machine()?;
        let Seeker { recording, progress, machine: Some(machine), faults, .. } = self else { return Ok(()) };
        let begin = machine.icount();
        let stop = machine.run_to(icount, &mut |told| check(recording, progress, told))?;
        if machine.icount() > begin {
            *faults = 0;
        }
        match stop {
            Stop::Ended => Err(Error::Ended { at: machine.icount(), wanted: icount }),
            Stop::Reached | Stop::Told => Ok(()),
        }
    }

    /// Executes one instruction, or takes one interrupt or exception.
    fn step(&mut self) -> Result<(), Error> {
        let before = self.place()?;
        let traps =
            self.deliveries(before.icount + 1)?.faults(0) && self.machine()?.next_ends()? == Ends::Trapping;
        let Seeker { recording, progress, machine: Some(machine), .. } = self else { return Ok(()) };
        machine.step(&mut |told| check(recording, progress, told))?;
        let now = self.place()?;
        if now.icount > before.icount {
            self.faults = usize::from(traps);
        } else if now.position > before.position {
            self.faults += 1;
        }
        Ok(())
    }

    /// Has so many interrupts taken; gives back whether it were no more than there are.
    fn take(&mut self, deliveries: usize) -> Result<bool, Error> {
        let position = self.machine()?.position()?;
        for _ in 0..deliveries {
            self.step()?;
            if self.machine()?.position()? != position {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many exceptions the log has from `from` up to `to`, both included.
    fn exceptions(&mut self, from: u64, to: u64) -> Result<u64, Error> {
        let mut exceptions = 0;
        self.recording.events(from, |at, event| {
            if at > to {
                return ControlFlow::Break(());
            }
            exceptions += u64::from(*event == Event::Exception);
            ControlFlow::Continue(())
        })?;
        Ok(exceptions)
    }
}

/// Holds what a machine tells against the witness.
pub(crate) fn check(
    recording: &mut Reader,
    progress: &mut dyn FnMut(u64),
    told: Told,
) -> Result<bool, Error> {
    if let Told::Chunk { index, digest } = told {
        let (from, to) = (index * CHUNK, (index + 1) * CHUNK);
        progress(to);
        let inside = recording.ending.proof.is_some_and(|proof| to <= proof.position);
        if inside && recording.digest(index)?.is_some_and(|expected| expected != digest) {
            return Err(Error::Different { chunk: index, from, to });
        }
    }
    Ok(true)
}
