//! What the log has between instructions, interrupts and exceptions, and how a guest is watched across them.
//!
//! An x86 processor writes to memory when it takes one: what it needs to come back. QEMU's watchpoints see that, and give
//! up the delivery half-way (`cpu_check_watchpoint` leaves by a jump out of `do_interrupt_all`, 7.2 and 10.0): the
//! replay then stands still or aborts. So nothing is delivered while a watchpoint is set. Watched memory is read before
//! and behind instead, and what has another value was written. What a delivery reads is not seen.

use std::ops::ControlFlow;

use recorder::log::event::Event;
use recorder::reader::{self, Reader};

use super::{Error, Seeker};
use crate::breaks::{Break, Kind};
use crate::machine::Ends;

/// What the log has at one icount, as far as it decides what the next instruction is: how many interrupts are taken
/// before the first exception there, between it and the second, and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deliveries(Vec<usize>);

/// A part of what the log has, because to find it means to unpack the log.
#[derive(Default)]
pub(super) struct Known {
    /// The icounts for which it is complete: from the first, and before the second.
    from: u64,
    to: u64,
    /// By icount, and whether it is an exception; in the log's order.
    all: Vec<(u64, bool)>,
}

/// How many are kept at a time.
const MANY: usize = 4096;

impl Known {
    /// Those from `icount` on, many or all that there are.
    fn from(recording: &mut Reader, icount: u64) -> Result<Self, reader::Error> {
        let mut known = Known { from: icount, to: u64::MAX, all: Vec::new() };
        recording.events(icount, |at, event| {
            if known.all.len() >= MANY && known.all.last().is_some_and(|&(last, _)| last < at) {
                known.to = at;
                return ControlFlow::Break(());
            }
            match event {
                _ if at < icount => {}
                Event::Interrupt => known.all.push((at, false)),
                Event::Exception => known.all.push((at, true)),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        Ok(known)
    }

    fn has(&self, icount: u64) -> bool {
        (self.from..self.to).contains(&icount)
    }
}

impl Deliveries {
    /// How many interrupts are taken behind so many exceptions.
    pub(super) fn interrupts(&self, exceptions: usize) -> usize {
        self.0.get(exceptions).copied().unwrap_or(0)
    }

    /// Whether there is an exception behind so many others.
    pub(super) fn faults(&self, exceptions: usize) -> bool {
        self.0.len() > exceptions + 1
    }

    /// Whether QEMU's own stop at the icount is one state.
    pub(super) fn is_plain(&self) -> bool {
        self.0 == [0]
    }
}

impl Seeker<'_> {
    /// What the log has, at least at `icount`.
    fn known(&mut self, icount: u64) -> Result<&Known, Error> {
        if !self.known.has(icount) {
            self.known = Known::from(self.recording, icount)?;
        }
        Ok(&self.known)
    }

    /// What the log has at `icount`.
    pub(super) fn deliveries(&mut self, icount: u64) -> Result<Deliveries, Error> {
        let known = self.known(icount)?;
        let mut groups = vec![0];
        let first = known.all.partition_point(|&(at, _)| at < icount);
        for &(_, exception) in known.all[first..].iter().take_while(|&&(at, _)| at == icount) {
            match groups.last_mut() {
                Some(interrupts) if !exception => *interrupts += 1,
                _ => groups.push(0),
            }
        }
        Ok(Deliveries(groups))
    }

    /// Whether the machine must not run over a delivery while `breaks` are set.
    fn is_careful(&mut self, breaks: &[Break]) -> Result<bool, Error> {
        Ok(breaks.iter().any(Break::is_watch) && self.machine()?.delivers_through_memory())
    }

    /// Up to which icount the machine may run on from where it stands with `breaks` set, at most `limit`. Then it stands
    /// there, or an instruction further on; see [`run_on`](Self::run_on).
    pub(super) fn clear_way(&mut self, breaks: &[Break], limit: u64) -> Result<u64, Error> {
        if !self.may_swallow(breaks)? {
            return Ok(limit);
        }
        let icount = self.machine()?.icount();
        let first = if self.is_careful(breaks)? { self.first_delivery(icount, limit)? } else { None };
        // The last instruction before one is a step, which ends right behind it.
        let end = first.map_or(limit, |first| first - 1);
        Ok(end.saturating_sub(1).max(icount))
    }

    /// The icount of the first delivery behind `icount`, at most `limit`; where the next instruction faults, the one
    /// behind `icount`.
    fn first_delivery(&mut self, icount: u64, limit: u64) -> Result<Option<u64>, Error> {
        let mut after = icount + 1;
        if self.deliveries(icount)?.faults(self.faults) {
            return Ok(Some(after));
        }
        let first = loop {
            let known = self.known(after)?;
            let next = known.all.partition_point(|&(at, _)| at < after);
            match known.all.get(next) {
                Some(&(at, _)) => break Some(at),
                None if known.to > limit => break None,
                None => after = known.to,
            }
        };
        Ok(first.filter(|&at| at <= limit))
    }

    /// Goes from a moment to the next one; tells an access to watched memory. Where a processor tells an access before it
    /// is made, or the machine had stopped before an interrupt, it stands there still.
    pub(super) fn advance(&mut self, breaks: &[Break]) -> Result<Option<(Kind, u64)>, Error> {
        let place = self.place()?;
        let careful = self.is_careful(breaks)?;
        let before = if careful { self.watched_memory(breaks)? } else { Vec::new() };
        let here = self.deliveries(place.icount)?;
        let faults = here.faults(self.faults);
        let next = self.deliveries(place.icount + 1)?;
        let ends = if next.is_plain() { Ends::Plainly } else { self.machine()?.next_ends()? };
        let (mut watched, mut now) = (None, place);
        // Behind a step that a watchpoint has ended QEMU stops a second time at once.
        for _ in 0..2 {
            if careful && (faults || ends != Ends::Plainly) {
                self.step()?;
            } else {
                watched = self.step_over(breaks)?;
            }
            now = self.place()?;
            if now != place || watched.is_some() || !here.is_plain() {
                break;
            }
        }
        if now.position == place.position {
            return Ok(watched);
        }
        let deliveries = self.deliveries(now.icount)?.interrupts(self.faults);
        let deliveries = deliveries.saturating_sub(usize::from(ends == Ends::Waiting));
        if now.position != place.position + 1 || !self.take(deliveries)? {
            self.to_position(place.position + 1)?;
        }
        if watched.is_some() || !careful {
            return Ok(watched);
        }
        let behind = self.watched_memory(breaks)?;
        let changed = before.iter().zip(behind).find(|((_, before), (_, behind))| before != behind);
        Ok(changed.map(|((stop, _), _)| (stop.kind, stop.address)))
    }

    /// What memory holds where a write is waited for.
    pub(super) fn watched_memory(&mut self, breaks: &[Break]) -> Result<Vec<(Break, Vec<u8>)>, Error> {
        let machine = self.machine()?;
        let mut all = Vec::new();
        for stop in breaks.iter().filter(|stop| matches!(stop.kind, Kind::Write | Kind::Access)) {
            all.push((*stop, machine.ask(&format!("m{:x},{:x}", stop.address, stop.length))?));
        }
        Ok(all)
    }
}
