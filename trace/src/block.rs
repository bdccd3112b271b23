//! A translated block as the probe keeps it, and the table of all of them.
//!
//! QEMU translates the same code again and again (after a flush, a write to its page, for one I/O
//! instruction). The table interns: equal code gets the block that is already there, so its size follows the
//! guest's distinct code and not the length of the run. Blocks are never freed, because code that QEMU has
//! already generated carries their addresses.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use serde::{Deserialize, Serialize};

use crate::digest::{Step, identity};

/// One guest instruction of a block: its address, of those of its page the one through which it was translated, and its
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    pub address: u64,
    pub bytes: Vec<u8>,
}

impl Instruction {
    /// What stands for it in the digest.
    #[must_use]
    pub fn identity(&self) -> u64 {
        identity(self.address, &self.bytes)
    }
}

/// A translated block: its instructions, and their digest as one step.
#[derive(Debug)]
pub struct Block {
    id: u32,
    count: u32,
    step: Step,
    addresses: Vec<u64>,
    identities: Vec<u64>,
    /// The instructions' bytes one after the other; `sizes` says where each ends.
    bytes: Vec<u8>,
    sizes: Vec<u8>,
}

impl Block {
    fn new(id: u32, instructions: &[Instruction]) -> Self {
        let addresses: Vec<u64> = instructions.iter().map(|i| i.address).collect();
        let identities: Vec<u64> = instructions.iter().map(Instruction::identity).collect();
        Block {
            id,
            count: u32::try_from(instructions.len()).expect("QEMU's blocks have at most 512 instructions"),
            step: Step::over(&identities),
            addresses,
            identities,
            bytes: instructions.iter().flat_map(|i| i.bytes.iter().copied()).collect(),
            sizes: instructions.iter().map(|i| u8::try_from(i.bytes.len()).unwrap_or(u8::MAX)).collect(),
        }
    }

    /// Its number in the table.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How many instructions it has.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The whole block as one step of the digest.
    #[inline]
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// The addresses of its instructions, in order; see [`Instruction`].
    #[must_use]
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// What stands for each of its instructions in the digest.
    #[must_use]
    pub fn identities(&self) -> &[u64] {
        &self.identities
    }

    /// Its instructions, in order.
    #[must_use]
    pub fn instructions(&self) -> Vec<Instruction> {
        let mut rest = &self.bytes[..];
        self.addresses
            .iter()
            .zip(&self.sizes)
            .map(|(&address, &size)| {
                let (bytes, after) = rest.split_at(usize::from(size).min(rest.len()));
                rest = after;
                Instruction { address, bytes: bytes.to_vec() }
            })
            .collect()
    }

    fn is(&self, instructions: &[Instruction]) -> bool {
        self.addresses.len() == instructions.len() && self.instructions() == instructions
    }
}

/// Every block that a build has translated, by number and by content.
#[derive(Debug, Default)]
pub struct Table {
    blocks: Vec<&'static Block>,
    by_content: HashMap<u64, Vec<u32>>,
    hasher: RandomState,
}

impl Table {
    /// The block with these instructions: the one already there, or a new one.
    pub fn intern(&mut self, instructions: &[Instruction]) -> &'static Block {
        let mut hasher = self.hasher.build_hasher();
        for instruction in instructions {
            (instruction.address, &instruction.bytes).hash(&mut hasher);
        }
        let key = hasher.finish();
        let same = self.by_content.entry(key).or_default();
        for &id in same.iter() {
            let block = self.blocks[id as usize];
            if block.is(instructions) {
                return block;
            }
        }
        let id = u32::try_from(self.blocks.len()).expect("fewer than 2^32 distinct blocks");
        let block: &'static Block = Box::leak(Box::new(Block::new(id, instructions)));
        self.blocks.push(block);
        same.push(id);
        block
    }

    /// The block with number `id`.
    #[must_use]
    pub fn get(&self, id: u32) -> &'static Block {
        self.blocks[id as usize]
    }
}
