//! Instructions as text: iced-x86 for x86 guests, for others what QEMU's own disassembler made of them where the probe asked it
//! ([`asks_qemu`]), and else the bytes.
//!
//! The plugin interface does not say which mode an x86 guest is in. The lengths of the instructions as QEMU
//! decoded them do, over the blocks that ran before: of 64, 32 and 16 bit the mode that gives all of the
//! lengths furthest back.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Formatter, IntelFormatter, Mnemonic};
use trace::block::Instruction;

use crate::expansion::Executed;

/// What decodes the instructions of one place of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disassembler {
    /// 16, 32 or 64; `None` for guests that are not x86.
    bits: Option<u32>,
}

/// Instructions whose result is the CPU model's or the host's own, and what it depends on.
const MODEL: &[(Mnemonic, &str)] = &[
    (Mnemonic::Cpuid, "the CPU model"),
    (Mnemonic::Rdmsr, "the CPU model and the machine"),
    (Mnemonic::Xgetbv, "the CPU model"),
    (Mnemonic::Rdpmc, "the CPU model"),
    (Mnemonic::Rdrand, "random bytes"),
    (Mnemonic::Rdseed, "random bytes"),
    (Mnemonic::Rdtsc, "the time"),
    (Mnemonic::Rdtscp, "the time"),
    (Mnemonic::In, "a device"),
    (Mnemonic::Insb, "a device"),
    (Mnemonic::Insw, "a device"),
    (Mnemonic::Insd, "a device"),
];

impl Disassembler {
    /// For code of a known mode: of x86 guests 16, 32 or 64.
    #[must_use]
    pub fn of_mode(bits: Option<u32>) -> Self {
        Disassembler { bits: bits.filter(|bits| [16, 32, 64].contains(bits)) }
    }

    /// For the last instruction of `stream`, of a guest with QEMU's architecture name `target`.
    #[must_use]
    pub fn at_end(target: &str, stream: &[Executed]) -> Self {
        if !is_x86(target) {
            return Disassembler { bits: None };
        }
        let modes: &[u32] = if target == "i386" { &[32, 16] } else { &[64, 32, 16] };
        let agreeing = |bits: u32| {
            stream.iter().rev().take(4096).take_while(|executed| agrees(bits, executed.instruction)).count()
        };
        // `max_by_key` takes the last of equals; the first mode is the one to prefer.
        Disassembler { bits: modes.iter().rev().copied().max_by_key(|&bits| agreeing(bits)) }
    }

    fn decode(self, instruction: &Instruction) -> Option<iced_x86::Instruction> {
        let decoded =
            Decoder::with_ip(self.bits?, &instruction.bytes, instruction.address, DecoderOptions::NONE)
                .decode();
        (decoded.code() != Code::INVALID).then_some(decoded)
    }

    /// The instruction as text.
    #[must_use]
    pub fn text(self, instruction: &Instruction) -> String {
        match self.decode(instruction) {
            Some(decoded) => {
                let mut text = String::new();
                formatter().format(&decoded, &mut text);
                text
            }
            None if !instruction.text.is_empty() => without_code(instruction),
            None => format!("({})", hex(&instruction.bytes)),
        }
    }

    /// What the instruction's result depends on, beside registers and memory.
    #[must_use]
    pub fn depends_on(self, instruction: &Instruction) -> Option<&'static str> {
        let mnemonic = self.decode(instruction)?.mnemonic();
        MODEL.iter().find(|(known, _)| *known == mnemonic).map(|&(_, on)| on)
    }

    /// Whether an instruction can be followed by anything but the next one, an exception apart; `None` where that
    /// is not known.
    #[must_use]
    pub fn branches(self, instruction: &Instruction) -> Option<bool> {
        let decoded = self.decode(instruction)?;
        let repeated = decoded.has_rep_prefix() || decoded.has_repne_prefix();
        Some(decoded.flow_control() != FlowControl::Next || repeated)
    }

    /// Whether an instruction is an interrupt of its own.
    #[must_use]
    pub fn interrupts(self, instruction: &Instruction) -> bool {
        self.decode(instruction).is_some_and(|decoded| decoded.flow_control() == FlowControl::Interrupt)
    }

    /// In which mode, for the report.
    #[must_use]
    pub fn mode(self) -> Option<u32> {
        self.bits
    }
}

/// The text of an instruction, without its code, which QEMU's disassembler for RISC-V puts before it as a number.
fn without_code(instruction: &Instruction) -> String {
    let Instruction { bytes, text, .. } = instruction;
    let code: String = bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    text.strip_prefix(&code).map_or(&**text, str::trim_start).to_owned()
}

/// Whether QEMU's disassembler is asked for the code of a guest with QEMU's architecture name `target`.
pub(crate) fn asks_qemu(target: &str) -> bool {
    !is_x86(target)
}

fn is_x86(target: &str) -> bool {
    matches!(target, "x86_64" | "i386")
}

/// How x86 instructions are written everywhere.
#[must_use]
pub fn formatter() -> IntelFormatter {
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_uppercase_hex(false);
    formatter
}

pub(crate) fn agrees(bits: u32, instruction: &Instruction) -> bool {
    let mut decoder = Decoder::with_ip(bits, &instruction.bytes, instruction.address, DecoderOptions::NONE);
    let decoded = decoder.decode();
    (bits == 64 || instruction.address <= u64::from(u32::MAX))
        && decoded.code() != Code::INVALID
        && decoded.len() == instruction.bytes.len()
}

/// Bytes as two digits each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Disassembler, asks_qemu};
    use trace::block::Instruction;

    #[test]
    fn what_qemu_says_is_shown_and_else_the_bytes() {
        let text = |bytes: &[u8], text: &str| {
            let instruction =
                Instruction { text: text.to_owned(), ..Instruction::new(0x1000, bytes.to_vec()) };
            Disassembler::at_end("riscv64", &[]).text(&instruction)
        };
        assert_eq!(text(&[0x20, 0xb9], "b920 fsd fs0,112(a0)"), "fsd fs0,112(a0)");
        assert_eq!(text(&[0x20, 0xb9], "fsd fs0,112(a0)"), "fsd fs0,112(a0)");
        assert_eq!(text(&[0x20, 0xb9], ""), "(20 b9)");
        assert!(asks_qemu("riscv64") && !asks_qemu("x86_64"));
    }
}
