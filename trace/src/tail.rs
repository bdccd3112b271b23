//! What a guest did to memory last, so that a stream can tell the digests at a position that it has passed: two live runs may end
//! an instruction or more apart, and what is compared then is where the first of them ended.
//!
//! Accesses come here together with the blocks that made them, and are not copied: the list that they stand in is kept, and
//! an old one given back for those to come.

use std::collections::VecDeque;

use crate::access::{Access, Accesses, Memory};
use crate::block::Entry;

/// How many batches are kept, of some 5,000 instructions each. A machine with all cores busy stops a guest 20,000 to 250,000 instructions
/// late; more batches would cost more in the processor's caches than running again now and then (128: 4 % of a ride, 24: 1 %).
const BATCHES: usize = 24;

/// A batch with fewer accesses is put to the one before it.
const FEW: usize = 128;

/// Blocks in a row and the accesses that they made.
#[derive(Debug, Default)]
struct Batch {
    /// The position of its first instruction, and the digests there.
    first: u64,
    memory: Memory,
    /// How many instructions each block, or what lies between two, put into the stream; an access says of which it is.
    counts: Vec<u32>,
    /// Up to which position these come.
    end: u64,
    accesses: Vec<Access>,
}

impl Batch {
    /// The digests before the instruction at `position`.
    fn memory_at(&self, position: u64) -> Memory {
        let (mut begin, mut entry) = (self.first, 0);
        let before = self.accesses.iter().take_while(|access| {
            while entry < access.entry() {
                begin += u64::from(self.counts[entry]);
                entry += 1;
            }
            begin + u64::from(access.number()) < position
        });
        let count = before.count();
        let mut memory = self.memory;
        memory.take_in(&self.accesses[..count]);
        memory
    }

    /// A block that put `ran` instructions into the stream, and those that ran wholly behind it, up to `end`.
    #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
    fn extend(&mut self, ran: u32, left: &[Entry], end: u64) {
        self.counts.push(ran);
        self.counts.extend(left.iter().map(|entry| entry.count() as u32));
        self.end = end;
    }
}

/// The last accesses of a stream, with where they were made.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Those in which something was done to memory, oldest first: between two nothing was.
    batches: VecDeque<Batch>,
    /// Whether there were others before.
    lost: bool,
}

impl Tail {
    /// A block that begins at `first`, where the digests are `memory`, has put `ran` instructions into the stream, and those of `left`
    /// behind it all of theirs, up to `end`. What they did to memory is the first `made` of `accesses`, which are forgotten there.
    pub(crate) fn keep(
        &mut self,
        (first, memory): (u64, Memory),
        (ran, left, end): (u32, &[Entry], u64),
        accesses: &mut Accesses,
        made: usize,
    ) {
        if made == 0 {
            return accesses.forget(0);
        }
        if let Some(last) = self.batches.back_mut()
            && made < FEW
            && last.accesses.len().max(last.counts.len()) < Accesses::USUAL
            && let Ok(between) = u32::try_from(first - last.end)
        {
            last.counts.push(between);
            let before = last.counts.len();
            last.accesses.extend(accesses.noted()[..made].iter().map(|access| access.behind(before)));
            last.extend(ran, left, end);
            return accesses.forget(made);
        }
        let mut batch = if self.batches.len() == BATCHES {
            self.lost = true;
            self.batches.pop_front().unwrap_or_default()
        } else {
            Batch::default()
        };
        batch.counts.clear();
        (batch.first, batch.memory) = (first, memory);
        batch.extend(ran, left, end);
        accesses.give(made, &mut batch.accesses);
        self.batches.push_back(batch);
    }

    /// The digests before the instruction at `position`, which the stream has come to; `None` where that is too long ago.
    pub(crate) fn memory_at(&self, position: u64) -> Option<Memory> {
        // Where an instruction made more accesses than one batch has, some stand where the batch behind begins.
        match self.batches.partition_point(|batch| batch.first < position) {
            0 => (!self.lost).then(Memory::default),
            behind => Some(self.batches[behind - 1].memory_at(position)),
        }
    }
}
