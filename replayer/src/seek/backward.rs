//! Runs back to the last break.
//!
//! Backwards there is nothing of QEMU's that could be relied on: the replay is run again from a checkpoint, its stops are
//! noted, and the last before the moment where it began is gone to. What a stop means is the same both ways, because it
//! is the same stop.
//!
//! - A guest is much slower where memory is watched, and most of what is looked for is near. So only the last [`PART`] of
//!   the way is gone through first, then the eightfold before it, and so on.
//! - Of an instruction that is executed a million times not each stop is noted. After [`ENOUGH`] of them half of what is
//!   left is leapt over; where nothing is behind the leap, what was leapt over is looked at again.
//! - A write that leaves memory as it was is no stop, as gdb has it: gdb would ask for the one before at once, and each
//!   such question begins at a checkpoint. That it does is seen in memory before it and behind it, not in what earlier
//!   writes have left there: devices write as well.

use std::sync::atomic::Ordering;

use super::travel::{Arrival, Place};
use super::{Error, Seeker};
use crate::breaks::{Break, Kind};
use crate::machine;

/// A stop that was seen on the way to a moment.
#[derive(Debug, Clone)]
struct Hit {
    /// Before the instruction that it is about.
    place: Place,
    arrival: Arrival,
    /// Whether the instruction itself has a break, whatever it accesses.
    has_break: bool,
    /// What is in watched memory behind it, where that decides whether it is a stop.
    left: Option<Vec<(Break, Vec<u8>)>>,
}

/// How many stops are noted before a leap.
const ENOUGH: usize = 64;

/// How many instructions before a moment are gone through first, eight times as many next.
const PART: u64 = 100_000;

/// Fewer instructions than these are not leapt over.
const NEAR: u64 = 4096;

impl Seeker<'_> {
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

    fn backward_from(&mut self, start: Place, breaks: &[Break]) -> Result<Arrival, Error> {
        let (mut upper, mut part, mut enough) = (start, PART, ENOUGH);
        // Without a break there is nothing to look for.
        while let (Some(last), [_, ..]) = (upper.position.checked_sub(1), breaks) {
            self.begin_near(upper.icount, last)?;
            let begin = self.plain_before(upper.icount.saturating_sub(part))?;
            self.run_to(begin)?;
            let lower = self.place()?;
            let hits = self.last_hits(upper, breaks, enough)?;
            if let Some(hit) = self.last_stop(&hits)? {
                let is_watch = matches!(hit.arrival, Arrival::Watch { .. });
                let behind = is_watch && self.machine()?.tells_before();
                self.to_position(hit.place.position + u64::from(behind))?;
                return Ok(hit.arrival);
            }
            match hits.first() {
                Some(first) => (upper, enough) = (first.place, enough.saturating_mul(2)),
                None => (upper, part) = (lower, part.saturating_mul(8)),
            }
        }
        self.to_position(0)?;
        Ok(Arrival::Beginning)
    }

    /// `icount`, or the last before it at which QEMU's own stop is one state.
    fn plain_before(&mut self, mut icount: u64) -> Result<u64, Error> {
        while icount > 0 && !self.deliveries(icount)?.is_plain() {
            icount -= 1;
        }
        Ok(icount)
    }

    /// The last of `hits` that is a stop, where there is one.
    fn last_stop<'h>(&mut self, hits: &'h [Hit]) -> Result<Option<&'h Hit>, Error> {
        let Some((last, before)) = hits.split_last() else { return Ok(None) };
        if self.is_stop(last)? {
            return Ok(Some(last));
        }
        let mut stop = None;
        if let Some(first) = before.first() {
            self.begin_near(first.place.icount, first.place.position)?;
        }
        for hit in before {
            if self.is_stop(hit)? {
                stop = Some(hit);
            }
        }
        Ok(stop)
    }

    /// Goes to before `hit` and sees whether memory is another there than behind it.
    fn is_stop(&mut self, hit: &Hit) -> Result<bool, Error> {
        let Some(left) = &hit.left else { return Ok(true) };
        self.to_position(hit.place.position)?;
        let watched: Vec<Break> = left.iter().map(|(watched, _)| *watched).collect();
        Ok(self.watched_memory(&watched)? != *left)
    }

    /// The last stops from where the machine stands up to `upper`, which is not included; where there are any, at least
    /// the last.
    fn last_hits(&mut self, mut upper: Place, breaks: &[Break], enough: usize) -> Result<Vec<Hit>, Error> {
        // Of what is read gdb wants to know in any case.
        let by_value = breaks.iter().all(|stop| matches!(stop.kind, Kind::Write | Kind::Instruction));
        loop {
            let mut hits: Vec<Hit> = Vec::new();
            // Where the last leap began, and where it ended.
            let mut leap: Option<(Place, Place)> = None;
            loop {
                let place = self.place()?;
                if place >= upper {
                    break;
                }
                if self.setting.interrupts.load(Ordering::Relaxed) > 0 {
                    return Err(machine::Error::Interrupted(place.icount).into());
                }
                if let Some(mut hit) = self.next_hit(upper, breaks)? {
                    if by_value && matches!(hit.arrival, Arrival::Watch { .. }) && !hit.has_break {
                        hit.left = Some(self.watched_memory(breaks)?);
                    }
                    hits.push(hit);
                }
                let place = self.place()?;
                let left = upper.icount.saturating_sub(place.icount);
                if let Some(last) = hits.last()
                    && hits.len() >= enough
                    && left >= NEAR
                {
                    let from = last.place;
                    let far = self.plain_before(place.icount + left / 2)?;
                    self.run_to(far)?;
                    leap = Some((from, self.place()?));
                    hits.clear();
                }
            }
            match leap {
                Some((from, behind)) if hits.is_empty() => {
                    // The last is between the two, if it is not the one that was seen.
                    upper = behind;
                    self.begin_near(from.icount, from.position)?;
                    self.to_position(from.position)?;
                }
                _ => return Ok(hits),
            }
        }
    }

    /// Runs to the next stop before `upper` and over its instruction; or to `upper`, or a little beyond.
    fn next_hit(&mut self, upper: Place, breaks: &[Break]) -> Result<Option<Hit>, Error> {
        let mut watched = None;
        if !self.at_break(breaks)? {
            let clear = self.clear_way(breaks, upper.icount)?;
            if clear > self.machine()?.icount() {
                self.run_on(clear, breaks)?;
                watched = self.machine()?.watched();
            }
        }
        let place = self.place()?;
        // Behind the access, as on x86, or before it, as on Arm: then it is still to be made.
        let before = self.machine()?.tells_before();
        let hit = |place: Place, has_break, (kind, address)| {
            let arrival = Arrival::Watch { kind, address };
            (place.position < upper.position).then_some(Hit { place, arrival, has_break, left: None })
        };
        if let (Some(watched), false) = (watched, before) {
            let place = Place { position: place.position - 1, icount: place.icount.saturating_sub(1) };
            return Ok(hit(place, false, watched));
        }
        let has_break = self.at_break(breaks)?;
        if place >= upper {
            return Ok(None);
        }
        let accessed = self.advance(if before { &[] } else { breaks })?;
        let started = self.place()?.position > place.position;
        Ok(match watched.or(accessed) {
            Some(watched) if started => hit(place, has_break, watched),
            // An interrupt was taken in its place.
            _ if !started || !has_break => None,
            _ if place.position >= upper.position => None,
            _ => Some(Hit { place, arrival: Arrival::Break, has_break, left: None }),
        })
    }
}
