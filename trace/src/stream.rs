//! From block entries to the exact instruction stream, chunk by chunk.
//!
//! The probe says that a block was entered and how many instructions have started since the entry before. Two
//! rules make the stream exact whatever way QEMU cuts it:
//! 1. A block may end early (a fault in the middle): only the instructions that started count.
//! 2. An instruction may start twice: a store that changes its own block's code, or I/O in the middle of a
//!    block, makes QEMU abandon the block and start again at that very instruction. So where fewer started
//!    than the block has, and the next block starts at the last one started, that one counts once. Where all of the block
//!    started and the next starts at its last, [`crate::again`] knows whether that can be.
//!
//! Of a user program there is a third, because no count of QEMU's own has to be met: how often QEMU starts a repeated string
//! instruction is its own affair (once a turn and once more at its end, or not; or once for 65,536 turns:
//! `gen_repz` and `do_gen_rep` in target/i386/tcg/translate.c, 7.2 and 10.0), so starts in a row count once, with what all of
//! them did.
//!
//! Several vCPUs that take turns make one stream, in the order in which they execute. Where another one executes than before,
//! its number goes into the digest; a turn in which nothing starts leaves nothing. An instruction that starts again does so in the
//! same turn: QEMU takes no interrupt before (`CF_NOIRQ` in accel/tcg/cpu-exec.c), so at a turn's end all that has started counts.
//!
//! A position is the number of instructions before a point of the stream. An instruction that faults is in the
//! stream each time it starts, so positions run ahead of QEMU's own icount by one for each such fault.

use std::collections::VecDeque;

use crate::access::{Access, Accesses, Memory};
use crate::again::Successor;
use crate::block::{Block, Entry, Instruction, Table};
use crate::digest::{Step, append};
use crate::message::{CHUNK, MOST_DIGESTS, Point, Visit, Window};
use crate::tail::Tail;

/// Marks an entry whose number of instructions follows in the next word.
const PARTIAL: u32 = 1 << 31;

/// Marks the number of the vCPU that executes the entries behind.
const TURN: u32 = 1 << 30;

/// What stands for a vCPU in the digest where its turn begins.
fn turn_of(vcpu: u32) -> u64 {
    u64::from(vcpu).wrapping_add(1).wrapping_mul(0xa076_1d64_78bd_642f)
}

/// The last chunk or so of block entries: what digests can be asked for and expanded.
#[derive(Debug, Default)]
struct Chunk {
    /// Position and digest where it starts.
    first: u64,
    digest: u64,
    /// Instructions of the first entry that belong to the chunk before.
    skip: u32,
    /// Whose they are, up to the first turn.
    vcpu: u32,
    /// Block numbers; with [`PARTIAL`] set, the next word says how many instructions ran.
    entries: Vec<u32>,
}

impl Chunk {
    fn push(&mut self, block: u32, count: u32, ran: u32) {
        let words = if ran == count { &[block][..] } else { &[block | PARTIAL, ran] };
        self.entries.extend_from_slice(words);
    }

    /// Its entries, expanded. The last may reach into the next chunk.
    fn visits<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'static Block, Visit)> + 'a {
        let (mut skip, mut vcpu) = (self.skip, self.vcpu);
        let mut words = self.entries.iter().copied();
        std::iter::from_fn(move || {
            let mut word = words.next()?;
            while word & (PARTIAL | TURN) == TURN {
                vcpu = word & !TURN;
                word = words.next()?;
            }
            let block = table.get(word & !PARTIAL);
            let ran = if word & PARTIAL == 0 { block.count() } else { words.next()? };
            let visit = Visit { vcpu, block: block.id(), skip, ran: ran - skip };
            skip = 0;
            Some((block, visit))
        })
    }
}

/// A full chunk: its index from 0 and the digests of the whole stream up to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    pub index: u64,
    pub digest: u64,
    pub memory: Memory,
}

/// More instructions started than the block entered last has: the build does not say every entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{started} instructions started in the block at {address:#x}, which has {count}")]
pub struct Unaccounted {
    pub address: u64,
    pub count: u32,
    pub started: u64,
}

/// Of the accesses of one block those that its first `count` instructions made.
fn of_first(accesses: &[Access], count: u32) -> &[Access] {
    &accesses[..accesses.partition_point(|access| access.number() < count)]
}

/// Adds to what is counted of a vCPU.
fn add(counts: &mut Vec<u64>, vcpu: u32, count: u64) {
    let place = vcpu as usize;
    if counts.len() <= place {
        counts.resize(place + 1, 0);
    }
    counts[place] += count;
}

/// Where the chunk that `position` is in ends.
fn chunk_end(position: u64) -> u64 {
    (position / CHUNK + 1) * CHUNK
}

/// The stream of one vCPU.
#[derive(Debug)]
pub struct Stream {
    running: Option<&'static Block>,
    position: u64,
    digest: u64,
    memory: Memory,
    /// What was done to memory last.
    tail: Tail,
    /// Behind the first so many instructions of a recording what is done to memory does not count; and the digests there.
    until: u64,
    last: Option<(u64, Memory)>,
    /// A position whose digests will be asked for, and those.
    asked: Option<u64>,
    noted: Option<Memory>,
    /// How many instructions were left out that a recording, which is told nothing of stores, has twice.
    twice: u64,
    /// The position at which an instruction was left out last, because it started again at once.
    left_out: Option<u64>,
    /// Where the current chunk ends.
    boundary: u64,
    current: Chunk,
    /// The chunks before, oldest first, and how many at the most.
    kept: VecDeque<Chunk>,
    keeps: usize,
    /// Whether what is written to memory counts, and whether at least that is told of which [`crate::again`] has to know.
    counts_stores: bool,
    sees_stores: bool,
    /// Whether a repeated string instruction counts once, however often it starts in a row.
    repeats_once: bool,
    /// The position up to which, and without, instructions made the accesses of the block that was left last.
    made: u64,
    /// Whose turn it is; who executed last, since which position; and how much each did in the turns before.
    vcpu: u32,
    executing: u32,
    since: u64,
    executed: Vec<u64>,
}

impl Stream {
    /// A stream that goes on from `point` and remembers `keeps` whole chunks.
    #[must_use]
    pub fn at(point: Point, keeps: usize) -> Self {
        let Point { position, digest } = point;
        Stream {
            running: None,
            position,
            digest,
            memory: Memory::default(),
            tail: Tail::default(),
            until: u64::MAX,
            last: None,
            asked: None,
            noted: None,
            twice: 0,
            left_out: None,
            boundary: chunk_end(position),
            current: Chunk { first: position, digest, ..Chunk::default() },
            kept: VecDeque::new(),
            keeps,
            counts_stores: true,
            sees_stores: false,
            repeats_once: false,
            made: position,
            vcpu: 0,
            executing: 0,
            since: position,
            executed: Vec::new(),
        }
    }

    /// The same where it is given at least what is written to memory by instructions of which [`crate::again`] has to know.
    #[must_use]
    pub fn with_stores(self) -> Self {
        Stream { sees_stores: true, ..self }
    }

    /// The same where nothing that is written to memory counts.
    #[must_use]
    pub fn without_memory(self) -> Self {
        Stream { counts_stores: false, ..self }
    }

    /// The same where only the first so many instructions of a recording count with what they do to memory.
    #[must_use]
    pub fn until(self, until: u64) -> Self {
        Stream { until, ..self }
    }

    /// The same of a user program.
    #[must_use]
    pub fn of_program(self) -> Self {
        Stream { repeats_once: true, ..self }
    }

    /// What is entered from now on is executed by this vCPU. The turn before has to be finished.
    pub fn is_turn_of(&mut self, vcpu: u32) {
        self.vcpu = vcpu;
    }

    /// Whose turn it is.
    #[must_use]
    pub fn vcpu(&self) -> u32 {
        self.vcpu
    }

    /// How many instructions each vCPU has executed.
    #[must_use]
    pub fn of_each(&self) -> Vec<u64> {
        let mut each = self.executed.clone();
        add(&mut each, self.executing, self.position - self.since);
        each
    }

    /// An instruction of another vCPU's comes next.
    #[cold]
    fn turns(&mut self) {
        add(&mut self.executed, self.executing, self.position - self.since);
        (self.executing, self.since) = (self.vcpu, self.position);
        self.digest = append(self.digest, turn_of(self.vcpu));
        self.current.entries.push(TURN | self.vcpu);
    }

    /// Instructions that are in the stream for certain, and their digest.
    #[must_use]
    pub fn end(&self) -> Point {
        Point { position: self.position, digest: self.digest }
    }

    /// Digests of what the instructions that are in the stream for certain did to memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.counted(self.last.map_or(self.memory, |(_, memory)| memory))
    }

    /// The digests of memory before the instruction at `position`, which has not come yet, will be asked for.
    pub fn note(&mut self, position: u64) {
        self.asked = Some(position);
    }

    /// The same before the instruction at `position`; `None` where that is too long ago or has not come yet.
    #[must_use]
    pub fn memory_at(&self, position: u64) -> Option<Memory> {
        let last = self.last.filter(|(last, _)| position >= *last).map(|(_, memory)| memory);
        let noted = self.noted.filter(|_| self.asked == Some(position));
        let memory = last.or(noted).or_else(|| self.tail.memory_at(position));
        memory.filter(|_| position <= self.position).map(|memory| self.counted(memory))
    }

    fn counted(&self, memory: Memory) -> Memory {
        if self.counts_stores { memory } else { Memory { stores: 0, ..memory } }
    }

    /// How many instructions of a recording these are.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.position + self.twice
    }

    /// Whether what all is like at `position` counts.
    #[must_use]
    pub fn counts_at(&self, position: u64) -> bool {
        self.last.is_none_or(|(last, _)| position <= last)
    }

    /// Blocks were left, and may have been the last that count.
    fn left(&mut self, full: Option<Full>) -> Option<Full> {
        if self.recorded() >= self.until && self.last.is_none() {
            let last = self.until - self.twice;
            self.last = self.tail.memory_at(last).map(|memory| (last, memory));
        }
        if let (Some(asked), None) = (self.asked, self.noted)
            && self.position >= asked
        {
            self.noted = self.tail.memory_at(asked);
        }
        full.map(|full| Full {
            memory: if self.counts_at((full.index + 1) * CHUNK) { full.memory } else { self.memory() },
            ..full
        })
    }

    /// Up to which position, and without it, instructions made the accesses of the block that was left last.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Whether the running block begins with an instruction that starts again and again in ways of QEMU's own, so that what
    /// all is like there is no matter of the guest's.
    #[must_use]
    pub fn is_between_turns(&self) -> bool {
        self.repeats_once && self.running.is_some_and(Block::begins_repeated)
    }

    /// Takes in the blocks entered since the last entry, each left at its end but the last, which runs, and the accesses of
    /// those that are left. They have fewer instructions than a chunk.
    pub fn settle(&mut self, table: &Table, recent: &[Entry], accesses: &mut Accesses) -> Option<Full> {
        let (last, left) = recent.split_last()?;
        let first = (self.position, self.memory);
        let ran = self.running.map_or(0, Block::count);
        let of_running = accesses.before(1);
        let of_left = &accesses.before(recent.len())[of_running.len()..];
        let mut full = self.running.and_then(|running| self.take_in(running, running.count(), of_running));
        let count = left.iter().map(|entry| entry.count()).sum::<u64>();
        if self.position + count < self.boundary {
            self.current.entries.extend(left.iter().map(|entry| entry.block()));
            self.position += count;
            self.digest = table.after(self.digest, left);
            self.memory.take_in(of_left);
        } else {
            let mut rest = of_left;
            for (entry, number) in left.iter().zip(1..) {
                let (own, behind) = rest.split_at(rest.partition_point(|access| access.entry() <= number));
                let block = table.get(entry.block());
                full = self.take_in(block, block.count(), own).or(full);
                rest = behind;
            }
        }
        let made = of_running.len() + of_left.len();
        self.tail.keep(first, (ran, left, self.position), accesses, made);
        self.running = Some(table.get(last.block()));
        self.left(full)
    }

    /// The block that runs.
    #[must_use]
    pub fn running(&self) -> Option<&'static Block> {
        self.running
    }

    /// What [`settle`](Self::settle) of `recent` would come to, with nothing changed and no memory asked for: the position
    /// at the last entry, and the block that runs.
    #[must_use]
    pub fn ahead(&self, table: &Table, recent: &[Entry]) -> (u64, Option<&'static Block>) {
        let Some((last, left)) = recent.split_last() else { return (self.position, self.running) };
        let before = self.running.map_or(0, |running| u64::from(running.count()));
        let left: u64 = left.iter().map(|entry| entry.count()).sum();
        (self.position + before + left, Some(table.get(last.block())))
    }

    /// Behind the last instruction that has started, `started` of them since the last entry; and that one where it is not
    /// its block's last.
    #[must_use]
    pub fn standing(&self, started: u64) -> (Point, Option<Instruction>) {
        let identities = self.running.map(Block::identities).unwrap_or_default();
        let ran = usize::try_from(started).unwrap_or(usize::MAX).min(identities.len());
        let point = Point {
            position: self.position + ran as u64,
            digest: Step::over(&identities[..ran]).after(self.digest),
        };
        let last = self.running.filter(|block| ran > 0 && ran < block.identities().len());
        let unfinished = last.and_then(|block| block.instructions().into_iter().nth(ran - 1));
        (point, unfinished)
    }

    /// Whether the running block begins with an instruction that is in the stream already: it had started as the last of
    /// the block before, where [`enter`](Self::enter) can't know that it starts again.
    #[must_use]
    pub fn is_again(&self) -> bool {
        self.left_out != Some(self.position)
    }

    /// `block` is entered; `started` instructions have started since the entry before, and made these accesses.
    ///
    /// # Errors
    /// Where the entry before does not account for `started`.
    pub fn enter(
        &mut self,
        block: &'static Block,
        started: u64,
        accesses: &mut Accesses,
    ) -> Result<Option<Full>, Unaccounted> {
        let Some(before) = self.running.replace(block) else { return Ok(None) };
        self.leave(before, started, block.identities().first().copied(), accesses)
    }

    /// The run is over; `started` instructions have started since the last entry, and made these accesses.
    ///
    /// # Errors
    /// Where the last entry does not account for `started`.
    pub fn finish(&mut self, started: u64, accesses: &mut Accesses) -> Result<Option<Full>, Unaccounted> {
        match self.running.take() {
            Some(before) => self.leave(before, started, None, accesses),
            None => Ok(None),
        }
    }

    fn leave(
        &mut self,
        block: &'static Block,
        started: u64,
        next: Option<u64>,
        accesses: &mut Accesses,
    ) -> Result<Option<Full>, Unaccounted> {
        let identities = block.identities();
        let mut ran = match u32::try_from(started) {
            Ok(ran) if ran <= block.count() => ran,
            _ => {
                let address = block.begin();
                return Err(Unaccounted { address, count: block.count(), started });
            }
        };
        let mut made = ran;
        if ran > 0 && next == Some(identities[ran as usize - 1]) {
            if ran < block.count() || self.starts_again(block, accesses) {
                if ran == block.count() && block.successor() == Successor::ItselfHavingStored {
                    self.twice += 1;
                }
                (ran, made) = (ran - 1, ran - 1);
                self.left_out = Some(self.position + u64::from(ran));
            } else if self.repeats_once && block.ends_repeated() {
                ran -= 1;
            }
        }
        self.made = self.position + u64::from(made);
        let first = (self.position, self.memory);
        let of_it = of_first(accesses.noted(), made);
        let full = if ran == 0 {
            self.memory.take_in(of_it);
            None
        } else {
            self.take_in(block, ran, of_it)
        };
        let made = of_it.len();
        accesses.truncate(made);
        self.tail.keep(first, (ran, &[], self.position), accesses, made);
        Ok(self.left(full))
    }

    /// Whether the last instruction of `block`, which is entered once more, had not been executed.
    fn starts_again(&self, block: &Block, accesses: &Accesses) -> bool {
        let last = block.count() - 1;
        let stored = || accesses.noted().iter().any(|access| access.is_store() && access.number() == last);
        match block.successor() {
            Successor::Other => true,
            Successor::ItselfHavingStored => self.sees_stores && !stored(),
            Successor::Itself => false,
        }
    }

    /// Appends the first `ran` instructions of `block`, and the accesses that they made.
    fn take_in(&mut self, block: &'static Block, ran: u32, accesses: &[Access]) -> Option<Full> {
        let identities = block.identities();
        let end = self.position + u64::from(ran);
        let mut full = None;
        let (mut rest, mut made) = (&identities[..ran as usize], accesses);
        if self.vcpu != self.executing {
            self.turns();
        }
        self.current.push(block.id(), block.count(), ran);
        if end >= self.boundary {
            let (inside, after) =
                rest.split_at(usize::try_from(self.boundary - self.position).unwrap_or(usize::MAX));
            self.digest = Step::over(inside).after(self.digest);
            let before = of_first(made, ran - u32::try_from(after.len()).unwrap_or(ran));
            self.memory.take_in(before);
            made = &made[before.len()..];
            full =
                Some(Full { index: self.boundary / CHUNK - 1, digest: self.digest, memory: self.memory() });
            self.turn();
            if !after.is_empty() {
                self.current.push(block.id(), block.count(), ran);
                self.current.skip = ran - u32::try_from(after.len()).unwrap_or(ran);
            }
            rest = after;
        }
        self.digest = Step::over(rest).after(self.digest);
        self.memory.take_in(made);
        self.position = end;
        full
    }

    /// Starts the next chunk at the boundary, with the entries' memory of the oldest one.
    fn turn(&mut self) {
        let full = std::mem::take(&mut self.current);
        self.kept.push_back(full);
        let oldest = if self.kept.len() > self.keeps { self.kept.pop_front() } else { None };
        let mut entries = oldest.map(|chunk| chunk.entries).unwrap_or_default();
        entries.clear();
        self.current =
            Chunk { first: self.boundary, digest: self.digest, skip: 0, vcpu: self.executing, entries };
        self.boundary += CHUNK;
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.kept.iter().chain(std::iter::once(&self.current))
    }

    /// The digests at each position from `from` to `to`, both included; `None` where one of them is forgotten
    /// or has not come yet, or they are more than [`MOST_DIGESTS`].
    #[must_use]
    pub fn digests(&self, table: &Table, from: u64, to: u64) -> Option<Vec<u64>> {
        if from > to || to > self.position || to - from >= MOST_DIGESTS {
            return None;
        }
        let mut found = Vec::new();
        for chunk in self.chunks() {
            let (mut position, mut digest) = (chunk.first, chunk.digest);
            // A chunk's last entry may reach over its end: the next chunk starts there.
            let end = chunk_end(chunk.first).min(self.position);
            if from <= position && position <= to && found.is_empty() {
                found.push(digest);
            }
            if chunk.first > to || end < from {
                continue;
            }
            let mut vcpu = chunk.vcpu;
            for (block, visit) in chunk.visits(table) {
                if visit.vcpu != vcpu {
                    vcpu = visit.vcpu;
                    digest = append(digest, turn_of(vcpu));
                }
                let ran = visit.skip as usize..(visit.skip + visit.ran) as usize;
                for &identity in &block.identities()[ran] {
                    if position == end {
                        break;
                    }
                    digest = append(digest, identity);
                    position += 1;
                    if from <= position && position <= to {
                        found.push(digest);
                    }
                }
            }
        }
        (found.len() as u64 == to - from + 1).then_some(found)
    }

    /// The instructions of chunk `index`, as far as they have run; `None` where it is forgotten or has not begun.
    #[must_use]
    pub fn window(&self, table: &Table, index: u64) -> Option<Window> {
        let chunk = self.chunks().find(|chunk| chunk.first == index * CHUNK)?;
        let mut window = Window { first: chunk.first, ..Window::default() };
        let mut named = std::collections::HashMap::new();
        let end = chunk_end(chunk.first).min(self.position);
        let mut left = u32::try_from(end - chunk.first).unwrap_or(u32::MAX);
        for (block, mut visit) in chunk.visits(table) {
            visit.ran = visit.ran.min(left);
            left -= visit.ran;
            visit.block = *named.entry(block.id()).or_insert_with(|| {
                window.blocks.push(table.instructions(block));
                u32::try_from(window.blocks.len() - 1).unwrap_or(u32::MAX)
            });
            window.visits.push(visit);
        }
        Some(window)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "64-bit hosts only")]
mod tests;
