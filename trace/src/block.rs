//! A translated block as the probe keeps it, and the table of all of them.
//!
//! QEMU translates the same code again and again (after a flush, a write to its page, for one I/O
//! instruction). The table interns: equal code gets the block that is already there, so its size follows the
//! guest's distinct code and not the length of the run. Blocks are never freed, because code that QEMU has
//! already generated carries their numbers.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use serde::{Deserialize, Serialize};

use crate::again::{Successor, is_repeated, successor};
use crate::digest::{PAGE, Step, after_four, after_one, identity};
use crate::quiet::{is_quiet, is_relative_jump};

/// One guest instruction of a block: its address, of those of its page the one through which it was translated, its bytes, and
/// what QEMU's own disassembler makes of it: nothing where it was not asked, or the build has none for this guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    pub address: u64,
    pub bytes: Vec<u8>,
    pub text: String,
}

impl Instruction {
    /// One without a text.
    #[must_use]
    pub fn new(address: u64, bytes: Vec<u8>) -> Self {
        Instruction { address, bytes, text: String::new() }
    }

    /// What stands for it in the digest.
    #[must_use]
    pub fn identity(&self) -> u64 {
        identity(self.address, &self.bytes)
    }
}

/// The instructions of a block, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Code {
    addresses: Vec<u64>,
    bytes: Vec<u8>,
    sizes: Vec<u8>,
}

impl Code {
    /// Takes all instructions out.
    pub fn clear(&mut self) {
        self.addresses.clear();
        self.bytes.clear();
        self.sizes.clear();
    }

    /// Appends the instruction at `address`, of at most `size` bytes (targets have up to 15). `fill` writes them, and says
    /// how many they are.
    pub fn push(&mut self, address: u64, size: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let begin = self.bytes.len();
        self.bytes.resize(begin + size, 0);
        let filled = fill(&mut self.bytes[begin..]).min(size).min(u8::MAX.into());
        self.bytes.truncate(begin + filled);
        self.addresses.push(address);
        self.sizes.push(u8::try_from(filled).unwrap_or(u8::MAX));
    }

    /// The addresses of the instructions, in order; see [`Instruction`].
    #[must_use]
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// Address and bytes of each instruction, in order.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = &self.bytes[..];
        self.addresses.iter().zip(&self.sizes).map(move |(&address, &size)| {
            let (bytes, after) = rest.split_at(size.into());
            rest = after;
            (address, bytes)
        })
    }
}

impl<'a> FromIterator<&'a Instruction> for Code {
    fn from_iter<I: IntoIterator<Item = &'a Instruction>>(instructions: I) -> Self {
        let mut code = Code::default();
        for Instruction { address, bytes, .. } in instructions {
            code.push(*address, bytes.len(), |place| {
                place.copy_from_slice(bytes);
                bytes.len()
            });
        }
        code
    }
}

/// A block's number, and how many marks and instructions it has: one word, as it goes into generated code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// Of what [`packed`](Self::packed) gave.
    #[inline]
    #[must_use]
    pub const fn unpacked(word: u64) -> Self {
        Entry(word)
    }

    /// As one word.
    #[inline]
    #[must_use]
    pub fn packed(self) -> u64 {
        self.0
    }

    /// The block's number.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub fn block(self) -> u32 {
        self.0 as u32
    }

    /// How many marks it has.
    #[inline]
    #[must_use]
    pub fn marks(self) -> u64 {
        self.0 >> 48
    }

    /// How many instructions it has.
    #[inline]
    #[must_use]
    pub fn count(self) -> u64 {
        self.0 >> 32 & 0xffff
    }
}

/// A translated block: its instructions, and what stands for each of them. A guest has a hundred thousand and more, so it
/// is packed.
#[derive(Debug)]
pub struct Block {
    id: u32,
    count: u32,
    /// Where the first instruction lies.
    begin: u64,
    /// The addresses of all where one does not begin at the end of the one before, which no target is known to have.
    scattered: Box<[u64]>,
    /// The sizes of the instructions in bytes, and behind them their bytes.
    code: Box<[u8]>,
    identities: Box<[u64]>,
    marks: Box<[u16]>,
    successor: Successor,
}

impl Block {
    fn new(id: u32, code: &Code, marks: Vec<u16>, successor: Successor) -> Self {
        let Code { addresses, bytes, sizes } = code;
        let ends = addresses.iter().zip(sizes).map(|(address, &size)| address.wrapping_add(size.into()));
        let follows = ends.zip(addresses.iter().skip(1)).all(|(end, &next)| end == next);
        Block {
            id,
            count: u32::try_from(addresses.len()).expect("QEMU's blocks have at most 512 instructions"),
            begin: addresses.first().copied().unwrap_or_default(),
            scattered: if follows { Box::default() } else { addresses.as_slice().into() },
            code: [&sizes[..], bytes].concat().into(),
            identities: code.pieces().map(|(address, bytes)| identity(address, bytes)).collect(),
            marks: marks.into(),
            successor,
        }
    }

    /// Whether its instructions are these.
    fn is(&self, code: &Code) -> bool {
        self.identities.len() == code.addresses.len() && self.pieces().eq(code.pieces())
    }

    /// Address and bytes of each instruction, in order.
    fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let (sizes, mut rest) = self.code.split_at(self.identities.len());
        let mut next = self.begin;
        sizes.iter().enumerate().map(move |(number, &size)| {
            let (bytes, after) = rest.split_at(size.into());
            rest = after;
            let address = self.scattered.get(number).copied().unwrap_or(next);
            next = address.wrapping_add(size.into());
            (address, bytes)
        })
    }

    /// What goes into generated code of it.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry((self.marks.len() as u64) << 48 | u64::from(self.count) << 32 | u64::from(self.id))
    }

    /// Its number in the table.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How many instructions it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The address of its first instruction; see [`Instruction`].
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// What stands for each of its instructions in the digest.
    #[must_use]
    pub fn identities(&self) -> &[u64] {
        &self.identities
    }

    /// The instructions, from 1 and rising, of which the start is counted: enough to know how far the block has run
    /// wherever it is left.
    #[must_use]
    pub fn marks(&self) -> &[u16] {
        &self.marks
    }

    /// How many instructions have started where it was entered and `passed` of its marks have; more than it has where it
    /// has fewer marks.
    #[must_use]
    pub fn started(&self, passed: u64) -> u32 {
        match usize::try_from(passed) {
            Ok(passed) if passed < self.marks.len() => u32::from(self.marks[passed]) - 1,
            Ok(passed) if passed == self.marks.len() => self.count,
            _ => u32::MAX,
        }
    }

    /// How its last instruction can be followed by itself.
    #[must_use]
    pub fn successor(&self) -> Successor {
        self.successor
    }

    /// Whether an x86's block begins with a repeated string instruction, and whether it ends with one.
    #[must_use]
    pub fn begins_repeated(&self) -> bool {
        self.pieces().next().is_some_and(|(_, bytes)| is_repeated(bytes))
    }

    #[must_use]
    pub fn ends_repeated(&self) -> bool {
        self.pieces().last().is_some_and(|(_, bytes)| is_repeated(bytes))
    }

    /// Its instructions, in order.
    #[must_use]
    pub fn instructions(&self) -> Vec<Instruction> {
        self.pieces().map(|(address, bytes)| Instruction::new(address, bytes.to_vec())).collect()
    }
}

/// The marks of an x86's block: where the one before may be left, this one's start shows that it was not.
fn marks(code: &Code) -> Vec<u16> {
    // Where an instruction reaches into the next page, QEMU 7.2 may name it here and leave it to the next block
    // (target/i386/tcg/translate.c, advance_pc), without the bytes that are there.
    const LONGEST: u64 = 15;
    let last = code.addresses.len();
    let to_page_end = |address: u64| PAGE - address % PAGE;
    let mut quiet = true;
    let mut marks = Vec::new();
    for (number, (address, bytes)) in (1..).zip(code.pieces()) {
        if !quiet || (usize::from(number) == last && number > 1 && to_page_end(address) < LONGEST) {
            marks.push(number);
        }
        quiet = is_quiet(bytes);
    }
    marks
}

/// Every block that a build has translated, by number and by content.
#[derive(Debug)]
pub struct Table {
    /// Whether the guest is an x86.
    x86: bool,
    /// Whether each instruction is marked.
    each: bool,
    blocks: Vec<&'static Block>,
    /// The digest of each block by itself, side by side for those who go through many.
    digests: Vec<u64>,
    /// The block with this hash that came last, and for each block the one before it with the same hash.
    by_content: HashMap<u64, u32>,
    before: Vec<Option<u32>>,
    hasher: RandomState,
    /// What QEMU's disassembler makes of blocks, where it is asked: a line for each instruction.
    texts: HashMap<u32, Box<str>>,
}

impl Table {
    /// An empty one of a guest of the architecture that QEMU calls `target`.
    #[must_use]
    pub fn of(target: &str) -> Self {
        Table {
            x86: ["x86_64", "i386"].contains(&target),
            each: false,
            blocks: Vec::new(),
            digests: Vec::new(),
            by_content: HashMap::new(),
            before: Vec::new(),
            hasher: RandomState::new(),
            texts: HashMap::new(),
        }
    }

    /// The same with each instruction marked.
    #[must_use]
    pub fn with_each(self) -> Self {
        Table { each: true, ..self }
    }

    /// The block with these instructions: the one already there, or a new one.
    pub fn intern(&mut self, code: &Code) -> &'static Block {
        let hash = self.hasher.hash_one(code);
        let newest = self.by_content.get(&hash).copied();
        let mut same = newest;
        while let Some(id) = same {
            let block = self.blocks[id as usize];
            if block.is(code) {
                return block;
            }
            same = self.before[id as usize];
        }
        let id = u32::try_from(self.blocks.len()).expect("fewer than 2^32 distinct blocks");
        let count = u16::try_from(code.addresses.len()).expect("QEMU's blocks have at most 512 instructions");
        let marks = if self.x86 && !self.each { marks(code) } else { (1..=count).collect() };
        let last = code.pieces().last().map_or(Successor::Itself, |(_, bytes)| {
            if self.x86 { successor(bytes) } else { Successor::Itself }
        });
        let block: &'static Block = Box::leak(Box::new(Block::new(id, code, marks, last)));
        self.blocks.push(block);
        self.digests.push(Step::over(&block.identities).after(0));
        self.before.push(newest);
        self.by_content.insert(hash, id);
        block
    }

    /// Whether the guest is an x86.
    #[must_use]
    pub fn is_x86(&self) -> bool {
        self.x86
    }

    /// Whether an instruction of the guest's may access memory. QEMU before 8.0 goes on to tell what an instruction accesses
    /// behind it, where that leaves its block and was not made of generated code alone (`plugin_gen_disable_mem_helpers` in
    /// accel/tcg/plugin-gen.c): the frame of an interrupt, for a jump whose condition took a helper.
    #[must_use]
    pub fn may_access(&self, bytes: &[u8]) -> bool {
        !(self.x86 && (is_quiet(bytes) || is_relative_jump(bytes)))
    }

    /// The block with number `id`.
    #[must_use]
    pub fn get(&self, id: u32) -> &'static Block {
        self.blocks[id as usize]
    }

    /// Whether the texts of this block's instructions are there.
    #[must_use]
    pub fn has_texts(&self, block: &Block) -> bool {
        self.texts.contains_key(&block.id)
    }

    /// Keeps the texts of a block's instructions, in order.
    pub fn keep_texts(&mut self, block: &Block, texts: impl Iterator<Item = String>) {
        // A line each, where QEMU's alignment is worth nothing.
        let line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
        self.texts.insert(block.id, texts.map(line).collect::<String>().into());
    }

    /// A block's instructions, with their texts where these are there.
    #[must_use]
    pub fn instructions(&self, block: &Block) -> Vec<Instruction> {
        let mut instructions = block.instructions();
        let texts = self.texts.get(&block.id).map(|texts| texts.lines()).into_iter().flatten();
        for (instruction, text) in instructions.iter_mut().zip(texts) {
            text.clone_into(&mut instruction.text);
        }
        instructions
    }

    /// The digest of a stream with digest `digest`, after all instructions of these blocks.
    #[must_use]
    pub fn after(&self, mut digest: u64, entries: &[Entry]) -> u64 {
        let alone = |entry: Entry| self.digests[entry.block() as usize];
        // Four at a time: one by one each would wait for the digest of the one before.
        let (fours, rest) = entries.as_chunks();
        for four in fours {
            digest = after_four(digest, four.map(alone), four.map(Entry::count));
        }
        rest.iter().fold(digest, |digest, &entry| after_one(digest, alone(entry), entry.count()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Entry, Instruction, Table};

    fn code(instructions: &[(u64, &[u8])]) -> Code {
        let owned = instructions.iter().map(|&(address, bytes)| Instruction::new(address, bytes.to_vec()));
        owned.collect::<Vec<_>>().iter().collect()
    }

    #[test]
    fn equal_code_is_one_block_and_comes_back_as_it_was() {
        let mut table = Table::of("riscv64");
        let plain = code(&[(0x1000, &[0x90]), (0x1001, &[0x48, 0x90])]);
        let scattered = code(&[(0x1000, &[0x90]), (0x1002, &[0x48, 0x90])]);
        let (a, b) = (table.intern(&plain), table.intern(&scattered));
        assert_eq!((a.id(), b.id(), table.intern(&plain).id()), (0, 1, 0));
        for (block, second) in [(a, 0x1001), (b, 0x1002)] {
            let instructions = block.instructions();
            assert_eq!((instructions[0].address, instructions[1].address), (0x1000, second));
            assert_eq!(
                (&instructions[0].bytes[..], &instructions[1].bytes[..]),
                (&[0x90][..], &[0x48, 0x90][..])
            );
            assert_eq!(block.marks(), [1, 2], "of another guest than an x86 each instruction is marked");
        }
    }

    /// mov rax, rcx; mov [rax], rcx; add rax, rcx; push rax; ret
    const FIVE: [&[u8]; 5] =
        [&[0x48, 0x89, 0xc8], &[0x48, 0x89, 0x08], &[0x48, 0x01, 0xc8], &[0x50], &[0xc3]];

    fn five_from(address: u64) -> Code {
        let sizes = FIVE.iter().scan(address, |next, bytes| {
            let address = *next;
            *next += bytes.len() as u64;
            Some((address, *bytes))
        });
        code(&sizes.collect::<Vec<_>>())
    }

    #[test]
    fn texts_are_a_line_each_and_go_with_their_instructions() {
        let mut table = Table::of("aarch64");
        let block = table.intern(&code(&[(0x1000, &[1, 2, 3, 4]), (0x1004, &[5, 6, 7, 8])]));
        let texts = |table: &Table| -> Vec<String> {
            table.instructions(block).into_iter().map(|instruction| instruction.text).collect()
        };
        assert!(!table.has_texts(block) && texts(&table) == ["", ""]);
        table.keep_texts(block, ["mov\tx0,  x1 \n", ""].map(str::to_owned).into_iter());
        assert!(table.has_texts(block));
        assert_eq!(texts(&table), ["mov x0, x1", ""]);
    }

    #[test]
    fn an_x86_is_marked_behind_what_may_be_left() {
        let mut table = Table::of("x86_64");
        let block = table.intern(&five_from(0x1000));
        assert_eq!(block.marks(), [3, 5]);
        // Left at the store, at the push, at its end; and more than that is no number of this block's.
        assert_eq!([0, 1, 2].map(|passed| block.started(passed)), [2, 4, 5]);
        assert!(block.started(3) > block.count());
        assert_eq!((block.entry().block(), block.entry().marks(), block.entry().count()), (0, 2, 5));
        assert_eq!(Entry::unpacked(block.entry().packed()), block.entry());
    }

    #[test]
    fn the_last_before_a_page_end_is_marked_because_it_may_not_run_here() {
        let mut table = Table::of("x86_64");
        let quiet = |address| code(&[(address, FIVE[0]), (address + 3, FIVE[2])]);
        assert!(table.intern(&quiet(0x1100)).marks().is_empty());
        assert_eq!(table.intern(&quiet(0x1ff5)).marks(), [2]);
    }
}
