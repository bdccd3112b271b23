//! A TCG developer rides two builds in lockstep over a user program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::path::Path;
use std::process::Command;

use tandem::{Place, Ran, build, words};

const BUILD: &str = "debian-7.2-user";

/// Compiles tests/guests/program.c into `place`.
fn compile(place: &Place) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/program.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-static", "-pthread", "-o"]).arg(place.path("program")).arg(source);
    assert!(gcc.status().unwrap().success());
}

/// Rides the program of this name, with `options` of `tandem`'s.
fn ride(place: &Place, options: &[&str], program: &[&str]) -> Ran {
    let qemu = build(BUILD);
    let start = words(&["lockstep", "--a", &qemu, "--b", &qemu, "--format", "json"]);
    let line = [start, words(options), words(&["--", "./program"]), words(program)].concat();
    place.run(&line)
}

/// Its busybox, as the initramfs of a corpus guest has it.
fn busybox(place: &Place, target: &str) {
    let name = if target == "x86_64" { "linux".to_owned() } else { format!("linux-{target}") };
    let initramfs = corpus::guest(&name).unwrap();
    let initramfs = initramfs.iter().find(|word| word.ends_with("initrd.gz")).unwrap();
    let script = format!(
        "gzip -dc '{initramfs}' | cpio -i --quiet --to-stdout bin/busybox >busybox && chmod +x busybox"
    );
    let unpacked = Command::new("sh").args(["-c", &script]).current_dir(place.path(".")).status().unwrap();
    assert!(unpacked.success());
}

/// Rides it, with `options` of `tandem`'s.
fn ride_busybox(place: &Place, qemu: &str, options: &[&str], applet: &[&str]) -> Ran {
    let start = ["lockstep", "--a", qemu, "--b", qemu];
    place.run(&[&start, options, &["--", "./busybox"], applet].concat())
}

#[test]
fn a_build_is_the_same_as_itself_whatever_the_program_does() {
    let place = Place::new();
    compile(&place);
    for program in
        ["signals", "modifies", "repeats", "random", "children", "faults", "aborts", "adds", "nothing"]
    {
        let report = ride(&place, &[], &[program]).ends_with(0).json();
        assert_eq!(report["verdict"], "same", "{program}");
        assert!(report["compared"]["what"].to_string().contains("system calls"));
        assert!(report["compared"]["instructions"].as_u64().unwrap() > 10_000, "{program}");
    }
    // What it runs in its place is no longer followed, and its end is compared all the same.
    ride(&place, &[], &["runs", "/bin/true"]).ends_with(0);
}

/// Whatever a build makes of the blocks: with one instruction each a repeated string instruction starts once less.
#[test]
fn one_instruction_a_block_is_the_same_program() {
    let place = Place::new();
    compile(&place);
    for compared in [&[][..], &["--loads"], &["--compare", "flow"]] {
        for program in ["repeats", "modifies", "signals"] {
            let options = [&["--b-arg", "-singlestep"], compared].concat();
            let report = ride(&place, &options, &[program]).ends_with(0).json();
            assert_eq!(report["verdict"], "same", "{program} with {compared:?}");
        }
    }
    busybox(&place, "x86_64");
    let qemu = build(BUILD);
    let ran = ride_busybox(&place, &qemu, &["--b-arg", "-singlestep"], &["gzip", "-c", "busybox"]);
    assert!(ran.ends_with(0).out.starts_with("same: "), "{}", ran.out);
}

#[test]
fn programs_of_other_processors_are_ridden_too() {
    for target in ["aarch64", "riscv64"] {
        let place = Place::new();
        busybox(&place, target);
        let qemu = build(&format!("{BUILD}-{target}"));
        let ran = ride_busybox(&place, &qemu, &["--format", "json"], &["sha256sum", "busybox"]);
        let report = ran.ends_with(0).json();
        assert_eq!(report["builds"]["a"]["target"], target);
        assert!(report["compared"]["chunks"].as_u64().unwrap() > 10, "{report}");
    }
}

/// What QEMU's own disassembler says stands in the report; Tandem has one for x86 only.
#[test]
fn the_code_of_other_processors_is_shown_as_text() {
    for (target, model, instruction) in
        [("aarch64", "cortex-a57", "cbz w2, #"), ("riscv64", "rv64,f=off,d=off", "fsd fs0,112(a0)")]
    {
        let place = Place::new();
        busybox(&place, target);
        let qemu = build(&format!("{BUILD}-{target}"));
        let options = ["--b-arg", "-cpu", "--b-arg", model, "--format", "json"];
        let report = ride_busybox(&place, &qemu, &options, &["true"]).ends_with(1).json();
        let divergence = &report["divergence"];
        assert!(divergence["instruction"]["a"].as_str().unwrap().starts_with(instruction), "{divergence}");
        let blocks = divergence["previous"]["a"].as_array().unwrap();
        let shown = blocks.iter().flat_map(|block| block["instructions"].as_array().unwrap());
        let shown: Vec<_> = shown.chain(divergence["following"]["a"].as_array().unwrap()).collect();
        assert!(shown.len() > 10);
        for line in shown {
            let text = line["text"].as_str().unwrap();
            assert!(text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.contains('\t'), "{line}");
        }
    }
}

#[test]
fn the_time_is_an_input_and_named() {
    let place = Place::new();
    compile(&place);
    let ran = ride(&place, &[], &["tells-time"]);
    let report = ran.ends_with(2).json();
    assert_eq!((&report["verdict"], &report["input"]["call"]), (&"trouble".into(), &"clock_gettime".into()));
    assert_eq!(report.get("divergence"), None);
    assert!(report["summary"].as_str().unwrap().contains("an input that differs"), "{report}");

    let report = ride(&place, &[], &["asks-time"]).ends_with(0).json();
    assert_eq!(report["input"]["call"], "clock_gettime");
    assert!(report["notes"].to_string().contains("nothing that was compared does"), "{report}");
}

#[test]
fn a_program_with_threads_is_refused() {
    let place = Place::new();
    compile(&place);
    let report = ride(&place, &[], &["threads"]).ends_with(2).json();
    assert!(report["summary"].as_str().unwrap().contains("the program starts a thread"), "{report}");
}

/// Without ADX the processor takes `adcx` as an illegal instruction, and the program dies there.
#[test]
fn another_processor_parts_at_the_instruction_that_it_has_not() {
    let place = Place::new();
    compile(&place);
    let models = ["--b-arg", "-cpu", "--b-arg", "max,adx=off"];
    let report = ride(&place, &models, &["adds"]).ends_with(1).json();
    let divergence = &report["divergence"];
    assert_eq!(divergence["icount"]["a"], divergence["icount"]["b"]);
    let guilty = divergence["instruction"]["a"].as_str().unwrap();
    assert!(guilty.starts_with("adcx"), "{divergence}");
    let swapped = ["--a-arg", "-cpu", "--a-arg", "max,adx=off"];
    let report = ride(&place, &swapped, &["adds"]).ends_with(1).json();
    assert_eq!(report["divergence"]["icount"], divergence["icount"]);
}

#[test]
fn what_cannot_be_ridden_gets_a_clear_line() {
    let place = Place::new();
    compile(&place);
    let (user, system) = (build(BUILD), build("debian-7.2"));
    let line = |words: &[&str]| place.run(words);
    line(&["lockstep", "--a", &user, "--b", &system, "--", "./program"])
        .is_refused_with(&["side A emulates single programs", "two builds of one kind"]);
    line(&["lockstep", "--a", &user, "--b", &user, "--", "-cpu", "max"]).is_refused_with(&["no program"]);
    line(&["lockstep", "--a", &user, "--b", &user, "--", "./nowhere"])
        .is_refused_with(&["there is no program at `./nowhere`"]);
    line(&["record", "-o", "x.tdm", "--", &user, "./program"])
        .is_refused_with(&["emulates single programs", "needs a system emulator"]);
    assert_eq!(place.left().0, ["program"]);
}
