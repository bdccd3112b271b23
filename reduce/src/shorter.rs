//! A case made as short, and what it starts from as simple, as can be while something holds of it.

use iced_x86::{Code, Decoder, DecoderOptions, Formatter, Instruction};
use lockstep::disassembly::formatter;

use crate::case::{Case, MXCSR, Piece, RSP, State};
use crate::{delta, flags};

/// Makes `case` short, and then what it starts from simple, while `still` says of it what it says of the whole. `still` is given
/// candidates, and says of each whether it still does; of one that acts on undefined flags it should not.
///
/// # Errors
/// Those of `still`.
pub fn shortest<E>(case: &Case, mut still: impl FnMut(&[Case]) -> Result<Vec<bool>, E>) -> Result<Case, E> {
    let with = |pieces: &[Piece]| Case { pieces: pieces.to_vec(), ..case.clone() };
    let pieces = delta::shortest(&case.pieces, |candidates| {
        still(&candidates.iter().map(|pieces| with(pieces)).collect::<Vec<_>>())
    })?;
    let case = with(&pieces);
    let parts = simpler(&case);
    let numbers: Vec<_> = (0..parts.len()).collect();
    let kept = delta::shortest(&numbers, |candidates| {
        still(&candidates.iter().map(|kept| without(&case, &parts, kept)).collect::<Vec<_>>())
    })?;
    Ok(without(&case, &parts, &kept))
}

/// `case` up to each of its instructions, the shortest first; but for those that would act on undefined flags.
#[must_use]
pub fn parts(case: &Case) -> Vec<Case> {
    let all = single(&case.pieces);
    let parts = (1..=all.len()).map(|count| Case { pieces: all[..count].to_vec(), ..case.clone() });
    parts.filter(|part| flags::undefined(&part.pieces).is_ok()).collect()
}

/// Its instructions, each as a piece of its own.
fn single(pieces: &[Piece]) -> Vec<Piece> {
    let mut all = Vec::new();
    for piece in pieces {
        let bytes = with_displacement(piece);
        let decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
        let mut from = 0;
        for instruction in decoder {
            let to = (from + instruction.len()).min(piece.code.len());
            let jump = if to == piece.code.len() { piece.jump } else { None };
            all.push(Piece { id: piece.id, code: piece.code[from..to].to_vec(), jump });
            from = to;
        }
    }
    all
}

fn with_displacement(piece: &Piece) -> Vec<u8> {
    if piece.jump.is_some() { [&*piece.code, &[0; 4]].concat() } else { piece.code.clone() }
}

/// The form of a piece's last instruction, and its text.
#[must_use]
pub fn told(piece: &Piece) -> (Code, String) {
    let bytes = with_displacement(piece);
    let last = Decoder::new(64, &bytes, DecoderOptions::NONE).into_iter().last().unwrap_or_default();
    (last.code(), text(&last, piece))
}

fn text(instruction: &Instruction, piece: &Piece) -> String {
    let mut text = String::new();
    match piece.jump {
        Some(target) => {
            let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
            text = format!("{name} to piece {target}");
        }
        None => formatter().format(instruction, &mut text),
    }
    text
}

/// The instructions of `pieces` as text.
#[must_use]
pub fn texts(pieces: &[Piece]) -> Vec<String> {
    single(pieces).iter().map(|piece| told(piece).1).collect()
}

/// What of a start can be made simpler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    General(usize),
    Vector(usize),
    Mmx(usize),
    Flags,
    Mxcsr,
    /// So many bytes of memory from here on.
    Memory(usize),
}

/// What memory is made simpler by, bytes.
const STRETCH: usize = 64;

fn simpler(case: &Case) -> Vec<Part> {
    let general = (0..16).filter(|&number| number != RSP);
    let mut parts: Vec<_> = general.map(Part::General).collect();
    parts.extend((0..16).map(Part::Vector));
    parts.extend((0..8).map(Part::Mmx));
    parts.extend([Part::Flags, Part::Mxcsr]);
    // The counters of loops stay.
    parts.extend((STRETCH..case.memory.len()).step_by(STRETCH).map(Part::Memory));
    parts
}

/// `case` with all `parts` zero but for those with these numbers.
fn without(case: &Case, parts: &[Part], kept: &[usize]) -> Case {
    let mut case = case.clone();
    let State { gpr, rflags, mxcsr, vectors, mmx } = &mut case.start;
    for (_, part) in parts.iter().enumerate().filter(|(number, _)| !kept.contains(number)) {
        match *part {
            Part::General(number) => gpr[number] = 0,
            Part::Vector(number) => vectors[number] = [0; 32],
            Part::Mmx(number) => mmx[number] = 0,
            Part::Flags => *rflags = 0,
            Part::Mxcsr => *mxcsr = MXCSR,
            Part::Memory(from) => case.memory[from..from + STRETCH].fill(0),
        }
    }
    case
}
