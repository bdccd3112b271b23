//! Host code as lines of pieces. An x86-64 host's is disassembled here, so that it is the same text for both builds and
//! what is an address is known; other hosts' is taken as the build disassembled it.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, OpKind, Register,
};

use super::line::{Addresses, Line, Piece};
use super::log::{HostPart, Translation, in_memory};
use super::ops::calls;
use crate::disassembly::{formatter, hex};

/// Whose instructions the host executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    X86,
    Other,
}

impl Host {
    /// This machine, on which the builds run.
    #[must_use]
    pub fn here() -> Self {
        if cfg!(target_arch = "x86_64") { Host::X86 } else { Host::Other }
    }
}

/// All of the host code of `translation`.
#[must_use]
pub fn lines(translation: &Translation, host: Host, addresses: &mut Addresses) -> Vec<Line> {
    let code = extent(&translation.host);
    match host {
        Host::X86 => x86(translation, &code, addresses),
        Host::Other => translation
            .host
            .iter()
            .flat_map(|part| {
                let lines = part.lines.iter().map(|line| (line.text.as_str(), &line.units));
                let lines: Vec<Line> =
                    lines.map(|(text, units)| foreign(text, units, &code, addresses)).collect();
                std::iter::once(headline(part)).chain(lines)
            })
            .collect(),
    }
}

fn extent(parts: &[HostPart]) -> Range<u64> {
    let mut lines = parts.iter().flat_map(|part| &part.lines);
    let end = |line: &super::log::HostLine| {
        line.address.saturating_add(line.units.iter().map(Vec::len).sum::<usize>() as u64)
    };
    let begin = lines.clone().map(|line| line.address).min().unwrap_or_default();
    begin..lines.by_ref().map(end).max().unwrap_or_default()
}

fn fixed(text: String) -> Line {
    Line { pieces: vec![Piece::Text(text.clone())], defined: 0..0, text }
}

fn headline(part: &HostPart) -> Line {
    fixed(format!("-- {}", part.headline))
}

/// Code behind the last guest instruction's.
fn is_behind(part: &HostPart) -> bool {
    !part.headline.starts_with("guest addr")
}

fn x86(translation: &Translation, code: &Range<u64>, addresses: &mut Addresses) -> Vec<Line> {
    let decoded: Vec<(&HostPart, Vec<Decoded>)> =
        translation.host.iter().map(|part| (part, decode(part))).collect();
    let instructions =
        || decoded.iter().flat_map(|(_, instructions)| instructions).map(|(decoded, _)| decoded);
    let targets: BTreeSet<u64> =
        instructions().filter_map(target).filter(|target| code.contains(target)).collect();
    // Helpers are called in the order of their ops; only where each has its call is it known which is which.
    let called: Vec<u64> = decoded
        .iter()
        .filter(|(part, _)| !is_behind(part))
        .flat_map(|(_, instructions)| instructions)
        .filter_map(|(instruction, _)| callee(instruction, translation))
        .collect();
    let helpers = calls(&translation.optimised);
    if called.len() == helpers.len() {
        for (callee, helper) in called.iter().zip(helpers) {
            addresses.names.entry(*callee).or_insert_with(|| helper.to_owned());
        }
    }
    let mut lines = Vec::new();
    for (part, instructions) in &decoded {
        lines.push(headline(part));
        for (instruction, bytes) in instructions {
            if targets.contains(&instruction.ip()) {
                let text = format!("{}:", addresses.label(instruction.ip()));
                let pieces = vec![Piece::Label(instruction.ip()), Piece::Text(":".to_owned())];
                lines.push(Line { pieces, defined: 0..0, text });
            }
            lines.push(x86_line(instruction, bytes, translation, code, addresses));
        }
    }
    lines
}

/// An instruction and its bytes.
type Decoded = (Instruction, Vec<u8>);

fn decode(part: &HostPart) -> Vec<Decoded> {
    let mut found = Vec::new();
    // Host code lies in one piece; where it does not, each is decoded by itself.
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    for line in &part.lines {
        let bytes = in_memory(&line.units, true);
        match pieces.last_mut() {
            Some((begin, before)) if begin.wrapping_add(before.len() as u64) == line.address => {
                before.extend(bytes)
            }
            _ => pieces.push((line.address, bytes)),
        }
    }
    for (begin, bytes) in pieces {
        let mut decoder = Decoder::with_ip(64, &bytes, begin, DecoderOptions::NONE);
        while decoder.can_decode() {
            let from = decoder.position();
            let decoded = decoder.decode();
            found.push((decoded, bytes[from..decoder.position()].to_vec()));
        }
    }
    found
}

/// Where an instruction goes or points to.
fn target(instruction: &Instruction) -> Option<u64> {
    let branches =
        (0..instruction.op_count()).any(|number| instruction.op_kind(number) == OpKind::NearBranch64);
    if branches {
        Some(instruction.near_branch64())
    } else {
        instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address())
    }
}

/// What a call calls.
fn callee(instruction: &Instruction, translation: &Translation) -> Option<u64> {
    match instruction.flow_control() {
        FlowControl::Call => target(instruction),
        FlowControl::IndirectCall => {
            Some(target(instruction).and_then(|at| pool(translation, at, 8)).map_or(0, |v| v[0]))
        }
        _ => None,
    }
}

/// The constants at `address`, where there are `size` bytes of them.
fn pool(translation: &Translation, address: u64, size: usize) -> Option<Vec<u64>> {
    let values = (0..size.div_ceil(8).max(1) as u64).map(|number| {
        let at = address.wrapping_add(8 * number);
        translation.pool.iter().find(|(known, _)| *known == at).map(|&(_, value)| value)
    });
    values.collect()
}

fn x86_line(
    instruction: &Instruction,
    bytes: &[u8],
    translation: &Translation,
    code: &Range<u64>,
    addresses: &mut Addresses,
) -> Line {
    if instruction.code() == Code::INVALID {
        return fixed(format!("({})", hex(bytes)));
    }
    let mut formatter = formatter();
    let mut made = Made::default();
    let mut word = String::new();
    formatter.format_mnemonic(instruction, &mut word);
    made.text(&word);
    for number in 0..formatter.operand_count(instruction) {
        made.text(if number == 0 { " " } else { ", " });
        operand(&mut formatter, instruction, number, translation, code, addresses, &mut made);
    }
    Line { pieces: made.pieces, defined: 0..0, text: made.shown }
}

#[derive(Default)]
struct Made {
    pieces: Vec<Piece>,
    shown: String,
}

impl Made {
    fn text(&mut self, text: &str) {
        self.push(Piece::Text(text.to_owned()), text);
    }

    fn push(&mut self, piece: Piece, shown: &str) {
        self.pieces.push(piece);
        self.shown.push_str(shown);
    }

    fn address(&mut self, value: u64, code: &Range<u64>, addresses: &mut Addresses) {
        if code.contains(&value) {
            let shown = addresses.label(value);
            self.push(Piece::Label(value), &shown);
        } else {
            let (piece, shown) = addresses.number(value);
            self.push(piece, &shown);
        }
    }
}

fn operand(
    formatter: &mut IntelFormatter,
    instruction: &Instruction,
    number: u32,
    translation: &Translation,
    code: &Range<u64>,
    addresses: &mut Addresses,
    made: &mut Made,
) {
    let kind =
        formatter.get_instruction_operand(instruction, number).ok().flatten().map(|n| instruction.op_kind(n));
    match kind {
        Some(OpKind::NearBranch64) => made.address(instruction.near_branch64(), code, addresses),
        Some(OpKind::Immediate64) if addresses.is_mapped(instruction.immediate64()) => {
            made.address(instruction.immediate64(), code, addresses);
        }
        Some(OpKind::Memory) if instruction.is_ip_rel_memory_operand() => {
            let at = instruction.ip_rel_memory_address();
            let size = instruction.memory_size().size();
            match pool(translation, at, size) {
                Some(values) => {
                    made.text("[pool ");
                    for (number, &value) in values.iter().enumerate() {
                        if number > 0 {
                            made.text(" ");
                        }
                        made.address(value, code, addresses);
                    }
                    made.text("]");
                }
                None => {
                    made.text("[");
                    made.address(at, code, addresses);
                    made.text("]");
                }
            }
        }
        // RBP holds the CPU state in all that TCG generates for x86 (tcg/i386/tcg-target.h, TCG_AREG0).
        Some(OpKind::Memory) if instruction.memory_base() == Register::RBP => {
            let offset = instruction.memory_displacement64().cast_signed();
            let mut plain = *instruction;
            plain.set_memory_displacement64(0);
            let mut text = String::new();
            if formatter.format_operand(&plain, &mut text, number).is_ok() {
                made.text(text.trim_end_matches(']').trim_end_matches("+0"));
                let sign = if offset < 0 { "-" } else { "+" };
                made.push(Piece::Field(offset), &format!("{sign}{:#x}", offset.unsigned_abs()));
                made.text("]");
            }
        }
        _ => {
            let mut text = String::new();
            if formatter.format_operand(instruction, &mut text, number).is_ok() {
                made.text(&text);
            }
        }
    }
}

/// A line of another host's code, of which the numbers that are addresses are told by what is mapped.
fn foreign(text: &str, units: &[Vec<u8>], code: &Range<u64>, addresses: &mut Addresses) -> Line {
    if text.is_empty() {
        return fixed(format!("({})", hex(&units.concat())));
    }
    let mut made = Made::default();
    let mut rest = text;
    while let Some(at) = rest.find("0x") {
        let (before, number) = rest.split_at(at);
        let digits = number[2..].bytes().take_while(u8::is_ascii_hexdigit).count();
        let (number, behind) = number.split_at(2 + digits);
        made.text(before);
        match u64::from_str_radix(&number[2..], 16) {
            Ok(value) => made.address(value, code, addresses),
            Err(_) => made.text(number),
        }
        rest = behind;
    }
    made.text(rest);
    Line { pieces: made.pieces, defined: 0..0, text: made.shown }
}
