//! x86 instructions that a processor does not execute twice in a row, and so have started again where they seem to be.
//!
//! An instruction that writes over its own block makes QEMU leave the block and start again at that instruction, before it has
//! done anything. Where it is not its block's last that shows by itself; where it is, it has to be told from one that is its
//! own successor, as a jump to itself is, or a repeated string instruction. (Opcodes: Intel SDM volume 2, appendix A.)

use crate::digest::PAGE;

/// How an instruction can be followed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor {
    /// It never is: where it is seen twice, it has started again.
    Other,
    /// Only when it has written to memory: where it has not, it has started again.
    ItselfHavingStored,
    /// It may be, or nobody knows.
    Itself,
}

fn is_prefix(byte: &u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// Whether a prefix says that it is to be repeated, and what comes behind the prefixes.
fn parts(bytes: &[u8]) -> (bool, &[u8]) {
    let (before, rest) = bytes.split_at(bytes.iter().take_while(|byte| is_prefix(byte)).count());
    (before.iter().any(|byte| matches!(byte, 0xf2 | 0xf3)), rest)
}

/// Whether the x86 instruction with these bytes is a repeated string instruction, which can only be followed by itself while
/// it is repeated. In doubt it is not.
#[must_use]
pub fn is_repeated(bytes: &[u8]) -> bool {
    let (repeated, rest) = parts(bytes);
    let string = |byte| matches!(byte, 0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf);
    repeated && matches!(*rest, [byte] | [0x40..=0x4f, byte] if string(byte))
}

/// Of a call that goes by so much from where it ends, and is `length` bytes long. What is at the same place of another page may
/// be the same to the digest.
fn of_call(by: i32, length: usize) -> Successor {
    let from_its_begin = i64::from(by) + length as i64;
    if from_its_begin % PAGE as i64 == 0 { Successor::ItselfHavingStored } else { Successor::Other }
}

/// Of the x86 instruction with these bytes.
#[must_use]
pub fn successor(bytes: &[u8]) -> Successor {
    let (repeated, rest) = parts(bytes);
    // Of the modes that have no such prefix it is an instruction of its own.
    let rest = match rest {
        [0x40..=0x4f, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    match *rest {
        // Prefixes in an order that nobody writes.
        [0x40..=0x4f, _, ..] => Successor::Itself,
        [ref byte, ..] if is_prefix(byte) => Successor::Itself,
        [0xa4 | 0xa5 | 0xaa | 0xab, ..] if repeated => Successor::ItselfHavingStored,
        [0xa4..=0xa7 | 0xaa..=0xaf, ..] if !repeated => Successor::Other,
        // Input and output, comparisons, and a wait for what comes from outside.
        [0x6c..=0x6f | 0xa4..=0xaf | 0xf4, ..] => Successor::Itself,
        [0xe8, a, b] => of_call(i16::from_le_bytes([a, b]).into(), bytes.len()),
        [0xe8, a, b, c, d] => of_call(i32::from_le_bytes([a, b, c, d]), bytes.len()),
        [0xe8, ..] => Successor::ItselfHavingStored,
        [0x9a, ..] => Successor::ItselfHavingStored,
        [0x70..=0x7f | 0xc2 | 0xc3 | 0xca..=0xcf | 0xe0..=0xe3 | 0xe9..=0xeb | 0xf1 | 0xff, ..] => {
            Successor::Itself
        }
        // System calls and returns, jumps, and what is not known here.
        [
            0x0f,
            0x40..=0x4f
            | 0x90..=0x9f
            | 0xa0..=0xa5
            | 0xa8
            | 0xa9
            | 0xab..=0xaf
            | 0xb0..=0xb7
            | 0xba..=0xc1
            | 0xc8..=0xcf,
            ..,
        ] => Successor::Other,
        [0x0f | 0xc4..=0xc7 | 0x62, ..] | [] => Successor::Itself,
        _ => Successor::Other,
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, FlowControl};
    use proptest::prelude::*;

    use super::{Successor, is_repeated, successor};
    use crate::digest::PAGE;

    #[test]
    fn the_usual_ones_are_known() {
        for (bytes, expected) in [
            (&[0xf3, 0xa4][..], Successor::ItselfHavingStored),
            (&[0xf3, 0x48, 0xab], Successor::ItselfHavingStored),
            (&[0xa4], Successor::Other),
            (&[0xf3, 0xae], Successor::Itself),
            (&[0x89, 0x08], Successor::Other),
            (&[0x50], Successor::Other),
            (&[0xe8, 0, 0, 0, 0], Successor::Other),
            (&[0xe8, 0xfb, 0xff, 0xff, 0xff], Successor::ItselfHavingStored),
            (&[0xe8, 0xfb, 0x1f, 0, 0], Successor::ItselfHavingStored),
            (&[0xe8, 0xfd, 0xff], Successor::ItselfHavingStored),
            (&[0xeb, 0xfe], Successor::Itself),
            (&[0x0f, 0x84, 0, 0, 0, 0], Successor::Itself),
        ] {
            assert_eq!(successor(bytes), expected, "{bytes:02x?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500_000, ..ProptestConfig::default() })]

        #[test]
        fn what_has_another_successor_goes_straight_on(prefixes in prop::sample::select(vec![&[][..], &[0x66], &[0x48], &[0xf3], &[0x66, 0x48]]),
                                                      escaped in any::<bool>(), bytes in prop::array::uniform12(any::<u8>())) {
            let escape: &[u8] = if escaped { &[0x0f] } else { &[] };
            let bytes = [prefixes, escape, &bytes].concat();
            for bits in [16, 32, 64] {
                let decoded = Decoder::with_ip(bits, &bytes, 0x1000, DecoderOptions::NONE).decode();
                let own = &bytes[..decoded.len().max(1)];
                if !decoded.is_invalid() && successor(own) == Successor::Other {
                    let string = decoded.is_string_instruction() && (decoded.has_rep_prefix() || decoded.has_repne_prefix());
                    let straight = matches!(decoded.flow_control(), FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception);
                    // What a call goes to lies at another place of its page.
                    let elsewhere = decoded.is_call_near() && decoded.near_branch_target() % PAGE != 0x1000 % PAGE;
                    prop_assert!((straight || elsewhere) && !string, "{own:02x?} in {bits} bits");
                }
                if !decoded.is_invalid() && is_repeated(own) {
                    let string = decoded.is_string_instruction() && (decoded.has_rep_prefix() || decoded.has_repne_prefix());
                    prop_assert!(string, "{own:02x?} in {bits} bits");
                }
            }
        }
    }
}
