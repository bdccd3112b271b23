//! Sequences of random code that end, stay in their memory, and come to what the architecture says and nothing else.
//!
//! Each piece stands for itself: what it takes to keep its address in the arena, its division from a fault or its count
//! small is in it, so that any other piece can be left out.

mod operands;
mod special;

use std::collections::HashSet;

use iced_x86::{Code, Encoder, Instruction, InstructionInfoFactory, OpAccess, Register};
use reduce::case::{
    COUNTER_COUNT, COUNTERS, Case, DF, FLAGS, MXCSR, Piece, R15, REGION, REGION_SIZE, RSP, State,
};
use reduce::flags;

use crate::forms::Forms;
use crate::random::Random;
use crate::values;

/// How many instructions a sequence has, at least and at most.
const LEAST: i64 = 40;
const MOST: i64 = 64;

/// How often a loop goes back, and how many there are.
const TURNS: i64 = 3;
const LOOPS: usize = 2;
/// How many words are put on the stack, or taken.
const WORDS: usize = 6;

/// One sequence. What it was made of is told by its seed and number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub number: u64,
    pub case: Case,
    pub instructions: usize,
}

/// How many memories to begin with there are in a batch.
const MEMORIES: u64 = 16;

pub struct Generator {
    seed: u64,
    factory: InstructionInfoFactory,
    encoder: Encoder,
}

/// What a sequence has so far.
struct Building<'a> {
    random: Random,
    forms: &'a Forms,
    pieces: Vec<Piece>,
    instructions: usize,
    loops: usize,
    words: usize,
}

impl Generator {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Generator { seed, factory: InstructionInfoFactory::new(), encoder: Encoder::new(64) }
    }

    /// The sequence of this number, of `forms`.
    pub fn sequence(&mut self, number: u64, forms: &Forms) -> Sequence {
        let mut random = Random::new(self.seed, number);
        let length = usize::try_from(random.between(LEAST, MOST)).unwrap_or_default();
        let start = start(&mut random);
        let memory = memory(self.seed, random.word() % MEMORIES);
        let mut building =
            Building { random, forms, pieces: Vec::new(), instructions: 0, loops: 0, words: 0 };
        // Some that are tried do not fit.
        for _ in 0..length * 8 {
            if building.instructions + special::LONGEST > length {
                break;
            }
            self.add(&mut building);
        }
        let Building { pieces, instructions, .. } = building;
        Sequence { number, case: Case { pieces, start, memory }, instructions }
    }

    fn add(&mut self, building: &mut Building) {
        let id = building.pieces.len();
        let before = building.instructions;
        let piece = match building.random.below(100) {
            0..5 => Some(jump(building, id)),
            5..7 => {
                let (code, count) = special::roundabout(&mut building.random);
                Some((Piece { id, code, jump: None }, count))
            }
            7..9 if building.loops < LOOPS && id > 2 => self.turn(building, id),
            _ => self.computes(building, id),
        };
        let Some((piece, count)) = piece else { return };
        building.pieces.push(piece);
        building.instructions += count;
        if flags::undefined(&building.pieces).is_err() {
            building.pieces.pop();
            building.instructions = before;
        }
    }

    /// Code that goes back to an earlier piece, a few times: its counter is in memory, where nothing else comes to it.
    fn turn(&mut self, building: &mut Building, id: usize) -> Option<(Piece, usize)> {
        let back = building.random.below(id.min(12)) + 1;
        let counter = COUNTERS + 8 * building.loops as u64;
        building.loops += 1;
        let mut code = self.encoded(&[special::countdown(counter)])?;
        // jg
        code.extend([0x0f, 0x8f]);
        Some((Piece { id, code, jump: Some(id - back) }, 2))
    }

    fn computes(&mut self, building: &mut Building, id: usize) -> Option<(Piece, usize)> {
        let form = building.forms.pick(&mut building.random)?;
        let instructions = self.instructions(building, form)?;
        let code = self.encoded(&instructions)?;
        Some((Piece { id, code, jump: None }, instructions.len()))
    }

    /// An instruction of a form, with what has to come before it.
    fn instructions(&mut self, building: &mut Building, form: Code) -> Option<Vec<Instruction>> {
        let random = &mut building.random;
        if form.is_stack_instruction() {
            if building.words == WORDS {
                return None;
            }
            building.words += 1;
        }
        let made = match special::made(random, form) {
            Some(made) => made?,
            None => operands::made(random, form)?,
        };
        let fits = made.iter().all(|instruction| self.keeps_bases(instruction));
        fits.then_some(made)
    }

    /// Whether it leaves alone what addresses are made of.
    fn keeps_bases(&mut self, instruction: &Instruction) -> bool {
        let stack = instruction.code().is_stack_instruction();
        let info = self.factory.info(instruction);
        let mut pops = 0;
        for used in info.used_registers() {
            let writes = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            let register = used.register().full_register();
            if writes && register == Register::R15 {
                return false;
            }
            if writes && register == Register::RSP {
                pops += 1;
                // `pop rsp` writes it twice, and is an operand.
                if !stack || instruction.op0_register().full_register() == Register::RSP {
                    return false;
                }
            }
        }
        pops <= 1
    }

    fn encoded(&mut self, instructions: &[Instruction]) -> Option<Vec<u8>> {
        for instruction in instructions {
            if self.encoder.encode(instruction, 0).is_err() {
                let _ = self.encoder.take_buffer();
                return None;
            }
        }
        Some(self.encoder.take_buffer())
    }
}

/// A jump that is taken where flags say so, over one piece or some.
fn jump(building: &mut Building, id: usize) -> (Piece, usize) {
    let random = &mut building.random;
    let condition = random.byte() & 15;
    let over = random.below(5);
    (Piece { id, code: vec![0x0f, 0x80 | condition], jump: Some(id + 1 + over) }, 1)
}

fn start(random: &mut Random) -> State {
    let mut start = State::default();
    for number in (0..16).filter(|&number| number != RSP && number != R15) {
        start.gpr[number] = values::integer(random);
    }
    start.rflags = random.word() & FLAGS & !DF;
    let rounding = if random.chance(60) { 0 } else { random.below(4) };
    let flush = if random.chance(85) { 0 } else { random.pick(&[0x40, 0x8000, 0x8040]) };
    start.mxcsr = MXCSR | u32::try_from(rounding << 13).unwrap_or_default() | flush;
    for vector in &mut start.vectors {
        vector.copy_from_slice(&values::bytes(random, 32));
    }
    for (value, bytes) in start.mmx.iter_mut().zip(values::bytes(random, 64).chunks(8)) {
        *value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    }
    start
}

/// The memory of this number to begin with.
fn memory(seed: u64, number: u64) -> Vec<u8> {
    let mut random = Random::new(seed, u64::MAX - number);
    let mut memory = values::bytes(&mut random, REGION_SIZE);
    let at = usize::try_from(COUNTERS - REGION).unwrap_or_default();
    for counter in memory[at..at + COUNTER_COUNT * 8].chunks_mut(8) {
        counter.copy_from_slice(&u64::try_from(random.between(1, TURNS)).unwrap_or(1).to_le_bytes());
    }
    memory
}

/// Codes of the instructions of `code`, for which it stands.
#[must_use]
pub fn forms_of(pieces: &[Piece]) -> HashSet<Code> {
    let mut forms = HashSet::new();
    for piece in pieces {
        let bytes = if piece.jump.is_some() { [&*piece.code, &[0; 4]].concat() } else { piece.code.clone() };
        let decoder = iced_x86::Decoder::new(64, &bytes, iced_x86::DecoderOptions::NONE);
        forms.extend(decoder.into_iter().map(|instruction| instruction.code()));
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
    use reduce::features::Features;

    /// What is executed is what was meant, and nothing else writes to what addresses are made of.
    #[test]
    fn each_form_is_encoded_as_it_was_meant() {
        let forms = Forms::of(&Features::all());
        let mut generator = Generator::new(1);
        let shown = |instruction: &Instruction| {
            let mut text = String::new();
            IntelFormatter::new().format(instruction, &mut text);
            // Two names of one: what is exchanged with itself is no operation.
            if ["xchg ax,ax", "xchg eax,eax", "xchg rax,rax"].contains(&&*text) {
                "nop".to_owned()
            } else {
                text
            }
        };
        let mut building = Building {
            random: Random::new(1, 1),
            forms: &forms,
            pieces: Vec::new(),
            instructions: 0,
            loops: 0,
            words: 0,
        };
        for form in forms.iter() {
            let mut times = 0;
            for _ in 0..40 {
                building.words = 0;
                let Some(made) = generator.instructions(&mut building, form) else { continue };
                let Some(code) = generator.encoded(&made) else { continue };
                times += 1;
                assert!(made.len() <= special::LONGEST);
                let decoded: Vec<_> = Decoder::new(64, &code, DecoderOptions::NONE).into_iter().collect();
                assert_eq!(
                    decoded.iter().map(shown).collect::<Vec<_>>(),
                    made.iter().map(shown).collect::<Vec<_>>(),
                    "{form:?}"
                );
                let is_nop = decoded.last().is_some_and(|last| shown(last) == "nop");
                assert!(is_nop || decoded.last().map(Instruction::code) == Some(form), "{form:?}");
                let keeps = decoded.iter().all(|instruction| generator.keeps_bases(instruction));
                assert!(keeps, "{form:?}");
            }
            assert!(times > 0, "{form:?}");
        }
    }
}
