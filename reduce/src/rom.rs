//! A PC's firmware that is nothing but the image, and what it takes to come to it.
//!
//! The processor starts 16 bytes below 4 GiB, where the last 64 KiB of a firmware end. From there it goes to protected mode,
//! copies the image to where it belongs, maps the first GiB as it is (and itself) but for its beginning, where null pointers lead, and
//! goes to long mode.

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, cr0, cr3, cr4, ds, dword_ptr, eax, ecx, edi, edx, es, esi, fs, gs, ss,
};

use crate::image::{CODE, Image};

/// What QEMU takes a firmware's size in.
const UNIT: usize = 0x1_0000;
/// In the last unit: the table of segments, its description, and the code in 16 bits.
const TABLE: usize = 0xfe00;
const DESCRIPTION: usize = 0xfe20;
const BEGIN: usize = 0xff00;
const RESET: usize = 0xfff0;
/// Where the last unit lies, with 32-bit code at its beginning.
const LAST: u32 = 0xffff_0000;

/// Selectors of the table.
const DATA: u32 = 0x10;
const CODE64: u16 = 0x18;
const SEGMENTS: [u64; 4] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff];

/// The code in 16 bits: interrupts off, the table, protected mode, and a far jump to [`LAST`].
const REAL: [u8; 26] = [
    0xfa, // cli
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0x20, 0xfe, // lgdtl %cs:DESCRIPTION
    0x0f, 0x20, 0xc0, // mov %cr0, %eax
    0x0c, 0x01, // or $1, %al
    0x0f, 0x22, 0xc0, // mov %eax, %cr0
    0x66, 0xea, 0x00, 0x00, 0xff, 0xff, 0x08, 0x00, // ljmpl $8, $LAST
    0xf4, 0xf4, // hlt
];

const PAGES: u32 = 0x1000;

/// The firmware as a file.
///
/// # Errors
/// None but of the assembler's.
pub fn firmware(image: &Image) -> Result<Vec<u8>, IcedError> {
    let mut rom = image.bytes.clone();
    rom.resize(rom.len().next_multiple_of(UNIT), 0);
    let body = rom.len();
    rom.resize(body + UNIT, 0);
    let base = u32::MAX - u32::try_from(rom.len()).unwrap_or_default() + 1;
    let last = &mut rom[body..];
    let code = protected(image, base, body)?;
    last[..code.len()].copy_from_slice(&code);
    for (number, segment) in SEGMENTS.iter().enumerate() {
        last[TABLE + number * 8..][..8].copy_from_slice(&segment.to_le_bytes());
    }
    last[DESCRIPTION..][..2].copy_from_slice(&31_u16.to_le_bytes());
    let table = LAST + u32::try_from(TABLE).unwrap_or_default();
    last[DESCRIPTION + 2..][..4].copy_from_slice(&table.to_le_bytes());
    last[BEGIN..][..REAL.len()].copy_from_slice(&REAL);
    // jmp BEGIN
    let by = u16::try_from(0x1_0000 + BEGIN - (RESET + 3)).unwrap_or_default();
    last[RESET] = 0xe9;
    last[RESET + 1..][..2].copy_from_slice(&by.to_le_bytes());
    Ok(rom)
}

/// From protected mode to the image in long mode.
fn protected(image: &Image, base: u32, length: usize) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    a.mov(eax, DATA)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)?;
    a.mov(fs, eax)?;
    a.mov(gs, eax)?;
    a.cld()?;
    a.mov(esi, base)?;
    a.mov(edi, u32::try_from(CODE).unwrap_or_default())?;
    a.mov(ecx, u32::try_from(length / 4).unwrap_or_default())?;
    a.rep().movsd()?;
    // Pages of 2 MiB, as they are, but for the first, which no program has either; and the last below 4 GiB, in which this code
    // is.
    a.mov(dword_ptr(PAGES), PAGES + 0x1003)?;
    a.mov(dword_ptr(PAGES + 0x1000), PAGES + 0x2003)?;
    a.mov(dword_ptr(PAGES + 0x1018), PAGES + 0x3003)?;
    a.mov(dword_ptr(PAGES + 0x3ff8), 0xffe0_0083_u32)?;
    a.mov(edi, PAGES + 0x2008)?;
    a.mov(eax, 0x20_0083)?;
    a.mov(ecx, 511)?;
    let mut page = a.create_label();
    a.set_label(&mut page)?;
    a.mov(dword_ptr(edi), eax)?;
    a.add(eax, 0x20_0000)?;
    a.add(edi, 8)?;
    a.dec(ecx)?;
    a.jnz(page)?;
    a.mov(eax, PAGES)?;
    a.mov(cr3, eax)?;
    // Large entries, SSE with its exceptions, and XSAVE's states where there is AVX.
    a.mov(eax, cr4)?;
    a.or(eax, if image.setting.avx { 0x4_0620 } else { 0x620 })?;
    a.mov(cr4, eax)?;
    a.mov(ecx, 0xc000_0080_u32)?;
    a.rdmsr()?;
    a.or(eax, 0x100)?;
    a.wrmsr()?;
    // Pages, and a floating-point unit that is there.
    a.mov(eax, cr0)?;
    a.and(eax, !0xc_i32)?;
    a.or(eax, 0x8000_0022_u32)?;
    a.mov(cr0, eax)?;
    if image.setting.avx {
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        a.xor(ecx, ecx)?;
        a.xsetbv()?;
    }
    a.fninit()?;
    // ljmp $CODE64, $CODE
    a.db(&[0xea])?;
    a.dd(&[u32::try_from(CODE).unwrap_or_default()])?;
    a.dw(&[CODE64])?;
    a.assemble(u64::from(LAST))
}
