//! What both builds make of the guilty block: guest code, TCG ops before and after optimisation, and host code, side by
//! side, and the stage of the translation in which they first differ.
//!
//! [`capture`] runs both builds with QEMU's own logging of that block; [`log`] reads it; [`ops`] and [`host`] make
//! [`line`]s of it, in which what is another in each run (addresses, temporaries, labels) is told from what is not;
//! [`comparison`] puts the sides' beside one another; [`page`] shows them.

pub mod capture;
pub mod comparison;
pub mod host;
pub mod line;
pub mod log;
pub mod ops;
pub mod page;

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use qemu::build::Build;
use qemu::run;
use serde::Serialize;
use trace::block::Instruction;

use self::capture::{Catch, Fit, Variant};
use self::comparison::{Matching, Row};
use self::host::Host;
use self::line::{Addresses, Line, Piece};
use self::log::Translation;
use crate::comparator::{Pair, Side};
use crate::disassembly::{Disassembler, hex};

/// The block that is to be explained, as the probe saw it executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guilty {
    pub block: Vec<Instruction>,
    /// Which of its instructions is the guilty one, from 0.
    pub number: usize,
}

/// How a side is run.
pub struct Drive<'a> {
    /// The same line that the ride used, without the probe.
    pub line: &'a [String],
    pub folder: &'a Path,
    /// Descriptors that it names.
    pub passed: &'a [BorrowedFd<'a>],
}

pub struct Request<'a> {
    pub builds: Pair<&'a Build>,
    pub drives: Pair<Drive<'a>>,
    pub guilty: Pair<Guilty>,
    /// Of x86 guests: 16, 32 or 64.
    pub mode: Option<u32>,
    /// How long it took, with the probe, to come to the divergence.
    pub reached: Duration,
    pub interrupts: &'a AtomicU32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("side {0}: {1}")]
    Run(Side, run::Error),
    #[error("run without the probe, side {side} logged no translation of the block at {pc:#x}{why}")]
    NotTranslated { side: Side, pc: u64, why: String },
    #[error("run without the probe, the QEMU of side {0} was gone before its log could be understood")]
    Gone(Side),
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Where the two builds first differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The guest's code in memory is another: no question of its translation.
    GuestCode,
    /// The two begin the block at different instructions, so there is nothing to compare.
    Cut,
    /// The ops that the guest's code is made into, or where the block ends.
    Frontend,
    /// What optimisation and liveness analysis make of the ops.
    Optimiser,
    /// The host code.
    Backend,
    /// Nowhere.
    None,
}

/// Both translations of the block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub stage: Stage,
    /// One line that says it.
    pub summary: String,
    pub block: Pair<Translated>,
    #[serde(flatten)]
    pub stages: Stages,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a side logged of the block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Translated {
    pub pc: String,
    /// Whether the translation has just the instructions that the block had when it was executed.
    pub whole: bool,
    /// How many times the block was translated, and in how many ways.
    pub times: u64,
    pub ways: usize,
}

/// The lines of each stage, side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stages {
    pub guest: Vec<Row>,
    pub ops: Vec<Row>,
    pub optimised: Vec<Row>,
    pub host: Vec<Row>,
}

/// Runs both builds once more, and says where their translations of the guilty block first differ. To be called on the
/// main thread.
///
/// # Errors
/// Where a side does not come to the block, or does not run.
pub fn explain(request: &Request) -> Result<Explanation, Error> {
    let caught = capture::both(request)?;
    Ok(explained(&caught, request.mode, is_other_release(request.builds)))
}

/// Releases keep their CPU state in another order.
fn is_other_release(builds: Pair<&Build>) -> bool {
    builds.a.release() != builds.b.release()
}

/// Puts together what both sides logged; each has at least one translation.
#[must_use]
pub fn explained(caught: &Pair<Catch>, mode: Option<u32>, other_release: bool) -> Explanation {
    let fitting = fitting(caught);
    let mapped = Pair::of(|side| caught.get(side).mapped.as_slice());
    // Both come to the divergence by the same way, so what one made of the block first the other did as well.
    let mut shown = None;
    let pairs = fitting.a.iter().zip(&fitting.b);
    for (number, (a, b)) in pairs.enumerate() {
        let made = stages(Pair { a: &a.translation, b: &b.translation }, mapped, other_release);
        let stage = differing(&made, &Pair { a: &a.translation, b: &b.translation });
        let differs = stage != Stage::None;
        shown = Some((number, stage, made));
        if differs {
            break;
        }
    }
    let empty = Stages { guest: Vec::new(), ops: Vec::new(), optimised: Vec::new(), host: Vec::new() };
    let (number, stage, mut stages) = shown.unwrap_or((0, Stage::None, empty));
    if let (Some(a), Some(b)) = (fitting.a.get(number), fitting.b.get(number)) {
        stages.guest = guest(Pair { a: &a.translation, b: &b.translation }, mode);
    }
    let block = Pair::of(|side| {
        let variants = fitting.get(side);
        let translation = variants.get(number);
        Translated {
            pc: format!(
                "{:#x}",
                translation.and_then(|variant| variant.translation.address()).unwrap_or_default()
            ),
            whole: translation.is_some_and(|variant| variant.fit == Fit::Whole),
            times: variants.iter().map(|variant| variant.times).sum(),
            ways: variants.len(),
        }
    });
    let mut notes = Vec::new();
    for side in [Side::A, Side::B] {
        let Translated { whole, ways, .. } = block.get(side);
        if !whole {
            notes.push(format!("{side} executed the block cut elsewhere than in this translation of it"));
        }
        if *ways > 1 {
            notes.push(format!("{side} translated the block in {ways} ways; shown is number {}", number + 1));
        }
        let catch = caught.get(side);
        if catch.dropped > 0 {
            notes.push(format!("{side} translated the block in more ways than were looked at"));
        }
        if let Some(why) = &catch.unreadable {
            notes.push(format!("{side}: of what QEMU logged a translation could not be read: {why}"));
        }
    }
    // What an added field of the CPU state does to all code behind it, and a wrong field to one place.
    if !other_release
        && stage != Stage::None
        && let (Some(a), Some(b)) = (fitting.a.get(number), fitting.b.get(number))
    {
        let sides = Pair { a: &a.translation, b: &b.translation };
        if differing(&self::stages(sides, mapped, true), &sides) == Stage::None {
            notes.push(
                "only offsets into the CPU state differ, and are in the same order: where the builds lay it out differently \
                 this is no difference"
                    .to_owned(),
            );
        }
    }
    if other_release && !matches!(stage, Stage::None | Stage::GuestCode | Stage::Cut) {
        notes.push(
            "two releases of QEMU translate most blocks differently: what differs here need not be what parted them"
                .to_owned(),
        );
    }
    Explanation { stage, summary: summary(stage).to_owned(), block, stages, notes }
}

/// What is to be compared: translations of the same guest code, where both sides have any, the whole block before a part
/// of it.
fn fitting(caught: &Pair<Catch>) -> Pair<Vec<&Variant>> {
    let ordered = Pair::of(|side| {
        let mut all: Vec<&Variant> = caught.get(side).variants.iter().collect();
        all.sort_by_key(|variant| variant.fit);
        all
    });
    let code = |variant: &Variant| (variant.translation.address(), variant.translation.bytes(true));
    let shared = ordered.a.iter().map(|a| code(a)).find(|a| ordered.b.iter().any(|b| code(b) == *a));
    Pair::of(|side| {
        let all = ordered.get(side);
        let wanted = |variant: &&&Variant| match &shared {
            Some(shared) => code(variant) == *shared,
            None => variant.fit == all[0].fit,
        };
        all.iter().filter(wanted).copied().collect()
    })
}

fn summary(stage: Stage) -> &'static str {
    match stage {
        Stage::GuestCode => "the guest's code itself differs: look at what wrote it",
        Stage::Cut => "the builds cut the guest's code into other blocks here, which can't be compared",
        Stage::Frontend => "frontend: of the same guest code the builds make different ops",
        Stage::Optimiser => "optimiser: the ops are the same, what the optimiser makes of them is not",
        Stage::Backend => "backend: the optimised ops are the same, the host code is not",
        Stage::None => "the same code: look at helpers, runtime or devices",
    }
}

/// The lines of all stages but the guest's, which are not compared by their text.
pub(crate) fn stages(sides: Pair<&Translation>, mapped: Pair<&[Range<u64>]>, other_release: bool) -> Stages {
    let mut addresses = Pair::of(|side| {
        let translation = sides.get(side);
        Addresses::of(mapped.get(side).to_vec(), translation.prologue.clone(), ops::block(&translation.ops))
    });
    // The host code comes first: it tells which helper lies where.
    let host = Pair::of(|side| host::lines(sides.get(side), Host::here(), addresses.get_mut(side)));
    let before = Pair::of(|side| ops::lines(&sides.get(side).ops, addresses.get_mut(side)));
    let after = Pair::of(|side| ops::lines(&sides.get(side).optimised, addresses.get_mut(side)));
    let mut matching = Matching::new(other_release);
    let (ops, optimised) = (matching.rows(&before), matching.rows(&after));
    Stages { guest: Vec::new(), ops, optimised, host: matching.rows(&host) }
}

/// The guest's code, compared by its bytes and shown as each build disassembles it.
fn guest(sides: Pair<&Translation>, mode: Option<u32>) -> Vec<Row> {
    let disassembler = Disassembler::of_mode(mode);
    let lines = Pair::of(|side| {
        let shown = |line: &log::GuestLine| {
            let code = format!("{:#x}  {}", line.address, hex(&line.units.concat()));
            let text = if line.text.is_empty() {
                let instruction = Instruction::new(line.address, line.units.concat());
                disassembler.text(&instruction)
            } else {
                line.text.split_whitespace().collect::<Vec<_>>().join(" ")
            };
            Line { text: format!("{code:<34}  {text}"), pieces: vec![Piece::Text(code)], defined: 0..0 }
        };
        sides.get(side).guest.iter().map(shown).collect::<Vec<_>>()
    });
    Matching::new(false).rows(&lines)
}

/// The first stage that differs.
fn differing(stages: &Stages, sides: &Pair<&Translation>) -> Stage {
    let differs = |rows: &[Row]| rows.iter().any(|row| !row.same);
    let (a, b) = (sides.a.bytes(true), sides.b.bytes(true));
    let one_begins_the_other = a.iter().zip(&b).all(|(a, b)| a == b);
    if sides.a.address() != sides.b.address() {
        Stage::Cut
    } else if !one_begins_the_other {
        Stage::GuestCode
    } else if a != b || differs(&stages.ops) {
        Stage::Frontend
    } else if differs(&stages.optimised) {
        Stage::Optimiser
    } else if differs(&stages.host) {
        Stage::Backend
    } else {
        Stage::None
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::capture::Catch;
    use super::log::{Entry, Translation, in_memory, read};
    use super::{Explanation, Guilty, Stage, explained, page};
    use crate::comparator::Pair;
    use crate::text::Medium;
    use crate::text::page::Page;
    use trace::block::Instruction;

    const SEABIOS_7: &str = include_str!("logs/seabios-7.2.log");
    const SEABIOS_7_OBJD: &str = include_str!("logs/seabios-7.2-objd.log");
    const SEABIOS_10: &str = include_str!("logs/seabios-10.0.log");
    const SEABIOS_11: &str = include_str!("logs/seabios-11.1.log");

    fn translations(log: &str) -> Vec<Translation> {
        let mut found = Vec::new();
        read(&mut log.as_bytes(), |entry| {
            let Entry::Translation(translation) = entry else { panic!("{entry:?}") };
            found.push(*translation);
            true
        })
        .unwrap();
        found
    }

    /// What QEMU had mapped stands before each log.
    fn mapped(log: &str) -> Vec<Range<u64>> {
        let ranges = log.lines().filter_map(|line| line.strip_prefix("mapped ")?.split_once('-'));
        ranges
            .map(|(a, b)| u64::from_str_radix(a, 16).unwrap()..u64::from_str_radix(b, 16).unwrap())
            .collect()
    }

    /// The block as the probe would have seen it.
    fn executed(log: &str) -> Guilty {
        let translation = translations(log).remove(0);
        let mut block = Vec::new();
        for line in &translation.guest {
            let bytes = in_memory(&line.units, false);
            if !line.text.is_empty() {
                block.push(Instruction::new(line.address, bytes));
                continue;
            }
            // All of the block, of a build without a disassembler.
            let mut decoder = iced_x86::Decoder::with_ip(32, &bytes, line.address, 0);
            while decoder.can_decode() {
                let (address, from) = (decoder.ip(), decoder.position());
                let _ = decoder.decode();
                block.push(Instruction::new(address, bytes[from..decoder.position()].to_vec()));
            }
        }
        Guilty { number: block.len() - 1, block }
    }

    fn caught(logs: &[&str], wanted: &Guilty) -> Catch {
        let mut catch = Catch::default();
        for translation in logs.iter().flat_map(|log| translations(log)) {
            catch.take(translation, wanted, false, || mapped(logs[0]));
        }
        catch
    }

    fn explain(a: &str, b: &str, wanted: &str, mode: Option<u32>, other_release: bool) -> Explanation {
        let wanted = executed(wanted);
        explained(&Pair { a: caught(&[a], &wanted), b: caught(&[b], &wanted) }, mode, other_release)
    }

    fn shown(explanation: &Explanation) -> String {
        let mut paper = Page::new(Medium::default());
        page::render(&mut paper, explanation);
        paper.finished()
    }

    #[test]
    fn two_releases_of_an_x86_block_read_like_this() {
        let explanation = explain(SEABIOS_7, SEABIOS_10, SEABIOS_7, Some(16), true);
        assert_eq!(explanation.stage, Stage::Frontend);
        let page = shown(&explanation);
        assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
        insta::assert_snapshot!(page);
    }

    #[test]
    fn two_newer_releases_read_like_this() {
        insta::assert_snapshot!(shown(&explain(SEABIOS_10, SEABIOS_11, SEABIOS_7, Some(16), true)));
    }

    #[test]
    fn an_aarch64_block_reads_like_this() {
        let (a, b) = (include_str!("logs/aarch64-7.2.log"), include_str!("logs/aarch64-10.0.log"));
        insta::assert_snapshot!(shown(&explain(a, b, a, None, true)));
    }

    #[test]
    fn a_riscv64_block_reads_like_this() {
        let (a, b) = (include_str!("logs/riscv64-7.2.log"), include_str!("logs/riscv64-10.0.log"));
        insta::assert_snapshot!(shown(&explain(a, b, a, None, true)));
    }

    /// The second run had other addresses, and its QEMU no disassembler.
    #[test]
    fn two_runs_of_one_build_make_the_same() {
        let explanation = explain(SEABIOS_7, SEABIOS_7_OBJD, SEABIOS_7, Some(16), false);
        let rows = |rows: &[super::Row]| rows.iter().filter(|row| !row.same).cloned().collect::<Vec<_>>();
        let stages = &explanation.stages;
        for stage in [&stages.guest, &stages.ops, &stages.optimised, &stages.host] {
            assert_eq!(rows(stage), []);
        }
        assert_eq!(explanation.stage, Stage::None);
        assert!(stages.host.iter().any(|row| row.a.as_deref() == Some("call [pool lookup_tb_ptr]")));
        insta::assert_snapshot!(shown(&explanation));

        let log = include_str!("logs/aarch64-10.0.log");
        let other = include_str!("logs/aarch64-10.0-objd.log");
        assert_eq!(explain(log, other, log, None, false).stage, Stage::None);
    }

    /// One thing changed in a real log is found where it first is, and alone.
    #[test]
    fn each_change_is_found_in_its_stage() {
        for (from, to, times, stage) in [
            // A wrong condition out of the frontend.
            ("brcond_i64 tmp0,$0x0,ne,$L1", "brcond_i64 tmp0,$0x0,eq,$L1", 1, Stage::Frontend),
            // Another temporary is used than was set.
            (" ext32u_i64 tmp0,cc_dst\n brcond", " brcond", 0, Stage::None),
            ("mov_i64 loc8,tmp0\n", "mov_i64 loc8,tmp1\n", 1, Stage::Frontend),
            // A wrong fold, a wrong liveness, a wrong label.
            ("add_i64 tmp2,cs_base,$0x61c8 ", "add_i64 tmp2,cs_base,$0x61c9 ", 1, Stage::Optimiser),
            (
                "mov_i64 cc_dst,loc8                      sync: 0 ",
                "mov_i64 cc_dst,loc8 ",
                1,
                Stage::Optimiser,
            ),
            ("brcond_i64 cc_dst,$0x0,ne,$L1", "brcond_i64 cc_dst,$0x0,ne,$L0", 1, Stage::Optimiser),
            // A field of the CPU state, a register, a jump, a constant of the host code.
            ("89 9d 90 00 00 00 ", "89 9d 98 00 00 00 ", 1, Stage::Backend),
            ("0f b7 db  ", "0f b7 d9  ", 1, Stage::Backend),
            ("0f 85 24 00 00 00 ", "0f 85 36 00 00 00 ", 1, Stage::Backend),
            ("c7 85 a8 00 00 00 10 00", "c7 85 a8 00 00 00 11 00", 1, Stage::Backend),
        ] {
            let changed = SEABIOS_7.replacen(from, to, 1);
            assert_eq!(usize::from(changed != SEABIOS_7), times, "`{from}`");
            for (a, b) in [(SEABIOS_7, changed.as_str()), (changed.as_str(), SEABIOS_7)] {
                let explanation = explain(a, b, SEABIOS_7, Some(16), false);
                assert_eq!(explanation.stage, stage, "`{from}`");
                assert_eq!(explanation.notes, Vec::<String>::new());
            }
        }
    }

    /// Builds of one source, with an edit each (corpus/faults in the branch that they came from); without a disassembler.
    #[test]
    fn faults_of_known_place_are_found_in_their_stage() {
        macro_rules! logs {
            ($name:literal) => {
                (
                    include_str!(concat!("logs/fault-", $name, "-good.log")),
                    include_str!(concat!("logs/fault-", $name, ".log")),
                )
            };
        }
        for (name, (good, faulty), stage) in [
            ("a_fault_of_the_frontend", logs!("stored"), Stage::Frontend),
            ("a_fault_of_the_optimiser", logs!("fold"), Stage::Optimiser),
            ("a_fault_of_the_liveness_analysis", logs!("liveness"), Stage::Optimiser),
            ("a_fault_of_the_backend", logs!("encoding"), Stage::Backend),
        ] {
            let explanation = explain(good, faulty, good, Some(32), false);
            assert_eq!(explanation.stage, stage, "{name}");
            insta::assert_snapshot!(name, shown(&explanation));
        }
    }

    /// Of another host's code the text is all there is: addresses in it are told by where they lie.
    #[test]
    fn code_of_other_hosts_is_compared_by_its_text() {
        let elsewhere = SEABIOS_7.replace("0x7f", "0x6f").replace("mapped 7f", "mapped 6f");
        let lines = Pair::of(|side| {
            let log = Pair { a: SEABIOS_7, b: elsewhere.as_str() };
            let log = log.get(side);
            let translation = translations(log).remove(0);
            let block = super::ops::block(&translation.ops);
            let mut addresses = super::Addresses::of(mapped(log), translation.prologue.clone(), block);
            super::host::lines(&translation, super::Host::Other, &mut addresses)
        });
        let text: Vec<&str> = lines.a.iter().map(|line| line.text.as_str()).collect();
        assert!(text.contains(&"jl       L1") && text.contains(&"jmp      prologue+0x18"), "{text:?}");
        let rows = super::Matching::new(false).rows(&lines);
        assert_eq!(rows.iter().filter(|row| !row.same).collect::<Vec<_>>(), Vec::<&super::Row>::new());
    }

    #[test]
    fn other_code_at_the_address_is_not_taken() {
        let other = SEABIOS_7.replace("2e 66 83 3e c8 61 00 ", "2e 66 83 3e c8 62 00 ");
        let catch = caught(&[&other, SEABIOS_7], &executed(SEABIOS_7));
        assert_eq!((catch.other, catch.variants.len()), (1, 1));
        assert_eq!(catch.variants[0].translation, translations(SEABIOS_7)[0]);
    }

    #[test]
    fn the_translation_that_both_have_is_compared() {
        let wanted = executed(SEABIOS_7);
        let changed = SEABIOS_7.replace("0f b7 db  ", "0f b7 d9  ");
        // The same once more, and one in another way that both know.
        let a = caught(&[SEABIOS_7, SEABIOS_7, &changed], &wanted);
        assert_eq!(a.variants.iter().map(|variant| variant.times).collect::<Vec<_>>(), [2, 1]);
        let b = a.clone();
        let explanation = explained(&Pair { a, b }, Some(16), false);
        assert_eq!(
            (explanation.stage, explanation.block.a.ways, explanation.block.a.times),
            (Stage::None, 2, 3)
        );
        assert!(explanation.notes[0].contains("in 2 ways"), "{:?}", explanation.notes);
        let (a, b) = (caught(&[SEABIOS_7, &changed], &wanted), caught(&[SEABIOS_7, SEABIOS_7], &wanted));
        assert_eq!(explained(&Pair { a, b }, Some(16), false).stage, Stage::None);
    }
}
