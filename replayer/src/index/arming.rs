//! Finds moments at which a RISC-V machine can be kept: those right behind the instruction that has armed the timer that
//! runs, see [`crate::forgotten::riscv`].
//!
//! No watchpoint finds them: `stimecmp` is no memory, and at `mtimecmp`, a device's, QEMU stops again and again before the
//! write (7.2 under icount). So the instruction that arms a timer is found by single steps behind an interrupt, and has a
//! break from then on. What it has not changed it has not armed.

use std::ops::ControlFlow;

use recorder::log::event::Event;
use recorder::reader::Reader;

use super::Error;
use crate::breaks::{Break, Kind};
use crate::forgotten::riscv::{Timer, Timers};
use crate::machine::{Machine, Stop, Told};
use crate::seek::check;

/// How many steps behind an interrupt are made at the most to see the timer armed.
const STEPS: u32 = 20_000;

/// After how many instructions it is looked again where nothing can be put right.
const LATER: u64 = 1_000_000;

/// The instructions that are known to arm a timer, by address.
#[derive(Debug, Default)]
pub struct Armings(Vec<(Timer, u64)>);

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
            let armed = self.armed(way, timers, timer, limit)?;
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

    /// Runs until `timer` has just been armed; gives back whether it was, before `limit`.
    fn armed(&mut self, way: &mut Way, timers: Timers, timer: Timer, limit: u64) -> Result<bool, Error> {
        let known = self.0.iter().filter(|(of, _)| *of == timer);
        let breaks: Vec<_> = known.map(|&(_, address)| instruction(address)).collect();
        if breaks.is_empty() {
            return self.learnt(way, timers, timer, limit);
        }
        while run_to_break(way, &breaks, limit)? {
            let before = timers.value(way.machine, timer)?;
            way.step()?;
            if timers.value(way.machine, timer)? != before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sees behind interrupts which instruction arms `timer`, and stands behind it then.
    fn learnt(&mut self, way: &mut Way, timers: Timers, timer: Timer, limit: u64) -> Result<bool, Error> {
        while let Some(interrupt) = way.next(|event| *event == Event::Interrupt)?
            && interrupt < limit
        {
            if way.run_to(interrupt)? == Stop::Ended {
                break;
            }
            let mut before = timers.value(way.machine, timer)?;
            for _ in 0..STEPS {
                let address = way.machine.next_address()?;
                way.step()?;
                let now = timers.value(way.machine, timer)?;
                // Where it can't be read it is not written either.
                if before.is_some() && now.is_some() && now != before {
                    self.0.push((timer, address));
                    return Ok(true);
                }
                before = now.or(before);
            }
        }
        Ok(false)
    }
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
        reached = breaks.iter().any(|stop| stop.address == next);
        if reached || way.machine.icount() != begin {
            break;
        }
    }
    way.machine.set(breaks, false)?;
    Ok(reached)
}
