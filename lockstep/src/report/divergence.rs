//! What parts two runs, as data.

use recorder::account::grouped;
use serde::Serialize;

use crate::comparator::{Pair, Side};
use crate::explain::{Guilty, Stage};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A branch went elsewhere, or was fed other values.
    ControlFlow,
    /// One side took an interrupt or an exception where the other did not.
    ExceptionOrInterrupt,
    /// Another value was written to memory, or to another place, or by one side only.
    Store,
    /// The same of what was read.
    Load,
    /// A register has another value.
    Register,
    /// One QEMU crashed where the other went on.
    Crash,
    /// One QEMU stood still where the other went on.
    Hang,
    /// A user program makes another system call, or with other arguments, or the same comes to something else.
    SystemCall,
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
            Kind::Store => "a store",
            Kind::Load => "a load",
            Kind::Register => "a register",
            Kind::Crash => "a crash of one build",
            Kind::Hang => "a hang of one build",
            Kind::SystemCall => "a system call",
            Kind::End => "one guest ended, the other ran on",
            Kind::ExitStatus => "exit status",
            Kind::Console => "console",
        })
    }
}

/// The first instruction whose effect differs. Members are missing where a side has no such instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    pub kind: Kind,
    /// The vCPU that executes it, where there are several; all that is shown is of this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// Instructions before it.
    pub icount: Pair<u64>,
    /// The instruction's address.
    pub pc: Pair<Option<String>>,
    /// Where it showed first: at that instruction, or at a later one by which it was found.
    pub seen: Seen,
    /// Where the builds first differ in what they make of its block, where that was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// The name of that place, where names are known.
    #[serde(skip_serializing_if = "unnamed")]
    pub symbol: Pair<Option<String>>,
    /// The address of the translated block that it was in.
    pub block: Pair<Option<String>>,
    /// Which instruction of that block it is, from 1, and of how many.
    pub in_block: Pair<Option<(usize, usize)>>,
    pub instruction: Pair<Option<String>>,
    /// How it was found.
    pub certainty: Certainty,
    /// The address of the instruction that comes next.
    pub next: Pair<Option<String>>,
    /// The registers that it changes or leaves different.
    pub registers: Vec<Register>,
    /// What it does to memory.
    pub accesses: Pair<Vec<Access>>,
    /// That block, as each side cut it.
    pub code: Pair<Vec<Code>>,
    /// The last blocks up to it.
    pub previous: Pair<Vec<Block>>,
    /// The instructions behind it.
    pub following: Pair<Vec<Line>>,
    /// Of x86 guests: 16, 32 or 64.
    pub mode: Option<u32>,
    /// The block of the guilty instruction, for an explanation.
    #[serde(skip)]
    pub guilty: Option<Pair<Guilty>>,
}

/// A place that both sides come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Instructions before it.
    pub icount: u64,
    /// The address of the instruction there.
    pub pc: Pair<Option<String>>,
}

/// How the instruction was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// All was equal before it, and not behind it.
    Seen,
    /// Its block is certain. When its instructions were looked at one by one nothing differed, so the fault is in what is made
    /// of them together; the instruction is the one that explains what differs behind the block.
    Reasoned,
    /// QEMU does not tell a guest's flags. The first instruction whose effect differs acts on them and sets none: so this is
    /// the last before that did.
    Flags,
    /// What was read wrong was written by QEMU itself when it delivered an exception or an interrupt, which no probe is told
    /// of: this is the instruction behind which it did so last.
    Unseen,
    /// Registers can't be read in these builds: a wrong value may be older.
    First,
}

/// A register before and behind an instruction, as hexadecimal numbers; empty where it can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Register {
    pub name: String,
    pub before: String,
    pub after: Pair<String>,
}

/// An access to memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// `store` or `load`.
    pub kind: &'static str,
    pub address: String,
    /// Bytes.
    pub size: u8,
    /// Missing where a build does not tell it.
    pub value: Option<String>,
}

/// One execution of a translated block, or of its part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Block {
    pub pc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    pub instructions: Vec<Line>,
}

/// One executed instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub icount: u64,
    pub pc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    pub bytes: String,
    pub text: String,
}

/// An instruction of the guilty block, executed or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Code {
    pub pc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    pub bytes: String,
    pub text: String,
    /// Whether it is the guilty one.
    pub guilty: bool,
}

fn unnamed(symbol: &Pair<Option<String>>) -> bool {
    symbol.a.is_none() && symbol.b.is_none()
}

impl Divergence {
    /// A divergence that no instruction shows, at `icount`.
    #[must_use]
    pub fn without_instruction(kind: Kind, icount: u64) -> Self {
        Divergence {
            kind,
            vcpu: None,
            icount: Pair { a: icount, b: icount },
            pc: Pair::default(),
            seen: Seen { icount, pc: Pair::default() },
            stage: None,
            symbol: Pair::default(),
            block: Pair::default(),
            in_block: Pair::default(),
            instruction: Pair::default(),
            certainty: Certainty::Seen,
            next: Pair::default(),
            registers: Vec::new(),
            accesses: Pair::default(),
            code: Pair::default(),
            previous: Pair::default(),
            following: Pair::default(),
            mode: None,
            guilty: None,
        }
    }

    /// Which instruction it is.
    pub(crate) fn place(&self) -> String {
        let symbol = self.symbol.a.as_ref().map_or_else(String::new, |symbol| format!(" at <{symbol}>"));
        let vcpu = self.vcpu.map_or_else(String::new, |vcpu| format!("vCPU {vcpu}, "));
        match (&self.block.a, self.in_block.a, &self.instruction.a) {
            (Some(block), Some((number, of)), Some(text)) => format!(
                "{vcpu}translated block {block}, instruction {number} of {of}{symbol}, icount {}: `{text}`",
                grouped(self.icount.a)
            ),
            _ => format!("{vcpu}icount {}:", grouped(self.icount.a)),
        }
    }

    /// The divergence in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let place = self.place();
        let side = |side: Side| -> String {
            let access = |access: Option<&Access>| match access {
                Some(Access { address, value: Some(value), .. }) => format!("{value} at {address}"),
                Some(Access { address, size, .. }) => format!("{size} bytes at {address}"),
                None => "nothing".to_owned(),
            };
            match self.kind {
                Kind::Console => {
                    let access = self.accesses.get(side).first();
                    access.and_then(|access| access.value.clone()).unwrap_or_else(|| "nothing".to_owned())
                }
                Kind::Store | Kind::Load => {
                    let wanted = if self.kind == Kind::Store { "store" } else { "load" };
                    let of = |side| {
                        self.accesses
                            .get(side)
                            .iter()
                            .filter(|access| access.kind == wanted)
                            .collect::<Vec<_>>()
                    };
                    let (own, other): (Vec<&Access>, Vec<&Access>) = (of(side), of(side.other()));
                    let place = (0..own.len()).find(|&place| own.get(place) != other.get(place));
                    access(place.and_then(|place| own.get(place).copied()).or(own.first().copied()))
                }
                Kind::Register => self.registers.iter().find(|register| register.differs()).map_or_else(
                    || "-".to_owned(),
                    |register| format!("{} = {}", register.name, register.after.get(side)),
                ),
                _ => self.next.get(side).clone().unwrap_or_else(|| "its end".to_owned()),
            }
        };
        let verb = match self.kind {
            _ if self.certainty == Certainty::Flags => "sets flags, by which the guest goes on to",
            Kind::Store => "writes",
            Kind::Load => "reads",
            Kind::Register => "leaves",
            Kind::Console => "writes to the console",
            Kind::SystemCall => "calls with other arguments: it goes on to",
            Kind::ExceptionOrInterrupt => {
                "is followed by an exception or interrupt on one side only, and the next is"
            }
            _ => "goes on to",
        };
        format!("{place} {verb} {} on A, {} on B", side(Side::A), side(Side::B))
    }
}

impl Register {
    /// Whether the sides differ in it.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.after.a != self.after.b
    }
}
