//! Every sequence ends, stays in its memory, and is the same each time: on the real processor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use reduce::case::{ARENA, Case, End, Piece, R15, REGION, REGION_SIZE, State};
use reduce::features::Features;
use reduce::image::{Image, Setting, Tells, Where};
use reduce::{elf, flags, native};
use torture::forms::Forms;
use torture::generator::{Generator, forms_of};

fn ran(cases: &[Case], tells: Tells) -> Vec<u8> {
    let setting = Setting { runs: Where::Linux, tells, avx: true, mxcsr_mask: !0 };
    let image = Image::new(setting, cases).unwrap();
    let ran = native::run(&elf::program(&image)).unwrap();
    let ends = ran.said.len() / if tells == Tells::Numbers { 8 } else { 2784 };
    assert!(
        ran.status.is_some_and(|status| status.success()),
        "{:?} in case {ends}: {}",
        ran.status,
        cases.get(ends).map_or_else(String::new, reduce::source::listing)
    );
    ran.said
}

/// What this processor has.
fn features() -> Features {
    let ends: Vec<_> = ran_without_avx(&Features::asking());
    Features::told(&ends.iter().map(|end| end.state.clone()).collect::<Vec<_>>())
}

fn ran_without_avx(cases: &[Case]) -> Vec<End> {
    let setting = Setting { runs: Where::Linux, tells: Tells::Ends, avx: false, mxcsr_mask: !0 };
    let image = Image::new(setting, cases).unwrap();
    let said = native::run(&elf::program(&image)).unwrap().said;
    said.chunks(2784).map(|bytes| End::from_bytes(bytes).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() })]
    #[test]
    fn each_ends_as_it_did_before(seed in any::<u64>()) {
        let forms = Forms::of(&features());
        let mut generator = Generator::new(seed);
        let sequences: Vec<_> = (0..1000).map(|number| generator.sequence(number, &forms)).collect();
        let cases: Vec<_> = sequences.iter().map(|sequence| sequence.case.clone()).collect();
        for sequence in &sequences {
            prop_assert!(flags::undefined(&sequence.case.pieces).is_ok());
            prop_assert!((20..=64).contains(&sequence.instructions), "{}", sequence.instructions);
        }
        prop_assert_eq!(generator.sequence(77, &forms), sequences[77].clone());
        let ends = ran(&cases, Tells::Ends);
        for end in ends.chunks(2784) {
            prop_assert_eq!(End::from_bytes(end).unwrap().state.gpr[R15], ARENA);
        }
        // Alone, among others, and in another order.
        let some: Vec<_> = cases.iter().rev().step_by(7).cloned().collect();
        let again = ran(&some, Tells::Ends);
        let expected: Vec<u8> = ends.chunks(2784).rev().step_by(7).flatten().copied().collect();
        prop_assert!(again == expected);
    }
}

/// A case that copies so much from `from` to where it can be seen.
fn copies(from: u64) -> Case {
    let mut code = vec![0x48, 0xbe];
    code.extend(from.to_le_bytes());
    code.extend([0x48, 0xbf]);
    code.extend((REGION + 64).to_le_bytes());
    // mov $1024, %ecx; rep movsb
    code.extend([0xb9, 0, 4, 0, 0, 0xf3, 0xa4]);
    let pieces = vec![Piece { id: 0, code, jump: None }];
    Case { pieces, start: State::default(), memory: vec![0; REGION_SIZE] }
}

#[test]
fn nothing_is_written_beside_its_memory() {
    let forms = Forms::of(&features());
    let mut generator = Generator::new(2);
    let mut cases: Vec<_> = (0..5000).map(|number| generator.sequence(number, &forms).case).collect();
    // Before it, and behind what is written down of it.
    let around = [0x200_0000, 0x200_0600, 0x200_14e0, 0x200_1c00];
    cases.extend(around.map(copies));
    let said = ran(&cases, Tells::Ends);
    let seen = |back: usize| {
        let end = &said[said.len() - back * 2784..][64..64 + 1024];
        end.iter().any(|&byte| byte != 0)
    };
    assert_eq!([4, 3, 2, 1].map(seen), [false; 4]);
    // That it would be seen.
    let own = Case { memory: vec![7; REGION_SIZE], ..copies(ARENA - 512) };
    assert!(ran(&[own], Tells::Ends)[64..64 + 1024].iter().all(|&byte| byte == 7));
}

/// Each form that may come does come, and can be run.
#[test]
fn all_forms_come() {
    let forms = Forms::of(&features());
    let mut generator = Generator::new(1);
    let mut times = BTreeMap::new();
    for number in 0..12_000 {
        for form in forms_of(&generator.sequence(number, &forms).case.pieces) {
            *times.entry(format!("{form:?}")).or_insert(0) += 1;
        }
    }
    let missing: Vec<_> =
        forms.iter().map(|form| format!("{form:?}")).filter(|form| !times.contains_key(form)).collect();
    eprintln!("{} forms, {} came, missing: {missing:?}", forms.count(), times.len());
    assert!(missing.len() * 50 < forms.count(), "{missing:?}");
}
