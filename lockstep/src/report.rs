//! The result of a lockstep as data: what `--format json` prints. Documented in `lockstep/REPORT.md`; a change
//! here is a change there.

use recorder::account::grouped;
use serde::Serialize;

use crate::comparator::{Pair, Side};
use crate::disassembly::{Disassembler, hex};
use crate::expansion::Executed;
use crate::explain::{Explanation, Guilty};

/// How many instructions before the divergence are looked through for one that would explain it.
const SEARCHED: usize = 256;
/// How many blocks before the divergence are shown, and how many instructions from it on.
const BLOCKS_BEFORE: usize = 6;
const SHOWN_AFTER: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Same,
    Different,
    Trouble,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    /// One line that says it all.
    pub summary: String,
    pub compared: Compared,
    pub builds: Pair<Ridden>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What was compared and found equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Instructions found equal.
    pub instructions: u64,
    pub chunks: u64,
    /// The kinds of things compared.
    pub what: Vec<&'static str>,
    /// `live`: two runs that are deterministic by themselves; `recording`: two replays of one recording;
    /// `recordings`: a replay each of two.
    pub driven_by: &'static str,
}

/// One side's build and command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ridden {
    pub path: String,
    pub version: String,
    pub sha256: String,
    pub plugin_api: i32,
    pub target: String,
    pub line: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A branch went elsewhere, or was fed other values.
    ControlFlow,
    /// One side took an interrupt or an exception where the other did not.
    ExceptionOrInterrupt,
    /// One guest ended where the other ran on.
    End,
    /// The same instructions, but QEMU's exit status differs.
    ExitStatus,
    /// The same instructions, but the guest's console differs.
    Console,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::ControlFlow => "control flow",
            Kind::ExceptionOrInterrupt => "an exception or interrupt on one side only",
            Kind::End => "one guest ended, the other ran on",
            Kind::ExitStatus => "exit status",
            Kind::Console => "console",
        })
    }
}

/// The first instruction that differs. Members are missing where a side has no such instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    pub kind: Kind,
    /// Instructions before it.
    pub icount: Pair<u64>,
    /// The instruction's address.
    pub pc: Pair<Option<String>>,
    /// The address of the translated block that it was in.
    pub block: Pair<Option<String>>,
    pub instruction: Pair<Option<String>>,
    /// The last instruction that both executed.
    pub last_common: Option<Line>,
    /// The last blocks before it.
    pub previous: Pair<Vec<Block>>,
    /// The instructions from it on.
    pub following: Pair<Vec<Line>>,
    /// Of x86 guests: 16, 32 or 64.
    pub mode: Option<u32>,
    /// The block of the guilty instruction, for an explanation.
    #[serde(skip)]
    pub guilty: Option<Pair<Guilty>>,
}

/// One execution of a translated block, or of its part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Block {
    pub pc: String,
    pub instructions: Vec<Line>,
}

/// One executed instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub icount: u64,
    pub pc: String,
    pub bytes: String,
    pub text: String,
}

fn address(value: u64) -> String {
    format!("{value:#x}")
}

fn line(disassembler: Disassembler, executed: &Executed) -> Line {
    Line {
        icount: executed.position,
        pc: address(executed.instruction.address),
        bytes: hex(&executed.instruction.bytes),
        text: disassembler.text(executed.instruction),
    }
}

impl Divergence {
    /// A divergence that no instruction shows, at `icount`.
    #[must_use]
    pub fn without_instruction(kind: Kind, icount: u64) -> Self {
        Divergence {
            kind,
            icount: Pair { a: icount, b: icount },
            pc: Pair::default(),
            block: Pair::default(),
            instruction: Pair::default(),
            last_common: None,
            previous: Pair::default(),
            following: Pair::default(),
            mode: None,
            guilty: None,
        }
    }

    /// The divergence of two streams at index `at`, and what in the instructions before may explain it.
    #[must_use]
    pub fn of(target: &str, streams: &Pair<Vec<Executed>>, at: usize) -> (Self, Vec<String>) {
        let common = &streams.a[..at];
        let disassembler = Disassembler::at_end(target, common);
        // Behind the divergence the mode may be another.
        let behind = Pair::of(|side| {
            let stream = streams.get(side);
            Disassembler::at_end(target, &stream[at.min(stream.len())..stream.len().min(at + SHOWN_AFTER)])
        });
        let following = Pair::of(|side| {
            let rest = streams.get(side).iter().skip(at).take(SHOWN_AFTER);
            rest.map(|executed| line(agreed(disassembler, *behind.get(side), executed), executed))
                .collect::<Vec<_>>()
        });
        let first = Pair::of(|side| streams.get(side).get(at));
        let position =
            common.last().map_or_else(|| first.a.or(first.b).map_or(0, |e| e.position), |e| e.position + 1);
        let previous = Pair::of(|side| {
            let before = &streams.get(side)[..at];
            let mut blocks: Vec<(usize, Block)> = Vec::new();
            for executed in before.iter().rev() {
                if blocks.last().is_none_or(|(visit, _)| *visit != executed.visit) {
                    if blocks.len() == BLOCKS_BEFORE {
                        break;
                    }
                    let pc = address(executed.block[0].address);
                    blocks.push((executed.visit, Block { pc, instructions: Vec::new() }));
                }
                if let Some((_, block)) = blocks.last_mut() {
                    block.instructions.push(line(disassembler, executed));
                }
            }
            blocks.reverse();
            blocks
                .into_iter()
                .map(|(_, mut block)| {
                    block.instructions.reverse();
                    block
                })
                .collect::<Vec<_>>()
        });
        let kind = match (common.last(), first.a, first.b) {
            (Some(last), Some(a), Some(b)) => {
                let next = last.instruction.address.wrapping_add(last.instruction.bytes.len() as u64);
                let straight = [a, b].iter().any(|e| e.instruction.address == next);
                match disassembler.branches(last.instruction) {
                    Some(false) if straight => Kind::ExceptionOrInterrupt,
                    _ => Kind::ControlFlow,
                }
            }
            (_, None, _) | (_, _, None) => Kind::End,
            _ => Kind::ControlFlow,
        };
        let mut notes = Vec::new();
        for executed in common.iter().rev().take(SEARCHED) {
            if let Some(on) = disassembler.depends_on(executed.instruction) {
                let before = position - executed.position;
                notes.push(format!(
                    "`{}` at {}, {before} instruction{} before: its result depends on {on}",
                    disassembler.text(executed.instruction),
                    address(executed.instruction.address),
                    if before == 1 { "" } else { "s" },
                ));
                break;
            }
        }
        if let (Some(a), Some(b)) = (first.a, first.b)
            && let Some(earlier) = streams.a[..at]
                .iter()
                .zip(&streams.b[..at])
                .rev()
                .take(SEARCHED)
                .find(|(a, b)| a.instruction.bytes != b.instruction.bytes)
            && a.position == b.position
        {
            notes.push(format!(
                "the code itself differs before: at {} A executed `{}`, B `{}`",
                address(earlier.0.instruction.address),
                disassembler.text(earlier.0.instruction),
                disassembler.text(earlier.1.instruction),
            ));
        }
        let divergence = Divergence {
            kind,
            icount: Pair { a: position, b: position },
            pc: Pair::of(|side| first.get(side).map(|e| address(e.instruction.address))),
            block: Pair::of(|side| first.get(side).map(|e| address(e.block[0].address))),
            instruction: Pair::of(|side| following.get(side).first().map(|line| line.text.clone())),
            last_common: common.last().map(|executed| line(disassembler, executed)),
            previous,
            following,
            mode: disassembler.mode(),
            guilty: at.checked_sub(1).map(|last| {
                Pair::of(|side| {
                    let executed = streams.get(side)[last];
                    Guilty { block: executed.block.to_vec(), number: executed.number }
                })
            }),
        };
        (divergence, notes)
    }

    /// The divergence in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let side = |side: Side| match (self.pc.get(side), self.instruction.get(side)) {
            (Some(pc), Some(text)) => format!("{side} executes {pc} `{text}`"),
            _ => format!("{side} has ended"),
        };
        let after = self.last_common.as_ref().map(|line| format!(" after {} `{}`", line.pc, line.text));
        format!(
            "they part at instruction {}{}: {}, {}",
            grouped(self.icount.a),
            after.unwrap_or_default(),
            side(Side::A),
            side(Side::B)
        )
    }
}

/// Whichever of two disassemblers decodes as QEMU did, the first where both do.
fn agreed(before: Disassembler, behind: Disassembler, executed: &Executed) -> Disassembler {
    let fits = |disassembler: Disassembler| {
        disassembler.mode().is_none_or(|bits| crate::disassembly::agrees(bits, executed.instruction))
    };
    if fits(before) { before } else { behind }
}
