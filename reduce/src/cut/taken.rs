//! Executed instructions as the code of a case: one behind another, wherever they lay, with what they touch in the case's
//! memory.
//!
//! Jumps lead to the next instruction, whether taken or not: so blocks end where they did. From the guilty instruction on one that is
//! not taken leaves a mark, because that may be what differs. Code of 32 and 16 bit becomes the
//! 64-bit code that does the same. What can't be taken along (system calls, devices, the floating-point stack, what 64-bit code has
//! not) is left out, with the general registers set to what it left.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register,
};
use lockstep::excerpt::{Excerpt, Moment};

use super::places::Places;
use super::registers::{Registers, general};
use crate::case::{Case, Piece, REGION, RSP, STACK, State};

/// What becomes of operands in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operands {
    /// They stay as they are, and their base registers point into the case's memory.
    AsTheyAre,
    /// They become addresses in it, and registers stay what they were.
    Addresses,
}

/// `jmp` and `call` to the next instruction, and `ret` without a way back (`lea rsp, [rsp + disp32]`).
const JUMP_ON: [u8; 2] = [0xeb, 0];
const CALL_ON: [u8; 5] = [0xe8, 0, 0, 0, 0];
const DROP: [u8; 4] = [0x48, 0x8d, 0xa4, 0x24];
/// `mov byte ptr [disp32], 1`.
const MARK: [u8; 3] = [0xc6, 0x04, 0x25];
/// Where that puts it: where there are counters of loops in other cases.
const MARKED: u64 = REGION + 8;

/// A case of `moments`, which begins with these flags. Of them the one at index `guilty` has to be in it. `known` says of what
/// they are.
pub(super) fn case(
    known: &Excerpt,
    moments: &[Moment],
    guilty: usize,
    operands: Operands,
    rflags: u64,
) -> Option<Case> {
    let places = Places::of(moments)?;
    let bits = known.bits?;
    let registers = |moment| Registers { names: &known.names, bits, moment };
    let start = registers(moments.first()?).state(rflags);
    let mut taking = Taking {
        operands,
        places,
        start,
        pointers: [false; 16],
        written: [false; 16],
        shifts: [0; 16],
        pieces: Vec::new(),
        factory: InstructionInfoFactory::new(),
    };
    let mut taken = Vec::with_capacity(moments.len());
    for (number, moment) in moments.iter().enumerate() {
        let is_taken = taking.take(registers(moment), number >= guilty).is_some();
        taken.push(is_taken);
        if !is_taken {
            if number == guilty {
                return None;
            }
            taking.leave_out(registers(moment), moments.get(number + 1).map(registers));
        }
    }
    let Taking { mut start, pointers, pieces, places, .. } = taking;
    let memory = places.memory(moments, &taken);
    if !pointers[RSP] {
        start.gpr[RSP] = STACK;
    }
    Some(Case { pieces, start, memory })
}

fn decoded(registers: Registers) -> Instruction {
    let Registers { bits, moment, .. } = registers;
    let mut instruction =
        Decoder::with_ip(bits, &moment.bytes, moment.address, DecoderOptions::NONE).decode();
    // In 64-bit code their bytes are prefixes.
    instruction.set_code(match instruction.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        other => other,
    });
    instruction
}

/// Instructions that need more than a processor's usual registers and memory, or come to something else each time.
fn left_out(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let features = instruction.cpuid_features();
    let floating = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387, CpuidFeature::FXSR];
    let segments = (0..instruction.op_count()).any(|op| {
        instruction.op_kind(op) == OpKind::Register && instruction.op_register(op).is_segment_register()
    });
    instruction.is_invalid()
        || instruction.is_privileged()
        || instruction.is_save_restore_instruction()
        || segments
        || features.iter().any(|feature| floating.contains(feature) || *feature == CpuidFeature::FSGSBASE)
        || matches!(
            instruction.flow_control(),
            FlowControl::Interrupt | FlowControl::Exception | FlowControl::XbeginXabortXend
        )
        || matches!(
            instruction.mnemonic(),
            M::Syscall
                | M::Sysenter
                | M::Rdtsc
                | M::Rdtscp
                | M::Rdrand
                | M::Rdseed
                | M::Rdpmc
                | M::Rdpid
                | M::Sgdt
                | M::Sidt
                | M::Sldt
                | M::Smsw
                | M::Str
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::Enter
                | M::Xlatb
        )
        || instruction.is_vsib()
}

struct Taking {
    operands: Operands,
    places: Places,
    start: State,
    /// Registers that begin as pointers into the case's memory, and those that were written.
    pointers: [bool; 16],
    written: [bool; 16],
    /// By how much each has more in the case than it had in the guest, as far as can be told.
    shifts: [u64; 16],
    pieces: Vec<Piece>,
    factory: InstructionInfoFactory,
}

impl Taking {
    fn piece(&mut self, code: Vec<u8>) {
        self.pieces.push(Piece { id: self.pieces.len(), code, jump: None });
    }

    /// A conditional jump over what leaves a mark.
    fn jump_over_mark(&mut self, condition: u8) {
        let id = self.pieces.len();
        self.pieces.push(Piece { id, code: vec![0x0f, 0x80 | condition], jump: Some(id + 2) });
        let at = u32::try_from(MARKED).unwrap_or_default().to_le_bytes();
        self.piece([&MARK[..], &at, &[1]].concat());
    }

    /// `mov` of a number to a general register.
    fn set(&mut self, register: usize, value: u64) {
        let register_of = Register::RAX + u32::try_from(register).unwrap_or_default();
        if let Ok(instruction) = Instruction::with2(Code::Mov_r64_imm64, register_of, value)
            && let Some(code) = encoded(&instruction)
        {
            self.piece(code);
        }
        self.written[register] = true;
    }

    /// Has `register`, which had `value` in the guest, have `shift` more.
    fn point(&mut self, register: usize, value: u64, shift: u64) {
        if self.shifts[register] == shift && (self.pointers[register] || self.written[register]) {
            return;
        }
        if self.written[register] || self.pointers[register] {
            self.set(register, value.wrapping_add(shift));
        } else {
            self.start.gpr[register] = self.start.gpr[register].wrapping_add(shift);
            self.pointers[register] = true;
        }
        self.shifts[register] = shift;
    }

    /// Leaves an instruction out, but for what it did to general registers.
    fn leave_out(&mut self, before: Registers, after: Option<Registers>) {
        let Some(after) = after else { return };
        for register in (0..16).filter(|&register| register != RSP) {
            let value = after.general(register);
            if value != before.general(register) {
                self.set(register, value);
                self.shifts[register] = 0;
            }
        }
    }

    /// Takes an instruction along, which may be to leave a mark where it does not jump; `None` where it can't be.
    fn take(&mut self, registers: Registers, marks: bool) -> Option<()> {
        let moment = registers.moment;
        let instruction = decoded(registers);
        if left_out(&instruction) || registers.bits != 64 && instruction.is_stack_instruction() {
            return None;
        }
        for register in pointed_by(&instruction) {
            let value = registers.general(register);
            let nearest = moment.accesses.iter().min_by_key(|access| access.address.abs_diff(value));
            if let Some(shift) = nearest.and_then(|access| self.places.shift(access.address)) {
                self.point(register, value, shift);
            }
        }
        let code = match instruction.flow_control() {
            FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
                // Those of iced are in the order of the processor's, behind none.
                let condition = (instruction.condition_code() as u8).checked_sub(1)?;
                if marks {
                    self.jump_over_mark(condition);
                    return Some(());
                }
                if instruction.is_jcc_short() {
                    vec![0x70 | condition, 0]
                } else {
                    vec![0x0f, 0x80 | condition, 0, 0, 0, 0]
                }
            }
            // `loop` and `jrcxz`: the opcode, and by how much.
            FlowControl::ConditionalBranch => vec![*moment.bytes.iter().nth_back(1)?, 0],
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => JUMP_ON.to_vec(),
            FlowControl::Call | FlowControl::IndirectCall => CALL_ON.to_vec(),
            FlowControl::Return => {
                let by =
                    8 + if instruction.op_count() > 0 { i32::from(instruction.immediate16()) } else { 0 };
                self.piece([&DROP[..], &by.to_le_bytes()].concat());
                JUMP_ON.to_vec()
            }
            _ => self.rewritten(registers, instruction)?,
        };
        self.piece(code);
        self.follow(&instruction);
        Some(())
    }

    /// An instruction that goes on to the next, with its operands in the case's memory.
    fn rewritten(&mut self, registers: Registers, mut instruction: Instruction) -> Option<Vec<u8>> {
        let moment = registers.moment;
        let as_it_is = |instruction: &Instruction| match registers.bits {
            64 => Some(moment.bytes.clone()),
            _ => encoded(instruction),
        };
        let memory = (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory);
        let Some(op) = memory else { return as_it_is(&instruction) };
        if instruction.mnemonic() == Mnemonic::Lea {
            if !instruction.is_ip_rel_memory_operand() {
                return as_it_is(&instruction);
            }
            let (to, place) = (instruction.op0_register(), instruction.ip_rel_memory_address());
            let instruction = match to.size() {
                8 => Instruction::with2(Code::Mov_r64_imm64, to, place),
                4 => Instruction::with2(Code::Mov_r32_imm32, to, u32::try_from(place & 0xffff_ffff).ok()?),
                _ => return None,
            };
            return encoded(&instruction.ok()?);
        }
        let address = instruction.virtual_address(op, 0, |register, _, _| registers.of(register))?;
        let nearest = moment.accesses.iter().min_by_key(|access| access.address.abs_diff(address));
        // Where a segment begins nobody tells.
        let address =
            if registers.bits == 64 { address } else { nearest.map_or(address, |access| access.address) };
        // One that touches nothing points to something that is there all the same.
        let touched = nearest.and_then(|access| self.places.shift(access.address));
        let shift = touched.unwrap_or_else(|| REGION.wrapping_sub(address));
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let in_segment = instruction.memory_segment();
        let index_stays = general(index).is_none_or(|index| self.shifts[index] == 0);
        if self.operands == Operands::AsTheyAre
            && (base.is_gpr64() || registers.bits == 32 && base.is_gpr32())
            && base != index
            && index_stays
            && !matches!(in_segment, Register::FS | Register::GS)
        {
            let base = general(base)?;
            self.point(base, registers.general(base), shift);
            return as_it_is(&instruction);
        }
        let size = if instruction.memory_displ_size() == 8 && base == Register::None { 8 } else { 4 };
        instruction.set_memory_base(Register::None);
        instruction.set_memory_index(Register::None);
        instruction.set_memory_index_scale(1);
        instruction.set_segment_prefix(Register::None);
        instruction.set_memory_displ_size(size);
        instruction.set_memory_displacement64(address.wrapping_add(shift));
        encoded(&instruction)
    }

    /// What becomes of the registers that it writes.
    fn follow(&mut self, instruction: &Instruction) {
        let before = self.shifts;
        let shift_of = |register: Register| general(register).map_or(0, |register| before[register]);
        let info = self.factory.info(instruction);
        let writes = |access| {
            matches!(
                access,
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
        };
        let written = info.used_registers().iter().filter(|used| writes(used.access()));
        let written: Vec<_> = written.filter_map(|used| general(used.register())).collect();
        let first = general(instruction.op0_register());
        for register in written {
            self.written[register] = true;
            let is_first = first == Some(register);
            self.shifts[register] = match instruction.mnemonic() {
                Mnemonic::Add | Mnemonic::Sub | Mnemonic::Inc | Mnemonic::Dec => before[register],
                Mnemonic::Leave if register == RSP => shift_of(Register::RBP),
                _ if register == RSP && instruction.is_stack_instruction() => before[register],
                _ if instruction.is_string_instruction() => before[register],
                Mnemonic::Mov if is_first && instruction.op1_kind() == OpKind::Register => {
                    shift_of(instruction.op1_register())
                }
                Mnemonic::Lea if is_first => shift_of(instruction.memory_base()).wrapping_add(
                    shift_of(instruction.memory_index())
                        .wrapping_mul(u64::from(instruction.memory_index_scale())),
                ),
                _ => 0,
            };
        }
    }
}

/// The general registers that an instruction follows without naming them.
fn pointed_by(instruction: &Instruction) -> Vec<usize> {
    let mut registers = Vec::new();
    for op in 0..instruction.op_count() {
        match instruction.op_kind(op) {
            OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => registers.push(6),
            OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI => registers.push(7),
            _ => {}
        }
    }
    if instruction.mnemonic() == Mnemonic::Leave {
        registers.push(5);
    } else if instruction.is_stack_instruction() {
        registers.push(RSP);
    }
    registers
}

fn encoded(instruction: &Instruction) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, 0).ok()?;
    Some(encoder.take_buffer())
}
