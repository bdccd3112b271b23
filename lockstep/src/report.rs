//! The result of a lockstep as data: what `--format json` prints. Documented in `lockstep/REPORT.md`; a change
//! here is a change there.

use recorder::account::grouped;
use serde::Serialize;
use trace::message::Call;

use crate::blame::{self, Clues};
use crate::calls::{self, Input};
use crate::comparator::{Pair, Side};
use crate::difference::{Difference, What};
use crate::disassembly::{Disassembler, hex};
use crate::expansion::{Executed, first_difference};
use crate::explain::{Explanation, Guilty};
use crate::made::Recorded;
use crate::zoom::Zoomed;

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
    /// Of user programs: the first system call that came to something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
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
    /// How many instructions each vCPU executed up to where each side ended, where there are several and both have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Pair<Vec<u64>>>,
    /// How the recording came about, where one was made for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Recorded>,
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
            vcpu: None,
            icount: Pair { a: icount, b: icount },
            pc: Pair::default(),
            block: Pair::default(),
            in_block: Pair::default(),
            instruction: Pair::default(),
            certainty: Certainty::Seen,
            next: Pair::default(),
            registers: Vec::new(),
            accesses: Pair::default(),
            previous: Pair::default(),
            following: Pair::default(),
            mode: None,
            guilty: None,
        }
    }

    /// The divergence of two streams whose instructions differ at index `at`, and what in those before may explain it.
    #[must_use]
    pub fn of(target: &str, streams: &Pair<Vec<Executed>>, at: usize) -> (Self, Vec<String>) {
        let kind = flow_kind(target, streams, at);
        let (mut divergence, notes) = around(target, streams, last_right(streams, at), kind);
        divergence.certainty = Certainty::First;
        (divergence, notes)
    }

    /// A side that broke behind the instruction with index `last`.
    #[must_use]
    pub(crate) fn broken(
        target: &str,
        streams: &Pair<Vec<Executed>>,
        last: Option<usize>,
        kind: Kind,
    ) -> Self {
        around(target, streams, last, kind).0
    }

    /// The divergence of two programs at system calls that are unlike, where no value before can be looked at.
    #[must_use]
    pub fn of_calls(target: &str, streams: &Pair<Vec<Executed>>, unlike: &Pair<Call>) -> (Self, Vec<String>) {
        let position = unlike.a.position.saturating_sub(1);
        let guilty = streams.a.iter().position(|executed| executed.position == position);
        let (mut divergence, mut notes) = around(target, streams, guilty, Kind::SystemCall);
        divergence.certainty = Certainty::First;
        divergence.icount = Pair { a: position, b: position };
        for (side, call) in [(Side::A, unlike.a), (Side::B, unlike.b)] {
            notes.push(format!("the system call on {side}: {}", calls::described(target, &call)));
        }
        (divergence, notes)
    }

    /// The divergence that was looked at closely, in the streams around it, and what may explain it.
    #[must_use]
    pub(crate) fn zoomed(
        target: &str,
        streams: &Pair<Vec<Executed>>,
        zoomed: &Zoomed,
    ) -> (Self, Vec<String>) {
        let Zoomed { difference, inside, names, .. } = zoomed;
        let seen = inside.as_ref().unwrap_or(difference);
        let index = |position: u64| streams.a.iter().position(|executed| executed.position == position);
        let apart = first_difference(&streams.a, &streams.b).filter(|&at| {
            // What comes behind is a consequence.
            streams.a.get(at).is_some_and(|executed| (seen.from..=seen.to).contains(&executed.position))
        });
        let (mut guilty, mut certainty) = match (apart, seen.access()) {
            (Some(at), access) if access.is_none_or(|access| streams.a[at].position <= access + 1) => {
                let certainty = if names.is_empty() { Certainty::First } else { Certainty::Seen };
                (last_right(streams, at), certainty)
            }
            _ if seen.to == seen.from + 1 => (index(seen.from), Certainty::Seen),
            (_, access) if names.is_empty() => (access.and_then(index), Certainty::First),
            _ => (reasoned(target, streams, seen, names).or(index(seen.to - 1)), Certainty::Reasoned),
        };
        let access = seen.access().filter(|_| apart.is_none());
        let kind = match (access.and(Some(seen.what)), apart) {
            (Some(What::Access(pair)), _) => match pair.a.or(pair.b) {
                Some(access) if access.is_store => Kind::Store,
                _ => Kind::Load,
            },
            (_, Some(at)) => flow_kind(target, streams, at),
            _ if matches!(seen.what, What::Console(_)) => Kind::Console,
            _ => Kind::Register,
        };
        let common = guilty.map(|guilty| &streams.a[..=guilty.min(streams.a.len() - 1)]);
        let clues = common.map(|common| Clues { target, common, difference: seen, names });
        let shows = guilty;
        // Where registers are not read, what was compared may have been wrong before.
        let by_flags =
            clues.as_ref().filter(|_| access.is_none() && !names.is_empty()).and_then(Clues::flags);
        if let Some(by_flags) = by_flags {
            (guilty, certainty) = (Some(by_flags), Certainty::Flags);
        } else if let (Kind::Load, Some(by_delivery)) = (kind, clues.as_ref().and_then(Clues::delivery)) {
            (guilty, certainty) = (Some(by_delivery), Certainty::Unseen);
        }
        let (mut divergence, notes) = around(target, streams, guilty, kind);
        divergence.certainty = certainty;
        if certainty == Certainty::Flags {
            divergence.next = around(target, streams, shows, kind).0.next;
        }
        divergence.registers = registers(target, seen, names);
        let position = guilty.and_then(|guilty| streams.a.get(guilty)).map(|executed| executed.position);
        divergence.accesses = Pair::of(|side| {
            let own = seen.accesses.get(side).iter().filter(|access| Some(access.position) == position);
            own.map(|access| Access {
                kind: if access.is_store { "store" } else { "load" },
                address: address(access.address),
                size: access.size,
                value: zoomed.values.then(|| address(access.value)),
            })
            .collect()
        });
        if let What::Console(bytes) = seen.what {
            divergence.accesses = Pair::of(|side| {
                let byte = bytes.get(side).map(|byte| format!("{byte:#04x}"));
                vec![Access { kind: "console", address: String::new(), size: 1, value: byte }]
            });
        }
        (divergence, notes)
    }

    /// Which instruction it is.
    pub(crate) fn place(&self) -> String {
        let vcpu = self.vcpu.map_or_else(String::new, |vcpu| format!("vCPU {vcpu}, "));
        match (&self.block.a, self.in_block.a, &self.instruction.a) {
            (Some(block), Some((number, of)), Some(text)) => format!(
                "{vcpu}translated block {block}, instruction {number} of {of}, icount {}: `{text}`",
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

/// The index of the instruction that has two streams differ from index `at` on: the one before, which goes on to another; or
/// that one itself where it lies at the same place and is another all the same, because one side has not seen its code change.
fn last_right(streams: &Pair<Vec<Executed>>, at: usize) -> Option<usize> {
    match (streams.a.get(at), streams.b.get(at)) {
        (Some(a), Some(b)) if a.instruction.address == b.instruction.address => Some(at),
        _ => at.checked_sub(1),
    }
}

/// What kind of thing it is that the instructions differ from index `at` on.
fn flow_kind(target: &str, streams: &Pair<Vec<Executed>>, at: usize) -> Kind {
    let common = &streams.a[..at];
    let disassembler = Disassembler::at_end(target, common);
    match (common.last(), streams.a.get(at), streams.b.get(at)) {
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
    }
}

/// The index of the instruction that explains a difference whose place was not seen.
fn reasoned(
    target: &str,
    streams: &Pair<Vec<Executed>>,
    seen: &Difference,
    names: &[String],
) -> Option<usize> {
    let begin = streams.a.iter().position(|executed| executed.position == seen.from)?;
    let block: Vec<_> =
        streams.a[begin..].iter().take_while(|executed| executed.position < seen.to).collect();
    let access =
        seen.access().and_then(|position| block.iter().position(|executed| executed.position == position));
    let disassembler = Disassembler::at_end(target, &streams.a[..begin + block.len()]);
    let Some(bits) = disassembler.mode() else { return access.map(|access| begin + access) };
    // Registers that an exception finds as they were when the block began: they were not brought to memory before.
    let last = block.last()?;
    let next = last.instruction.address.wrapping_add(last.instruction.bytes.len() as u64);
    let leaves = streams.a.get(begin + block.len()).is_some_and(|after| after.instruction.address != next);
    let stale = [Side::A, Side::B].into_iter().any(|side| {
        let of = |number: usize| (seen.before.get(number), seen.after.get(side).get(number));
        seen.registers().into_iter().any(|number| of(number).0 == of(number).1)
    });
    if leaves && stale && disassembler.branches(last.instruction) == Some(false) {
        return Some(begin + block.len() - 1);
    }
    let wrong = seen.registers().into_iter().filter_map(|number| names.get(number).cloned()).collect();
    let code: Vec<_> = block.iter().map(|executed| executed.instruction).collect();
    blame::instruction(bits, &code, &wrong, access).or(access).map(|number| begin + number)
}

/// The registers that an instruction changes, or leaves different.
fn registers(target: &str, seen: &Difference, names: &[String]) -> Vec<Register> {
    let nothing = Vec::new();
    let of = |all: &[Vec<u8>], number: usize| number_text(target, all.get(number).unwrap_or(&nothing));
    let all = names.iter().enumerate().map(|(number, name)| Register {
        name: name.clone(),
        before: of(&seen.before, number),
        after: Pair::of(|side| of(seen.after.get(side), number)),
    });
    all.filter(|register| register.differs() || register.before != register.after.a).collect()
}

/// The number that a register's bytes are, as QEMU tells them to gdb: in the target's own order.
fn number_text(target: &str, bytes: &[u8]) -> String {
    const BIG: [&str; 12] = [
        "ppc",
        "ppc64",
        "s390x",
        "m68k",
        "sparc",
        "sparc64",
        "mips",
        "mips64",
        "hppa",
        "or1k",
        "microblaze",
        "xtensaeb",
    ];
    let mut digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if !BIG.contains(&target) {
        digits.reverse();
    }
    if bytes.is_empty() { String::new() } else { format!("0x{}", digits.concat()) }
}

/// The divergence at the instruction with index `guilty`, or before all where there is none, and what in the instructions
/// before may explain it.
fn around(
    target: &str,
    streams: &Pair<Vec<Executed>>,
    guilty: Option<usize>,
    kind: Kind,
) -> (Divergence, Vec<String>) {
    let at = guilty.map_or(0, |guilty| guilty + 1);
    let common = &streams.a[..at.min(streams.a.len())];
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
    let previous = Pair::of(|side| {
        let stream = streams.get(side);
        blocks_before(disassembler, &stream[..at.min(stream.len())])
    });
    let own = Pair::of(|side| guilty.and_then(|guilty| streams.get(side).get(guilty)));
    let notes = explaining(disassembler, streams, at);
    let position = own.a.or(own.b).map_or(0, |executed| executed.position);
    let divergence = Divergence {
        kind,
        vcpu: None,
        icount: Pair { a: position, b: position },
        pc: Pair::of(|side| own.get(side).map(|e| address(e.instruction.address))),
        block: Pair::of(|side| own.get(side).map(|e| address(e.block[0].address))),
        in_block: Pair::of(|side| own.get(side).map(|e| (e.number + 1, e.block.len()))),
        instruction: Pair::of(|side| own.get(side).map(|e| disassembler.text(e.instruction))),
        certainty: Certainty::Seen,
        next: Pair::of(|side| {
            let e = (*first.get(side))?;
            let text = following.get(side).first().map(|line| format!(" `{}`", line.text));
            Some(address(e.instruction.address) + &text.unwrap_or_default())
        }),
        registers: Vec::new(),
        accesses: Pair::default(),
        previous,
        following,
        mode: disassembler.mode(),
        guilty: own.a.zip(own.b).map(|(a, b)| {
            let of = |executed: &Executed| Guilty { block: executed.block.to_vec(), number: executed.number };
            Pair { a: of(a), b: of(b) }
        }),
    };
    (divergence, notes)
}

/// The last blocks of `stream`, the last up to its end.
fn blocks_before(disassembler: Disassembler, stream: &[Executed]) -> Vec<Block> {
    let mut blocks: Vec<(usize, Block)> = Vec::new();
    for executed in stream.iter().rev() {
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
    let in_order = |(_, mut block): (usize, Block)| {
        block.instructions.reverse();
        block
    };
    blocks.into_iter().map(in_order).collect()
}

/// What in the instructions before index `at` may explain a divergence.
fn explaining(disassembler: Disassembler, streams: &Pair<Vec<Executed>>, at: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let common = &streams.a[..at.min(streams.a.len())];
    for executed in common.iter().rev().take(SEARCHED) {
        if let Some(on) = disassembler.depends_on(executed.instruction) {
            let before = common.last().map_or(0, |last| last.position - executed.position);
            notes.push(format!(
                "`{}` at {}, {}: its result depends on {on}",
                disassembler.text(executed.instruction),
                address(executed.instruction.address),
                match before {
                    0 => "this instruction".to_owned(),
                    1 => "1 instruction before".to_owned(),
                    before => format!("{before} instructions before"),
                },
            ));
            break;
        }
    }
    if let Some(earlier) = common
        .iter()
        .zip(&streams.b)
        .rev()
        .take(SEARCHED)
        .find(|(a, b)| a.instruction.bytes != b.instruction.bytes)
    {
        notes.push(format!(
            "the code itself differs before: at {} A executed `{}`, B `{}`",
            address(earlier.0.instruction.address),
            disassembler.text(earlier.0.instruction),
            disassembler.text(earlier.1.instruction),
        ));
    }
    notes
}

/// Whichever of two disassemblers decodes as QEMU did, the first where both do.
fn agreed(before: Disassembler, behind: Disassembler, executed: &Executed) -> Disassembler {
    let fits = |disassembler: Disassembler| {
        disassembler.mode().is_none_or(|bits| crate::disassembly::agrees(bits, executed.instruction))
    };
    if fits(before) { before } else { behind }
}
