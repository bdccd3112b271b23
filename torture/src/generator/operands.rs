//! Operands for a form: registers, immediate values, and memory in the arena.

use iced_x86::{
    Code, EncodingKind, Instruction, MemoryOperand, Mnemonic, OpCodeOperandKind, OpKind, Register,
};
use reduce::case::{ARENA, REACH};

use crate::random::Random;
use crate::values;

/// The register that holds the arena's middle, and never anything else.
pub const BASE: Register = Register::R15;

const R8: [Register; 20] = [
    Register::AL,
    Register::CL,
    Register::DL,
    Register::BL,
    Register::AH,
    Register::CH,
    Register::DH,
    Register::BH,
    Register::BPL,
    Register::SIL,
    Register::DIL,
    Register::R8L,
    Register::R9L,
    Register::R10L,
    Register::R11L,
    Register::R12L,
    Register::R13L,
    Register::R14L,
    Register::AL,
    Register::CL,
];

/// A general register other than those that addresses are made of; the first few more often, so that what one instruction
/// makes another uses.
pub fn general(random: &mut Random, first: Register) -> Register {
    loop {
        let number = if random.chance(60) { random.below(8) } else { random.below(15) };
        if number != 4 {
            return first + u32::try_from(number).unwrap_or_default();
        }
    }
}

fn vector(random: &mut Random, first: Register) -> Register {
    let number = if random.chance(70) { random.below(6) } else { random.below(16) };
    first + u32::try_from(number).unwrap_or_default()
}

/// The numbers for which an address has to be a multiple of the operand's size: what faults elsewhere.
fn alignment(instruction: &Instruction, size: i64) -> i64 {
    use Mnemonic as M;
    let encoding = instruction.op_code().encoding();
    let mnemonic = instruction.mnemonic();
    let aligned = if encoding == EncodingKind::VEX {
        matches!(
            mnemonic,
            M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa
        )
    } else {
        size >= 16 && !matches!(mnemonic, M::Movups | M::Movupd | M::Movdqu | M::Lddqu)
    };
    // One that locks across two lines may be refused by the kernel.
    let locks = instruction.has_lock_prefix() || mnemonic == M::Xchg || mnemonic == M::Cmpxchg16b;
    if aligned || locks { size } else { 1 }
}

/// Where in the arena so many bytes are accessed, from its middle.
pub fn place(random: &mut Random, size: i64, alignment: i64) -> i64 {
    let last = REACH - size;
    let at = match random.below(8) {
        // Across the pages' border.
        0 | 1 => random.between(-size, 0),
        2..5 => random.between(-REACH / 8, last / 8) * 8,
        _ => random.between(-REACH, last),
    };
    (at.div_euclid(alignment) * alignment).clamp(-REACH, last)
}

/// Has an instruction's memory be in the arena; gives back what has to come before it.
pub fn address(random: &mut Random, instruction: &mut Instruction) -> Vec<Instruction> {
    let size = i64::try_from(instruction.memory_size().size().max(1)).unwrap_or(1).min(64);
    let alignment = alignment(instruction, size);
    let at = place(random, size, alignment);
    let mut before = Vec::new();
    instruction.set_memory_displ_size(8);
    instruction.set_memory_index_scale(1);
    let mut displacement = at;
    let (mut base, mut index) = (BASE, Register::None);
    match random.below(20) {
        0..8 => {}
        8..13 => {
            base = general(random, Register::RAX);
            displacement = random.between(-300, 300);
            let memory = MemoryOperand::with_base_displ(BASE, at - displacement);
            before.extend(Instruction::with2(Code::Lea_r64_m, base, memory));
        }
        13..17 if alignment == 1 => {
            let scale = random.pick(&[1, 2, 4, 8]);
            let reach = 15 * i64::from(scale);
            index = general(random, Register::RAX);
            instruction.set_memory_index_scale(scale);
            displacement = place(random, size + reach, 1);
            let low = Register::EAX + (index as u32 - Register::RAX as u32);
            before.extend(Instruction::with2(Code::And_rm32_imm8, low, 15));
        }
        17 => {
            base = Register::None;
            displacement = i64::try_from(ARENA).unwrap_or_default() + at;
        }
        18 => base = Register::R15D,
        _ => {}
    }
    if base == Register::R15D {
        instruction.set_memory_displ_size(4);
    }
    if base == Register::None {
        instruction.set_memory_displ_size(8);
    }
    instruction.set_memory_base(base);
    instruction.set_memory_index(index);
    instruction.set_memory_displacement64(displacement.cast_unsigned());
    if random.chance(3) {
        // Their bases are 0.
        instruction.set_segment_prefix(random.pick(&[Register::FS, Register::GS]));
    }
    before
}

fn size_of(kind: OpCodeOperandKind) -> Option<(Register, bool)> {
    use OpCodeOperandKind as K;
    // The register numbered 0, and whether memory may stand for it.
    Some(match kind {
        K::r8_or_mem => (Register::AL, true),
        K::r8_reg | K::r8_opcode => (Register::AL, false),
        K::r16_or_mem => (Register::AX, true),
        K::r16_reg | K::r16_rm | K::r16_opcode => (Register::AX, false),
        K::r32_or_mem => (Register::EAX, true),
        K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => (Register::EAX, false),
        K::r64_or_mem => (Register::RAX, true),
        K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => (Register::RAX, false),
        K::mm_or_mem => (Register::MM0, true),
        K::mm_reg | K::mm_rm => (Register::MM0, false),
        K::xmm_or_mem => (Register::XMM0, true),
        K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => (Register::XMM0, false),
        K::ymm_or_mem => (Register::YMM0, true),
        K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => (Register::YMM0, false),
        _ => return None,
    })
}

fn register(random: &mut Random, first: Register) -> Register {
    match first {
        Register::AL => random.pick(&R8),
        Register::MM0 => Register::MM0 + u32::try_from(random.below(8)).unwrap_or_default(),
        Register::XMM0 | Register::YMM0 => vector(random, first),
        // What is only read may be any.
        _ if random.chance(3) => first + random.pick(&[4, 15]),
        _ => general(random, first),
    }
}

/// An instruction of this form, behind what has to come before it. `None` where its operands are none that can be chosen.
pub fn made(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    with(random, form, true)
}

/// The same, and whether its memory's address is chosen.
pub fn with(random: &mut Random, form: Code, addressed: bool) -> Option<Vec<Instruction>> {
    use OpCodeOperandKind as K;
    let mut instruction = Instruction::default();
    instruction.set_code(form);
    let mut in_memory = false;
    let wide = values::integer(random);
    let [low, second, ..] = wide.to_le_bytes();
    for (number, &kind) in form.op_code().op_kinds().iter().enumerate() {
        let operand = u32::try_from(number).unwrap_or_default();
        if let Some((first, may_be_memory)) = size_of(kind) {
            if may_be_memory && random.chance(40) {
                in_memory = true;
                instruction.set_op_kind(operand, OpKind::Memory);
            } else {
                instruction.set_op_kind(operand, OpKind::Register);
                instruction.set_op_register(operand, register(random, first));
            }
            continue;
        }
        let fixed = match kind {
            K::al => Some(Register::AL),
            K::cl => Some(Register::CL),
            K::ax => Some(Register::AX),
            K::eax => Some(Register::EAX),
            K::rax => Some(Register::RAX),
            _ => None,
        };
        if let Some(register) = fixed {
            instruction.set_op_kind(operand, OpKind::Register);
            instruction.set_op_register(operand, register);
            continue;
        }
        match kind {
            K::mem => {
                in_memory = true;
                instruction.set_op_kind(operand, OpKind::Memory);
            }
            K::imm8 => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(low);
            }
            K::imm8_const_1 => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(1);
            }
            K::imm8sex16 => {
                instruction.set_op_kind(operand, OpKind::Immediate8to16);
                instruction.set_immediate8to16(i16::from(low.cast_signed()));
            }
            K::imm8sex32 => {
                instruction.set_op_kind(operand, OpKind::Immediate8to32);
                instruction.set_immediate8to32(i32::from(low.cast_signed()));
            }
            K::imm8sex64 => {
                instruction.set_op_kind(operand, OpKind::Immediate8to64);
                instruction.set_immediate8to64(i64::from(low.cast_signed()));
            }
            K::imm16 => {
                instruction.set_op_kind(operand, OpKind::Immediate16);
                instruction.set_immediate16(u16::from_le_bytes([low, second]));
            }
            K::imm32 => {
                instruction.set_op_kind(operand, OpKind::Immediate32);
                instruction.set_immediate32(u32::try_from(wide & 0xffff_ffff).unwrap_or_default());
            }
            K::imm32sex64 => {
                instruction.set_op_kind(operand, OpKind::Immediate32to64);
                let low = u32::try_from(wide & 0xffff_ffff).unwrap_or_default();
                instruction.set_immediate32to64(i64::from(low.cast_signed()));
            }
            K::imm64 => {
                instruction.set_op_kind(operand, OpKind::Immediate64);
                instruction.set_immediate64(wide);
            }
            _ => return None,
        }
    }
    let mut all = Vec::new();
    if in_memory {
        if instruction.op0_kind() == OpKind::Memory
            && form.op_code().can_use_lock_prefix()
            && random.chance(25)
        {
            instruction.set_has_lock_prefix(true);
        }
        if addressed {
            all = address(random, &mut instruction);
        }
    }
    all.push(instruction);
    Some(all)
}
