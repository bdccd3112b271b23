//! Flags that the architecture leaves undefined: where they are, and whether anything comes of them.
//!
//! After a multiplication the zero flag is whatever a processor makes of it, so code that reads it there is right on any
//! build, whatever that does. Code that does not is `Ok`, with the flags that are undefined at its end.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, RflagsBits};

use crate::case::{AF, CF, DF, FLAGS, OF, PF, Piece, SF, ZF};

/// Code that reads what is undefined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("an instruction of piece {0} acts on flags that are undefined there")]
    Undefined(usize),
    #[error("piece {0} is no code")]
    NoCode(usize),
}

/// Flags that an instruction reads, surely sets, and leaves undefined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Effect {
    reads: u64,
    sets: u64,
    undefines: u64,
}

/// iced's flags as the processor has them.
fn bits(flags: u32) -> u64 {
    let pairs = [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
        (RflagsBits::DF, DF),
    ];
    pairs.iter().filter(|(theirs, _)| flags & theirs != 0).map(|(_, ours)| ours).sum()
}

/// How far a shift or rotate shifts, where that can be told, and how wide what it shifts is.
fn shift(instruction: &Instruction) -> (Option<u32>, u32) {
    use iced_x86::OpKind;
    let last = instruction.op_count() - 1;
    let width = match instruction.op_kind(0) {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    } * 8;
    let mask = if width == 64 { 63 } else { 31 };
    let count = match instruction.op_kind(last) {
        OpKind::Immediate8 => Some(u32::from(instruction.immediate8()) & mask),
        _ => None,
    };
    (count, u32::try_from(width).unwrap_or(64))
}

/// Of shifts and rotates, whose count says what they do (the manuals' sections on each).
fn of_shift(instruction: &Instruction) -> Option<Effect> {
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    let mnemonic = instruction.mnemonic();
    let rotates = matches!(mnemonic, Rol | Ror | Rcl | Rcr);
    if !rotates && !matches!(mnemonic, Sal | Sar | Shl | Shr | Shld | Shrd) {
        return None;
    }
    let reads = if matches!(mnemonic, Rcl | Rcr) { CF } else { 0 };
    let result = if rotates { 0 } else { SF | ZF | PF };
    let not_of_result = if rotates { 0 } else { AF };
    let (count, width) = shift(instruction);
    let loses_carry = width < 32 && matches!(mnemonic, Shl | Sal | Shr | Shld | Shrd);
    let carry_lost = if loses_carry { CF } else { 0 };
    Some(match count {
        Some(0) => Effect { reads, ..Effect::default() },
        // Of few bits a rotate through carry may come to none at all.
        Some(1) => Effect { reads, sets: CF | OF | result, undefines: not_of_result },
        Some(count) if !rotates && count < width => {
            Effect { reads, sets: CF | result, undefines: OF | not_of_result }
        }
        Some(_) if rotates => Effect { reads, sets: 0, undefines: OF },
        Some(_) => Effect { reads, sets: result, undefines: OF | not_of_result | carry_lost },
        None => Effect { reads, sets: 0, undefines: OF | not_of_result | carry_lost },
    })
}

fn effect(instruction: &Instruction) -> Effect {
    if let Some(effect) = of_shift(instruction) {
        return effect;
    }
    let undefines = bits(instruction.rflags_undefined());
    let written = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
    // A repeated one may be repeated no time at all.
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let sets = if repeated && instruction.is_string_instruction() { 0 } else { bits(written) };
    Effect { reads: bits(instruction.rflags_read()), sets: sets & !undefines, undefines }
}

/// Which flags are undefined at the end of `pieces`, where none that is gets read on the way.
///
/// # Errors
/// Where one does, or may.
pub fn undefined(pieces: &[Piece]) -> Result<u64, Unfit> {
    let mut code = Vec::new();
    let mut first_of = Vec::with_capacity(pieces.len());
    for (number, piece) in pieces.iter().enumerate() {
        first_of.push(code.len());
        let bytes = match piece.jump {
            Some(_) => [&*piece.code, &[0; 4]].concat(),
            None => piece.code.clone(),
        };
        let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                return Err(Unfit::NoCode(piece.id));
            }
            let jumps = if decoder.can_decode() { None } else { piece.jump };
            code.push((number, effect(&instruction), instruction.flow_control(), jumps));
        }
    }
    let place = |target: usize| {
        let piece = pieces.iter().position(|piece| piece.id >= target);
        piece.map_or(code.len(), |piece| first_of[piece])
    };
    let mut at = vec![None::<u64>; code.len() + 1];
    at[0] = Some(0);
    loop {
        let mut changed = false;
        for index in 0..code.len() {
            let Some(before) = at[index] else { continue };
            let (number, effect, flow, jump) = code[index];
            if effect.reads & before != 0 {
                return Err(Unfit::Undefined(pieces[number].id));
            }
            let behind = before & !effect.sets | effect.undefines;
            let mut reach = |next: usize| {
                let all = at[next].unwrap_or(0) | behind;
                changed |= at[next] != Some(all);
                at[next] = Some(all);
            };
            if let Some(target) = jump {
                reach(place(target));
            }
            if jump.is_none() || flow != FlowControl::UnconditionalBranch {
                reach(index + 1);
            }
        }
        if !changed {
            return Ok(at[code.len()].unwrap_or(0) & FLAGS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(code: &[&[u8]]) -> Vec<Piece> {
        let piece = |(id, code): (usize, &&[u8])| Piece { id, code: code.to_vec(), jump: None };
        code.iter().enumerate().map(piece).collect()
    }

    const MUL: &[u8] = &[0xf7, 0xe3];
    const SETZ: &[u8] = &[0x0f, 0x94, 0xc0];
    const SETC: &[u8] = &[0x0f, 0x92, 0xc0];
    const CMP: &[u8] = &[0x39, 0xd8];
    const LAHF: &[u8] = &[0x9f];

    #[test]
    fn what_a_multiplication_leaves_is_not_to_be_read() {
        assert_eq!(undefined(&pieces(&[MUL])), Ok(SF | ZF | AF | PF));
        assert_eq!(undefined(&pieces(&[MUL, SETC])), Ok(SF | ZF | AF | PF));
        assert_eq!(undefined(&pieces(&[MUL, SETZ])), Err(Unfit::Undefined(1)));
        assert_eq!(undefined(&pieces(&[MUL, CMP, SETZ])), Ok(0));
        assert_eq!(undefined(&pieces(&[&[0x21, 0xd8], LAHF])), Err(Unfit::Undefined(1)), "and, lahf");
    }

    #[test]
    fn a_way_round_keeps_it_undefined() {
        let mut code = pieces(&[MUL, &[0x0f, 0x82], CMP, SETZ]);
        code[1].jump = Some(3);
        assert_eq!(undefined(&code), Err(Unfit::Undefined(3)));
        code[1].jump = Some(2);
        assert_eq!(undefined(&code), Ok(0));
        // Backwards: the second time round.
        let mut code = pieces(&[CMP, SETZ, MUL, &[0x0f, 0x82]]);
        code[3].jump = Some(1);
        assert_eq!(undefined(&code), Err(Unfit::Undefined(1)));
        code[3].jump = Some(0);
        assert_eq!(undefined(&code), Ok(SF | ZF | AF | PF));
    }

    #[test]
    fn a_count_says_what_a_shift_does_to_flags() {
        let end = |code: &[&[u8]]| undefined(&pieces(code));
        assert_eq!(end(&[&[0xd1, 0xe0]]), Ok(AF), "shl eax, 1");
        assert_eq!(end(&[&[0xc1, 0xe0, 0x21]]), Ok(AF), "shl eax, 33");
        assert_eq!(end(&[&[0xc1, 0xe0, 0x20]]), Ok(0), "shl eax, 32");
        assert_eq!(end(&[&[0xc1, 0xe0, 5]]), Ok(AF | OF), "shl eax, 5");
        assert_eq!(end(&[&[0xc0, 0xe0, 8]]), Ok(AF | OF | CF), "shl al, 8");
        assert_eq!(end(&[&[0xd3, 0xe0]]), Ok(AF | OF), "shl eax, cl");
        assert_eq!(end(&[MUL, &[0xd3, 0xe0]]), Ok(SF | ZF | AF | PF | OF), "may be none");
        assert_eq!(end(&[MUL, &[0xc1, 0xc0, 3]]), Ok(SF | ZF | AF | PF | OF), "rol eax, 3");
        assert_eq!(end(&[&[0xd2, 0xe0], &[0x11, 0xd8]]), Err(Unfit::Undefined(1)), "shl al, cl; adc");
        assert_eq!(end(&[&[0xd3, 0xe0], &[0x11, 0xd8]]), Ok(0), "shl eax, cl; adc");
    }

    #[test]
    fn a_repeated_comparison_may_compare_nothing() {
        assert_eq!(undefined(&pieces(&[MUL, &[0xf3, 0xa6], SETZ])), Err(Unfit::Undefined(2)));
        assert_eq!(undefined(&pieces(&[MUL, &[0xa6], SETZ])), Ok(0));
    }
}
