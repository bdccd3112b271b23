//! A case as assembly source, for GNU as: the same program as [`Image::checking`] makes.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter};
use lockstep::disassembly::formatter;

use crate::case::{
    AT_MMX, AT_MXCSR, AT_RFLAGS, AT_VECTORS, Case, END_SIZE, End, GPR_NAMES, REGION, REGION_SIZE, RSP, State,
};
use crate::image::Image;

/// Its instructions, a line each.
#[must_use]
pub fn listing(case: &Case) -> String {
    let mut lines = String::new();
    for piece in &case.pieces {
        let bytes = if piece.jump.is_some() { [&*piece.code, &[0; 4]].concat() } else { piece.code.clone() };
        for instruction in Decoder::new(64, &bytes, DecoderOptions::NONE) {
            let _ = write!(lines, "{}: ", piece.id);
            match piece.jump {
                Some(target) if instruction.is_jcc_short_or_near() => {
                    let _ = write!(lines, "{:?} to {target}", instruction.mnemonic());
                }
                _ => formatter().format(&instruction, &mut lines),
            }
            lines.push('\n');
        }
    }
    lines
}

/// The program that ends with 0 where `case` comes to `expected`, and with 1 elsewhere. `image`: the same as a program;
/// `mask`: which flags count; `heading`: what is said of it at its top.
#[must_use]
pub fn program(image: &Image, case: &Case, expected: &End, mask: u64, heading: &[String]) -> String {
    let mut text = String::new();
    for line in heading {
        let _ = writeln!(text, "# {}", line.replace(['\n', '\r'], " "));
    }
    text.push_str(
        "#\n# Ends with status 0 where it comes to what is expected, and with 1 elsewhere. To assemble and run it:\n\
         #   as reduced.s -o reduced.o && ld -static --section-start=.written=0x2000000 reduced.o -o again && ./again\n\n",
    );
    let avx = image.setting.avx;
    let move_vector = if avx { "vmovups" } else { "movups" };
    let vector = |number: usize| format!("%{}mm{number}", if avx { 'y' } else { 'x' });
    let region = (REGION & 0xfff, REGION_SIZE);
    let _ = writeln!(
        text,
        "    .section .written, \"aw\", @nobits\n    .zero {:#x}\nregion:                 # at {REGION:#x}, across the end of a page\n    \
         .zero {:#x}\ndump:\n    .zero {:#x}\nword:\n    .quad 0\n    .zero 0x1000\nown_stack:\n",
        region.0,
        region.1,
        END_SIZE - REGION_SIZE
    );
    text.push_str(
        "    .text\n    .globl _start\n_start:\n    cld\n    mov $memory, %rsi\n    mov $region, %rdi\n",
    );
    let _ = writeln!(text, "    mov ${}, %ecx\n    rep movsq", REGION_SIZE / 8);
    let _ =
        writeln!(text, "    mov $own_stack, %rsp\n    mov $registers, %rax\n    ldmxcsr {AT_MXCSR}(%rax)");
    for number in 0..16 {
        let _ = writeln!(text, "    {move_vector} {}(%rax), {}", AT_VECTORS + number * 32, vector(number));
    }
    for number in 0..8 {
        let _ = writeln!(text, "    movq {}(%rax), %mm{number}", AT_MMX + number * 8);
    }
    let _ = writeln!(text, "    pushq {AT_RFLAGS}(%rax)\n    popfq");
    for number in (1..16).filter(|&number| number != RSP) {
        let _ = writeln!(text, "    mov {}(%rax), %{}", number * 8, GPR_NAMES[number]);
    }
    let _ = writeln!(text, "    mov {}(%rax), %rsp\n    mov (%rax), %rax\n\ncode:", RSP * 8);
    let from = usize::try_from(image.places[0] - crate::image::CODE).unwrap_or_default();
    let length = crate::image::code_length(case);
    let code = image.bytes.get(from..from + length).unwrap_or_default();
    for instruction in Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
        let at = usize::try_from(instruction.ip()).unwrap_or_default();
        let bytes: Vec<_> =
            code[at..at + instruction.len()].iter().map(|byte| format!("{byte:#04x}")).collect();
        let mut shown = String::new();
        formatter().format(&instruction, &mut shown);
        let _ = writeln!(text, "    .byte {:<48} # {at:4x}: {shown}", bytes.join(", "));
    }
    text.push('\n');
    for (number, name) in GPR_NAMES.iter().enumerate() {
        let _ = writeln!(text, "    mov %{name}, dump + {}", number * 8);
    }
    let _ = writeln!(
        text,
        "    mov $own_stack, %rsp\n    pushfq\n    pop %rax\n    and ${mask:#x}, %eax            # those that are defined here\n    \
         mov %rax, dump + {AT_RFLAGS}\n    cld\n    stmxcsr word\n    mov word, %eax\n    and ${:#x}, %eax\n    \
         mov %rax, dump + {AT_MXCSR}",
        image.setting.mxcsr_mask
    );
    for number in 0..16 {
        let _ = writeln!(text, "    {move_vector} {}, dump + {}", vector(number), AT_VECTORS + number * 32);
    }
    for number in 0..8 {
        let _ = writeln!(text, "    movq %mm{number}, dump + {}", AT_MMX + number * 8);
    }
    let _ = writeln!(
        text,
        "    emms\n    mov $expected, %rsi\n    mov $region, %rdi\n    mov ${}, %ecx\n    repe cmpsq\n    setne %al\n    \
         movzbl %al, %edi\n    mov $60, %eax\n    syscall\n",
        END_SIZE / 8
    );
    text.push_str("    .section .rodata\n    .balign 8\nregisters:              # to begin with\n");
    registers(&mut text, &case.start, None);
    text.push_str("memory:                 # what lies in the region to begin with\n");
    words(&mut text, &case.memory, None);
    text.push_str("expected:               # memory, and then registers; those that change have a mark\n");
    words(&mut text, &expected.memory, Some(&case.memory));
    registers(&mut text, &expected.state, Some(&case.start));
    text
}

fn registers(text: &mut String, state: &State, before: Option<&State>) {
    let bytes = state.bytes();
    let before = before.map(State::bytes);
    for (number, word) in bytes.chunks(8).enumerate() {
        let name = match number * 8 {
            AT_RFLAGS => "rflags".to_owned(),
            AT_MXCSR => "mxcsr".to_owned(),
            at if at < AT_RFLAGS => GPR_NAMES[number].to_owned(),
            at if at >= AT_MMX => format!("mm{}", (at - AT_MMX) / 8),
            at if at >= AT_VECTORS => {
                let part = (at - AT_VECTORS) / 8;
                format!("ymm{}, bits {} to {}", part / 4, part % 4 * 64, part % 4 * 64 + 63)
            }
            _ => "nothing".to_owned(),
        };
        let changed = before.as_ref().is_some_and(|before| before[number * 8..][..8] != *word);
        let _ = writeln!(
            text,
            "    .quad {:#018x}    # {name}{}",
            number_of(word),
            if changed { " *" } else { "" }
        );
    }
}

fn number_of(word: &[u8]) -> u64 {
    word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn words(text: &mut String, memory: &[u8], before: Option<&[u8]>) {
    for (line, bytes) in memory.chunks(32).enumerate() {
        let numbers: Vec<_> = bytes.chunks(8).map(|word| format!("{:#018x}", number_of(word))).collect();
        let at = line * 32;
        let changed = before.is_some_and(|before| before.get(at..at + bytes.len()) != Some(bytes));
        let mark = if changed { " *" } else { "" };
        let _ = writeln!(text, "    .quad {}    # {:#x}{mark}", numbers.join(", "), REGION + at as u64);
    }
}
