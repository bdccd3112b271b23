//! The result of a lockstep as a page to read.

use std::fmt::Write;

use similar::{ChangeTag, TextDiff};

use crate::comparator::{Pair, Side};
use crate::explain;
use crate::inputs::{Difference, Input};
use crate::report::{Block, Certainty, Divergence, Line, Report, Verdict};
use recorder::account::grouped;

/// The whole report, at most about 110 columns wide where the guest's code allows.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut page = String::new();
    let verdict = match report.verdict {
        Verdict::Same => "same",
        Verdict::Different => "DIFFERENT",
        Verdict::Trouble => "trouble",
    };
    let _ = writeln!(page, "{verdict}: {}", report.summary);
    let _ = writeln!(page);
    for side in [Side::A, Side::B] {
        let build = report.builds.get(side);
        let _ = writeln!(
            page,
            "  {side}  {}  QEMU {}, plugin API {}, SHA-256 {}",
            build.path,
            build.version,
            build.plugin_api,
            build.sha256.get(..12).unwrap_or_default()
        );
    }
    let compared = &report.compared;
    let _ = writeln!(
        page,
        "  compared: {}, over {} instructions in {} chunks, driven by {}{}",
        compared.what.join(", "),
        grouped(compared.instructions),
        compared.chunks,
        match compared.driven_by {
            "recording" if compared.recorded.is_some() => "a recording that was made for it, because ",
            "recording" => "one recording",
            "recordings" => "a recording each",
            _ if compared.what.contains(&"system calls") => "two live runs",
            _ => "two live runs in virtual time",
        },
        compared.recorded.as_ref().map_or("", |recorded| &*recorded.because)
    );
    command_lines(&mut page, report);
    if let Some(divergence) = &report.divergence {
        diverged(&mut page, divergence);
    }
    if let Some(explanation) = &report.explanation {
        let _ = writeln!(page);
        page.push_str(&explain::page::render(explanation));
    }
    if !report.notes.is_empty() {
        let _ = writeln!(page);
        for note in &report.notes {
            let _ = writeln!(page, "  note: {note}");
        }
    }
    page
}

/// What differs between the inputs of two recordings, a few lines for each kind.
#[must_use]
pub fn inputs(differences: &[Difference]) -> String {
    let mut page = String::new();
    if differences.is_empty() {
        page.push_str("inputs: all the same\n");
    }
    for (number, difference) in differences.iter().enumerate() {
        let first = if number == 0 { ", the first of all" } else { "" };
        let _ = writeln!(
            page,
            "{}: differs{first}, behind {} that are the same",
            difference.kind,
            grouped(difference.same)
        );
        for (side, input) in [(Side::A, &difference.a), (Side::B, &difference.b)] {
            let _ = match input {
                Some(Input { icount, input }) => {
                    writeln!(page, "  {side}  icount {:>15}  {input}", grouped(*icount))
                }
                None => writeln!(page, "  {side}  has no more of them"),
            };
        }
    }
    page
}

/// What differs between two consoles, as a diff of their lines; empty where nothing does.
#[must_use]
pub fn consoles(a: &str, b: &str) -> String {
    TextDiff::from_lines(a, b).unified_diff().context_radius(2).header("A", "B").to_string()
}

/// Where the command lines differ, as a diff of their words.
fn command_lines(page: &mut String, report: &Report) {
    let lines = Pair::of(|side| {
        report.builds.get(side).line.iter().map(|word| format!("{word}\n")).collect::<String>()
    });
    if lines.a == lines.b {
        let _ = writeln!(page, "  command lines: the same");
        return;
    }
    let diff = TextDiff::from_lines(&lines.a, &lines.b);
    let words = |wanted: ChangeTag| {
        let changes = diff.iter_all_changes().filter(|change| change.tag() == wanted);
        let words: Vec<String> = changes.map(|change| change.value().trim_end().to_owned()).collect();
        if words.is_empty() { "nothing".to_owned() } else { format!("`{}`", words.join(" ")) }
    };
    let _ = writeln!(
        page,
        "  command lines: only A has {}, only B has {}",
        words(ChangeTag::Delete),
        words(ChangeTag::Insert)
    );
}

fn diverged(page: &mut String, divergence: &Divergence) {
    let _ = writeln!(page);
    let _ = writeln!(page, "  kind: {}", divergence.kind);
    if divergence.pc.a.is_none() && divergence.pc.b.is_none() {
        return;
    }
    match divergence.certainty {
        Certainty::Seen => {}
        Certainty::Reasoned => page.push_str(
            "  found: the block for certain; when its instructions were looked at one by one nothing differed, so what is wrong\n  \
             is what is made of them together. This one explains what differs behind the block\n",
        ),
        Certainty::Flags => page.push_str(
            "  found: flags are not told; the first instruction whose effect differs acts on them and sets none, and this is the last\n  \
             before that did\n",
        ),
        Certainty::Unseen => page.push_str(
            "  found: what was read wrong was written by QEMU itself when it delivered an exception or interrupt, which no probe is\n  \
             told of; this is the instruction behind which it did so last\n",
        ),
        Certainty::First => page.push_str(
            "  found: by what was compared alone; a value in a register may have been wrong before\n",
        ),
    }
    for side in [Side::A, Side::B] {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let place = divergence.in_block.get(side).map_or_else(String::new, |(number, of)| {
            format!(
                ", instruction {number} of {of} in translated block {}",
                known(divergence.block.get(side))
            )
        });
        let _ = writeln!(
            page,
            "  {side}: icount {}, pc {}{place}",
            grouped(*divergence.icount.get(side)),
            known(divergence.pc.get(side)),
        );
    }
    values(page, divergence);
    let bits = divergence.mode.map(|bits| format!(" ({bits}-bit code, by its instructions' lengths)"));
    let _ = writeln!(page);
    let _ = writeln!(page, "  the last blocks up to it, as A cut them{}:", bits.unwrap_or_default());
    for block in &divergence.previous.a {
        executed(page, block);
    }
    let _ = writeln!(page);
    let _ = writeln!(page, "  behind it, - on A, + on B:");
    let sides =
        Pair::of(|side| divergence.following.get(side).iter().map(|l| shown(l) + "\n").collect::<String>());
    difference(page, &sides);
}

/// What the instruction does to registers and memory.
fn values(page: &mut String, divergence: &Divergence) {
    if !divergence.registers.is_empty() {
        let _ = writeln!(page);
        let _ = writeln!(page, "  registers that it changes, ! where the sides differ:");
    }
    for register in &divergence.registers {
        let sign = if register.differs() { '!' } else { ' ' };
        let after = if register.differs() {
            format!("{} on A, {} on B", register.after.a, register.after.b)
        } else {
            register.after.a.clone()
        };
        let _ = writeln!(page, "  {sign} {:<8} {} -> {after}", register.name, register.before);
    }
    if divergence.accesses.a.is_empty() && divergence.accesses.b.is_empty() {
        return;
    }
    let _ = writeln!(page);
    let _ = writeln!(page, "  its accesses to memory, - on A, + on B:");
    let sides = Pair::of(|side| {
        let lines = divergence.accesses.get(side).iter().map(|access| {
            let value = access.value.as_ref().map_or_else(String::new, |value| format!(", value {value}"));
            if access.address.is_empty() {
                return format!("{}{value}\n", access.kind);
            }
            format!("{:<5} {} bytes at {}{value}\n", access.kind, access.size, access.address)
        });
        lines.collect::<String>()
    });
    difference(page, &sides);
}

/// Lines that one side has, the other, or both.
fn difference(page: &mut String, sides: &Pair<String>) {
    for change in TextDiff::from_lines(&sides.a, &sides.b).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        let _ = writeln!(page, "  {sign} {}", change.value().trim_end());
    }
}

fn executed(page: &mut String, block: &Block) {
    let _ = writeln!(page, "    block {}", block.pc);
    let skipped = block.instructions.len().saturating_sub(12);
    if skipped > 0 {
        let _ = writeln!(page, "               ... {skipped} instructions");
    }
    for line in &block.instructions[skipped..] {
        let _ = writeln!(page, "      {:>14}  {}", grouped(line.icount), shown(line));
    }
}

fn shown(line: &Line) -> String {
    format!("{:<18}  {:<30}  {}", line.pc, line.bytes, line.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expansion::expand;
    use crate::report::{Compared, Ridden};
    use trace::block::Instruction;
    use trace::message::{Visit, Window};

    fn report(divergence: Option<(Divergence, Vec<String>)>) -> Report {
        let side = |line: &[&str]| Ridden {
            path: "/q/qemu".to_owned(),
            version: "7.2.22".to_owned(),
            sha256: "0123456789abcdef".to_owned(),
            plugin_api: 1,
            target: "x86_64".to_owned(),
            line: line.iter().map(|&word| word.to_owned()).collect(),
        };
        let (divergence, notes) = divergence.map_or((None, Vec::new()), |(d, notes)| (Some(d), notes));
        Report {
            verdict: if divergence.is_some() { Verdict::Different } else { Verdict::Same },
            summary: divergence.as_ref().map_or_else(|| "no divergence".to_owned(), Divergence::summary),
            compared: Compared {
                instructions: 1_234_567,
                chunks: 2,
                what: vec!["control flow"],
                driven_by: "live",
                vcpus: None,
                recorded: None,
            },
            builds: Pair { a: side(&["-M", "pc"]), b: side(&["-M", "pc", "-cpu", "max"]) },
            divergence,
            explanation: None,
            input: None,
            notes,
        }
    }

    #[test]
    fn a_divergence_reads_like_this() {
        let block = |from: u64, code: &[&[u8]]| {
            let mut address = from;
            code.iter()
                .map(|bytes| {
                    let instruction = Instruction { address, bytes: bytes.to_vec() };
                    address += bytes.len() as u64;
                    instruction
                })
                .collect::<Vec<_>>()
        };
        // 64-bit: mov rax, rbx; cpuid; je +2. Then A falls through, B jumps.
        let common = block(0x1_0000_0000, &[&[0x48, 0x89, 0xd8], &[0x0f, 0xa2], &[0x74, 0x01]]);
        let window = |next: u64| Window {
            first: 41,
            visits: vec![
                Visit { vcpu: 0, block: 0, skip: 0, ran: 3 },
                Visit { vcpu: 0, block: 1, skip: 0, ran: 1 },
            ],
            blocks: vec![common.clone(), block(next, &[&[0x90]])],
        };
        let windows = Pair { a: [window(0x1_0000_0007)], b: [window(0x1_0000_0008)] };
        let streams = Pair { a: expand(&windows.a).unwrap(), b: expand(&windows.b).unwrap() };
        insta::assert_snapshot!(render(&report(Some(Divergence::of("x86_64", &streams, 3)))));
    }

    #[test]
    fn no_divergence_reads_like_this() {
        insta::assert_snapshot!(render(&report(None)));
    }
}
