//! From what was seen of two runs to the divergence that is told.

use replayer::symbols::Symbols;
use trace::message::Call;

use super::divergence::{Access, Block, Certainty, Code, Divergence, Kind, Line, Register, Seen};
use crate::blame::{self, Clues};
use crate::calls;
use crate::comparator::{Pair, Side};
use crate::difference::{Difference, What};
use crate::disassembly::{Disassembler, hex};
use crate::expansion::{Executed, first_difference};
use crate::explain::Guilty;
use crate::zoom::Zoomed;

/// How many instructions before the divergence are looked through for one that would explain it.
const SEARCHED: usize = 256;
/// How many blocks up to the divergence are told where nobody says.
pub const BLOCKS: usize = 6;
/// How many instructions behind it are.
const SHOWN_AFTER: usize = 10;

/// How a divergence is told.
#[derive(Debug, Clone, Copy)]
pub struct Telling<'a> {
    /// QEMU's name of the guests' architecture.
    pub target: &'a str,
    /// How many of the last blocks up to it, at most.
    pub blocks: usize,
    /// The names of the guests' code.
    pub symbols: Option<&'a Symbols>,
}

fn address(value: u64) -> String {
    format!("{value:#x}")
}

impl Telling<'_> {
    fn symbol(self, address: u64) -> Option<String> {
        self.symbols.and_then(|symbols| symbols.name(address))
    }

    /// An address with its name, if there is one.
    fn place(self, at: u64) -> String {
        self.symbol(at).map_or_else(|| address(at), |symbol| format!("{} <{symbol}>", address(at)))
    }

    fn line(self, disassembler: Disassembler, executed: &Executed) -> Line {
        Line {
            icount: executed.position,
            pc: address(executed.instruction.address),
            symbol: self.symbol(executed.instruction.address),
            bytes: hex(&executed.instruction.bytes),
            text: disassembler.text(executed.instruction),
        }
    }

    /// The block that an instruction was executed in.
    fn code(self, disassembler: Disassembler, guilty: &Executed) -> Vec<Code> {
        let all = guilty.block.iter().enumerate().map(|(number, instruction)| Code {
            pc: address(instruction.address),
            symbol: self.symbol(instruction.address),
            bytes: hex(&instruction.bytes),
            text: disassembler.text(instruction),
            guilty: number == guilty.number,
        });
        all.collect()
    }

    /// The last blocks of `stream`, the last up to its end.
    fn blocks_before(self, disassembler: Disassembler, stream: &[Executed]) -> Vec<Block> {
        let mut blocks: Vec<(usize, Block)> = Vec::new();
        for executed in stream.iter().rev() {
            if blocks.last().is_none_or(|(visit, _)| *visit != executed.visit) {
                if blocks.len() == self.blocks {
                    break;
                }
                let begin = executed.block[0].address;
                let (pc, symbol) = (address(begin), self.symbol(begin));
                blocks.push((executed.visit, Block { pc, symbol, instructions: Vec::new() }));
            }
            if let Some((_, block)) = blocks.last_mut() {
                block.instructions.push(self.line(disassembler, executed));
            }
        }
        blocks.reverse();
        let in_order = |(_, mut block): (usize, Block)| {
            block.instructions.reverse();
            block
        };
        blocks.into_iter().map(in_order).collect()
    }
}

impl Divergence {
    /// The divergence of two streams whose instructions differ at index `at`, and what in those before may explain it.
    #[must_use]
    pub fn of(telling: Telling, streams: &Pair<Vec<Executed>>, at: usize) -> (Self, Vec<String>) {
        let kind = flow_kind(telling.target, streams, at);
        let (mut divergence, notes) = around(telling, streams, last_right(streams, at), kind);
        divergence.certainty = Certainty::First;
        (divergence, notes)
    }

    /// A side that broke behind the instruction with index `last`.
    #[must_use]
    pub(crate) fn broken(
        telling: Telling,
        streams: &Pair<Vec<Executed>>,
        last: Option<usize>,
        kind: Kind,
    ) -> Self {
        around(telling, streams, last, kind).0
    }

    /// The divergence of two programs at system calls that are unlike, where no value before can be looked at.
    #[must_use]
    pub fn of_calls(
        telling: Telling,
        streams: &Pair<Vec<Executed>>,
        unlike: &Pair<Call>,
    ) -> (Self, Vec<String>) {
        let position = unlike.a.position.saturating_sub(1);
        let guilty = streams.a.iter().position(|executed| executed.position == position);
        let (mut divergence, mut notes) = around(telling, streams, guilty, Kind::SystemCall);
        divergence.certainty = Certainty::First;
        divergence.icount = Pair { a: position, b: position };
        for (side, call) in [(Side::A, unlike.a), (Side::B, unlike.b)] {
            notes.push(format!("the system call on {side}: {}", calls::described(telling.target, &call)));
        }
        (divergence, notes)
    }

    /// The divergence that was looked at closely, in the streams around it, and what may explain it.
    #[must_use]
    pub(crate) fn zoomed(
        telling: Telling,
        streams: &Pair<Vec<Executed>>,
        zoomed: &Zoomed,
    ) -> (Self, Vec<String>) {
        let target = telling.target;
        let Zoomed { difference, inside, names, .. } = zoomed;
        let seen = inside.as_ref().unwrap_or(difference);
        let index = |position: u64| streams.a.iter().position(|executed| executed.position == position);
        let apart = first_difference(&streams.a, &streams.b).filter(|&at| {
            // What comes behind is a consequence; and where a run ends behind what differs is no matter.
            let both_go_on = streams.b.get(at).is_some() || seen.what == What::Flow;
            let close =
                |executed: &Executed| both_go_on && (seen.from..=seen.to).contains(&executed.position);
            streams.a.get(at).is_some_and(close)
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
        let (mut divergence, notes) = around(telling, streams, guilty, kind);
        divergence.certainty = certainty;
        let by = if certainty == Certainty::Reasoned { index(seen.to - 1) } else { shows };
        if let Some(by) = by {
            divergence.seen = place_of(&Pair::of(|side| streams.get(side).get(by)));
        }
        if certainty == Certainty::Flags {
            divergence.next = around(telling, streams, shows, kind).0.next;
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
}

/// Where both sides execute these.
fn place_of(both: &Pair<Option<&Executed>>) -> Seen {
    let pc = Pair::of(|side| both.get(side).map(|executed| address(executed.instruction.address)));
    Seen { icount: both.a.or(both.b).map_or(0, |executed| executed.position), pc }
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
    telling: Telling,
    streams: &Pair<Vec<Executed>>,
    guilty: Option<usize>,
    kind: Kind,
) -> (Divergence, Vec<String>) {
    let at = guilty.map_or(0, |guilty| guilty + 1);
    let common = &streams.a[..at.min(streams.a.len())];
    let disassembler = Disassembler::at_end(telling.target, common);
    // Behind the divergence the mode may be another.
    let behind = Pair::of(|side| {
        let stream = streams.get(side);
        Disassembler::at_end(
            telling.target,
            &stream[at.min(stream.len())..stream.len().min(at + SHOWN_AFTER)],
        )
    });
    let following = Pair::of(|side| {
        let rest = streams.get(side).iter().skip(at).take(SHOWN_AFTER);
        rest.map(|executed| telling.line(agreed(disassembler, *behind.get(side), executed), executed))
            .collect::<Vec<_>>()
    });
    let first = Pair::of(|side| streams.get(side).get(at));
    let previous = Pair::of(|side| {
        let stream = streams.get(side);
        telling.blocks_before(disassembler, &stream[..at.min(stream.len())])
    });
    let own = Pair::of(|side| guilty.and_then(|guilty| streams.get(side).get(guilty)));
    let notes = explaining(telling, disassembler, streams, at);
    let position = own.a.or(own.b).map_or(0, |executed| executed.position);
    let divergence = Divergence {
        kind,
        vcpu: None,
        icount: Pair { a: position, b: position },
        pc: Pair::of(|side| own.get(side).map(|e| address(e.instruction.address))),
        seen: place_of(&own),
        stage: None,
        symbol: Pair::of(|side| own.get(side).and_then(|e| telling.symbol(e.instruction.address))),
        block: Pair::of(|side| own.get(side).map(|e| address(e.block[0].address))),
        in_block: Pair::of(|side| own.get(side).map(|e| (e.number + 1, e.block.len()))),
        instruction: Pair::of(|side| own.get(side).map(|e| disassembler.text(e.instruction))),
        certainty: Certainty::Seen,
        next: Pair::of(|side| {
            let e = (*first.get(side))?;
            let text = following.get(side).first().map(|line| format!(" `{}`", line.text));
            Some(telling.place(e.instruction.address) + &text.unwrap_or_default())
        }),
        registers: Vec::new(),
        accesses: Pair::default(),
        code: Pair::of(|side| {
            own.get(side).map_or_else(Vec::new, |executed| telling.code(disassembler, executed))
        }),
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

/// What in the instructions before index `at` may explain a divergence.
fn explaining(
    telling: Telling,
    disassembler: Disassembler,
    streams: &Pair<Vec<Executed>>,
    at: usize,
) -> Vec<String> {
    let mut notes = Vec::new();
    let common = &streams.a[..at.min(streams.a.len())];
    for executed in common.iter().rev().take(SEARCHED) {
        if let Some(on) = disassembler.depends_on(executed.instruction) {
            let before = common.last().map_or(0, |last| last.position - executed.position);
            notes.push(format!(
                "`{}` at {}, {}: its result depends on {on}",
                disassembler.text(executed.instruction),
                telling.place(executed.instruction.address),
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
            telling.place(earlier.0.instruction.address),
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
