//! A line of ops or of host code as pieces: what has to be the same on both sides, and what only stands for the same
//! thing there: a temporary's number, a label, an address of the host.

use std::collections::HashMap;
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Has to be the same.
    Text(String),
    /// A temporary, by the name that QEMU gave it.
    Temporary(String),
    /// A place in the code, by its number or address.
    Label(u64),
    /// An address of the host's, which is another in each run.
    Pointer(u64),
    /// A field of QEMU's CPU state, by its offset.
    Field(i64),
}

/// A line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    pub pieces: Vec<Piece>,
    /// Which of them, temporaries, get a new value here.
    pub defined: Range<usize>,
    /// As it is shown.
    pub text: String,
}

impl Line {
    /// What two lines that may be the same have in common.
    #[must_use]
    pub fn skeleton(&self) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                // The kinds of temporaries live differently long.
                Piece::Temporary(name) if name.starts_with("loc") => "\0loc",
                Piece::Temporary(_) => "\0tmp",
                Piece::Label(_) => "\0label",
                Piece::Pointer(_) => "\0pointer",
                Piece::Field(_) => "\0field",
            })
            .collect()
    }
}

/// What is known of the addresses in one side's process.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// What is mapped there.
    mapped: Vec<Range<u64>>,
    /// Where QEMU's own code is that enters and leaves blocks.
    prologue: Range<u64>,
    /// The block's descriptor, whose address goes into its code.
    block: Option<u64>,
    /// What is shown of pointers and labels: their numbers in the order of their first appearance.
    pointers: Vec<u64>,
    labels: Vec<u64>,
    /// Of pointers, what is known to lie there.
    pub names: HashMap<u64, String>,
}

impl Addresses {
    #[must_use]
    pub fn of(mapped: Vec<Range<u64>>, prologue: Range<u64>, block: Option<u64>) -> Self {
        Addresses { mapped, prologue, block, ..Addresses::default() }
    }

    /// Whether a number is an address in the process. Small ones are taken for numbers: guests have many of those, and
    /// what a host maps there lies at the same place in each run.
    #[must_use]
    pub fn is_mapped(&self, value: u64) -> bool {
        value > u64::from(u32::MAX) && self.mapped.iter().any(|range| range.contains(&value))
    }

    /// A number that may be an address, and how it is shown.
    pub fn number(&mut self, value: u64) -> (Piece, String) {
        // The lowest two bits say which of its exits was taken.
        if let Some(block) = self.block.filter(|&block| value & !3 == block) {
            let text = format!("tb+{}", value - block);
            return (Piece::Text(text.clone()), text);
        }
        if self.prologue.contains(&value) {
            let text = format!("prologue+{:#x}", value - self.prologue.start);
            return (Piece::Text(text.clone()), text);
        }
        if self.is_mapped(value) {
            let text = match self.names.get(&value) {
                Some(name) => name.clone(),
                None => format!("host{}", place(&mut self.pointers, value)),
            };
            return (Piece::Pointer(value), text);
        }
        let text = format!("{value:#x}");
        (Piece::Text(text.clone()), text)
    }

    /// How the label at `value` is shown.
    pub fn label(&mut self, value: u64) -> String {
        format!("L{}", place(&mut self.labels, value))
    }
}

/// Which of `seen` it is, from 1.
fn place(seen: &mut Vec<u64>, value: u64) -> usize {
    match seen.iter().position(|&known| known == value) {
        Some(at) => at + 1,
        None => {
            seen.push(value);
            seen.len()
        }
    }
}
