//! Cases on builds: each is told what it comes to, whatever others do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::atomic::AtomicU32;

use qemu::build::Build;
use reduce::case::{Case, End, Piece, REGION_SIZE, State};
use reduce::image::{Setting, Tells, Where};
use reduce::subject::{Came, Subject};

fn case(code: &[u8], jump: Option<usize>) -> Case {
    let mut start = State::default();
    start.gpr[0] = 41;
    start.vectors[3] = [9; 32];
    let pieces = vec![Piece { id: 0, code: code.to_vec(), jump }];
    Case { pieces, start, memory: vec![5; REGION_SIZE] }
}

#[test]
fn one_that_dies_or_does_not_end_hides_no_other() {
    let inc = case(&[0x48, 0xff, 0xc0], None);
    let dies = case(&[0x0f, 0x0b], None);
    let for_ever = case(&[0xe9], Some(0));
    let cases = [inc.clone(), dies, inc.clone(), for_ever, inc.clone()];
    let mut state = State { ..inc.start.clone() };
    state.gpr[0] = 42;
    for name in ["debian-7.2-user", "debian-10.0"] {
        let build = Build::inspect_any(&corpus::build(name).unwrap()).unwrap();
        let interrupts = AtomicU32::new(0);
        let subject = Subject { build: &build, options: &[], own: &[], interrupts: &interrupts };
        // The runtime sets which it runs on.
        let setting = Setting { runs: Where::Linux, tells: Tells::Ends, avx: true, mxcsr_mask: !0 };
        let came = subject.run(setting, &cases).unwrap();
        let right = Came::To(End { state: state.clone(), memory: inc.memory.clone() }.bytes());
        let [first, died, second, hung, third] = &*came else { panic!("{}", came.len()) };
        assert_eq!([first, second, third], [&right; 3], "{name}");
        assert!(matches!(died, Came::Died(_)), "{name}: {died:?}");
        assert_eq!(hung, &Came::Hung, "{name}");
    }
}
