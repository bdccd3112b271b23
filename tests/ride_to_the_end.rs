//! A user rides guests of which no two runs end at the same instruction.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use serde_json::Value;
use tandem::{Place, build, firmware, guest, words};

/// How often: each time both sides end elsewhere.
const TIMES: usize = 5;

fn ride(place: &Place, (a, b): (&str, &str), options: &[&str], code: i32) -> Value {
    let image = firmware(place, "last-moment.s").display().to_string();
    let start = words(&["lockstep", "--a", a, "--b", b, "--format", "json"]);
    let line = ["-M", "pc-i440fx-7.2", "-cpu", "qemu64", "-m", "16", "-vga", "none", "-display", "none"];
    let end = ["-device", "isa-debug-exit,iobase=0xf4", "-bios", &image];
    let line = [words(&["--"]), words(&line), words(&end)].concat();
    place.run(&[start, words(options), line].concat()).ends_with(code).json()
}

#[test]
fn a_build_is_the_same_as_itself_wherever_either_ends() {
    let place = Place::new();
    for _ in 0..TIMES {
        for depth in ["full", "flow"] {
            let report = ride(&place, (&build("good"), &build("good")), &["--compare", depth], 0);
            assert_eq!(report["verdict"], "same", "{report}");
        }
    }
}

#[test]
fn what_is_done_right_before_the_end_is_found() {
    let place = Place::new();
    for _ in 0..TIMES {
        let (build, options) = (build("debian-10.0"), ["--b-arg", "-cpu", "--b-arg", "qemu64,-sse3"]);
        let divergence = &ride(&place, (&build, &build), &options, 1)["divergence"];
        assert_eq!((&divergence["icount"]["a"], &divergence["kind"]), (&4.into(), &"register".into()));
        assert_eq!(divergence["instruction"]["a"], "cpuid");
    }
}

/// No register has it, and no block begins behind it on the side that ends there.
#[test]
fn what_is_only_stored_right_before_the_end_is_found() {
    let place = Place::new();
    let stored = corpus::faults::fault("stored").unwrap().build().unwrap().display().to_string();
    for _ in 0..TIMES {
        for depth in ["full", "stores"] {
            let report = ride(&place, (&build("good"), &stored), &["--compare", depth], 1);
            let divergence = &report["divergence"];
            let instruction = divergence["instruction"]["a"].as_str().unwrap();
            assert!(instruction.starts_with("not word"), "{divergence}");
            assert_eq!((&divergence["icount"]["a"], &divergence["kind"]), (&6.into(), &"store".into()));
        }
    }
}

/// It is behind the last place at which registers are looked at, and in no whole chunk.
#[test]
fn a_recordings_last_instructions_count() {
    let place = Place::new();
    let (good, recording) = (build("good"), place.path("boot.tdm").display().to_string());
    let record = words(&["record", "-o", &recording, "--", &good]);
    place.run(&[record, guest("rom-arithmetic")].concat()).ends_with(0);
    let stored = corpus::faults::fault("stored").unwrap().build().unwrap().display().to_string();
    for (b, code, what) in [(&good, 0, Value::Null), (&stored, 1, "store".into())] {
        let line = ["lockstep", "--a", &good, "--b", b, "--recording", &recording, "--format", "json"];
        let report = place.run(&words(&line)).ends_with(code).json();
        assert_eq!(report["divergence"]["kind"], what, "{report}");
    }
}
