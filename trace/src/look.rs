//! What is looked at beside the instructions: samples now and then, and one stretch of the stream closely.
//!
//! Both are taken where a block begins. There a guest's registers are in memory in any case, and to read them changes
//! nothing of what QEMU generates. An entry at which nothing runs yet (an interrupt comes first) is no place that another
//! build need have, so of all entries at one position the last counts.

use std::mem::{replace, take};

use crate::access::{Access, Memory};
use crate::digest::append;
use crate::message::{Accessed, Look, Sample, Step};

/// How many steps are told at once.
const STEPS: usize = 1024;

/// How many instructions before a stretch all blocks are translated anew: QEMU does so when it has left the running one.
const AHEAD: u64 = 4096;

/// All registers, one behind the other; nothing where they are not read.
#[derive(Debug, Default)]
pub struct State {
    pub bytes: Vec<u8>,
    /// Where each ends.
    pub ends: Vec<usize>,
}

impl State {
    /// What stands for them in a sample; `None` where they are not read.
    #[must_use]
    pub fn digest(&self) -> Option<u64> {
        let (words, rest) = self.bytes.as_chunks();
        let digest = words.iter().fold(0, |digest, &word| append(digest, u64::from_le_bytes(word)));
        let digest = rest.iter().fold(digest, |digest, &byte| append(digest, byte.into()));
        (!self.ends.is_empty()).then_some(digest)
    }

    /// Where each begins, and its bytes.
    fn pieces(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, &end)| (begin, &self.bytes[begin..end]))
    }
}

/// A place in the stream.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub position: u64,
    /// Where the instruction lies that comes next, and whose it is.
    pub address: u64,
    pub vcpu: u32,
}

/// What is being looked at.
#[derive(Debug)]
pub struct Looking {
    look: Look,
    /// The position from which on the next sample or step is taken.
    due: u64,
    samples: Vec<Sample>,
    /// What was taken last: it may still be taken again.
    last: Option<Sample>,
    /// The registers' bytes at the last step.
    registers: Vec<u8>,
    steps: Vec<Step>,
    /// The accesses since the last step, and how many of the running block's are among them or before.
    accesses: Vec<Accessed>,
    made: usize,
    /// Whether the stretch that is looked at closely has begun, and whether it has ended.
    begun: bool,
    over: bool,
    /// Where all blocks are to be translated anew, until they are.
    anew: Option<u64>,
}

impl Looking {
    pub fn new(look: Look) -> Self {
        let mut looking = Looking {
            look,
            due: 0,
            samples: Vec::new(),
            last: None,
            registers: Vec::new(),
            steps: Vec::new(),
            accesses: Vec::new(),
            made: 0,
            begun: false,
            over: false,
            anew: None,
        };
        looking.anew = looking
            .look
            .closely
            .filter(|_| looking.look.anew)
            .map(|closely| closely.from.saturating_sub(AHEAD));
        let Look { closely, waits, .. } = looking.look;
        let from_the_start = [closely, waits].into_iter().flatten().any(|stretch| stretch.from == 0);
        looking.due = if from_the_start { 0 } else { looking.next(0) };
        looking
    }

    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Where the next sample or step is due behind `position`.
    fn next(&self, position: u64) -> u64 {
        let spaced = match (self.look.spacing, self.look.waits) {
            (0, _) => u64::MAX,
            (spacing, Some(waits)) if position < waits.from => waits.from.div_ceil(spacing) * spacing,
            (spacing, _) => (position / spacing + 1) * spacing,
        };
        match self.look.closely {
            Some(closely) if position < closely.from => {
                spaced.min(self.anew.filter(|&anew| anew > position).unwrap_or(closely.from))
            }
            Some(closely) if position < closely.to => position + 1,
            _ => spaced,
        }
    }

    fn is_again(&self, position: u64) -> bool {
        self.last.is_some_and(|last| last.position == position)
    }

    /// Whether a block's beginning at `position` is to be looked at.
    pub fn is_due(&self, position: u64) -> bool {
        position >= self.due || self.is_again(position)
    }

    /// How many instructions may be entered, from `position` on, before a block's beginning is to be looked at.
    pub fn room(&self, position: u64) -> u64 {
        if self.is_again(position) { 0 } else { self.due.saturating_sub(position) }
    }

    /// Whether all blocks are to be translated anew, at `position`: once.
    pub fn begins_anew(&mut self, position: u64) -> bool {
        self.anew.take_if(|anew| position >= *anew).is_some()
    }

    /// Whether what was looked at where a block begins at `position` is waited for.
    pub fn waits(&self, position: u64) -> bool {
        self.look.waits.is_some_and(|waits| position >= waits.from && position < waits.to)
    }

    /// Whether the stretch that is looked at closely has begun and not ended.
    pub fn is_close(&self) -> bool {
        self.begun && !self.over
    }

    /// The running block, which begins at `from`, has made these accesses so far; only its instructions before `to` count.
    pub fn made(&mut self, from: u64, to: u64, accesses: &[Access]) {
        if !self.is_close() {
            return;
        }
        let new = accesses.iter().skip(self.made);
        self.made = accesses.len();
        self.accesses.extend(new.filter_map(|access| {
            let position = from + u64::from(access.number());
            (position < to).then_some(Accessed {
                position,
                address: access.address,
                size: access.size(),
                is_store: access.is_store(),
                value: access.value,
            })
        }));
    }

    /// Another block is entered.
    pub fn entered(&mut self) {
        self.made = 0;
    }

    /// A block begins at `position`, which is due, and so much has been written.
    pub fn take(&mut self, place: Place, memory: Memory, state: &State, written: u64) {
        let position = place.position;
        let sample = Sample { position, registers: state.digest(), memory, written };
        if let Some(last) = self.last.replace(sample)
            && last.position != position
            && self.look.spacing > 0
        {
            self.samples.push(last);
        }
        self.due = self.next(position);
        self.step(place, true, state, written);
    }

    /// The instruction at `position` comes next.
    pub fn step(&mut self, place: Place, begins: bool, state: &State, written: u64) {
        let Place { position, address, vcpu } = place;
        let Some(closely) = self.look.closely else { return };
        if self.over || position < closely.from {
            return;
        }
        if !begins && self.steps.last().is_some_and(|last| last.position == position) {
            return;
        }
        self.begun = true;
        let again = self.steps.pop_if(|last| last.position == position);
        let (mut registers, mut accesses) =
            again.map(|step| (step.registers, step.accesses)).unwrap_or_default();
        accesses.append(&mut self.accesses);
        for ((begin, piece), number) in state.pieces().zip(0..) {
            if self.registers.get(begin..begin + piece.len()) != Some(piece) {
                registers.retain(|(before, _)| *before != number);
                registers.push((number, piece.to_vec()));
            }
        }
        self.registers.clone_from(&state.bytes);
        self.steps.push(Step { position, address, vcpu, ends: false, registers, written, accesses });
        self.over = position >= closely.to;
    }

    /// The samples that are not told yet.
    pub fn samples(&mut self) -> Vec<Sample> {
        take(&mut self.samples)
    }

    /// The same where nothing more comes.
    pub fn last_samples(&mut self) -> Vec<Sample> {
        if self.look.spacing > 0 {
            self.samples.extend(self.last.take());
        }
        self.samples()
    }

    /// The steps that are not told yet, where they are many or nothing more comes.
    pub fn steps(&mut self) -> Option<Vec<Step>> {
        if self.steps.is_empty() || (!self.over && self.steps.len() <= STEPS) {
            return None;
        }
        // The last may still be taken again.
        let kept = if self.over { 0 } else { 1 };
        let rest = self.steps.split_off(self.steps.len() - kept);
        Some(replace(&mut self.steps, rest))
    }

    /// The run is over at this place, and so are the steps.
    pub fn end(&mut self, place: Place, written: u64) {
        let Place { position, address, vcpu } = place;
        if self.is_close() {
            let (registers, accesses) = (Vec::new(), take(&mut self.accesses));
            self.steps.push(Step { position, address, vcpu, ends: true, registers, written, accesses });
        }
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    fn at(position: u64, address: u64) -> super::Place {
        super::Place { position, address, vcpu: 0 }
    }

    use crate::access::{Access, Memory, Tag};
    use crate::message::{Look, Stretch};

    use super::{Looking, State};

    fn state(bytes: &[u8]) -> State {
        State { bytes: bytes.to_vec(), ends: (1..=bytes.len()).collect() }
    }

    #[test]
    fn samples_are_taken_at_the_first_block_behind_a_multiple() {
        let mut looking = Looking::new(Look { spacing: 100, ..Look::default() });
        assert!(!looking.is_due(99) && looking.is_due(105));
        assert_eq!((looking.room(0), looking.room(99)), (100, 1));
        looking.take(at(105, 0), Memory::default(), &state(&[1]), 0);
        assert!(!looking.is_due(106) && looking.is_due(200));
        assert!(looking.samples().is_empty(), "the block may be entered again");
        assert!(looking.is_due(105) && looking.room(105) == 0);
        looking.take(at(105, 0), Memory::default(), &state(&[2]), 0);
        looking.take(at(210, 0), Memory::default(), &state(&[2]), 0);
        let samples = looking.samples();
        assert_eq!(samples.iter().map(|sample| sample.position).collect::<Vec<_>>(), [105]);
        let last = looking.last_samples();
        assert_eq!((last.len(), last[0].position, last[0].registers), (1, 210, samples[0].registers));
    }

    #[test]
    fn blocks_are_translated_anew_once_before_the_stretch() {
        let closely = Some(Stretch { from: 10_000, to: 20_000 });
        let mut looking = Looking::new(Look { closely, anew: true, ..Look::default() });
        let due = 10_000 - super::AHEAD;
        assert!(!looking.is_due(due - 1) && looking.is_due(due + 3));
        assert!(
            !looking.begins_anew(due - 1) && looking.begins_anew(due + 3) && !looking.begins_anew(due + 3)
        );
        looking.take(at(due + 3, 0), Memory::default(), &state(&[1]), 0);
        assert!(!looking.is_due(9_999) && looking.is_due(10_000));
        assert_eq!(looking.steps(), None);
    }

    #[test]
    fn before_the_stretch_that_is_waited_in_nothing_is_due() {
        let waits = Some(Stretch { from: 250, to: 400 });
        let looking = Looking::new(Look { spacing: 100, waits, ..Look::default() });
        assert_eq!(looking.room(0), 300);
        assert!(looking.waits(300) && !looking.waits(249) && !looking.waits(400));
        let waits = Some(Stretch { from: 0, to: 400 });
        assert!(Looking::new(Look { spacing: 100, waits, ..Look::default() }).is_due(0));
    }

    #[test]
    fn registers_that_are_not_read_have_no_digest() {
        assert_eq!(State::default().digest(), None);
        assert_ne!(state(&[1, 2]).digest(), state(&[2, 1]).digest());
    }

    #[test]
    fn a_stretch_is_told_block_by_block_with_what_changed() {
        let closely = Some(Stretch { from: 10, to: 20 });
        let mut looking = Looking::new(Look { closely, ..Look::default() });
        assert!(!looking.is_due(9) && looking.is_due(12));
        looking.take(at(12, 0x1000), Memory::default(), &state(&[1, 2]), 0);
        assert!(looking.is_due(13) && looking.is_close());
        let access = |number| Access::new(Tag::of(0, number, true), 0, 0x5000, 3, 7);
        looking.made(12, 13, &[access(0)]);
        looking.step(at(13, 0x1004), false, &state(&[1, 3]), 0);
        // The instruction at 14 started and was left: its access does not count.
        looking.made(12, 14, &[access(0), access(1), access(2)]);
        looking.entered();
        looking.take(at(14, 0x1008), Memory::default(), &state(&[1, 4]), 0);
        looking.entered();
        looking.take(at(14, 0x2000), Memory::default(), &state(&[1, 5]), 0);
        looking.entered();
        looking.take(at(21, 0x1010), Memory::default(), &state(&[1, 5]), 0);
        assert!(!looking.is_close());
        let steps = looking.steps().unwrap();
        let seen: Vec<_> = steps
            .iter()
            .map(|step| (step.position, step.address, step.ends, step.registers.len(), step.accesses.len()))
            .collect();
        assert_eq!(
            seen,
            [
                (12, 0x1000, false, 2, 0),
                (13, 0x1004, false, 1, 1),
                (14, 0x2000, false, 1, 1),
                (21, 0x1010, false, 0, 0)
            ]
        );
        assert_eq!(steps[2].registers, [(1, vec![5])]);
        assert_eq!(looking.steps(), None);
    }

    #[test]
    fn what_the_last_block_did_is_told_where_the_run_ends() {
        let closely = Some(Stretch { from: 10, to: 20 });
        let mut looking = Looking::new(Look { closely, ..Look::default() });
        looking.take(at(12, 0x1000), Memory::default(), &state(&[1]), 0);
        looking.made(12, 14, &[Access::new(Tag::of(0, 1, true), 0, 0x5000, 3, 7)]);
        looking.end(at(14, 0), 5);
        let steps = looking.steps().unwrap();
        let seen: Vec<_> =
            steps.iter().map(|step| (step.position, step.ends, step.written, step.accesses.len())).collect();
        assert_eq!(seen, [(12, false, 0, 0), (14, true, 5, 1)]);
    }
}
