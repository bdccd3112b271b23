//! Programs of cases on the real processor. (On QEMU: `tests/torture_two_builds.rs` of the workspace.)

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use reduce::case::{AF, CF, Case, End, OF, PF, Piece, R15, REGION_SIZE, SF, State, ZF};
use reduce::image::{Image, Setting, Tells, Where};
use reduce::{elf, native, shorter};

const SETTING: Setting = Setting { runs: Where::Linux, tells: Tells::Ends, avx: true, mxcsr_mask: !0 };

fn case(code: &[&[u8]]) -> Case {
    let piece = |(id, code): (usize, &&[u8])| Piece { id, code: code.to_vec(), jump: None };
    let mut start = State { rflags: CF, mxcsr: 0x5f80, ..State::default() };
    for number in (0..16).filter(|&number| number != 4 && number != 15) {
        start.gpr[number] = 0x1111_1111_1111_1111 * number as u64;
    }
    for (number, vector) in start.vectors.iter_mut().enumerate() {
        *vector = std::array::from_fn(|at| u8::try_from(number * 8 + at % 8).unwrap());
    }
    start.mmx = [1, 2, 3, 4, 5, 6, 7, u64::MAX];
    let memory = (0..REGION_SIZE).map(|at| at.to_le_bytes()[0]).collect();
    Case { pieces: code.iter().enumerate().map(piece).collect(), start, memory }
}

fn ends(cases: &[Case]) -> Vec<End> {
    let image = Image::new(SETTING, cases).unwrap();
    let ran = native::run(&elf::program(&image)).unwrap();
    assert!(ran.status.is_some_and(|status| status.success()), "{:?}", ran.status);
    ran.said.chunks(ran.said.len() / cases.len()).map(|bytes| End::from_bytes(bytes).unwrap()).collect()
}

#[test]
fn what_does_nothing_ends_as_it_began() {
    let case = case(&[]);
    let [end] = &*ends(std::slice::from_ref(&case)) else { panic!("one case, one end") };
    assert_eq!(end.state, case.start);
    assert_eq!(end.memory, case.memory);
}

#[test]
fn each_case_begins_with_its_own() {
    let add: &[u8] = &[0x48, 0x01, 0xd8];
    let store: &[u8] = &[0x49, 0x89, 0x47, 0x10];
    let cases = [case(&[add, store]), case(&[]), case(&[add])];
    let ends = ends(&cases);
    let sum = 0x3333_3333_3333_3333;
    assert_eq!((ends[0].state.gpr[0], ends[2].state.gpr[0]), (sum, sum));
    assert_eq!(ends[0].memory[0x610..0x618], sum.to_le_bytes());
    assert_eq!(ends[1].state, cases[1].start);
    assert_eq!(ends[2].memory, cases[2].memory);
    assert_eq!(ends[0].state.rflags, PF);
}

#[test]
fn jumps_go_to_what_is_left_of_their_target() {
    let inc = |register: u8| vec![0x48, 0xff, 0xc0 | register];
    let mut whole = case(&[&[0xe9], &inc(0), &inc(1), &inc(2)]);
    whole.pieces[0].jump = Some(2);
    let mut without = whole.clone();
    without.pieces.remove(2);
    let mut to_the_end = whole.clone();
    to_the_end.pieces[0].jump = Some(9);
    let ends = ends(&[whole.clone(), without, to_the_end]);
    let changed = |end: &End| [0, 1, 2].map(|at| end.state.gpr[at] - whole.start.gpr[at]);
    assert_eq!(ends.iter().map(changed).collect::<Vec<_>>(), [[0, 1, 1], [0, 0, 1], [0, 0, 0]]);
}

#[test]
fn undefined_flags_are_not_told() {
    let [end] = &*ends(&[case(&[&[0xf7, 0xe3]])]) else { panic!("one case, one end") };
    assert_eq!(end.state.rflags & (SF | ZF | AF | PF), 0);
    assert_eq!(end.state.rflags & !(CF | OF), 0);
}

#[test]
fn a_check_says_whether_it_came_to_what_is_expected() {
    let case = case(&[&[0x48, 0x01, 0xd8]]);
    let [right] = &*ends(std::slice::from_ref(&case)) else { panic!("one case, one end") };
    let status = |expected: &End| {
        let image = Image::checking(SETTING, &case, expected).unwrap();
        native::run(&elf::program(&image)).unwrap().status.and_then(|status| status.code())
    };
    assert_eq!(status(right), Some(0));
    let mut wrong = right.clone();
    wrong.state.mmx[7] ^= 1;
    assert_eq!(status(&wrong), Some(1));
    let mut wrong = right.clone();
    wrong.memory[0] ^= 1;
    assert_eq!(status(&wrong), Some(1));
}

#[test]
fn numbers_tell_ends_apart() {
    let inc: &[u8] = &[0x48, 0xff, 0xc0];
    let cases = [case(&[]), case(&[inc]), case(&[])];
    let image = Image::new(Setting { tells: Tells::Numbers, ..SETTING }, &cases).unwrap();
    let said = native::run(&elf::program(&image)).unwrap().said;
    let numbers: Vec<_> = said.chunks(8).collect();
    assert_eq!(numbers.len(), 3);
    assert_eq!(numbers[0], numbers[2]);
    assert_ne!(numbers[0], numbers[1]);
    for case in cases {
        assert_eq!(image.case_at(image.places[0]), Some(0));
        drop(case);
    }
}

#[test]
fn what_dies_is_told_by_its_signal() {
    let image = Image::new(SETTING, &[case(&[&[0x0f, 0x0b]])]).unwrap();
    let ran = native::run(&elf::program(&image)).unwrap();
    assert_eq!((ran.signal(), ran.said.len()), (Some(4), 0));
}

/// Of much code the two instructions that make a register what it becomes, and of the start what they take.
#[test]
fn a_case_is_made_short_by_what_the_processor_says() {
    let add: &[u8] = &[0x48, 0x01, 0xd8];
    let neg_rbx: &[u8] = &[0x48, 0xf7, 0xdb];
    let others: [&[u8]; 4] =
        [&[0x49, 0xff, 0xc0], &[0x49, 0x89, 0x47, 0x10], &[0x48, 0x0f, 0xc9], &[0x0f, 0x57, 0xc1]];
    let code: Vec<_> = (0..40)
        .map(|at| match at {
            11 => neg_rbx,
            29 => add,
            at => others[at % 4],
        })
        .collect();
    let whole = case(&code);
    let becomes = ends(std::slice::from_ref(&whole))[0].state.gpr[0];
    let still =
        |cases: &[Case]| Ok::<_, ()>(ends(cases).iter().map(|end| end.state.gpr[0] == becomes).collect());
    let short = shorter::shortest(&whole, still).unwrap();
    assert_eq!(shorter::texts(&short.pieces), ["neg rbx", "add rax, rbx"]);
    let mut start = State::default();
    (start.gpr[3], start.gpr[R15]) = (whole.start.gpr[3], 0);
    assert_eq!(short.start, start);
    assert_eq!(short.memory[64..], [0; REGION_SIZE - 64]);
    assert_eq!(shorter::parts(&short).len(), 2);
    assert_eq!(native::end(SETTING, &short).unwrap(), ends(&[short]).pop());
}
