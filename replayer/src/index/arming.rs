//! Finds moments at which a RISC-V machine can be kept: those right behind the instruction that has armed the timer that
//! runs, see [`crate::forgotten::riscv`].
//!
//! `mtimecmp` is memory, which is watched. `stimecmp` is a register, which nothing of QEMU's stub stops at: the instruction
//! that writes it is found by single steps behind an interrupt, and has a break from then on. An arming is what has
//! changed the value; whether it is one is not taken on trust.

use std::ops::ControlFlow;

use recorder::log::event::Event;
use recorder::reader::Reader;

use super::Error;
use crate::breaks::{Break, Kind};
use crate::forgotten::riscv::{PC, Timer, Timers, register};
use crate::machine::{Machine, Stop, Told};
use crate::seek::check;

/// How many steps behind an interrupt are made at the most to see the timer armed.
const STEPS: u32 = 20_000;

/// After how many instructions it is looked again where nothing can be put right.
const LATER: u64 = 1_000_000;

/// The instructions that are known to arm Sstc's timer, by address.
#[derive(Debug, Default)]
pub struct Armings(Vec<u64>);

/// The way of a machine, which is held against the recording.
pub struct Way<'w, 'a> {
    pub machine: &'w mut Machine<'a>,
    pub recording: &'w mut Reader,
    pub progress: &'w mut dyn FnMut(u64),
}

impl Way<'_, '_> {
    fn run_to(&mut self, icount: u64) -> Result<Stop, Error> {
        let Way { machine, recording, progress } = self;
        Ok(machine.run_to(icount, &mut |told: Told| check(recording, progress, told))?)
    }

    fn step(&mut self) -> Result<(), Error> {
        let Way { machine, recording, progress } = self;
        machine.step(&mut |told: Told| check(recording, progress, told))?;
        Ok(())
    }

    /// The first event behind where the machine stands, or there, for which `wanted` holds.
    fn next(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<Option<u64>, Error> {
        let (mut next, here) = (None, self.machine.icount());
        self.recording.events(here, |at, event| {
            if at < here || !wanted(event) {
                return ControlFlow::Continue(());
            }
            next = Some(at);
            ControlFlow::Break(())
        })?;
        Ok(next)
    }
}

impl Armings {
    /// Has the machine go on to a moment at which it can be kept, before `limit`; gives back why there is none.
    pub fn settle(&mut self, way: &mut Way, limit: u64) -> Result<Result<(), &'static str>, Error> {
        let Some(timers) = way.machine.timers() else { return Ok(Ok(())) };
        loop {
            let timer = match timers.state(way.machine)?.running() {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(timer)) => timer,
                Err(why) => {
                    let later = way.machine.icount() + LATER;
                    if later >= limit || way.run_to(later)? == Stop::Ended {
                        return Ok(Err(why));
                    }
                    continue;
                }
            };
            let armed = match timer {
                Timer::Machine => machine_armed(way, timers, limit)?,
                Timer::Supervisor => self.supervisor_armed(way, timers, limit)?,
            };
            if !armed {
                return Ok(Err("no timer is armed any more"));
            }
            let here = way.machine.icount();
            let is_free = way.next(|_| true)?.is_none_or(|next| next > here);
            if is_free && timers.state(way.machine)?.running() == Ok(Some(timer)) {
                return Ok(Ok(()));
            }
        }
    }

    /// Runs until Sstc's timer has just been armed; gives back whether it was, before `limit`.
    fn supervisor_armed(&mut self, way: &mut Way, timers: Timers, limit: u64) -> Result<bool, Error> {
        let breaks: Vec<_> = self.0.iter().map(|&address| instruction(address)).collect();
        while !breaks.is_empty() && run_to_break(way, &breaks, limit)? {
            let before = timers.supervisor(way.machine)?;
            way.step()?;
            if timers.supervisor(way.machine)? != before {
                return Ok(true);
            }
        }
        if breaks.is_empty() { self.learnt(way, timers, limit) } else { Ok(false) }
    }

    /// Sees behind interrupts which instruction arms Sstc's timer, and stands behind it then.
    fn learnt(&mut self, way: &mut Way, timers: Timers, limit: u64) -> Result<bool, Error> {
        while let Some(interrupt) = way.next(|event| *event == Event::Interrupt)?
            && interrupt < limit
        {
            if way.run_to(interrupt)? == Stop::Ended {
                break;
            }
            let mut before = timers.supervisor(way.machine)?;
            for _ in 0..STEPS {
                let address = register(way.machine, PC)?;
                way.step()?;
                let now = timers.supervisor(way.machine)?;
                if let (true, Some((address, _))) = (now != before && before.is_some(), address) {
                    self.0.push(address);
                    return Ok(true);
                }
                before = now;
            }
        }
        Ok(false)
    }
}

/// Runs until the machine's timer has just been armed; gives back whether it was, before `limit`.
fn machine_armed(way: &mut Way, timers: Timers, limit: u64) -> Result<bool, Error> {
    let watch = [Break { kind: Kind::Write, address: timers.compare, length: 8 }];
    let before = timers.state(way.machine)?.machine;
    while run_to_break(way, &watch, limit)? {
        // The address may be another's elsewhere.
        if timers.state(way.machine)?.machine != before {
            return Ok(true);
        }
    }
    Ok(false)
}

fn instruction(address: u64) -> Break {
    Break { kind: Kind::Instruction, address, length: 4 }
}

/// Runs to one of `breaks`; gives back whether it came to one before `limit`.
fn run_to_break(way: &mut Way, breaks: &[Break], limit: u64) -> Result<bool, Error> {
    way.machine.set(breaks, true)?;
    let mut reached = false;
    // Behind a step QEMU may stop a second time at once.
    for _ in 0..3 {
        let begin = way.machine.icount();
        if way.run_to(limit)? == Stop::Reached {
            break;
        }
        let next = way.machine.next_address()?;
        let is_at = breaks.iter().any(|stop| !stop.is_watch() && stop.address == next);
        reached = is_at || way.machine.watched().is_some();
        if reached || way.machine.icount() != begin {
            break;
        }
    }
    way.machine.set(breaks, false)?;
    Ok(reached)
}
