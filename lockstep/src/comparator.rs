//! Compares two streams by what their probes say, and says what to do next. Knows nothing of processes: its
//! inputs are messages and its outputs instructions to the rider, so all of it can be tested without QEMU.

use std::collections::VecDeque;

use serde::Serialize;
use trace::access::Memory;
use trace::digest::append;
use trace::message::{CHUNK, Call, Sample};

use crate::calls::Calls;

/// Chunks that each probe remembers.
pub const KEPT: u32 = 18;

/// Chunks that the faster side may run ahead of what has been compared. The probe keeps the diverging one and the
/// one before it while it runs ahead.
pub const AHEAD: u64 = KEPT as u64 - 2;

/// Chunks that one side may go on for after the other has ended: the time between a guest's shutdown and QEMU's
/// end is not the same from run to run.
const AFTER_END: u64 = 64;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    A,
    B,
}

impl Side {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::A => "A",
            Side::B => "B",
        })
    }
}

/// Two of something, one a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pair<T> {
    pub a: T,
    pub b: T,
}

impl<T> Pair<T> {
    pub fn of(mut make: impl FnMut(Side) -> T) -> Self {
        Pair { a: make(Side::A), b: make(Side::B) }
    }

    pub fn get(&self, side: Side) -> &T {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    pub fn get_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }
}

/// What the rider has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Grant credit up to the end of so many chunks.
    Credit(Side, u64),
    /// Ask for the digests at a position.
    Ask(Side, u64),
    /// The instructions are equal up to where one side ended, and what they did to memory there the other no longer knew. That has
    /// to be compared in another run, in which no more than these many of a recording's instructions count.
    Again { until: u64 },
    /// The streams part.
    Parted(Parted),
    /// The streams are equal up to this position, and both have ended.
    Same { position: u64 },
    /// The streams are equal as far as both go, but this side ended and the other ran on.
    Ended { side: Side, at: u64 },
}

/// Where two streams part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parted {
    /// The chunk in which something differs.
    pub chunk: u64,
    /// Up to here nothing does that is looked at, and from there on something does.
    pub after: u64,
    pub before: u64,
    /// Whether the instructions differ, and not only what they did.
    pub flow: bool,
}

/// The samples between which two streams part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Samples {
    /// The last that is equal.
    pub alike: Sample,
    pub unequal: Pair<Sample>,
}

/// A probe that breaks the order of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the probe of side {side} said chunk {said} where chunk {expected} was due")]
pub struct OutOfTurn {
    side: Side,
    said: u64,
    expected: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// Chunks that it has filled.
    filled: u64,
    /// Digests that wait for the other side's.
    waiting: VecDeque<(u64, Memory)>,
    /// The same for samples.
    samples: VecDeque<Sample>,
    /// Where it ended.
    end: Option<End>,
    /// Whether it was asked for its digests where the other one ended, and whether they were the same.
    asked: bool,
    answered: bool,
}

/// Where a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub position: u64,
    /// How many of a recording's instructions these are.
    pub recorded: u64,
    pub digest: u64,
    pub memory: Memory,
}

/// The state of a comparison.
#[derive(Debug, Default)]
pub struct Comparator {
    streams: Pair<Stream>,
    /// Chunks found equal.
    equal: u64,
    /// How many of a recording's instructions both have to come to.
    least: u64,
    /// Whether what was done to memory before the shorter one's end was no longer known.
    forgotten: bool,
    /// The position of the last sample that is equal.
    sampled: u64,
    /// That sample, and those that are not.
    alike: Option<Sample>,
    unequal: Option<Pair<Sample>>,
    /// Whether the guests are user programs, which end at one and the same instruction.
    is_program: bool,
    /// A user program's system calls.
    calls: Calls,
    /// The first calls that are unlike, and not only in what they came to.
    unlike: Option<Pair<Call>>,
    /// What was seen where they part: the same again where a run is the same again.
    seen: Pair<u64>,
    decided: bool,
}

impl Comparator {
    /// Both sides have to come to `least` instructions of a recording (0 where there is none). Behind them what the probes tell of is
    /// the instructions alone.
    #[must_use]
    pub fn new(least: u64) -> Self {
        Comparator { least, ..Comparator::default() }
    }

    /// The same for user programs of QEMU's target `target`, whose system calls count too.
    #[must_use]
    pub fn of_programs(target: &str) -> Self {
        Comparator { calls: Calls::of(target), is_program: true, ..Comparator::default() }
    }

    /// The system calls compared so far.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The calls by which they part, where they do so by calls.
    #[must_use]
    pub fn unlike(&self) -> Option<Pair<Call>> {
        self.unlike
    }

    /// What was seen on each side where they part.
    #[must_use]
    pub fn seen(&self) -> Pair<u64> {
        self.seen
    }

    /// The last sample that is equal, and the first ones that are not, where they part by samples.
    #[must_use]
    pub fn samples(&self) -> Option<Samples> {
        Some(Samples { alike: self.alike?, unequal: self.unequal? })
    }

    fn see(&mut self, a: &[u64], b: &[u64]) {
        let seen = |words: &[u64]| words.iter().fold(0, |digest, &word| append(digest, word));
        self.seen = Pair { a: seen(a), b: seen(b) };
    }

    /// `side` has made these system calls.
    fn called(&mut self, side: Side, calls: Vec<Call>) -> Option<Parted> {
        let Pair { a, b } = self.calls.take(side, calls)?;
        self.unlike = Some(Pair { a, b });
        let words = |call: &Call| {
            [
                call.position,
                call.number.cast_unsigned(),
                call.arguments.iter().fold(0, |all, &one| append(all, one)),
            ]
        };
        self.see(&words(&a), &words(&b));
        let before = a.position.min(b.position);
        let after = self.sampled.max(self.equal * CHUNK).max(self.calls.alike).min(before.saturating_sub(1));
        let flow = (a.position, a.number) != (b.position, b.number);
        Some(Parted { chunk: before.saturating_sub(1) / CHUNK, after, before, flow })
    }

    /// The credit to start with.
    #[must_use]
    pub fn first_credit() -> u64 {
        AHEAD
    }

    /// Chunks found equal so far.
    #[must_use]
    pub fn equal(&self) -> u64 {
        self.equal
    }

    /// Chunks that a side has filled.
    #[must_use]
    pub fn filled(&self, side: Side) -> u64 {
        self.streams.get(side).filled
    }

    /// Where a side has ended.
    #[must_use]
    pub fn ended_at(&self, side: Side) -> Option<u64> {
        self.streams.get(side).end.map(|end| end.position)
    }

    fn decide(&mut self, order: Order) -> Vec<Order> {
        self.decided = true;
        vec![order]
    }

    /// `side` has taken samples.
    fn sampled(&mut self, side: Side, samples: Vec<Sample>) -> Option<Parted> {
        self.streams.get_mut(side).samples.extend(samples);
        let Pair { a, b } = &mut self.streams;
        while let (Some(&ours), Some(&theirs)) = (a.samples.front(), b.samples.front()) {
            // Where blocks are cut differently one side has samples that the other has not.
            if ours.position <= theirs.position {
                a.samples.pop_front();
            }
            if theirs.position <= ours.position {
                b.samples.pop_front();
            }
            let at = ours.position;
            if at != theirs.position {
                continue;
            }
            // When a device passes on what it was given is no matter of the builds'.
            if (ours.registers, ours.memory) != (theirs.registers, theirs.memory) {
                let words = |sample: Sample| {
                    let Memory { stores, loads } = sample.memory;
                    [sample.position, sample.registers.unwrap_or(0), stores, loads]
                };
                self.see(&words(ours), &words(theirs));
                self.unequal = Some(Pair { a: ours, b: theirs });
                let after = self.sampled.max(self.equal * CHUNK);
                return Some(Parted { chunk: at / CHUNK, after, before: at, flow: false });
            }
            self.sampled = at;
            self.alike = Some(ours);
        }
        None
    }

    /// The nearest difference that samples or calls show.
    fn shown(&mut self, side: Side, samples: Vec<Sample>, calls: Vec<Call>) -> Option<Parted> {
        let sampled = self.sampled(side, samples);
        let seen = self.seen;
        let called = self.called(side, calls);
        if let (Some(sampled), Some(called)) = (sampled, called)
            && sampled.before <= called.before
        {
            self.seen = seen;
            return Some(sampled);
        }
        called.or(sampled)
    }

    /// Whether both have ended, and not with the same instructions.
    fn flow_differs(&self) -> bool {
        let ends = (self.streams.a.end, self.streams.b.end);
        matches!(ends, (Some(a), Some(b)) if (a.position, a.digest) != (b.position, b.digest))
    }

    /// The instructions of a chunk differ, or what they did to memory.
    fn parted(&self, chunk: u64, flow: bool) -> Parted {
        let after = self.sampled.max(chunk * CHUNK).min((chunk + 1) * CHUNK);
        Parted { chunk, after, before: (chunk + 1) * CHUNK, flow }
    }

    /// `side` has filled a chunk.
    ///
    /// # Errors
    /// Where that is not the next one.
    pub fn chunk(
        &mut self,
        side: Side,
        index: u64,
        digests: (u64, Memory),
        (samples, calls): (Vec<Sample>, Vec<Call>),
    ) -> Result<Vec<Order>, OutOfTurn> {
        let stream = self.streams.get_mut(side);
        if index != stream.filled {
            return Err(OutOfTurn { side, said: index, expected: stream.filled });
        }
        stream.filled += 1;
        stream.waiting.push_back(digests);
        if self.decided {
            return Ok(Vec::new());
        }
        let sampled = self.shown(side, samples, calls);
        let before = self.equal;
        while let (Some(a), Some(b)) = (self.streams.a.waiting.front(), self.streams.b.waiting.front()) {
            if a != b {
                let parted = self.parted(self.equal, a.0 != b.0);
                let words = |(digest, memory): (u64, Memory)| [digest, memory.stores, memory.loads];
                let (a, b) = (words(*a), words(*b));
                // What a sample or a call shows is nearer, unless the instructions differ before.
                let nearer = sampled.filter(|sampled| sampled.before <= parted.before);
                if nearer.is_none() {
                    self.see(&a, &b);
                }
                return Ok(self.decide(Order::Parted(
                    nearer.map_or(parted, |nearer| Parted { flow: parted.flow, ..nearer }),
                )));
            }
            self.streams.a.waiting.pop_front();
            self.streams.b.waiting.pop_front();
            self.equal += 1;
        }
        if let Some(parted) = sampled {
            return Ok(self.decide(Order::Parted(parted)));
        }
        if self.streams.get(side.other()).end.is_some() {
            return Ok(self.after_end());
        }
        if self.equal == before {
            return Ok(Vec::new());
        }
        let credit = self.equal + AHEAD;
        Ok(vec![Order::Credit(Side::A, credit), Order::Credit(Side::B, credit)])
    }

    /// `side` has ended.
    pub fn ended(&mut self, side: Side, end: End, (samples, calls): (Vec<Sample>, Vec<Call>)) -> Vec<Order> {
        self.streams.get_mut(side).end = Some(end);
        if self.decided {
            return Vec::new();
        }
        match self.shown(side, samples, calls) {
            // Where it is the chunk that neither has filled, the instructions may differ before.
            Some(parted) => {
                let flow = parted.flow || self.flow_differs();
                self.decide(Order::Parted(Parted { flow, ..parted }))
            }
            None => self.after_end(),
        }
    }

    /// At least one side has ended: compare where the shorter one did.
    fn after_end(&mut self) -> Vec<Order> {
        let Some((side, end)) = self.shorter() else { return Vec::new() };
        let (other, at) = (side.other(), end.position);
        let longer = self.streams.get(other);
        match longer.end {
            Some(theirs) if theirs.position == at => self.at_end(side, (theirs.digest, Some(theirs.memory))),
            _ if longer.answered => self.alike(side, end),
            Some(_) if longer.asked => Vec::new(),
            None if longer.asked => vec![Order::Credit(other, longer.filled + AHEAD)],
            end => {
                let credit = end.is_none().then_some(Order::Credit(other, longer.filled + AHEAD));
                self.streams.get_mut(other).asked = true;
                // Asked before it comes there, it knows what it has to note.
                std::iter::once(Order::Ask(other, at)).chain(credit).collect()
            }
        }
    }

    /// Whether `side` has ended before the other one, which it so can't be asked about.
    #[must_use]
    pub fn is_shorter(&self, side: Side) -> bool {
        self.shorter().is_some_and(|(shorter, end)| {
            shorter == side
                && self.streams.get(side.other()).end.is_some_and(|other| end.position < other.position)
        })
    }

    /// The side that has ended first, as far as is known, and where.
    fn shorter(&self) -> Option<(Side, End)> {
        let Pair { a, b } = Pair::of(|side| self.streams.get(side).end.map(|end| (side, end)));
        match (a, b) {
            (Some(a), Some(b)) if b.1.position < a.1.position => Some(b),
            (a, b) => a.or(b),
        }
    }

    /// `side` has answered [`Order::Ask`]: the digests there, that of memory where it still knows it.
    pub fn answered(&mut self, side: Side, digests: (u64, Option<Memory>)) -> Vec<Order> {
        if self.decided { Vec::new() } else { self.at_end(side.other(), digests) }
    }

    /// Where `side` has ended, the other one's digests are these.
    fn at_end(&mut self, side: Side, (digest, memory): (u64, Option<Memory>)) -> Vec<Order> {
        let Some(end) = self.streams.get(side).end else { return Vec::new() };
        let at = end.position;
        if digest != end.digest || memory.is_some_and(|memory| memory != end.memory) {
            let words = |digest, Memory { stores, loads }| [at, digest, stores, loads];
            let ours = words(end.digest, end.memory);
            let theirs = words(digest, memory.unwrap_or_default());
            match side {
                Side::A => self.see(&ours, &theirs),
                Side::B => self.see(&theirs, &ours),
            }
            let Parted { chunk, after, flow, .. } = self.parted(at / CHUNK, digest != end.digest);
            let before = if flow { (chunk + 1) * CHUNK } else { at };
            return self.decide(Order::Parted(Parted { chunk, after, before, flow }));
        }
        self.forgotten = memory.is_none();
        self.equal = self.equal.max(at / CHUNK);
        self.streams.get_mut(side.other()).answered = true;
        self.alike(side, end)
    }

    /// Where `side` has ended both are equal.
    fn alike(&mut self, side: Side, end: End) -> Vec<Order> {
        let (at, other) = (end.position, self.streams.get(side.other()));
        let goes_on = match other.end {
            Some(theirs) => theirs.position > at,
            // It may be about to end there.
            None => other.filled * CHUNK > at,
        };
        match other.end {
            _ if goes_on && self.is_program && self.forgotten => {
                self.decide(Order::Again { until: end.recorded })
            }
            _ if goes_on && self.is_program => self.ended_early(at),
            Some(_) => self.both_equal(),
            None => vec![Order::Credit(side.other(), other.filled + AHEAD)],
        }
    }

    /// A program has ended at `at`, and the other goes on from there.
    fn ended_early(&mut self, at: u64) -> Vec<Order> {
        let after = self.sampled.max(self.calls.alike).min(at.saturating_sub(1)).max(at / CHUNK * CHUNK);
        self.see(&[at], &[at]);
        self.decide(Order::Parted(Parted { chunk: at / CHUNK, after, before: at, flow: true }))
    }

    /// Both have ended, and are equal up to the shorter one's end.
    fn both_equal(&mut self) -> Vec<Order> {
        let Some((side, End { position: at, recorded, .. })) = self.shorter() else { return Vec::new() };
        let Some(longer) = self.streams.get(side.other()).end else { return Vec::new() };
        let order = if recorded < self.least || longer.position - at > AFTER_END * CHUNK {
            Order::Ended { side, at }
        } else if self.forgotten {
            Order::Again { until: recorded }
        } else {
            Order::Same { position: at }
        };
        self.decide(order)
    }

    /// Which side ended, and where, if the other has run on for longer than any end takes.
    #[must_use]
    pub fn left_behind(&self) -> Option<(Side, u64)> {
        [Side::A, Side::B].into_iter().find_map(|side| {
            let at = self.streams.get(side).end?.position;
            let other = self.streams.get(side.other());
            (other.end.is_none() && other.answered && other.filled > at / CHUNK + AFTER_END)
                .then_some((side, at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests of control flow alone.
    fn only(digest: u64) -> (u64, Memory) {
        (digest, Memory::default())
    }

    /// An end of control flow alone.
    fn end(position: u64, digest: u64) -> End {
        End { position, recorded: position, digest, memory: Memory::default() }
    }

    /// The instructions of a chunk differ.
    fn parted(chunk: u64) -> Parted {
        Parted { chunk, after: chunk * CHUNK, before: (chunk + 1) * CHUNK, flow: true }
    }

    fn sample(position: u64, registers: u64) -> Sample {
        Sample { position, registers: Some(registers), memory: Memory::default(), written: 0 }
    }

    #[test]
    fn samples_are_compared_where_both_sides_have_one() {
        let mut comparator = Comparator::new(0);
        let a = vec![sample(100, 1), sample(200, 2), sample(300, 3)];
        let b = vec![sample(100, 1), sample(205, 9), sample(300, 4)];
        assert_eq!(comparator.chunk(Side::A, 0, only(7), (a, Vec::new())), Ok(vec![]));
        let parted = Parted { chunk: 0, after: 100, before: 300, flow: false };
        assert_eq!(comparator.chunk(Side::B, 0, only(7), (b, Vec::new())), Ok(vec![Order::Parted(parted)]));
    }

    #[test]
    fn what_was_stored_parts_them_too() {
        let mut comparator = Comparator::new(0);
        comparator.chunk(Side::A, 0, only(7), (Vec::new(), Vec::new())).unwrap();
        let other = (7, Memory { stores: 1, loads: 0 });
        let parted = Parted { flow: false, ..parted(0) };
        assert_eq!(
            comparator.chunk(Side::B, 0, other, (Vec::new(), Vec::new())),
            Ok(vec![Order::Parted(parted)])
        );
    }

    #[test]
    fn who_was_asked_while_it_ran_may_end_later() {
        let mut comparator = Comparator::new(0);
        comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new()));
        comparator.chunk(Side::B, 0, only(1), (Vec::new(), Vec::new())).unwrap();
        let credit = vec![Order::Credit(Side::B, 1 + AHEAD)];
        assert_eq!(comparator.answered(Side::B, (5, Some(Memory::default()))), credit);
        let orders = comparator.ended(Side::B, end(CHUNK + 7, 9), (Vec::new(), Vec::new()));
        assert_eq!(orders, vec![Order::Same { position: 100 }]);
    }

    #[test]
    fn what_was_done_to_memory_before_the_shorter_end_counts() {
        let stored = |position, stores| End { memory: Memory { stores, loads: 0 }, ..end(position, 5) };
        let values = Parted { chunk: 0, after: 40, before: 100, flow: false };
        for (memory, orders) in [
            (Some(Memory { stores: 3, loads: 0 }), vec![Order::Same { position: 100 }]),
            (Some(Memory { stores: 4, loads: 0 }), vec![Order::Parted(values)]),
            (None, vec![Order::Again { until: 101 }]),
        ] {
            let mut comparator = Comparator::new(0);
            comparator.ended(Side::B, stored(120, 9), (vec![sample(40, 1)], Vec::new()));
            let first = End { recorded: 101, ..stored(100, 3) };
            assert_eq!(
                comparator.ended(Side::A, first, (vec![sample(40, 1)], Vec::new())),
                vec![Order::Ask(Side::B, 100)]
            );
            assert_eq!(comparator.answered(Side::B, (5, memory)), orders);
        }
    }

    #[test]
    fn what_a_recording_has_twice_counts_towards_its_end() {
        let mut comparator = Comparator::new(105);
        let early = End { recorded: 104, ..end(100, 5) };
        comparator.ended(Side::A, early, (Vec::new(), Vec::new()));
        let orders = comparator.ended(Side::B, early, (Vec::new(), Vec::new()));
        assert_eq!(orders, vec![Order::Ended { side: Side::A, at: 100 }]);
        let mut comparator = Comparator::new(105);
        let whole = End { recorded: 105, ..end(100, 5) };
        comparator.ended(Side::A, whole, (Vec::new(), Vec::new()));
        let orders = comparator.ended(Side::B, whole, (Vec::new(), Vec::new()));
        assert_eq!(orders, vec![Order::Same { position: 100 }]);
    }

    #[test]
    fn equal_chunks_give_both_credit() {
        let mut comparator = Comparator::new(0);
        assert_eq!(comparator.chunk(Side::A, 0, only(7), (Vec::new(), Vec::new())), Ok(vec![]));
        assert_eq!(comparator.chunk(Side::A, 1, only(8), (Vec::new(), Vec::new())), Ok(vec![]));
        let credit = |n| vec![Order::Credit(Side::A, n), Order::Credit(Side::B, n)];
        assert_eq!(comparator.chunk(Side::B, 0, only(7), (Vec::new(), Vec::new())), Ok(credit(1 + AHEAD)));
        assert_eq!(comparator.chunk(Side::B, 1, only(8), (Vec::new(), Vec::new())), Ok(credit(2 + AHEAD)));
    }

    #[test]
    fn the_first_unequal_chunk_decides() {
        let mut comparator = Comparator::new(0);
        comparator.chunk(Side::A, 0, only(7), (Vec::new(), Vec::new())).unwrap();
        comparator.chunk(Side::B, 0, only(7), (Vec::new(), Vec::new())).unwrap();
        comparator.chunk(Side::B, 1, only(9), (Vec::new(), Vec::new())).unwrap();
        comparator.chunk(Side::B, 2, only(10), (Vec::new(), Vec::new())).unwrap();
        assert_eq!(
            comparator.chunk(Side::A, 1, only(8), (Vec::new(), Vec::new())),
            Ok(vec![Order::Parted(parted(1))])
        );
        assert_eq!(comparator.chunk(Side::A, 2, only(0), (Vec::new(), Vec::new())), Ok(vec![]));
    }

    #[test]
    fn a_chunk_left_out_is_never_equal() {
        let mut comparator = Comparator::new(0);
        assert!(comparator.chunk(Side::A, 1, only(7), (Vec::new(), Vec::new())).is_err());
    }

    #[test]
    fn two_ends_are_compared_at_the_shorter() {
        let mut comparator = Comparator::new(0);
        assert_eq!(
            comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new())),
            vec![Order::Ask(Side::B, 100), Order::Credit(Side::B, AHEAD)]
        );
        assert_eq!(comparator.ended(Side::B, end(120, 6), (Vec::new(), Vec::new())), vec![]);
        assert_eq!(
            comparator.answered(Side::B, (5, Some(Memory::default()))),
            vec![Order::Same { position: 100 }]
        );
    }

    #[test]
    fn a_program_that_answers_may_end_right_there() {
        for (position, digest, early) in [(100, 5, false), (101, 6, true)] {
            let mut comparator = Comparator::of_programs("x86_64");
            comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new()));
            let credit = vec![Order::Credit(Side::B, AHEAD)];
            assert_eq!(comparator.answered(Side::B, (5, Some(Memory::default()))), credit);
            let orders = comparator.ended(Side::B, end(position, digest), (Vec::new(), Vec::new()));
            let parted = Parted { chunk: 0, after: 0, before: 100, flow: true };
            let expected = if early { Order::Parted(parted) } else { Order::Same { position: 100 } };
            assert_eq!(orders, vec![expected]);
        }
    }

    #[test]
    fn who_is_asked_and_ends_before_is_the_shorter() {
        let mut comparator = Comparator::new(0);
        comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new()));
        let orders = comparator.ended(Side::B, end(80, 4), (Vec::new(), Vec::new()));
        assert_eq!((orders, comparator.is_shorter(Side::B)), (vec![Order::Ask(Side::A, 80)], true));
        let orders = comparator.answered(Side::A, (4, Some(Memory::default())));
        assert_eq!(orders, vec![Order::Same { position: 80 }]);
    }

    #[test]
    fn unequal_where_the_shorter_ended_is_parted() {
        let mut comparator = Comparator::new(0);
        comparator.ended(Side::B, end(100, 5), (Vec::new(), Vec::new()));
        assert_eq!(comparator.ended(Side::A, end(120, 6), (Vec::new(), Vec::new())), vec![]);
        assert_eq!(
            comparator.answered(Side::A, (4, Some(Memory::default()))),
            vec![Order::Parted(parted(0))]
        );
        let mut comparator = Comparator::new(0);
        comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new()));
        assert_eq!(
            comparator.ended(Side::B, end(100, 6), (Vec::new(), Vec::new())),
            vec![Order::Parted(parted(0))]
        );
    }

    #[test]
    fn a_side_that_runs_on_is_asked_and_then_left() {
        let mut comparator = Comparator::new(0);
        comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new()));
        let credit = vec![Order::Credit(Side::B, 1 + AHEAD)];
        assert_eq!(comparator.chunk(Side::B, 0, only(1), (Vec::new(), Vec::new())), Ok(credit));
        assert_eq!(
            comparator.answered(Side::B, (5, Some(Memory::default()))),
            vec![Order::Credit(Side::B, 1 + AHEAD)]
        );
        for index in 1..AFTER_END {
            assert_eq!(comparator.left_behind(), None);
            comparator.chunk(Side::B, index, only(index), (Vec::new(), Vec::new())).unwrap();
        }
        assert_eq!(comparator.left_behind(), None);
        comparator.chunk(Side::B, AFTER_END, only(0), (Vec::new(), Vec::new())).unwrap();
        assert_eq!(comparator.left_behind(), Some((Side::A, 100)));
    }

    #[test]
    fn a_recordings_end_has_to_be_reached() {
        let mut comparator = Comparator::new(150);
        comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new()));
        assert_eq!(
            comparator.ended(Side::B, end(100, 5), (Vec::new(), Vec::new())),
            vec![Order::Ended { side: Side::A, at: 100 }]
        );
        let mut comparator = Comparator::new(90);
        comparator.ended(Side::A, end(100, 5), (Vec::new(), Vec::new()));
        assert_eq!(
            comparator.ended(Side::B, end(100, 5), (Vec::new(), Vec::new())),
            vec![Order::Same { position: 100 }]
        );
    }

    #[test]
    fn programs_part_where_one_ends_or_calls_another() {
        let call = |position, first| Call {
            position,
            number: 3,
            arguments: [first, 0, 0, 0, 0, 0],
            result: Some(0),
            filled: 0,
        };
        let mut comparator = Comparator::of_programs("x86_64");
        comparator.ended(Side::A, end(100, 5), (Vec::new(), vec![call(60, 1)]));
        let orders = comparator.ended(Side::B, end(100, 5), (Vec::new(), vec![call(60, 2)]));
        assert_eq!(orders, vec![Order::Parted(Parted { chunk: 0, after: 0, before: 60, flow: false })]);
        assert!(comparator.unlike().is_some());

        let mut comparator = Comparator::of_programs("x86_64");
        comparator.ended(Side::A, end(100, 5), (Vec::new(), vec![call(60, 1)]));
        let orders = comparator.ended(Side::B, end(120, 6), (Vec::new(), vec![call(60, 1)]));
        assert_eq!(orders, vec![]);
        let parted = Parted { chunk: 0, after: 60, before: 100, flow: true };
        assert_eq!(comparator.answered(Side::B, (5, Some(Memory::default()))), vec![Order::Parted(parted)]);
    }
}
