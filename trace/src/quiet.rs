//! x86 instructions that run to their end whatever the guest's state is.
//!
//! A block is left in its middle by an instruction that faults, does I/O or is otherwise stopped, and QEMU takes
//! interrupts only between blocks. One that works on registers alone is passed for certain once the one before it is, so
//! it need not be counted by itself. The probe does not know the processor's mode, and the same bytes are other
//! instructions in another one: what is named here is quiet in each mode in which it has that very length.
//! (Opcodes: Intel SDM volume 2, appendix A.)

/// Whether the instruction with these bytes can't be left in its middle. In doubt it can.
#[must_use]
pub fn is_quiet(bytes: &[u8]) -> bool {
    let (small, rest) = match bytes {
        [0x66, rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    // Alone they are `inc` and `dec` of the modes that have no such prefix.
    let (wide, rest) = match rest {
        [rex @ 0x40..=0x4f, rest @ ..] if !rest.is_empty() => (rex & 8 != 0, rest),
        rest => (false, rest),
    };
    let has_rex = bytes.len() > rest.len() + usize::from(small);
    // A `mov` to or from another mode's default size of operands has another length.
    let word = |left: usize| left == 2 || left == 4;
    let on_registers = |modrm: u8| modrm >= 0xc0;
    let extension = |modrm: u8| modrm >> 3 & 7;
    match *rest {
        [0x40..=0x4f] => !has_rex,
        [0x90..=0x99] => true,
        [opcode @ 0x00..=0x3f, modrm] if opcode & 7 < 4 => on_registers(modrm),
        [opcode @ 0x00..=0x3f, _] if opcode & 7 == 4 => true,
        [opcode @ 0x00..=0x3f, ref immediate @ ..] if opcode & 7 == 5 => word(immediate.len()),
        [0x63, modrm] => wide && on_registers(modrm),
        [0x80 | 0x83 | 0xc0 | 0xc1, modrm, _] => on_registers(modrm),
        [0x81, modrm, ref immediate @ ..] => on_registers(modrm) && word(immediate.len()),
        [0x84..=0x8b | 0xd0..=0xd3, modrm] => on_registers(modrm),
        [0x8d, modrm, ..] => !on_registers(modrm),
        [0xa8, _] | [0xb0..=0xb7, _] => true,
        [0xa9, ref immediate @ ..] => word(immediate.len()),
        [0xb8..=0xbf, ref immediate @ ..] => word(immediate.len()) || (wide && immediate.len() == 8),
        [0xc6, modrm, _] => on_registers(modrm) && extension(modrm) == 0,
        [0xc7, modrm, ref immediate @ ..] => {
            on_registers(modrm) && extension(modrm) == 0 && word(immediate.len())
        }
        [0xf6, modrm, _] => on_registers(modrm) && extension(modrm) < 2,
        [0xf7, modrm, ref immediate @ ..] if extension(modrm) < 2 => {
            on_registers(modrm) && word(immediate.len())
        }
        // Not, negate, multiply; a division may fault.
        [0xf6 | 0xf7, modrm] => on_registers(modrm) && (2..6).contains(&extension(modrm)),
        [0xfe | 0xff, modrm] => on_registers(modrm) && extension(modrm) < 2,
        [
            0x0f,
            0x40..=0x4f | 0x90..=0x9f | 0xa3 | 0xa5 | 0xab | 0xad | 0xaf | 0xb3 | 0xb6 | 0xb7 | 0xbb..=0xbf,
            modrm,
        ] => on_registers(modrm),
        [0x0f, 0xa4 | 0xac, modrm, _] => on_registers(modrm),
        [0x0f, 0xba, modrm, _] => on_registers(modrm) && extension(modrm) >= 4,
        [0x0f, 0xc8..=0xcf] => true,
        _ => false,
    }
}

/// Whether the instruction with these bytes is a jump that says by itself where to, and so accesses no memory.
#[must_use]
pub fn is_relative_jump(bytes: &[u8]) -> bool {
    let prefixes =
        bytes.iter().take_while(|byte| matches!(byte, 0x2e | 0x3e | 0x66 | 0x67 | 0xf2 | 0xf3)).count();
    matches!(bytes[prefixes..], [0x70..=0x7f | 0xe0..=0xe3 | 0xeb, _] | [0xe9, _, _, ..] | [0x0f, 0x80..=0x8f, _, _, ..])
}

#[cfg(test)]
mod tests {
    use super::{is_quiet, is_relative_jump};
    use iced_x86::{
        Decoder, DecoderError, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpAccess,
        Register,
    };
    use proptest::prelude::*;

    /// Of the instruction that `bytes` begin with, in a mode of so many bits: its length, and whether it may be stopped.
    fn known(bytes: &[u8], bits: u32) -> (usize, bool) {
        let mut decoder = Decoder::with_ip(bits, bytes, 0x1000, DecoderOptions::NONE);
        let instruction = decoder.decode();
        // In this mode the instruction is a longer one.
        if decoder.last_error() == DecoderError::NoMoreBytes {
            return (0, true);
        }
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(&instruction);
        let touches = |access| !matches!(access, OpAccess::None | OpAccess::NoMemAccess);
        let memory = info.used_memory().iter().any(|memory| touches(memory.access()));
        let special = |register: Register| {
            register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr()
        };
        let writes = |access| !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead);
        let sets = info.used_registers().iter().any(|used| writes(used.access()) && special(used.register()));
        let divides = matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv);
        let stops = instruction.is_invalid()
            || instruction.flow_control() != FlowControl::Next
            || instruction.is_privileged()
            || instruction.has_lock_prefix()
            || instruction.is_save_restore_instruction()
            || instruction.rflags_modified() & iced_x86::RflagsBits::IF != 0
            || memory
            || sets
            || divides;
        (instruction.len(), stops)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000_000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_quiet_stops_in_no_mode(prefixes in prop::sample::select(vec![&[][..], &[0x66], &[0x48], &[0x41], &[0x66, 0x48]]),
                                          escaped in any::<bool>(), bytes in prop::array::uniform12(any::<u8>())) {
            let escape: &[u8] = if escaped { &[0x0f] } else { &[] };
            let bytes = [prefixes, escape, &bytes].concat();
            for bits in [16, 32, 64] {
                let (length, _) = known(&bytes, bits);
                if is_quiet(&bytes[..length]) {
                    for bits in [16, 32, 64] {
                        let (theirs, stops) = known(&bytes[..length], bits);
                        prop_assert!(theirs != length || !stops, "{:02x?} in {bits} bits", &bytes[..length]);
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500_000, ..ProptestConfig::default() })]

        #[test]
        fn a_relative_jump_accesses_nothing(prefixes in prop::sample::select(vec![&[][..], &[0x66], &[0x2e], &[0xf2]]),
                                            escaped in any::<bool>(), bytes in prop::array::uniform12(any::<u8>())) {
            let escape: &[u8] = if escaped { &[0x0f] } else { &[] };
            let bytes = [prefixes, escape, &bytes].concat();
            for bits in [16, 32, 64] {
                let (length, _) = known(&bytes, bits);
                let decoded = Decoder::with_ip(bits, &bytes, 0x1000, DecoderOptions::NONE).decode();
                if !decoded.is_invalid() && is_relative_jump(&bytes[..length]) {
                    let flow = decoded.flow_control();
                    prop_assert!(matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch), "{bytes:02x?}");
                    prop_assert!(!decoded.is_call_near() && decoded.op0_kind() != iced_x86::OpKind::Memory);
                }
            }
        }
    }

    #[test]
    fn the_usual_ones_are_known() {
        for (bytes, quiet) in [
            (&[0x48, 0x89, 0xc8][..], true),
            (&[0x48, 0x8b, 0x08], false),
            (&[0x48, 0x8d, 0x04, 0x25, 0, 0, 0, 0], true),
            (&[0x0f, 0xb6, 0xc0], true),
            (&[0x48, 0xc7, 0xc0, 1, 0, 0, 0], true),
            (&[0x31, 0xc0], true),
            (&[0x48, 0xf7, 0xf1], false),
            (&[0xf3, 0x90], false),
            (&[0x55], false),
            (&[0xfb], false),
        ] {
            assert_eq!(is_quiet(bytes), quiet, "{bytes:02x?}");
        }
    }
}
