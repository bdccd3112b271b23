//! What a guest writes to memory and reads from it, and the digests of both.
//!
//! An access is noted when it is done, and belongs to an instruction of a block; which of the noted blocks that is stands
//! beside it, so that [`Stream`](crate::stream::Stream) can take in accesses together with blocks, and knows at the border
//! of two chunks, or where a block is left in its middle, which instructions they are of.
//!
//! The digest is the stream's own, over addresses, sizes and values in their order. Sixteen bytes count as two times
//! eight, the lower first: how QEMU moves a vector register changed between its versions.

use serde::{Deserialize, Serialize};

use crate::digest::append;
use crate::message::Accessed;

/// Digests of what was written and of what was read. Both stay 0 where nobody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    pub stores: u64,
    pub loads: u64,
}

/// One access of at most eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The guest's virtual address.
    pub address: u64,
    /// What was written or read, as a number; 0 where the build does not tell it.
    pub value: u64,
    tag: Tag,
}

/// Which instruction makes an access, and whether it writes: a word, so that generated code can carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(u64);

impl Tag {
    const STORE: u64 = 1 << 16;

    /// Of the instruction that is the `number`th, from 0, of a block.
    #[must_use]
    pub fn of(block: u32, number: u16, is_store: bool) -> Self {
        Tag(u64::from(block) << 32 | u64::from(number) | if is_store { Self::STORE } else { 0 })
    }

    /// Its block's number.
    #[inline]
    #[must_use]
    pub fn block(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    #[must_use]
    pub fn is_store(self) -> bool {
        self.0 & Self::STORE != 0
    }

    /// As one word.
    #[must_use]
    pub fn packed(self) -> u64 {
        self.0
    }

    /// Of what [`packed`](Self::packed) gave.
    #[inline]
    #[must_use]
    pub fn unpacked(word: u64) -> Self {
        Tag(word)
    }
}

impl Access {
    /// Of 2^`shift` bytes, 8 at the most; `entry` says in which of the blocks that are noted, 1 being the first, or 0 for the one
    /// that ran before them.
    #[inline]
    #[must_use]
    pub fn new(tag: Tag, entry: usize, address: u64, shift: u32, value: u64) -> Self {
        let own = tag.0 & (Tag::STORE | 0xffff);
        Access { address, value, tag: Tag((entry as u64) << 32 | u64::from(shift) << 20 | own) }
    }

    /// The same where what was noted before its block has been taken in.
    #[must_use]
    pub fn of_running(self) -> Self {
        Access { tag: Tag(self.tag.0 & 0xffff_ffff), ..self }
    }

    /// The same where `blocks` more are noted before.
    pub(crate) fn behind(self, blocks: usize) -> Self {
        Access { tag: Tag(self.tag.0 + ((blocks as u64) << 32)), ..self }
    }

    /// The same, made by the `number`th instruction of its block.
    #[must_use]
    pub fn made_by(self, number: u16) -> Self {
        Access { tag: Tag(self.tag.0 & !0xffff | u64::from(number)), ..self }
    }

    /// The number of its instruction in the block, from 0.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the lowest 16 bits")]
    pub fn number(&self) -> u32 {
        u32::from(self.tag.0 as u16)
    }

    pub(crate) fn entry(&self) -> usize {
        (self.tag.0 >> 32) as usize
    }

    fn shift(&self) -> u64 {
        self.tag.0 >> 20 & 3
    }

    /// How many bytes.
    #[must_use]
    pub fn size(&self) -> u8 {
        1 << self.shift()
    }

    #[must_use]
    pub fn is_store(&self) -> bool {
        self.tag.is_store()
    }
}

/// What stands for an access in the digest.
fn identity(address: u64, shift: u64, value: u64) -> u64 {
    (address ^ shift << 58).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ value
}

impl Memory {
    /// After these accesses more.
    pub fn take_in(&mut self, accesses: &[Access]) {
        let Memory { mut stores, mut loads } = *self;
        for access in accesses {
            let identity = identity(access.address, access.shift(), access.value);
            if access.is_store() {
                stores = append(stores, identity);
            } else {
                loads = append(loads, identity);
            }
        }
        *self = Memory { stores, loads };
    }

    /// The same of one that was told.
    pub fn take_in_told(&mut self, told: &Accessed) {
        let digest = if told.is_store { &mut self.stores } else { &mut self.loads };
        *digest = append(*digest, identity(told.address, told.size.trailing_zeros().into(), told.value));
    }
}

/// The accesses that a stream has not taken in yet.
#[derive(Debug, Default)]
pub struct Accesses {
    noted: Vec<Access>,
}

impl Accesses {
    /// How many are noted before somebody should take them in.
    pub const USUAL: usize = 4096;

    /// None, and no room for any.
    pub const NONE: Self = Accesses { noted: Vec::new() };

    /// None, with room.
    #[must_use]
    pub fn with_room() -> Self {
        Accesses { noted: Vec::with_capacity(Self::USUAL) }
    }

    /// Notes one; gives back whether there was room.
    #[inline]
    pub fn push(&mut self, access: Access) -> bool {
        let room = self.noted.len() < self.noted.capacity();
        if room {
            self.noted.push(access);
        }
        room
    }

    /// Makes room where one block alone has more than fit.
    pub fn grow(&mut self) {
        if 2 * self.noted.len() > self.noted.capacity() {
            self.noted.reserve(self.noted.capacity());
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.noted.is_empty()
    }

    /// What is noted.
    #[must_use]
    pub fn noted(&self) -> &[Access] {
        &self.noted
    }

    /// Those of the blocks before the one with number `entry`.
    #[must_use]
    pub fn before(&self, entry: usize) -> &[Access] {
        &self.noted[..self.noted.partition_point(|access| access.entry() < entry)]
    }

    /// Forgets the first `count`; those behind are of the block that ran before those noted then.
    pub(crate) fn forget(&mut self, count: usize) {
        self.noted.drain(..count);
        for access in &mut self.noted {
            *access = access.of_running();
        }
    }

    /// The same; they are in `place` then, whose room is used for those to come.
    pub(crate) fn give(&mut self, count: usize, place: &mut Vec<Access>) {
        place.clear();
        let behind = &self.noted[count..];
        place.reserve(self.noted.capacity().max(behind.len()));
        place.extend(behind.iter().map(|access| access.of_running()));
        std::mem::swap(&mut self.noted, place);
        place.truncate(count);
    }

    /// Forgets all but the first `count`.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.noted.truncate(count);
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Accesses, Memory, Tag};
    use crate::message::Accessed;

    #[test]
    fn an_access_is_what_it_was_made_of() {
        let tag = Tag::unpacked(Tag::of(u32::MAX, 511, true).packed());
        let access = Access::new(tag, 1025, 0xffff_8000_0000_1234, 3, u64::MAX);
        assert_eq!(tag.block(), u32::MAX);
        assert_eq!((access.number(), access.entry(), access.size(), access.is_store()), (511, 1025, 8, true));
        assert!(!Access::new(Tag::of(7, 0, false), 0, 0, 0, 0).is_store());
    }

    #[test]
    fn address_size_value_order_and_kind_count() {
        let store = |address, shift, value| Access::new(Tag::of(7, 3, true), 1, address, shift, value);
        let of = |accesses: &[Access]| {
            let mut memory = Memory::default();
            memory.take_in(accesses);
            memory
        };
        let (a, b) = (store(0x1000, 2, 7), store(0x1004, 2, 8));
        let both = of(&[a, b]);
        assert_eq!(both.loads, 0);
        for other in [
            vec![b, a],
            vec![a],
            vec![a, store(0x1004, 2, 9)],
            vec![a, store(0x1008, 2, 8)],
            vec![a, store(0x1004, 3, 8)],
            vec![a, Access::new(Tag::of(7, 3, false), 1, 0x1004, 2, 8)],
        ] {
            assert_ne!(of(&other), both);
        }
        let elsewhere = Access::new(Tag::of(8, 9, true), 5, 0x1004, 2, 8);
        assert_eq!(of(&[a, elsewhere]), both, "how blocks are cut does not count");
        let mut told = Memory::default();
        for access in [a, b] {
            let Access { address, value, .. } = access;
            told.take_in_told(&Accessed { position: 5, address, size: access.size(), is_store: true, value });
        }
        assert_eq!(told, both);
    }

    #[test]
    fn what_the_running_block_did_stays() {
        let mut accesses = Accesses::with_room();
        for entry in [0, 1, 1, 2, 2] {
            assert!(accesses.push(Access::new(Tag::of(7, 0, true), entry, entry as u64, 0, 0)));
        }
        assert_eq!((accesses.before(0).len(), accesses.before(1).len(), accesses.before(2).len()), (0, 1, 3));
        accesses.forget(3);
        assert_eq!(accesses.noted().len(), 2);
        assert_eq!(accesses.before(1).len(), 2, "they are of the block before those noted");
    }
}
