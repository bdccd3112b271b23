//! From the place where two guests part to a program of a few instructions on which the builds still do.
//!
//! What was executed there becomes cases: with the block's code alone, with more and more of what came before, with operands
//! in memory as they were and as plain addresses. Both builds run all of them, and say on which they differ; one such is made
//! short. Nothing is taken for granted: a case that does not differ is none, whatever the guest did.

mod places;
mod registers;
mod taken;

use std::path::Path;

use lockstep::comparator::Pair;
use lockstep::excerpt::{self, Excerpt, Moment, excerpt};
use lockstep::report::reduction::Wrong;
use lockstep::report::{Reduction, Report};
use lockstep::ride::Request;
use qemu::arguments::Arguments as Line;
use qemu::build::Mode;
use qemu::program::Program;

use self::taken::Operands;
use crate::case::{AF, CF, Case, OF, PF, SF, ZF};
use crate::image::{Setting, Tells};
use crate::judged::{Judged, judge};
use crate::kept::keep;
use crate::subject::{self, Subject, runs};
use crate::subjects::{Reduced, Subjects, differs};

/// How long a program may be, instructions.
const MOST: usize = 64;

/// How far before the guilty instruction cases begin with any instruction, and with how many blocks.
const CLOSE: usize = 16;
const BLOCKS: usize = 24;

/// Flags are not told: all of them are tried clear and set.
const FLAGS: [u64; 2] = [0, CF | PF | AF | ZF | SF | OF];

/// On how many of the cases that differ it is tried to find one on which one build is right.
const TRIED: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the instruction can't be had in a program of 64-bit code that needs no more than registers and memory (system calls, devices, what rules the machine, and x87 are not cut out)"
    )]
    NeedsMore,
    #[error(
        "the difference shows in none of {0} programs that were cut out: it comes of more than this code, its registers and memory"
    )]
    Nowhere(usize),
    #[error("{0} instructions are left, and {MOST} are the most")]
    TooLong(usize),
    #[error(transparent)]
    Missing(#[from] excerpt::Missing),
    #[error(transparent)]
    Subject(#[from] subject::Error),
}

/// Cuts a program out of the guests whose divergence `report` tells, and keeps it in `folder`. What comes of that, the report says
/// too. `request`: the one that it is the report of.
pub fn reduce(request: Request, folder: &Path, report: &mut Report) {
    if report.divergence.is_none() {
        return;
    }
    match reduced(request, folder, report) {
        Ok(reduction) => report.reduction = Some(reduction),
        Err(why) => report.notes.push(format!("not reduced: {why}")),
    }
}

fn reduced(request: Request, folder: &Path, report: &Report) -> Result<Reduction, Error> {
    let Request { builds, extra, interrupts, .. } = request;
    let given = request.arguments.unwrap_or(&report.builds.a.line);
    let processor = match builds.a.mode {
        Mode::System => Line::parse(given).value("cpu").map(str::to_owned),
        Mode::User => Program::parse(given).ok().and_then(|program| program.value("cpu").map(str::to_owned)),
    };
    let options: Vec<_> = processor.into_iter().flat_map(|name| ["-cpu".to_owned(), name]).collect();
    let subject = |build, own| Subject { build, options: &options, own, interrupts };
    let subjects = Subjects(Pair { a: subject(builds.a, extra.a), b: subject(builds.b, extra.b) });
    let excerpt = excerpt(request, report)?;
    let setting = Setting {
        runs: runs(builds.a.mode),
        tells: Tells::Ends,
        avx: subjects.features()?.avx(),
        mxcsr_mask: u32::MAX,
    };
    let (whole, reduced, judged) = cut(subjects, setting, &excerpt)?;
    if judged.code.len() > MOST {
        return Err(Error::TooLong(judged.code.len()));
    }
    let mut heading = vec![format!("cut out of: {}", report.summary), judged.wrong.said().to_owned()];
    heading.extend(judged.said());
    keep(folder, setting, &heading, (&whole, &reduced.case), judged.expected.as_ref())?;
    Ok(Reduction {
        folder: folder.display().to_string(),
        code: judged.code,
        wrong: judged.wrong,
        differs: judged.differs,
        ended: judged.ended,
    })
}

/// A case of `excerpt` on which the builds differ, the same made short, and what is to be said of that.
fn cut(subjects: Subjects, setting: Setting, excerpt: &Excerpt) -> Result<(Case, Reduced, Judged), Error> {
    let (mut tried, mut found) = (0, None);
    for cases in waves(excerpt) {
        tried += cases.len();
        let show = subjects.show(setting, &cases, differs)?;
        let differing = cases.iter().zip(show).filter(|(_, shows)| *shows).map(|(case, _)| case);
        let mut shortest: Vec<&Case> = differing.collect();
        shortest.sort_by_key(|case| case.pieces.len());
        for case in shortest.into_iter().take(TRIED) {
            let Some(reduced) = subjects.reduce(setting, case, differs)? else { continue };
            let judged = judge(setting, &reduced).map_err(subject::Error::from)?;
            let is_plain = matches!(judged.wrong, Wrong::A | Wrong::B);
            if found.is_none() || is_plain {
                found = Some((case.clone(), reduced, judged));
            }
            if is_plain {
                break;
            }
        }
        if found.is_some() {
            break;
        }
    }
    found.ok_or(if tried == 0 { Error::NeedsMore } else { Error::Nowhere(tried) })
}

/// Cases of `excerpt`, those first that have least around the guilty instruction.
fn waves(excerpt: &Excerpt) -> impl Iterator<Item = Vec<Case>> {
    let own = [&excerpt.sides.a, &excerpt.sides.b];
    let stretches: Vec<_> = own.into_iter().filter_map(|moments| Stretches::of(excerpt, moments)).collect();
    (0..3).map(move |wave| {
        let mut cases: Vec<Case> = Vec::new();
        for stretches in &stretches {
            let begins = match wave {
                0 => vec![stretches.block()],
                1 => stretches.close(),
                _ => stretches.blocks_before(),
            };
            let ranges = begins.into_iter().flat_map(|from| stretches.ends.iter().map(move |&to| (from, to)));
            for (from, to) in ranges {
                let moments = &stretches.moments[from..to];
                for operands in [Operands::AsTheyAre, Operands::Addresses] {
                    for flags in FLAGS {
                        let guilty = stretches.guilty - from;
                        let case = taken::case(excerpt, moments, guilty, operands, flags);
                        cases.extend(case.filter(|case| !cases.contains(case)));
                    }
                }
            }
        }
        cases
    })
}

/// Where cases begin and end in what one side executed, as indices.
struct Stretches<'e> {
    moments: &'e [Moment],
    guilty: usize,
    ends: Vec<usize>,
}

impl<'e> Stretches<'e> {
    fn of(excerpt: &Excerpt, moments: &'e [Moment]) -> Option<Self> {
        let at = |position| moments.iter().position(|moment| moment.position == position);
        let guilty = at(excerpt.guilty)?;
        let shows = moments.iter().rposition(|moment| moment.position <= excerpt.shows).unwrap_or(guilty);
        let end = |from: usize| {
            let behind = moments.get(from + 1..).unwrap_or_default();
            from + 1 + behind.iter().position(|moment| moment.begins).unwrap_or(behind.len())
        };
        let mut ends = vec![end(guilty), end(shows.max(guilty)), guilty + 1];
        ends.dedup();
        Some(Stretches { moments, guilty, ends })
    }

    /// Where the guilty instruction's block begins.
    fn block(&self) -> usize {
        self.moments[..=self.guilty].iter().rposition(|moment| moment.begins).unwrap_or(0)
    }

    fn close(&self) -> Vec<usize> {
        (self.guilty.saturating_sub(CLOSE)..=self.guilty).rev().collect()
    }

    fn blocks_before(&self) -> Vec<usize> {
        let before = (0..self.block()).rev().filter(|&index| self.moments[index].begins);
        before.take(BLOCKS).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::End;
    use crate::image::Where;
    use crate::native;
    use trace::message::Accessed;

    const NAMES: [&str; 20] = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15", "gs_base", "mxcsr", "xmm0", "fstat",
    ];

    /// What a guest has in registers, by their names.
    struct Guest(Vec<(&'static str, u64)>);

    impl Guest {
        fn with(&mut self, name: &'static str, value: u64) {
            self.0.retain(|(known, _)| *known != name);
            self.0.push((name, value));
        }

        /// An instruction, and its accesses: address, size, whether it stores, value.
        fn moment(
            &self,
            position: u64,
            address: u64,
            bytes: &[u8],
            accesses: &[(u64, u8, bool, u64)],
        ) -> Moment {
            let of =
                |name: &str| self.0.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value);
            Moment {
                position,
                address,
                bytes: bytes.to_vec(),
                begins: position == 0,
                registers: NAMES.iter().map(|name| of(name).to_le_bytes().to_vec()).collect(),
                accesses: accesses
                    .iter()
                    .map(|&(address, size, is_store, value)| Accessed {
                        position,
                        address,
                        size,
                        is_store,
                        value,
                    })
                    .collect(),
            }
        }
    }

    fn excerpt(bits: u32, moments: Vec<Moment>) -> Excerpt {
        let guilty = moments.len() as u64 - 1;
        let names = NAMES.map(str::to_owned).to_vec();
        let sides = Pair { a: moments.clone(), b: moments };
        Excerpt { bits: Some(bits), names, sides, guilty, shows: guilty }
    }

    /// What all of it comes to on the processor here.
    fn end(excerpt: &Excerpt, operands: Operands) -> End {
        let moments = &excerpt.sides.a;
        let case = taken::case(excerpt, moments, moments.len() - 1, operands, 0).unwrap();
        let setting = Setting { runs: Where::Linux, tells: Tells::Ends, avx: false, mxcsr_mask: u32::MAX };
        native::end(setting, &case).unwrap().expect("it ends")
    }

    /// A kernel's code, at addresses that no program has.
    #[test]
    fn code_of_a_kernel_does_the_same_here() {
        const TOP: u64 = 0xffff_c900_0000_1000;
        let mut guest =
            Guest(vec![("rbx", 0xffff_ffff_8100_0000), ("rsp", TOP), ("gs_base", 0xffff_8880_0000_0000)]);
        guest.with("mxcsr", 0x1f80);
        let mut all = Vec::new();
        // mov rax, [rbx+8]
        let value = 0x1122_3344_5566_7788;
        all.push(guest.moment(
            0,
            0xffff_ffff_8000_0000,
            &[0x48, 0x8b, 0x43, 8],
            &[(0xffff_ffff_8100_0008, 8, false, value)],
        ));
        guest.with("rax", value);
        // push rax
        all.push(guest.moment(1, 0xffff_ffff_8000_0004, &[0x50], &[(TOP - 8, 8, true, value)]));
        guest.with("rsp", TOP - 8);
        // mov rcx, gs:[0x10]
        let gs = [0x65, 0x48, 0x8b, 0x0c, 0x25, 0x10, 0, 0, 0];
        all.push(guest.moment(2, 0xffff_ffff_8000_0005, &gs, &[(0xffff_8880_0000_0010, 8, false, 5)]));
        guest.with("rcx", 5);
        // add rcx, [rip+0x100]
        let add = [0x48, 0x03, 0x0d, 0, 1, 0, 0];
        all.push(guest.moment(3, 0xffff_ffff_8000_000e, &add, &[(0xffff_ffff_8000_0115, 8, false, 7)]));
        guest.with("rcx", 12);
        // jne +5; wrmsr, which has no place here, and would change rax and rdx; pop rdx
        all.push(guest.moment(4, 0xffff_ffff_8000_0015, &[0x75, 5], &[]));
        all.push(guest.moment(5, 0xffff_ffff_8000_001c, &[0x0f, 0x30], &[]));
        guest.with("rax", 9);
        all.push(guest.moment(6, 0xffff_ffff_8000_001e, &[0x5a], &[(TOP - 8, 8, false, value)]));
        guest.with("rsp", TOP);
        guest.with("rdx", value);
        // lea rsi, [rip+0x200]; mov rdi, rbx; rep movsb, of 12 bytes
        all.push(guest.moment(7, 0xffff_ffff_8000_001f, &[0x48, 0x8d, 0x35, 0, 2, 0, 0], &[]));
        guest.with("rsi", 0xffff_ffff_8000_0226);
        all.push(guest.moment(8, 0xffff_ffff_8000_0026, &[0x48, 0x89, 0xdf], &[]));
        guest.with("rdi", 0xffff_ffff_8100_0000);
        let moved: Vec<_> = (0..12)
            .flat_map(|at| {
                let byte = 0x41 + at;
                [(0xffff_ffff_8000_0226 + at, 1, false, byte), (0xffff_ffff_8100_0000 + at, 1, true, byte)]
            })
            .collect();
        all.push(guest.moment(9, 0xffff_ffff_8000_0029, &[0xf3, 0xa4], &moved));
        guest.with("rcx", 0);
        // mov r8, [rbx+4], of what was moved
        all.push(guest.moment(
            10,
            0xffff_ffff_8000_002b,
            &[0x4c, 0x8b, 0x43, 4],
            &[(0xffff_ffff_8100_0004, 8, false, 0)],
        ));
        let excerpt = excerpt(64, all);
        for operands in [Operands::AsTheyAre, Operands::Addresses] {
            let state = end(&excerpt, operands).state;
            let [rax, rcx, rdx, r8] = [0, 1, 2, 8].map(|number| state.gpr[number]);
            assert_eq!((rax, rcx, rdx), (9, 0, value), "{operands:?}");
            assert_eq!(r8.to_le_bytes(), *b"EFGHIJKL", "{operands:?}");
        }
    }

    /// Code of 32 bit becomes 64-bit code, with its stack left out.
    #[test]
    fn code_of_32_bit_does_the_same_here() {
        let mut guest =
            Guest(vec![("rax", 0xffff_ffff), ("rbx", 0x9000), ("rsp", 0x7000), ("mxcsr", 0x1f80)]);
        let mut all = Vec::new();
        // inc eax; mov [ebx+4], eax; push 7; pop ecx; add ecx, [0x9004]; jcxz
        all.push(guest.moment(0, 0x1000, &[0x40], &[]));
        guest.with("rax", 0);
        all.push(guest.moment(1, 0x1001, &[0x89, 0x43, 4], &[(0x9004, 4, true, 0)]));
        all.push(guest.moment(2, 0x1004, &[0x6a, 7], &[(0x6ffc, 4, true, 7)]));
        guest.with("rsp", 0x6ffc);
        all.push(guest.moment(3, 0x1006, &[0x59], &[(0x6ffc, 4, false, 7)]));
        guest.with("rcx", 7);
        guest.with("rsp", 0x7000);
        all.push(guest.moment(4, 0x1007, &[0x03, 0x0d, 4, 0x90, 0, 0], &[(0x9004, 4, false, 0)]));
        all.push(guest.moment(5, 0x100d, &[0xe3, 0x10], &[]));
        let excerpt = excerpt(32, all);
        for operands in [Operands::AsTheyAre, Operands::Addresses] {
            let state = end(&excerpt, operands).state;
            assert_eq!((state.gpr[0], state.gpr[1]), (0, 7), "{operands:?}");
        }
    }

    /// Whether a jump is taken may be what differs, and else its block ends with it.
    #[test]
    fn a_jump_that_is_not_taken_leaves_a_mark() {
        let guest = Guest(vec![("rax", 3), ("rsp", 0x7000), ("mxcsr", 0x1f80)]);
        for (jump, is_marked) in [([0x74, 0x10], true), ([0x75, 0x10], false)] {
            // cmp eax, 7; je or jne; inc ebx
            let all = vec![
                guest.moment(0, 0x1000, &[0x83, 0xf8, 7], &[]),
                guest.moment(1, 0x1003, &jump, &[]),
                guest.moment(2, 0x1015, &[0xff, 0xc3], &[]),
            ];
            for guilty in [0, 1, 2] {
                let excerpt = Excerpt { guilty, ..excerpt(64, all.clone()) };
                let moments = &excerpt.sides.a;
                let case =
                    taken::case(&excerpt, moments, usize::try_from(guilty).unwrap(), Operands::AsTheyAre, 0)
                        .unwrap();
                let setting =
                    Setting { runs: Where::Linux, tells: Tells::Ends, avx: false, mxcsr_mask: u32::MAX };
                let end = native::end(setting, &case).unwrap().expect("it ends");
                let marked = end.memory.contains(&1);
                assert_eq!((end.state.gpr[3], marked), (1, is_marked && guilty < 2), "{jump:?} {guilty}");
            }
        }
    }

    #[test]
    fn what_is_guilty_and_can_not_be_had_makes_no_case() {
        let guest = Guest(vec![("rsp", 0x7000)]);
        for (bits, bytes) in [(64, &[0xee][..]), (32, &[0xd4, 10]), (64, &[0x0f, 0x05]), (64, &[0xd9, 0xe8])]
        {
            let excerpt = excerpt(bits, vec![guest.moment(0, 0x1000, bytes, &[])]);
            assert_eq!(waves(&excerpt).map(|cases| cases.len()).sum::<usize>(), 0, "{bytes:?}");
        }
    }
}
