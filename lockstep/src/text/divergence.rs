//! What parts two runs, on a page.

use recorder::account::grouped;
use similar::{ChangeTag, TextDiff};

use super::page::{Ink, Page};
use crate::comparator::{Pair, Side};
use crate::report::{Access, Block, Certainty, Consoles, Divergence, Line};

/// Instructions of a block that are shown, the last ones.
const SHOWN: usize = 12;

/// How an instruction was found, where that is not plain.
pub(crate) fn certainty(certainty: Certainty) -> Option<&'static str> {
    match certainty {
        Certainty::Seen => None,
        Certainty::Reasoned => Some(
            "the block for certain; when its instructions were looked at one by one nothing differed, so what is wrong is what \
             is made of them together. This one explains what differs behind the block",
        ),
        Certainty::Flags => Some(
            "flags are not told; the first instruction whose effect differs acts on them and sets none, and this is the last \
             before that did",
        ),
        Certainty::Unseen => Some(
            "what was read wrong was written by QEMU itself when it delivered an exception or interrupt, which no probe is told \
             of; this is the instruction behind which it did so last",
        ),
        Certainty::First => {
            Some("by what was compared alone; a value in a register may have been wrong before")
        }
    }
}

pub(super) fn diverged(page: &mut Page, divergence: &Divergence) {
    page.blank();
    page.line(&format!("  kind: {}", divergence.kind));
    if divergence.pc.a.is_none() && divergence.pc.b.is_none() {
        return;
    }
    if let Some(found) = certainty(divergence.certainty) {
        page.prose(&[(Ink::Plain, &format!("  found: {found}"))]);
    }
    for side in [Side::A, Side::B] {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let place = divergence.in_block.get(side).map_or_else(String::new, |(number, of)| {
            format!(
                ", instruction {number} of {of} in translated block {}",
                known(divergence.block.get(side))
            )
        });
        page.line(&format!(
            "  {side}: icount {}, pc {}{}{place}",
            grouped(*divergence.icount.get(side)),
            known(divergence.pc.get(side)),
            named(divergence.symbol.get(side)),
        ));
    }
    let seen = &divergence.seen;
    if seen.icount != divergence.icount.a {
        let pc =
            seen.pc.a.as_ref().or(seen.pc.b.as_ref()).map_or_else(String::new, |pc| format!(", pc {pc}"));
        page.line(&format!("  it showed first at icount {}{pc}", grouped(seen.icount)));
    }
    values(page, divergence);
    let bits = divergence.mode.map(|bits| format!(" ({bits}-bit code, by its instructions' lengths)"));
    page.blank();
    page.line(&format!(
        "  the last blocks up to it, as A cut them{}, > is the instruction:",
        bits.unwrap_or_default()
    ));
    if let Some((last, before)) = divergence.previous.a.split_last() {
        for block in before {
            executed(page, block, false);
        }
        executed(page, last, true);
    }
    let behind = divergence.code.a.iter().skip_while(|code| !code.guilty).skip(1);
    for code in behind.take(SHOWN) {
        page.line(&format!("      {:>14}  {:<18}  {:<30}  {}", "", code.pc, code.bytes, code.text));
    }
    page.blank();
    heading(page, "behind it", "");
    let shown = |line: &Line| match &line.symbol {
        Some(_) => format!("{:<82}{}", shown(line), named(&line.symbol)),
        None => shown(line),
    };
    difference(page, &Pair::of(|side| divergence.following.get(side).iter().map(shown).collect()));
}

pub(crate) fn named(symbol: &Option<String>) -> String {
    symbol.as_ref().map_or_else(String::new, |symbol| format!(" <{symbol}>"))
}

/// What stands above lines of which either side may have some alone.
fn heading(page: &mut Page, what: &str, more: &str) {
    page.pieces(&[
        (Ink::Plain, &format!("  {what}, ")),
        (Ink::OnlyA, "- on A"),
        (Ink::Plain, ", "),
        (Ink::OnlyB, "+ on B"),
        (Ink::Plain, &format!("{more}:")),
    ]);
}

/// What the instruction does to registers and memory.
fn values(page: &mut Page, divergence: &Divergence) {
    if !divergence.registers.is_empty() {
        page.blank();
        page.pieces(&[
            (Ink::Plain, "  registers that it changes, "),
            (Ink::Differs, "! where the sides differ"),
            (Ink::Plain, ":"),
        ]);
    }
    for register in &divergence.registers {
        let (sign, ink) = if register.differs() { ('!', Ink::Differs) } else { (' ', Ink::Plain) };
        let after = if register.differs() {
            format!("{} on A, {} on B", register.after.a, register.after.b)
        } else {
            register.after.a.clone()
        };
        page.pieces(&[(ink, &format!("  {sign} {:<8} {} -> {after}", register.name, register.before))]);
    }
    if divergence.accesses.a.is_empty() && divergence.accesses.b.is_empty() {
        return;
    }
    page.blank();
    heading(page, "its accesses to memory", "");
    difference(page, &Pair::of(|side| divergence.accesses.get(side).iter().map(accessed).collect()));
}

/// An access in words.
pub(crate) fn accessed(access: &Access) -> String {
    let value = access.value.as_ref().map_or_else(String::new, |value| format!(", value {value}"));
    if access.address.is_empty() {
        return format!("{}{value}", access.kind);
    }
    format!("{:<5} {} bytes at {}{value}", access.kind, access.size, access.address)
}

/// What the guests had written.
pub(super) fn consoles(page: &mut Page, consoles: &Consoles) {
    let Consoles { differ_in, sides } = consoles;
    page.blank();
    if sides.a.bytes == 0 && sides.b.bytes == 0 {
        page.line("  console: nothing was written by then");
        return;
    }
    let differ = differ_in.map_or_else(String::new, |line| format!("; they differ in line {line}"));
    heading(
        page,
        &format!("the last lines of the consoles, {}", consoles.extent()),
        &format!(" ({} and {} bytes{differ})", grouped(sides.a.bytes), grouped(sides.b.bytes)),
    );
    difference(page, &Pair::of(|side| sides.get(side).lines.clone()));
}

/// A line of a side, or of both.
pub(crate) struct Change {
    /// Which side has it alone.
    pub only: Option<Side>,
    pub text: String,
}

/// Lines that one side has, the other, or both.
pub(crate) fn changes(sides: &Pair<Vec<String>>) -> Vec<Change> {
    let lines = Pair::of(|side| sides.get(side).iter().map(String::as_str).collect::<Vec<_>>());
    let diff = TextDiff::from_slices(&lines.a, &lines.b);
    let change = |change: similar::Change<&str>| Change {
        only: match change.tag() {
            ChangeTag::Delete => Some(Side::A),
            ChangeTag::Insert => Some(Side::B),
            ChangeTag::Equal => None,
        },
        text: change.value().to_owned(),
    };
    diff.iter_all_changes().map(change).collect()
}

fn difference(page: &mut Page, sides: &Pair<Vec<String>>) {
    for Change { only, text } in changes(sides) {
        let (sign, ink) = match only {
            Some(Side::A) => ('-', Ink::OnlyA),
            Some(Side::B) => ('+', Ink::OnlyB),
            None => (' ', Ink::Plain),
        };
        page.pieces(&[(ink, &format!("  {sign} {text}"))]);
    }
}

/// A block's executed instructions, of which the last may be the guilty one.
fn executed(page: &mut Page, block: &Block, has_guilty: bool) {
    page.pieces(&[(Ink::Heading, &format!("    block {}{}", block.pc, named(&block.symbol)))]);
    let skipped = block.instructions.len().saturating_sub(SHOWN);
    if skipped > 0 {
        page.line(&format!("               ... {skipped} instructions"));
    }
    for (number, line) in block.instructions.iter().enumerate().skip(skipped) {
        let text = format!("{:>14}  {}", grouped(line.icount), shown(line));
        if has_guilty && number + 1 == block.instructions.len() {
            page.pieces(&[(Ink::Plain, "    "), (Ink::Guilty, &format!("> {text}"))]);
        } else {
            page.line(&format!("      {text}"));
        }
    }
}

fn shown(line: &Line) -> String {
    format!("{:<18}  {:<30}  {}", line.pc, line.bytes, line.text)
}
