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
mod tests {
    use super::*;
    use crate::access::Tag;
    use crate::digest::identity;
    use proptest::prelude::*;

    fn block(table: &mut Table, addresses: &[u64]) -> &'static Block {
        let instructions: Vec<_> =
            addresses.iter().map(|&address| Instruction::new(address, vec![0x90])).collect();
        table.intern(&instructions.iter().collect())
    }

    fn none() -> Accesses {
        Accesses::default()
    }

    fn plain(addresses: &[u64]) -> u64 {
        addresses.iter().fold(0, |digest, &address| append(digest, identity(address, &[0x90])))
    }

    fn expand(window: &Window) -> Vec<u64> {
        window
            .visits
            .iter()
            .flat_map(|v| {
                let range = v.skip as usize..(v.skip + v.ran) as usize;
                window.blocks[v.block as usize][range].iter().map(|i| i.address)
            })
            .collect()
    }

    #[test]
    fn a_fault_in_the_middle_counts_what_started() {
        let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
        let (a, handler) = (block(&mut table, &[1, 2, 3, 4]), block(&mut table, &[100, 101]));
        stream.enter(a, 0, &mut none()).unwrap();
        stream.enter(handler, 3, &mut none()).unwrap();
        stream.finish(2, &mut none()).unwrap();
        assert_eq!(stream.end(), Point { position: 5, digest: plain(&[1, 2, 3, 100, 101]) });
    }

    /// Two vCPUs: `turns` are who executes and the instructions, cut into blocks of at most `cut`.
    fn in_turns(turns: &[(u32, &[u64])], cut: usize) -> (Table, Stream) {
        let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
        for &(vcpu, addresses) in turns {
            stream.is_turn_of(vcpu);
            let mut started = 0;
            for piece in addresses.chunks(cut) {
                stream.enter(block(&mut table, piece), started, &mut none()).unwrap();
                started = piece.len() as u64;
            }
            stream.finish(started, &mut none()).unwrap();
        }
        (table, stream)
    }

    #[test]
    fn whose_turn_it_is_counts_and_a_turn_in_which_nothing_starts_does_not() {
        let (table, stream) = in_turns(&[(0, &[1, 2]), (1, &[3]), (0, &[4, 5])], 2);
        assert_eq!((stream.of_each(), stream.end().position), (vec![4, 1], 5));
        let window = stream.window(&table, 0).unwrap();
        assert_eq!(window.visits.iter().map(|visit| visit.vcpu).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(expand(&window), [1, 2, 3, 4, 5]);
        let end = stream.end().digest;
        assert_eq!(stream.digests(&table, 5, 5), Some(vec![end]), "they are made anew with their turns");
        let of = |turns: &[(u32, &[u64])], cut| in_turns(turns, cut).1.end().digest;
        assert_eq!(of(&[(0, &[1, 2]), (1, &[3]), (0, &[4, 5])], 1), end, "however blocks are cut");
        assert_eq!(of(&[(0, &[1]), (1, &[]), (0, &[2]), (1, &[3]), (0, &[4, 5])], 2), end);
        assert_ne!(of(&[(0, &[1, 2]), (0, &[3]), (0, &[4, 5])], 2), end);
        assert_ne!(of(&[(0, &[1, 2]), (1, &[3, 4]), (0, &[5])], 2), end);
        assert_eq!(of(&[(0, &[1, 2, 3])], 2), plain(&[1, 2, 3]), "one vCPU's is as ever");
    }

    #[test]
    fn an_instruction_that_starts_again_at_once_counts_once() {
        let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
        let (a, again, rest) =
            (block(&mut table, &[1, 2, 3, 4]), block(&mut table, &[2]), block(&mut table, &[3, 4]));
        stream.enter(a, 0, &mut none()).unwrap();
        stream.enter(again, 2, &mut none()).unwrap();
        stream.enter(rest, 1, &mut none()).unwrap();
        stream.finish(2, &mut none()).unwrap();
        assert_eq!(stream.end(), Point { position: 4, digest: plain(&[1, 2, 3, 4]) });
    }

    #[test]
    fn who_knows_that_an_instruction_starts_again_can_say_so() {
        for (first, left_out) in [(&[1, 2, 3][..], true), (&[1, 2], false)] {
            let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
            let (block_of_it, again, rest) =
                (block(&mut table, first), block(&mut table, &[2]), block(&mut table, &[3]));
            stream.enter(block_of_it, 0, &mut none()).unwrap();
            // A watchpoint's second start of the instruction at 2, which as a block's last is in the stream by then.
            stream.enter(again, 2, &mut none()).unwrap();
            assert_eq!(stream.is_again(), !left_out);
            let started = u64::from(left_out);
            stream.enter(rest, started, &mut none()).unwrap();
            stream.finish(1, &mut none()).unwrap();
            assert_eq!(stream.end(), Point { position: 3, digest: plain(&[1, 2, 3]) });
        }
    }

    #[test]
    fn a_blocks_last_instruction_that_starts_again_counts_once() {
        let block_of = |table: &mut Table, bytes: &[&[u8]]| {
            let mut address = 0x1000;
            let instructions = bytes.iter().map(|bytes| {
                address += bytes.len() as u64;
                Instruction::new(address - bytes.len() as u64, bytes.to_vec())
            });
            table.intern(&instructions.collect::<Vec<_>>().iter().collect())
        };
        // A push as last; and a repeated string instruction, which stores in each of its turns that is executed.
        for (code, again, sees, stores, counts) in [
            (&[&[0x90][..], &[0x50]][..], [&[0x50][..]], false, false, 2),
            (&[&[0xf3, 0xa4]], [&[0xf3, 0xa4]], true, false, 1),
            (&[&[0xf3, 0xa4]], [&[0xf3, 0xa4]], true, true, 2),
            (&[&[0xf3, 0xa4]], [&[0xf3, 0xa4]], false, false, 2),
            (&[&[0xeb, 0xfe]], [&[0xeb, 0xfe]], true, false, 2),
        ] {
            let mut table = Table::of("x86_64");
            let stream = Stream::at(Point::START, 2);
            let mut stream = if sees { stream.with_stores() } else { stream };
            let first = block_of(&mut table, code);
            let last = &first.instructions()[code.len() - 1];
            let second =
                table.intern(&[Instruction { bytes: again[0].to_vec(), ..last.clone() }].iter().collect());
            let mut accesses = Accesses::with_room();
            stream.enter(first, 0, &mut accesses).unwrap();
            if stores {
                accesses.push(Access::new(Tag::of(0, 0, true), 0, 0x5000, 0, 1));
            }
            stream.enter(second, first.count().into(), &mut accesses).unwrap();
            stream.finish(1, &mut accesses).unwrap();
            assert_eq!(stream.end().position, counts, "{code:02x?} {sees} {stores}");
        }
    }

    /// How a build starts a repeated string instruction.
    #[derive(Debug, Clone, Copy)]
    enum Starts {
        /// For each turn, and once more.
        OnceMore,
        /// For each turn, at least once, each instruction in a block of its own.
        EachTurn,
        /// For so many turns at a time.
        Turns(u32),
    }

    /// The stream of a program that is so many other instructions, so many turns, and so on, over a chunk's end.
    fn repeating(program: &[(u64, u32)], starts: Starts) -> (Point, Memory, Vec<Full>) {
        let (mut table, mut accesses) = (Table::of("x86_64"), Accesses::with_room());
        let point = Point { position: CHUNK - 30, digest: 7 };
        let mut stream = Stream::at(point, 2).with_stores().of_program();
        let (mut address, mut ran, mut fulls) = (0x1000, 0, Vec::new());
        // Of each turn a load and a store.
        let mut enter = |code: &[Instruction], turns: std::ops::Range<u32>| {
            let block = table.intern(&code.iter().collect());
            fulls.extend(stream.enter(block, ran, &mut accesses).unwrap());
            ran = block.count().into();
            let number = u16::try_from(code.len() - 1).unwrap();
            for (turn, is_store) in turns.flat_map(|turn| [(turn, false), (turn, true)]) {
                let access = Access::new(
                    Tag::of(0, number, is_store),
                    0,
                    code[code.len() - 1].address + u64::from(turn),
                    0,
                    1,
                );
                while !accesses.push(access) {
                    accesses.grow();
                }
            }
        };
        for &(plain, turns) in program {
            let mut code = Vec::new();
            let mut instruction = |bytes: &[u8]| {
                address += bytes.len() as u64;
                Instruction::new(address - bytes.len() as u64, bytes.to_vec())
            };
            code.extend((0..plain).map(|_| instruction(&[0x90])));
            let repeated = instruction(&[0xf3, 0xa4]);
            if let Starts::EachTurn = starts {
                for one in &code {
                    enter(std::slice::from_ref(one), 0..0);
                }
                code.clear();
            }
            code.push(repeated.clone());
            let at_once = if let Starts::Turns(turns) = starts { turns } else { 1 };
            let mut made = 0;
            loop {
                let next = (made + at_once).min(turns);
                enter(&code, made..next);
                code = vec![repeated.clone()];
                let over = made == turns || next == turns && !matches!(starts, Starts::OnceMore);
                made = next;
                if over {
                    break;
                }
            }
        }
        fulls.extend(stream.finish(ran, &mut accesses).unwrap());
        (stream.end(), stream.memory(), fulls)
    }

    proptest! {
        #[test]
        fn a_programs_repeated_string_instruction_counts_once(program in prop::collection::vec((0u64..8, 0u32..20), 8..20), at_once in 2u32..9) {
            let expected = repeating(&program, Starts::OnceMore);
            prop_assert_eq!(&repeating(&program, Starts::EachTurn), &expected);
            prop_assert_eq!(&repeating(&program, Starts::Turns(at_once)), &expected);
            let count: u64 = program.iter().map(|(plain, _)| plain + 1).sum();
            prop_assert_eq!(expected.0.position, CHUNK - 30 + count);
            prop_assert_eq!(expected.2.len(), usize::from(count >= 30));
            prop_assert!(expected.1.stores != 0 || program.iter().all(|&(_, turns)| turns == 0));
        }
    }

    #[test]
    fn what_repeats_is_no_place_to_look_at() {
        let mut table = Table::of("x86_64");
        let mut block_of =
            |bytes: &[u8]| table.intern(&[Instruction::new(0x1000, bytes.to_vec())].iter().collect());
        let (repeated, other) = (block_of(&[0xf3, 0xa4]), block_of(&[0xa4]));
        for (stream, expected) in
            [(Stream::at(Point::START, 2).of_program(), true), (Stream::at(Point::START, 2), false)]
        {
            let mut stream = stream;
            stream.enter(repeated, 0, &mut none()).unwrap();
            assert_eq!(stream.is_between_turns(), expected);
            stream.enter(other, 1, &mut none()).unwrap();
            assert!(!stream.is_between_turns());
        }
    }

    #[test]
    fn stores_that_only_say_what_starts_again_do_not_count() {
        let mut table = Table::of("x86_64");
        let code = [Instruction::new(0x1000, vec![0xf3, 0xa4])];
        let repeated = table.intern(&code.iter().collect());
        let mut stream = Stream::at(Point::START, 2).with_stores().without_memory();
        let mut accesses = Accesses::with_room();
        stream.enter(repeated, 0, &mut accesses).unwrap();
        accesses.push(Access::new(Tag::of(0, 0, true), 0, 0x5000, 0, 1));
        stream.enter(repeated, 1, &mut accesses).unwrap();
        stream.enter(repeated, 1, &mut accesses).unwrap();
        stream.finish(1, &mut accesses).unwrap();
        assert_eq!((stream.end().position, stream.memory()), (2, Memory::default()));
    }

    #[test]
    fn a_loop_of_one_instruction_counts_each_time() {
        let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
        let a = block(&mut table, &[7]);
        stream.enter(a, 0, &mut none()).unwrap();
        stream.enter(a, 1, &mut none()).unwrap();
        stream.enter(a, 1, &mut none()).unwrap();
        stream.finish(1, &mut none()).unwrap();
        assert_eq!(stream.end(), Point { position: 3, digest: plain(&[7, 7, 7]) });
    }

    #[test]
    fn more_starts_than_instructions_is_an_error() {
        let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
        let a = block(&mut table, &[7, 8]);
        stream.enter(a, 0, &mut none()).unwrap();
        assert_eq!(stream.enter(a, 3, &mut none()), Err(Unaccounted { address: 7, count: 2, started: 3 }));
    }

    #[test]
    fn a_stream_that_goes_on_from_a_point_is_the_same_from_there_on() {
        let mut table = Table::of("");
        let (a, b) = (block(&mut table, &[1, 2, 3]), block(&mut table, &[7, 8, 9, 10]));
        let mut whole = Stream::at(Point::START, 2);
        let mut later: Option<Stream> = None;
        let mut fulls = (Vec::new(), Vec::new());
        whole.enter(a, 0, &mut none()).unwrap();
        for turn in 0..CHUNK / 3 {
            let (next, before) = if turn % 2 == 0 { (b, a) } else { (a, b) };
            if turn == 1000 {
                // As a restored machine does: it stands behind a whole block.
                let (point, unfinished) = whole.standing(before.count().into());
                assert_eq!(unfinished, None);
                later = Some(Stream::at(point, 2));
            }
            fulls.0.extend(whole.enter(next, before.count().into(), &mut none()).unwrap());
            if let Some(later) = &mut later {
                let started = if turn == 1000 { 0 } else { before.count().into() };
                fulls.1.extend(later.enter(next, started, &mut none()).unwrap());
            }
        }
        let later = later.unwrap();
        assert_eq!((fulls.0.len(), &fulls.0), (1, &fulls.1));
        assert_eq!(later.end(), whole.end());
        assert!(
            whole.window(&table, 0).is_some() && later.window(&table, 0).is_none(),
            "it has not seen all of it"
        );
        let around = (CHUNK - 5, CHUNK + 5);
        assert_eq!(later.digests(&table, around.0, around.1), whole.digests(&table, around.0, around.1));
        assert_eq!(later.digests(&table, 0, 5), None);
    }

    #[test]
    fn where_it_stands_is_behind_what_has_started() {
        let mut table = Table::of("");
        let a = block(&mut table, &[1, 2, 3]);
        let mut stream = Stream::at(Point::START, 2);
        assert_eq!(stream.standing(0), (Point::START, None));
        stream.enter(a, 0, &mut none()).unwrap();
        assert_eq!(stream.standing(0), (Point::START, None));
        let two = Point { position: 2, digest: plain(&[1, 2]) };
        assert_eq!(stream.standing(2), (two, Some(Instruction::new(2, vec![0x90]))));
        let three = Point { position: 3, digest: plain(&[1, 2, 3]) };
        assert_eq!(stream.standing(3), (three, None));
    }

    /// Of the instructions at these positions every third writes, every fourth reads.
    fn made_at(position: u64, number: u16, entry: usize) -> impl Iterator<Item = Access> {
        let kinds = [(true, 3), (false, 4)].into_iter();
        kinds.filter(move |(_, every)| position.is_multiple_of(*every)).map(move |(is_store, _)| {
            Access::new(Tag::of(0, number, is_store), entry, 8 * position, 3, position)
        })
    }

    /// What they have done before each of these positions, which rise.
    fn done_before(positions: impl Iterator<Item = u64>) -> Vec<(u64, Memory)> {
        let (mut memory, mut done) = (Memory::default(), 0);
        let mut before = |position| {
            for position in done..position {
                memory.take_in(&made_at(position, 0, 0).collect::<Vec<_>>());
            }
            done = position;
            (position, memory)
        };
        positions.map(&mut before).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        /// The same stream, cut in two ways with blocks that end early, over several chunks. All within 1 KiB: beyond, two
        /// instructions of the same bytes can be one to the digest.
        #[test]
        fn any_cutting_gives_the_same_chunks(cuts_a in prop::collection::vec((1usize..64, 0usize..4), 1..50),
                                             cuts_b in prop::collection::vec((1usize..64, 0usize..4), 1..50),
                                             period in 900u64..1024, until in 1..CHUNK * 5 / 2, asked in 1000..CHUNK * 2) {
            let length = (CHUNK * 2 + CHUNK / 2) as usize;
            let address = |position: usize| 0x1000 + position as u64 % period;
            let mut streams = Vec::new();
            for (cuts, batched, until) in [(&cuts_a, false, u64::MAX), (&cuts_b, true, u64::MAX), (&cuts_a, false, until), (&cuts_b, true, until)] {
                let (mut recent, mut whole, mut accesses) = (Vec::new(), false, Accesses::with_room());
                let (mut table, mut stream, mut fulls) = (Table::of(""), Stream::at(Point::START, 2).until(until), Vec::new());
                let (mut position, mut started) = (0usize, 0u64);
                for &(count, lost) in cuts.iter().cycle() {
                    if position >= length { break; }
                    let ran = count.min(length - position);
                    // `lost` instructions behind those that ran belong to the block too.
                    let addresses: Vec<u64> = (position..position + ran).map(address)
                        .chain((0..lost).map(|k| 0xdead_0000 + k as u64)).collect();
                    let entered = block(&mut table, &addresses);
                    // As the probe does: those left at their end are noted, and taken in together.
                    if position > asked as usize / 2 && (position as u64) < asked { stream.note(asked); }
                    if whole && started > 0 && recent.len() < 1024 {
                        recent.push(entered.entry());
                        let (at, running) = stream.ahead(&table, &recent);
                        prop_assert_eq!((at, running.map(Block::id)), (position as u64, Some(entered.id())));
                    } else {
                        fulls.extend(stream.settle(&table, &recent, &mut accesses));
                        recent.clear();
                        fulls.extend(stream.enter(entered, started, &mut accesses).unwrap());
                    }
                    for (number, at) in (0..).zip(position..position + ran) {
                        for access in made_at(at as u64, number, recent.len()) {
                            while !accesses.push(access) {
                                accesses.grow();
                            }
                        }
                    }
                    let noted = recent.iter().rev().skip(1).map(|entry: &Entry| entry.count()).sum::<u64>();
                    let left = if recent.is_empty() { 0 } else { stream.running().map_or(0, |b| b.count().into()) };
                    prop_assert_eq!(stream.end().position + left + noted, position as u64);
                    whole = batched && lost == 0;
                    started = ran as u64;
                    position += ran;
                }
                fulls.extend(stream.settle(&table, &recent, &mut accesses));
                fulls.extend(stream.finish(started, &mut accesses).unwrap());
                streams.push((stream, table, fulls));
            }
            let (a, table_a, fulls_a) = &streams[0];
            let (b, table_b, fulls_b) = &streams[1];
            prop_assert_eq!(fulls_a.len(), 2);
            prop_assert_eq!(fulls_a, fulls_b);
            prop_assert_eq!((a.end(), a.memory()), (b.end(), b.memory()));
            prop_assert_ne!(a.memory().loads, 0);
            prop_assert_eq!(a.end().position, length as u64);
            for index in 0..3 {
                let window_a = expand(&a.window(table_a, index).unwrap());
                prop_assert_eq!(&window_a, &expand(&b.window(table_b, index).unwrap()));
                prop_assert_eq!(window_a[0], address((index * CHUNK) as usize));
            }
            prop_assert!(a.window(table_a, 3).is_none());
            let around = (CHUNK - 100, CHUNK + 100);
            let digests = a.digests(table_a, around.0, around.1).unwrap();
            prop_assert_eq!(&digests, &b.digests(table_b, around.0, around.1).unwrap());
            prop_assert_eq!(digests[100], fulls_a[0].digest);
            prop_assert_eq!(a.digests(table_a, a.end().position, a.end().position), Some(vec![a.end().digest]));
            // What was done last, however that was cut; and nothing else is told than what was.
            let end = a.end().position;
            let ends = |stream: &Stream| (stream.memory_at(end), stream.memory_at(end + 1));
            prop_assert_eq!((ends(a), ends(b)), ((Some(a.memory()), None), (Some(a.memory()), None)));
            for (at, expected) in done_before((0..41).rev().map(|back| end - 997 * back)) {
                for stream in [a, b] {
                    let told = stream.memory_at(at);
                    prop_assert!(told == Some(expected) || told.is_none() && end - at > 4000, "at {}: {:?}", at, told);
                }
            }
            prop_assert_eq!(a.memory_at(1), None);
            prop_assert_eq!((a.memory_at(asked), b.memory_at(asked)), {
                let (_, expected) = done_before(std::iter::once(asked))[0];
                (Some(expected), Some(expected))
            });
            let (_, expected) = done_before(std::iter::once(until))[0];
            for stream in [&streams[2].0, &streams[3].0] {
                prop_assert_eq!((stream.memory(), stream.memory_at(until), stream.memory_at(until + 1)), (expected, Some(expected), Some(expected)));
                prop_assert!(stream.counts_at(until) && !stream.counts_at(until + 1));
                prop_assert_eq!(stream.end(), a.end());
            }
            prop_assert_eq!(&streams[2].2, &streams[3].2, "chunks behind the last that counts are frozen alike");
            prop_assert_eq!(a.digests(table_a, 0, 0), Some(vec![0]));
            prop_assert_eq!(a.digests(table_a, a.end().position, a.end().position + 1), None);
        }
    }
}
