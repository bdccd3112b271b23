//! Which instruction of a block is to blame for what is wrong behind it, where only the block's beginning and end were seen.
//!
//! What an instruction gets wrong goes on through those that use it, to the registers that differ at the end and to the access
//! that differs. So the one to blame is one from which all of that can come, and from which nothing else would: of
//! several the last, because what it made was used the least.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess};
use trace::block::Instruction;

use crate::difference::{Difference, What};
use crate::disassembly::Disassembler;
use crate::expansion::Executed;

/// The flags, as QEMU names them to gdb.
const FLAGS: &str = "eflags";

/// What an instruction uses and sets, by gdb's names.
struct Use {
    reads: BTreeSet<String>,
    writes: BTreeSet<String>,
}

impl Use {
    fn of(bits: u32, instruction: &Instruction) -> Self {
        let decoded =
            Decoder::with_ip(bits, &instruction.bytes, instruction.address, DecoderOptions::NONE).decode();
        let mut factory = InstructionInfoFactory::new();
        let mut used = Use { reads: BTreeSet::new(), writes: BTreeSet::new() };
        for register in factory.info(&decoded).used_registers() {
            // gdb is told of the lower half of a vector register.
            let name =
                format!("{:?}", register.register().full_register()).to_lowercase().replace("zmm", "xmm");
            let access = register.access();
            if matches!(
                access,
                OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            ) {
                used.reads.insert(name.clone());
            }
            if !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
            {
                used.writes.insert(name);
            }
        }
        if decoded.rflags_read() != 0 {
            used.reads.insert(FLAGS.to_owned());
        }
        if decoded.rflags_modified() != 0 {
            used.writes.insert(FLAGS.to_owned());
        }
        used
    }
}

/// The index of the instruction of an x86's `block`, executed in a mode of so many bits, behind which the registers `wrong`
/// differ, and in which the access of that with index `access` does. `None` where no instruction explains it.
#[must_use]
pub fn instruction(
    bits: u32,
    block: &[&Instruction],
    wrong: &BTreeSet<String>,
    access: Option<usize>,
) -> Option<usize> {
    let uses: Vec<Use> = block.iter().map(|instruction| Use::of(bits, instruction)).collect();
    let explains = |from: usize| -> Option<usize> {
        let mut tainted = uses[from].writes.clone();
        let mut reached = access == Some(from);
        for (number, used) in uses.iter().enumerate().skip(from + 1) {
            if used.reads.is_disjoint(&tainted) {
                tainted.retain(|name| {
                    !used.writes.contains(name) || name == FLAGS && used.reads.contains(FLAGS)
                });
            } else {
                reached |= access == Some(number);
                tainted.extend(used.writes.iter().cloned());
            }
        }
        let all = wrong.is_subset(&tainted) && (reached || access.is_none());
        all.then(|| tainted.difference(wrong).count())
    };
    let candidates = (0..block.len()).filter_map(|from| Some((explains(from)?, block.len() - from, from)));
    candidates.min().map(|(_, _, from)| from)
}

/// What is known of an instruction at which a difference shows first, the last of `common`.
pub(crate) struct Clues<'a> {
    pub target: &'a str,
    pub common: &'a [Executed<'a>],
    /// Of its block.
    pub difference: &'a Difference,
    pub names: &'a [String],
}

/// How many instructions back a delivery is looked for.
const BACK: usize = 4096;

/// How far from the stack's pointer a frame may be, bytes.
const FRAME: u64 = 4096;

impl Clues<'_> {
    /// QEMU reckons an x86's flags when they are asked for, from what set them, and tells gdb and plugins the register without
    /// them (x86_cpu_gdb_read_register in target/i386/gdbstub.c, 7.2 and 10.0). So what acts on them and sets none shows
    /// what is wrong with the last before that did.
    pub fn flags(&self) -> Option<usize> {
        let bits = Disassembler::at_end(self.target, self.common).mode()?;
        let (last, before) = self.common.split_last()?;
        let used = Use::of(bits, last.instruction);
        if !used.reads.contains(FLAGS) || used.writes.contains(FLAGS) {
            return None;
        }
        let from = before.len().saturating_sub(BACK);
        let sets = |executed: &Executed| Use::of(bits, executed.instruction).writes.contains(FLAGS);
        before[from..].iter().rposition(sets).map(|place| from + place)
    }

    /// A load finds another value than was stored: where it is of the stack, QEMU has last written that for the exception or
    /// interrupt that was delivered last.
    pub fn delivery(&self) -> Option<usize> {
        let What::Access(pair) = self.difference.what else { return None };
        let access = pair.a.or(pair.b)?;
        let register = |names: &[&str]| {
            let number = self.names.iter().position(|name| names.contains(&&**name))?;
            let bytes = self.difference.before.get(number)?.iter().take(8).rev();
            Some(bytes.fold(0, |value, &byte| value << 8 | u64::from(byte)))
        };
        let stack = register(&["rsp", "esp", "sp"])?;
        // In real mode it has a segment.
        let in_segment = (register(&["ss"]).unwrap_or(0) << 4).wrapping_add(stack & 0xffff);
        if access.address.abs_diff(stack) > FRAME && access.address.abs_diff(in_segment) > FRAME {
            return None;
        }
        let disassembler = Disassembler::at_end(self.target, self.common);
        let from = self.common.len().saturating_sub(BACK);
        let stretch = &self.common[from..];
        let delivers = |pair: &[Executed]| {
            let (before, after) = (pair[0].instruction, pair[1].instruction);
            let next = before.address.wrapping_add(before.bytes.len() as u64);
            disassembler.interrupts(before)
                || after.address != next && disassembler.branches(before) == Some(false)
        };
        stretch.windows(2).rposition(delivers).map(|place| from + place)
    }
}

#[cfg(test)]
mod tests {
    use super::instruction;
    use trace::block::Instruction;

    fn blamed(code: &[&[u8]], wrong: &[&str], access: Option<usize>) -> Option<usize> {
        let instructions: Vec<_> =
            code.iter().map(|bytes| Instruction::new(0x1000, bytes.to_vec())).collect();
        let wrong = wrong.iter().map(|&name| name.to_owned()).collect();
        instruction(64, &instructions.iter().collect::<Vec<_>>(), &wrong, access)
    }

    /// mov rax, rbx; lea rcx, [rax+1]; mov [rdi], rcx; mov rdx, rsi
    const CODE: [&[u8]; 4] =
        [&[0x48, 0x89, 0xd8], &[0x48, 0x8d, 0x48, 0x01], &[0x48, 0x89, 0x0f], &[0x48, 0x89, 0xf2]];

    #[test]
    fn who_makes_what_is_wrong_is_to_blame() {
        assert_eq!(blamed(&CODE, &["rax", "rcx"], Some(2)), Some(0));
        assert_eq!(blamed(&CODE, &["rcx"], Some(2)), Some(1));
        assert_eq!(blamed(&CODE, &[], Some(2)), Some(2), "only the store differs");
        assert_eq!(blamed(&CODE, &["rdx"], None), Some(3));
        assert_eq!(blamed(&CODE, &["rbp"], None), None);
    }

    #[test]
    fn flags_are_a_register_too() {
        // add rax, rbx; mov rcx, rdx; setc cl
        let code: [&[u8]; 3] = [&[0x48, 0x01, 0xd8], &[0x48, 0x89, 0xd1], &[0x0f, 0x92, 0xc1]];
        assert_eq!(blamed(&code, &["eflags", "rcx"], None), Some(0));
        assert_eq!(blamed(&code, &["rcx"], None), Some(2));
    }
}
