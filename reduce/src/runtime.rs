//! The code around cases: it sets registers and memory, jumps to a case, takes what that has come to, and goes on to the
//! next.
//!
//! What it writes down of an end is compared where a probe is told the values of stores. For older builds, whose plugins are
//! told addresses only, it makes a number of all that a case has come to, by integer instructions each of which can be undone
//! (so that no difference is lost), and stores a byte at four addresses made of that number's four parts.

use iced_x86::code_asm::{
    AsmMemoryOperand, AsmRegister64, AsmRegisterMm, AsmRegisterXmm, AsmRegisterYmm, CodeAssembler, al,
    byte_ptr, dl, dword_ptr, dx, eax, ecx, edi, edx, esi, get_gpr64, get_mm, get_xmm, get_ymm, qword_ptr,
    rax, rbx, rcx, rdx, rsi, rsp, xmmword_ptr, ymmword_ptr,
};
use iced_x86::{BlockEncoderOptions, IcedError, Register};

use crate::case::{
    AT_MMX, AT_MXCSR, AT_RFLAGS, AT_VECTORS, END_SIZE, MXCSR, REGION, REGION_SIZE, RSP, STATE_SIZE,
};
use crate::image::{CODE, FINISH, Setting, Tells, Where};

/// What a case has come to, behind its memory.
const DUMP: u64 = REGION + REGION_SIZE as u64;
/// The runtime's own stack and variables.
const OWN_STACK: u64 = 0x0200_4000;
const CURRENT: u64 = 0x0200_4000;
const TARGET: u64 = 0x0200_4008;
const MASK: u64 = 0x0200_4010;
const LEFT: u64 = 0x0200_4018;
const WORD: u64 = 0x0200_4020;
const NUMBER: u64 = 0x0200_4028;
/// 64 KiB in which the addresses are made.
const SPRAY: u64 = 0x0201_0000;
/// Where all of that begins and ends.
pub(crate) const WRITTEN: std::ops::Range<u64> = 0x0200_0000..0x0202_0000;

/// Odd, so that a multiplication by it can be undone.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// isa-debugcon's port.
const CONSOLE: u32 = 0x402;
/// The keyboard controller's, and what has it reset the machine.
const CONTROLLER: u32 = 0x64;
const RESET: u32 = 0xfe;

/// How many instructions a case are executed at the end.
const AFTER: u32 = 2048;

/// More than are in the runtime and not executed for each case.
const BESIDE: u64 = 64;

/// The runtime's code.
pub(crate) struct Assembled {
    pub bytes: Vec<u8>,
    /// How many instructions are executed, at least, where all cases have run.
    pub least: u64,
}

/// What comes before the code: jumps to its two entries.
const HEAD: usize = 32;

/// One case in the table: its code, its state and its memory, and which flags count.
pub(crate) const ENTRY: usize = 32;

fn gpr(number: usize) -> AsmRegister64 {
    get_gpr64(Register::RAX + u32::try_from(number).unwrap_or_default()).unwrap_or(rax)
}

fn vector(number: usize) -> (AsmRegisterXmm, AsmRegisterYmm) {
    let number = u32::try_from(number).unwrap_or_default();
    let all = (get_xmm(Register::XMM0 + number), get_ymm(Register::YMM0 + number));
    (all.0.unwrap_or(iced_x86::code_asm::xmm0), all.1.unwrap_or(iced_x86::code_asm::ymm0))
}

fn mmx(number: usize) -> AsmRegisterMm {
    get_mm(Register::MM0 + u32::try_from(number).unwrap_or_default()).unwrap_or(iced_x86::code_asm::mm0)
}

fn at(address: u64) -> AsmMemoryOperand {
    qword_ptr(address)
}

/// The runtime's code, to lie at [`CODE`]. `table`: where the table of cases is, and how many there are.
pub(crate) fn assemble(
    setting: &Setting,
    table: u64,
    count: usize,
    expected: Option<u64>,
) -> Result<Assembled, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let (mut start, mut next, mut finish) = (a.create_label(), a.create_label(), a.create_label());
    a.set_label(&mut start)?;
    a.mov(eax, u32::try_from(table).unwrap_or_default())?;
    a.mov(at(CURRENT), rax)?;
    a.mov(eax, u32::try_from(count).unwrap_or_default())?;
    a.mov(at(LEFT), rax)?;

    a.set_label(&mut next)?;
    begin(&mut a, setting)?;

    a.set_label(&mut finish)?;
    keep(&mut a, setting)?;
    match (setting.tells, expected) {
        (Tells::Nothing, _) => {
            number(&mut a)?;
            spray(&mut a)?;
        }
        (Tells::Numbers, _) => {
            number(&mut a)?;
            tell(&mut a, setting, NUMBER, 8)?;
        }
        (Tells::Ends, _) => tell(&mut a, setting, REGION, END_SIZE)?,
        (Tells::Whether, expected) => {
            // The program's exit status is whether it came to what is expected.
            a.mov(esi, u32::try_from(expected.unwrap_or_default()).unwrap_or_default())?;
            a.mov(edi, u32::try_from(REGION).unwrap_or_default())?;
            a.mov(ecx, u32::try_from(END_SIZE / 8).unwrap_or_default())?;
            a.repe().cmpsq()?;
            a.setne(al)?;
            a.movzx(edi, al)?;
            a.mov(eax, 60)?;
            a.syscall()?;
        }
    }
    a.add(at(CURRENT), i32::try_from(ENTRY).unwrap_or_default())?;
    a.dec(at(LEFT))?;
    a.jnz(next)?;
    if setting.tells == Tells::Nothing {
        tail(&mut a, count)?;
    }
    end(&mut a, setting)?;
    let code = CODE + HEAD as u64;
    let assembled = a.assemble_options(code, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
    // The first instruction is executed first, and a case goes on at the second.
    let mut bytes = vec![0x90; HEAD];
    for (from, label) in [(CODE, start), (FINISH, finish)] {
        let place = usize::try_from(from - CODE).unwrap_or_default();
        let by = assembled.label_ip(&label)?.wrapping_sub(from + 5);
        bytes[place] = 0xe9;
        bytes[place + 1..][..4].copy_from_slice(&by.to_le_bytes()[..4]);
    }
    bytes.extend(assembled.inner.code_buffer);
    let each = u64::try_from(a.instructions().len()).unwrap_or_default() - BESIDE + u64::from(AFTER);
    Ok(Assembled { bytes, least: each * count as u64 })
}

/// Executes so many instructions a case more than cases can on an average: so who has counted them knows that all have run.
fn tail(a: &mut CodeAssembler, count: usize) -> Result<(), IcedError> {
    const BODY: u32 = 8;
    a.mov(ecx, u32::try_from(count).unwrap_or_default() * (AFTER / BODY))?;
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    for _ in 2..BODY {
        a.nop()?;
    }
    a.dec(ecx)?;
    a.jnz(again)
}

/// Sets memory and registers, and jumps to the case.
fn begin(a: &mut CodeAssembler, setting: &Setting) -> Result<(), IcedError> {
    a.mov(rsp, OWN_STACK)?;
    a.mov(rbx, at(CURRENT))?;
    a.mov(rax, qword_ptr(rbx))?;
    a.mov(at(TARGET), rax)?;
    a.mov(rax, qword_ptr(rbx + 24))?;
    a.mov(at(MASK), rax)?;
    a.cld()?;
    a.mov(rsi, qword_ptr(rbx + 16))?;
    a.mov(edi, u32::try_from(REGION).unwrap_or_default())?;
    a.mov(ecx, u32::try_from(REGION_SIZE / 8).unwrap_or_default())?;
    a.rep().movsq()?;
    a.mov(rax, qword_ptr(rbx + 8))?;
    a.ldmxcsr(dword_ptr(rax + AT_MXCSR))?;
    for number in 0..16 {
        let (xmm, ymm) = vector(number);
        let from = AT_VECTORS + number * 32;
        if setting.avx {
            a.vmovups(ymm, ymmword_ptr(rax + from))?;
        } else {
            a.movups(xmm, xmmword_ptr(rax + from))?;
        }
    }
    for number in 0..8 {
        a.movq(mmx(number), qword_ptr(rax + AT_MMX + number * 8))?;
    }
    a.push(qword_ptr(rax + AT_RFLAGS))?;
    a.popfq()?;
    for number in (1..16).filter(|&number| number != RSP) {
        a.mov(gpr(number), qword_ptr(rax + number * 8))?;
    }
    a.mov(rsp, qword_ptr(rax + RSP * 8))?;
    a.mov(rax, qword_ptr(rax))?;
    a.jmp(at(TARGET))
}

/// Writes down what the registers are.
fn keep(a: &mut CodeAssembler, setting: &Setting) -> Result<(), IcedError> {
    for number in 0..16 {
        a.mov(at(DUMP + number * 8), gpr(usize::try_from(number).unwrap_or_default()))?;
    }
    a.mov(rsp, OWN_STACK)?;
    a.pushfq()?;
    a.pop(rax)?;
    a.and(rax, at(MASK))?;
    a.mov(at(DUMP + AT_RFLAGS as u64), rax)?;
    a.cld()?;
    a.stmxcsr(dword_ptr(WORD))?;
    a.mov(eax, dword_ptr(WORD))?;
    a.and(eax, setting.mxcsr_mask)?;
    a.mov(at(DUMP + AT_MXCSR as u64), rax)?;
    for number in 0..16_u32 {
        let (xmm, ymm) = vector(number as usize);
        let to = DUMP + AT_VECTORS as u64 + u64::from(number) * 32;
        if setting.avx {
            a.vmovups(ymmword_ptr(to), ymm)?;
        } else {
            a.movups(xmmword_ptr(to), xmm)?;
        }
    }
    for number in 0..8_u32 {
        a.movq(at(DUMP + AT_MMX as u64 + u64::from(number) * 8), mmx(number as usize))?;
    }
    a.emms()?;
    if setting.avx {
        a.vzeroupper()?;
    }
    a.mov(dword_ptr(WORD), MXCSR)?;
    a.ldmxcsr(dword_ptr(WORD))
}

/// A number of all that a case has come to.
fn number(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rcx, FACTOR)?;
    a.mov(rax, FACTOR)?;
    for word in 0..(REGION_SIZE + STATE_SIZE) / 8 {
        a.xor(rax, at(REGION + word as u64 * 8))?;
        a.imul_2(rax, rcx)?;
        a.rol(rax, 23)?;
    }
    a.mov(at(NUMBER), rax)
}

/// Stores at addresses made of it.
fn spray(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for _ in 0..4 {
        a.movzx(edx, iced_x86::code_asm::ax)?;
        a.mov(byte_ptr(rdx + SPRAY), dl)?;
        a.ror(rax, 16)?;
    }
    Ok(())
}

/// Tells `length` bytes at `from` to who started it.
fn tell(a: &mut CodeAssembler, setting: &Setting, from: u64, length: usize) -> Result<(), IcedError> {
    let length = u32::try_from(length).unwrap_or_default();
    a.mov(esi, u32::try_from(from).unwrap_or_default())?;
    match setting.runs {
        Where::Linux => {
            a.mov(edx, length)?;
            a.mov(edi, 1)?;
            a.mov(eax, 1)?;
            a.syscall()
        }
        Where::Machine => {
            a.mov(ecx, length)?;
            a.mov(edx, CONSOLE)?;
            a.rep().outsb()
        }
    }
}

fn end(a: &mut CodeAssembler, setting: &Setting) -> Result<(), IcedError> {
    match setting.runs {
        Where::Linux => {
            a.xor(edi, edi)?;
            a.mov(eax, 60)?;
            a.syscall()
        }
        Where::Machine => {
            a.mov(al, RESET)?;
            a.mov(edx, CONTROLLER)?;
            a.out(dx, al)?;
            let mut here = a.create_label();
            a.set_label(&mut here)?;
            a.hlt()?;
            a.jmp(here)
        }
    }
}
