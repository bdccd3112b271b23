//! Makes steps, and runs from where the machine stands to the next break, where QEMU's own stub stops.

use std::sync::atomic::Ordering;

use super::{Error, Seeker, check};
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

/// A place on the way: by position, and by icount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) position: u64,
    pub(super) icount: u64,
}

impl Seeker<'_> {
    pub(super) fn place(&mut self) -> Result<Place, Error> {
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
        let watched = self.advance(breaks)?;
        if watched.is_none() && self.place()?.position != place.position + 1 {
            self.to_position(place.position + 1)?;
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
        let watched = self.advance(breaks)?;
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
            match self.on_to_a_stop(end, breaks) {
                Ok(Some((kind, address))) => return Ok(Arrival::Watch { kind, address }),
                Ok(None) => {}
                Err(Error::Machine(machine::Error::Interrupted(_))) => {
                    self.halt(breaks)?;
                    if self.may_swallow(breaks)? {
                        let here = self.place()?.position;
                        self.again_to(here)?;
                    }
                    self.settle()?;
                    return Ok(Arrival::Interrupted);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs to `end`, to a break, or a part of the way, and stands at a moment then; tells an access to watched memory.
    fn on_to_a_stop(&mut self, end: u64, breaks: &[Break]) -> Result<Option<(Kind, u64)>, Error> {
        let clear = self.clear_way(breaks, end)?;
        if clear <= self.machine()?.icount() {
            return self.advance(breaks);
        }
        self.run_on(clear, breaks)?;
        let machine = self.machine()?;
        let watched = machine.watched();
        if machine.icount() >= end {
            self.to(end)?;
        } else {
            self.settle()?;
        }
        Ok(watched)
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

    /// Whether the next instruction has a break.
    pub(super) fn at_break(&mut self, breaks: &[Break]) -> Result<bool, Error> {
        if breaks.iter().all(Break::is_watch) {
            return Ok(false);
        }
        let next = self.machine()?.next_address()?;
        Ok(breaks.iter().any(|stop| !stop.is_watch() && stop.address == next))
    }

    /// Whether QEMU may keep to itself that a watchpoint was hit.
    ///
    /// Where a processor tells an access behind it and the instruction is the last before the icount at which QEMU shall
    /// stop, the one stop swallows the other, and the access is told at once when the guest runs again: by a watchpoint
    /// that may be gone by then (`gdb_vm_state_change` in gdbstub, 7.2 and 10.0, looks for one only where a breakpoint
    /// has stopped the machine).
    pub(super) fn may_swallow(&mut self, breaks: &[Break]) -> Result<bool, Error> {
        Ok(breaks.iter().any(Break::is_watch) && !self.machine()?.tells_before())
    }

    /// Runs to `icount` or to a break on the way; or one instruction beyond, where only that shows what has been
    /// accessed before. An interrupted machine runs on, with the breaks set.
    pub(super) fn run_on(&mut self, icount: u64, breaks: &[Break]) -> Result<(), Error> {
        self.machine()?.set(breaks, true)?;
        let mut again = 0;
        loop {
            let Seeker { recording, progress, machine: Some(machine), faults, .. } = self else {
                return Ok(());
            };
            let begin = machine.icount();
            let stop = machine.run_to(icount, &mut |told| check(recording, progress, told))?;
            let at = machine.icount();
            if at > begin {
                *faults = 0;
            }
            // Behind a step that a watchpoint has ended QEMU stops a second time at once.
            if stop != Stop::Ended || machine.watched().is_some() || self.at_break(breaks)? {
                break;
            }
            again += 1;
            if at != begin || again > 2 {
                return Err(Error::Ended { at, wanted: icount });
            }
        }
        let machine = self.machine()?;
        if machine.icount() == icount && machine.watched().is_none() && self.may_swallow(breaks)? {
            if self.at_break(breaks)? {
                // Stops again at once, by the one or the other.
                let Seeker { recording, progress, machine: Some(machine), .. } = self else { return Ok(()) };
                machine.run_to(icount + 1, &mut |told| check(recording, progress, told))?;
            } else {
                self.step()?;
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
    pub(super) fn step_over(&mut self, breaks: &[Break]) -> Result<Option<(Kind, u64)>, Error> {
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
        if self.deliveries(place.icount)?.is_plain() {
            return Ok(());
        }
        self.to_position(place.position)
    }
}
