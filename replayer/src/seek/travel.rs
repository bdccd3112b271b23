//! Runs from where the machine stands to the next break, or back to the last one.
//!
//! Forwards QEMU's own stub stops. Backwards there is nothing of QEMU's that could be relied on: the replay is run
//! again from a checkpoint, its stops are noted, and the last before the moment where it began is gone to. What a stop
//! means is the same both ways, because it is the same stop.
//!
//! Of an instruction that is executed a million times not each stop is noted. After [`ENOUGH`] of them half of what is
//! left is leapt over; where nothing is behind the leap, what was leapt over is looked at again.

use std::sync::atomic::Ordering;

use trace::message::Watch;

use super::{Deliveries, Error, Seeker, check};
use crate::breaks::{Break, Kind};
use crate::machine::{self, Stop};

/// Why the guest stands where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// One step on, or back.
    Step,
    /// Before an instruction with a break.
    Break,
    /// At an access to watched memory: the way goes over it; where the processor tells an access before it is made, the
    /// way forwards stops before it and the way backwards behind it, and gdb makes the step over it.
    Watch {
        kind: Kind,
        address: u64,
    },
    Beginning,
    End,
    /// Somebody has asked for it.
    Interrupted,
}

/// A stop that was seen on the way to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hit {
    /// How many instructions are before the one that it is about.
    position: u64,
    icount: u64,
    arrival: Arrival,
}

/// How many stops are noted before a leap.
const ENOUGH: u32 = 64;

/// Fewer instructions than these are not leapt over.
const NEAR: u64 = 4096;

/// A place on the way: by position, and by icount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    position: u64,
    icount: u64,
}

impl Seeker<'_> {
    fn place(&mut self) -> Result<Place, Error> {
        let machine = self.machine()?;
        Ok(Place { position: machine.position()?, icount: machine.icount() })
    }

    /// Executes one instruction.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn forward_step(&mut self, breaks: &[Break]) -> Result<Arrival, Error> {
        let place = self.place()?;
        if place.icount >= self.recording.ending.icount {
            return Ok(Arrival::End);
        }
        let watched = self.step_over(breaks)?;
        let now = self.place()?;
        let plain = Deliveries::at(self.recording, now.icount)?.is_plain();
        // Where a processor tells an access before it is made, the instruction has not been executed.
        if now.position != place.position + 1 && watched.is_none() || !plain {
            self.to_position(if watched.is_some() { now.position } else { place.position + 1 })?;
        }
        Ok(watched.map_or(Arrival::Step, |(kind, address)| Arrival::Watch { kind, address }))
    }

    /// Goes one instruction back.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn backward_step(&mut self, breaks: &[Break]) -> Result<Arrival, Error> {
        let Some(before) = self.place()?.position.checked_sub(1) else { return Ok(Arrival::Beginning) };
        self.to_position(before)?;
        if !breaks.iter().any(Break::is_watch) {
            return Ok(Arrival::Step);
        }
        let watched = self.step_over(breaks)?;
        let behind = watched.is_some() && self.machine()?.tells_before();
        self.to_position(before + u64::from(behind))?;
        Ok(watched.map_or(Arrival::Step, |(kind, address)| Arrival::Watch { kind, address }))
    }

    /// Runs to the next break, or to the end.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn forward(&mut self, breaks: &[Break]) -> Result<Arrival, Error> {
        let end = self.recording.ending.icount;
        loop {
            if self.at_break(breaks)? {
                return Ok(Arrival::Break);
            }
            if self.machine()?.icount() >= end {
                return Ok(Arrival::End);
            }
            match self.run_on(end, breaks) {
                Ok(()) => {}
                Err(Error::Machine(machine::Error::Interrupted(_))) => {
                    self.halt(breaks)?;
                    self.settle()?;
                    return Ok(Arrival::Interrupted);
                }
                Err(error) => return Err(error),
            }
            let watched = self.machine()?.watched();
            let icount = self.machine()?.icount();
            if icount >= end {
                self.to(end)?;
            } else {
                self.settle()?;
            }
            if let Some((kind, address)) = watched {
                return Ok(Arrival::Watch { kind, address });
            }
        }
    }

    /// Goes back to the last break before, or to the beginning.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn backward(&mut self, breaks: &[Break]) -> Result<Arrival, Error> {
        let start = self.place()?;
        match self.backward_from(start, breaks) {
            Err(Error::Machine(machine::Error::Interrupted(_))) => {
                self.again_to(start.position)?;
                Ok(Arrival::Interrupted)
            }
            arrival => arrival,
        }
    }

    /// Goes to a position with a machine of its own, because the way of the last one was given up.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn again_to(&mut self, position: u64) -> Result<(), Error> {
        self.machine = None;
        self.setting.interrupts.store(0, Ordering::Relaxed);
        self.to_position(position)
    }

    fn backward_from(&mut self, start: Place, breaks: &[Break]) -> Result<Arrival, Error> {
        let mut upper = start;
        // Without a break there is nothing to look for.
        while let (Some(last), [_, ..]) = (upper.position.checked_sub(1), breaks) {
            let machine = self.nearest(upper.icount, last, Watch::default())?;
            self.machine = Some(machine);
            let lower = self.place()?;
            if let Some(hit) = self.last_hit(upper, breaks)? {
                let is_watch = matches!(hit.arrival, Arrival::Watch { .. });
                let behind = is_watch && self.machine()?.tells_before();
                self.to_position(hit.position + u64::from(behind))?;
                return Ok(hit.arrival);
            }
            upper = lower;
        }
        self.to_position(0)?;
        Ok(Arrival::Beginning)
    }

    /// The last stop from where the machine stands up to `upper`, which is not included.
    fn last_hit(&mut self, mut upper: Place, breaks: &[Break]) -> Result<Option<Hit>, Error> {
        loop {
            let mut last: Option<Hit> = None;
            // Where the last leap began, and where it ended.
            let mut leap: Option<(Hit, Place)> = None;
            let mut count = 0;
            loop {
                let place = self.place()?;
                if place >= upper {
                    break;
                }
                if self.setting.interrupts.load(Ordering::Relaxed) > 0 {
                    return Err(machine::Error::Interrupted(place.icount).into());
                }
                if let Some(hit) = self.next_hit(upper, breaks)? {
                    last = Some(hit);
                    count += 1;
                }
                let place = self.place()?;
                let left = upper.icount.saturating_sub(place.icount);
                if let (Some(hit), ENOUGH.., NEAR..) = (last, count, left) {
                    self.run_to(place.icount + left / 2)?;
                    leap = Some((hit, self.place()?));
                    (last, count) = (None, 0);
                }
            }
            match (last, leap) {
                (None, Some((hit, behind))) => {
                    // The last is between the two, if it is not the one that was seen.
                    let lower = Place { position: hit.position, icount: hit.icount };
                    upper = behind;
                    let machine = self.nearest(lower.icount, lower.position, Watch::default())?;
                    self.machine = Some(machine);
                    if self.place()? < lower {
                        self.run_to(lower.icount)?;
                    }
                    if self.place()?.position > lower.position {
                        self.to_position(lower.position)?;
                    }
                }
                (last, _) => return Ok(last),
            }
        }
    }

    /// Runs to the next stop before `upper` and over its instruction; or to `upper`, or a little beyond.
    fn next_hit(&mut self, upper: Place, breaks: &[Break]) -> Result<Option<Hit>, Error> {
        let mut watched = None;
        if !self.at_break(breaks)? {
            self.run_on(upper.icount, breaks)?;
            watched = self.machine()?.watched();
        }
        let place = self.place()?;
        let hit = |position, icount, (kind, address)| {
            Some(Hit { position, icount, arrival: Arrival::Watch { kind, address } })
                .filter(|hit| hit.position < upper.position)
        };
        // Behind the access, as on x86, or before it, as on Arm: then it is still to be made.
        let before = self.machine()?.tells_before();
        if let (Some(watched), false) = (watched, before) {
            return Ok(hit(place.position - 1, place.icount.saturating_sub(1), watched));
        }
        let at_break = self.at_break(breaks)?;
        if place >= upper {
            return Ok(None);
        }
        let accessed = self.step_over(if before { &[] } else { breaks })?;
        let started = self.place()?.position > place.position;
        Ok(match watched.or(accessed) {
            Some(watched) if started => hit(place.position, place.icount, watched),
            // An interrupt was taken in its place.
            _ if !started || !at_break => None,
            _ if place.position >= upper.position => None,
            _ => Some(Hit { position: place.position, icount: place.icount, arrival: Arrival::Break }),
        })
    }

    /// Whether the next instruction has a break.
    fn at_break(&mut self, breaks: &[Break]) -> Result<bool, Error> {
        if breaks.iter().all(Break::is_watch) {
            return Ok(false);
        }
        let next = self.machine()?.next_address()?;
        Ok(breaks.iter().any(|stop| !stop.is_watch() && stop.address == next))
    }

    /// Runs to `icount` or to a break on the way. An interrupted machine runs on, with the breaks set.
    fn run_on(&mut self, icount: u64, breaks: &[Break]) -> Result<(), Error> {
        self.machine()?.set(breaks, true)?;
        let mut again = 0;
        loop {
            let Seeker { recording, progress, machine: Some(machine), .. } = self else { return Ok(()) };
            let begin = machine.icount();
            let stop = machine.run_to(icount, &mut |told| check(recording, progress, told))?;
            let at = machine.icount();
            // Behind a step that a watchpoint has ended QEMU stops a second time at once.
            if stop != Stop::Ended || machine.watched().is_some() || self.at_break(breaks)? {
                break;
            }
            again += 1;
            if at != begin || again > 2 {
                return Err(Error::Ended { at, wanted: icount });
            }
        }
        Ok(self.machine()?.set(breaks, false)?)
    }

    /// Has the machine stand still that was interrupted.
    fn halt(&mut self, breaks: &[Break]) -> Result<(), Error> {
        self.setting.interrupts.store(0, Ordering::Relaxed);
        let Seeker { recording, progress, machine: Some(machine), .. } = self else { return Ok(()) };
        machine.halt(&mut |told| check(recording, progress, told))?;
        Ok(machine.set(breaks, false)?)
    }

    /// Executes one instruction or takes one interrupt; tells an access to watched memory.
    fn step_over(&mut self, breaks: &[Break]) -> Result<Option<(Kind, u64)>, Error> {
        let watches: Vec<Break> = breaks.iter().filter(|stop| stop.is_watch()).copied().collect();
        self.machine()?.set(&watches, true)?;
        self.step()?;
        let machine = self.machine()?;
        machine.set(&watches, false)?;
        Ok(machine.watched())
    }

    /// Takes what the log has where the machine stands, so that it is a moment.
    fn settle(&mut self) -> Result<(), Error> {
        let place = self.place()?;
        if Deliveries::at(self.recording, place.icount)?.is_plain() {
            return Ok(());
        }
        self.to_position(place.position)
    }
}
