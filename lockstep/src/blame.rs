//! Which instruction of a block is to blame for what is wrong behind it, where only the block's beginning and end were seen.
//!
//! What an instruction gets wrong goes on through those that use it, to the registers that differ at the end and to the access
//! that differs. So the one to blame is one from which all of that can come, and from which nothing else would: of
//! several the last, because what it made was used the least.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess};
use trace::block::Instruction;

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

#[cfg(test)]
mod tests {
    use super::instruction;
    use trace::block::Instruction;

    fn blamed(code: &[&[u8]], wrong: &[&str], access: Option<usize>) -> Option<usize> {
        let instructions: Vec<_> =
            code.iter().map(|bytes| Instruction { address: 0x1000, bytes: bytes.to_vec() }).collect();
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
