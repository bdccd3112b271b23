//! Forms that take more than operands: what would fault, run on or leave the arena, or whose result is undefined, unless
//! something comes before.

use iced_x86::{Code, Instruction, MemoryOperand, Mnemonic, OpCodeOperandKind, OpKind, Register};

use super::operands::{self, BASE, general, place};
use crate::random::Random;

/// Of how many instructions a piece is at most.
pub const LONGEST: usize = 5;

/// Takes one off the counter of a loop.
pub fn countdown(counter: u64) -> Instruction {
    let memory = MemoryOperand::with_displ(counter, 8);
    Instruction::with2(Code::Sub_rm32_imm8, memory, 1).unwrap_or_default()
}

/// Instructions of a form that takes more; `None` where it takes nothing special, and `Some(None)` where it came to none.
pub fn made(random: &mut Random, form: Code) -> Option<Option<Vec<Instruction>>> {
    use Mnemonic as M;
    Some(match form.mnemonic() {
        M::Div | M::Idiv => division(random, form),
        M::Bsf | M::Bsr => scan(random, form),
        M::Bt | M::Bts | M::Btr | M::Btc => bit(random, form),
        M::Shld | M::Shrd => double_shift(random, form),
        M::Movsb | M::Movsw | M::Movsd | M::Movsq if form.is_string_instruction() => string(random, form),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq if form.is_string_instruction() => string(random, form),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq | M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
            string(random, form)
        }
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => string(random, form),
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => masked(random, form),
        M::Xlatb => translate(random, form),
        _ if form.op_code().op_kinds().iter().any(|kind| format!("{kind:?}").starts_with("mem_vsib")) => {
            gather(random, form)
        }
        _ => return None,
    })
}

/// Code that goes on behind itself by a way round: a jump to what a register says, a call, or a return. Where that is it takes
/// away again, because a sequence comes to the same wherever it lies. Gives back how many instructions that are.
pub fn roundabout(random: &mut Random) -> (Vec<u8>, usize) {
    let register = random.pick(&[0_u8, 1, 2, 3, 5, 6, 7]);
    let any: [u8; 4] = std::array::from_fn(|_| random.byte());
    // lea register, [rip+2]; mov register, any
    let behind = [0x48, 0x8d, 0x05 | register << 3, 2, 0, 0, 0];
    let forget = [&[0xb8 | register][..], &any].concat();
    match random.below(3) {
        // jmp register
        0 => ([&behind[..], &[0xff, 0xe0 | register], &forget].concat(), 3),
        // push register; ret; mov qword ptr [rsp-8], any
        1 => {
            let back = [0x50 | register, 0xc3];
            ([&behind[..], &back, &forget, &[0x48, 0xc7, 0x44, 0x24, 0xf8], &any].concat(), 5)
        }
        // call behind; mov qword ptr [rsp], any; lea rsp, [rsp+8]
        _ => {
            let call = [0xe8, 0, 0, 0, 0, 0x48, 0xc7, 0x04, 0x24];
            ([&call[..], &any, &[0x48, 0x8d, 0x64, 0x24, 8]].concat(), 3)
        }
    }
}

fn into_arena(random: &mut Random, register: Register, size: i64) -> Option<Instruction> {
    let memory = MemoryOperand::with_base_displ(BASE, place(random, size, 1));
    Instruction::with2(Code::Lea_r64_m, register, memory).ok()
}

/// Divides by what is not zero, a number whose quotient has room.
fn division(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let signed = form.mnemonic() == Mnemonic::Idiv;
    let bits = match form {
        Code::Div_rm8 | Code::Idiv_rm8 => 8,
        Code::Div_rm16 | Code::Idiv_rm16 => 16,
        Code::Div_rm32 | Code::Idiv_rm32 => 32,
        _ => 64,
    };
    // Neither the dividend nor what addresses are made of.
    let divisor = loop {
        let register = general(random, Register::RAX);
        if register != Register::RAX && register != Register::RDX {
            break register;
        }
    };
    let number = divisor as u32 - Register::RAX as u32;
    let mut all = Vec::new();
    // Its highest bit that counts is set, and the dividend's upper half is less than a quarter of it.
    let (top, high) = if signed { (bits - 2, bits - 4) } else { (bits - 1, bits - 3) };
    if signed {
        // Not negative.
        all.push(Instruction::with2(Code::Btr_rm64_imm8, divisor, bits - 1).ok()?);
    }
    all.push(Instruction::with2(Code::Bts_rm64_imm8, divisor, top).ok()?);
    let upper = (random.word() & ((1 << high) - 1)).cast_signed();
    let operand = match bits {
        8 => {
            // The upper half is ah.
            let dividend = i32::try_from(upper << 8 | i64::from(random.byte())).ok()?;
            all.push(Instruction::with2(Code::Mov_r32_imm32, Register::EAX, dividend).ok()?);
            const LOW: [Register; 8] = [
                Register::AL,
                Register::CL,
                Register::DL,
                Register::BL,
                Register::SPL,
                Register::BPL,
                Register::SIL,
                Register::DIL,
            ];
            match LOW.get(number as usize) {
                Some(&low) => low,
                None => Register::R8L + (number - 8),
            }
        }
        16 => {
            all.push(
                Instruction::with2(Code::Mov_r32_imm32, Register::EDX, i32::try_from(upper).ok()?).ok()?,
            );
            Register::AX + number
        }
        32 => {
            all.push(
                Instruction::with2(Code::Mov_r32_imm32, Register::EDX, i32::try_from(upper).ok()?).ok()?,
            );
            Register::EAX + number
        }
        _ => {
            all.push(Instruction::with2(Code::Mov_r64_imm64, Register::RDX, upper).ok()?);
            divisor
        }
    };
    all.push(Instruction::with1(form, operand).ok()?);
    Some(all)
}

/// Looks for a bit where there is one.
fn scan(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let mut all = operands::made(random, form)?;
    let scan = all.pop()?;
    let width = i32::try_from(scan.op0_register().size() * 8).ok()?;
    let bit = i32::try_from(random.below(usize::try_from(width).ok()?)).ok()?;
    let set = match (scan.op1_kind(), width) {
        (OpKind::Register, 16) => Instruction::with2(Code::Bts_rm16_imm8, scan.op1_register(), bit),
        (OpKind::Register, 32) => Instruction::with2(Code::Bts_rm32_imm8, scan.op1_register(), bit),
        (OpKind::Register, _) => Instruction::with2(Code::Bts_rm64_imm8, scan.op1_register(), bit),
        (_, width) => {
            let memory = MemoryOperand::new(
                scan.memory_base(),
                scan.memory_index(),
                scan.memory_index_scale(),
                scan.memory_displacement64().cast_signed(),
                scan.memory_displ_size(),
                false,
                scan.segment_prefix(),
            );
            match width {
                16 => Instruction::with2(Code::Bts_rm16_imm8, memory, bit),
                32 => Instruction::with2(Code::Bts_rm32_imm8, memory, bit),
                _ => Instruction::with2(Code::Bts_rm64_imm8, memory, bit),
            }
        }
    };
    all.push(set.ok()?);
    all.push(scan);
    Some(all)
}

/// A bit of memory: its number, where a register has it, reaches as far as that goes.
fn bit(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let mut all = operands::with(random, form, false)?;
    let last = all.last_mut()?;
    if last.op0_kind() != OpKind::Memory {
        return Some(all);
    }
    if last.op1_kind() != OpKind::Register {
        let mut before = operands::address(random, last);
        before.append(&mut all);
        return Some(before);
    }
    // A byte of the first 64 behind its address.
    let number = last.op1_register().full_register32();
    if [Register::R15D, Register::ESP].contains(&number) {
        return None;
    }
    let size = i64::try_from(last.memory_size().size()).ok()?;
    let at = if last.has_lock_prefix() { place(random, 72, size) } else { place(random, 72, 1) };
    last.set_memory_base(BASE);
    last.set_memory_displ_size(8);
    last.set_memory_displacement64(at.cast_unsigned());
    let mask = Instruction::with2(Code::And_rm32_imm32, number, 0x1ff).ok()?;
    all.insert(0, mask);
    Some(all)
}

/// By no more than the operand has bits: by more the result is undefined.
fn double_shift(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let mut all = operands::made(random, form)?;
    let last = all.last_mut()?;
    if last.op1_register().size() == 2 && last.op2_kind() == OpKind::Immediate8 {
        last.set_immediate8(last.immediate8() & 15);
    }
    Some(all)
}

/// With both its addresses in the arena, and repeated a few times where it is.
fn string(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let size = i64::try_from(form.op_code().memory_size().size().max(1)).ok()?;
    // In either direction.
    let reach = 15 * size;
    let mut all = Vec::new();
    for register in [Register::RSI, Register::RDI] {
        let kinds = form.op_code();
        let uses = kinds
            .op_kinds()
            .iter()
            .any(|kind| format!("{kind:?}").ends_with(if register == Register::RSI { "rSI" } else { "rDI" }));
        if uses {
            let at = place(random, size + reach * 2, 1) + reach;
            let memory = MemoryOperand::with_base_displ(BASE, at);
            all.push(Instruction::with2(Code::Lea_r64_m, register, memory).ok()?);
        }
    }
    let repeated = random.below(3);
    if repeated > 0 {
        let count = if random.chance(50) {
            let count = i32::try_from(random.below(16)).ok()?;
            Instruction::with2(Code::Mov_r32_imm32, Register::ECX, count)
        } else {
            Instruction::with2(Code::And_rm32_imm8, Register::ECX, 15)
        };
        all.push(count.ok()?);
    }
    let mut instruction = Instruction::default();
    instruction.set_code(form);
    for (number, kind) in form.op_code().op_kinds().iter().enumerate() {
        let operand = u32::try_from(number).ok()?;
        let (kind, register) = match format!("{kind:?}").as_str() {
            "seg_rSI" => (OpKind::MemorySegRSI, None),
            "es_rDI" => (OpKind::MemoryESRDI, None),
            "al" => (OpKind::Register, Some(Register::AL)),
            "ax" => (OpKind::Register, Some(Register::AX)),
            "eax" => (OpKind::Register, Some(Register::EAX)),
            _ => (OpKind::Register, Some(Register::RAX)),
        };
        instruction.set_op_kind(operand, kind);
        if let Some(register) = register {
            instruction.set_op_register(operand, register);
        }
    }
    match repeated {
        1 => instruction.set_has_rep_prefix(true),
        // Of others than those that compare it means nothing more.
        2 if matches!(form.mnemonic(), Mnemonic::Cmpsb | Mnemonic::Scasb)
            || form.op_code().can_use_repne_prefix() =>
        {
            instruction.set_has_repne_prefix(true);
        }
        _ => {}
    }
    all.push(instruction);
    Some(all)
}

/// Stores the bytes that a mask names where rdi points to.
fn masked(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let size = if form.mnemonic() == Mnemonic::Maskmovq { 8 } else { 16 };
    let mut instruction = Instruction::default();
    instruction.set_code(form);
    instruction.set_op0_kind(OpKind::MemorySegRDI);
    let first = if size == 8 { Register::MM0 } else { Register::XMM0 };
    for operand in 1..3 {
        instruction.set_op_kind(operand, OpKind::Register);
        instruction.set_op_register(operand, first + u32::try_from(random.below(8)).ok()?);
    }
    Some(vec![into_arena(random, Register::RDI, size)?, instruction])
}

/// A byte of the 256 behind rbx.
fn translate(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let mut instruction = Instruction::default();
    instruction.set_code(form);
    instruction.set_op0_kind(OpKind::Memory);
    instruction.set_memory_base(Register::RBX);
    instruction.set_memory_index(Register::AL);
    Some(vec![into_arena(random, Register::RBX, 256)?, instruction])
}

/// Reads by the numbers of a vector, which are made less than 64 before.
fn gather(random: &mut Random, form: Code) -> Option<Vec<Instruction>> {
    let kinds = form.op_code().op_kinds();
    let of = |kind: OpCodeOperandKind| {
        if matches!(kind, OpCodeOperandKind::ymm_reg | OpCodeOperandKind::ymm_vvvv) {
            Register::YMM0
        } else {
            Register::XMM0
        }
    };
    // Three registers, none of them the same.
    let first = u32::try_from(random.below(16)).ok()?;
    let [into, index, mask] = [first, (first + 1 + u32::from(random.byte() % 7)) % 16, (first + 8) % 16];
    let (wide, long) = match kinds[1] {
        OpCodeOperandKind::mem_vsib32x => (Register::XMM0, false),
        OpCodeOperandKind::mem_vsib32y => (Register::YMM0, false),
        OpCodeOperandKind::mem_vsib64x => (Register::XMM0, true),
        _ => (Register::YMM0, true),
    };
    let index = wide + index;
    let (shift, by) = match (long, wide == Register::YMM0) {
        (false, false) => (Code::VEX_Vpsrld_xmm_xmm_imm8, 26),
        (false, true) => (Code::VEX_Vpsrld_ymm_ymm_imm8, 26),
        (true, false) => (Code::VEX_Vpsrlq_xmm_xmm_imm8, 58),
        (true, true) => (Code::VEX_Vpsrlq_ymm_ymm_imm8, 58),
    };
    let scale = random.pick(&[1, 2, 4, 8]);
    let size = i64::try_from(form.op_code().memory_size().element_size()).ok()?;
    let at = place(random, size + 63 * i64::from(scale), 1);
    let memory = MemoryOperand::with_base_index_scale_displ_size(BASE, index, scale, at, 8);
    let gather = Instruction::with3(form, of(kinds[0]) + into, memory, of(kinds[2]) + mask).ok()?;
    Some(vec![Instruction::with3(shift, index, index, by).ok()?, gather])
}
