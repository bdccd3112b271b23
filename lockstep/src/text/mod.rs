//! The result of a lockstep as a page to read.
//!
//! [`page`] lays lines out; [`divergence`] is the part of what differs, [`reduction`] what that comes down to, [`recordings`] what `tandem diff` says beside.

pub(crate) mod divergence;
pub(crate) mod page;
pub mod recordings;
pub(crate) mod reduction;

use recorder::account::grouped;

pub use self::page::Medium;
use self::page::{Ink, Page};
use crate::comparator::Side;
use crate::explain;
use crate::report::{Compared, Report, Verdict};
use crate::selfcheck::{Found, Tried};
use crate::words::{self, Only};

/// The whole report, at most about 110 columns wide where the guest's code and the medium allow.
#[must_use]
pub fn render(report: &Report, medium: Medium) -> String {
    let mut page = Page::new(medium);
    let (ink, verdict) = match report.verdict {
        Verdict::Same => (Ink::Same, "same"),
        Verdict::Different => (Ink::Different, "DIFFERENT"),
        Verdict::Trouble => (Ink::Trouble, "trouble"),
    };
    page.pieces(&[(ink, verdict), (Ink::Plain, &format!(": {}", report.summary))]);
    page.blank();
    for side in [Side::A, Side::B] {
        let build = report.builds.get(side);
        page.line(&format!(
            "  {side}  {}  QEMU {}, plugin API {}, SHA-256 {}",
            build.path,
            build.version,
            build.plugin_api,
            build.sha256.get(..12).unwrap_or_default()
        ));
    }
    page.line(&format!("  compared: {}", compared(&report.compared)));
    page.line(&match words::only(&report.builds) {
        None => "  command lines: the same".to_owned(),
        Some(Only { a, b }) => {
            let ticked = |words: &[String]| match words {
                [] => "nothing".to_owned(),
                words => format!("`{}`", words.join(" ")),
            };
            format!("  command lines: only A has {}, only B has {}", ticked(&a), ticked(&b))
        }
    });
    if let Some(divergence) = &report.divergence {
        self::divergence::diverged(&mut page, divergence);
    }
    if let Some(consoles) = &report.console {
        self::divergence::consoles(&mut page, consoles);
    }
    if let Some(explanation) = &report.explanation {
        page.blank();
        explain::page::render(&mut page, explanation);
    }
    if let Some(reduction) = &report.reduction {
        reduction::render(&mut page, reduction);
    }
    if !report.notes.is_empty() {
        page.blank();
        for note in &report.notes {
            page.pieces(&[(Ink::Note, "  note:"), (Ink::Plain, &format!(" {note}"))]);
        }
    }
    page.finished()
}

/// What came of a setting of a selfcheck, as a line.
#[must_use]
pub fn tried_line(tried: &Tried, medium: Medium) -> String {
    let (ink, found) = match tried.found {
        Found::Same => (Ink::Same, "same"),
        Found::Different => (Ink::Different, "DIFFERENT"),
        Found::Refused => (Ink::Plain, "refused"),
        Found::Trouble => (Ink::Trouble, "trouble"),
    };
    let mut page = Page::new(medium);
    let rest = format!("  {:<31}  {}", tried.arguments.join(" "), tried.summary);
    page.pieces(&[(ink, &format!("{found:<9}")), (Ink::Plain, &rest)]);
    page.finished()
}

/// What was compared, as the rest of a sentence.
pub(crate) fn compared(compared: &Compared) -> String {
    format!(
        "{}, over {} instructions in {} chunks, driven by {}{}",
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
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparator::Pair;
    use crate::expansion::expand;
    use crate::report::{BLOCKS, Compared, Divergence, Ridden, Telling};
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
            reduction: None,
            input: None,
            console: None,
            notes,
            again: None,
        }
    }

    #[test]
    fn a_divergence_reads_like_this() {
        let block = |from: u64, code: &[&[u8]]| {
            let mut address = from;
            code.iter()
                .map(|bytes| {
                    let instruction = Instruction::new(address, bytes.to_vec());
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
        let telling = Telling { target: "x86_64", blocks: BLOCKS, symbols: None };
        let report = report(Some(Divergence::of(telling, &streams, 3)));
        insta::assert_snapshot!(render(&report, Medium::default()));
    }

    #[test]
    fn no_divergence_reads_like_this() {
        insta::assert_snapshot!(render(&report(None), Medium::default()));
    }
}
