//! A TCG developer lets random code run on two builds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tandem::programs::{assembled, status};
use tandem::{Place, Ran, build, words};

const USER: &str = "debian-7.2-user";

/// The build with this fault, or `good`.
fn faulty(name: &str) -> String {
    let good = build("good");
    let folder = Path::new(&good).parent().unwrap().parent().unwrap();
    folder.join(name).join("qemu-system-x86_64").display().to_string()
}

fn torture(place: &Place, a: &str, b: &str, options: &[&str]) -> Ran {
    let line = words(&["torture", "--a", a, "--b", b, "--format", "json", "-o", "found"]);
    place.run(&[line, words(options)].concat())
}

fn findings(report: &Value) -> Vec<Value> {
    report["findings"].as_array().unwrap().clone()
}

#[test]
fn equal_builds_are_the_same() {
    for build_ in [build(USER), build("debian-7.2"), faulty("good")] {
        let place = Place::new();
        let ran =
            torture(&place, &build_, &build_, &["--seed", "5", "--batches", "2", "--batch-size", "300"]);
        let report = ran.ends_with(0).json();
        assert_eq!(report["sequences"], 600, "{report}");
        assert!(report["generated"].as_u64().unwrap() > 20_000);
        // A thousand around each sequence, at least.
        assert!(report["compared"].as_u64().unwrap() > 600_000);
        assert!(report["forms"].as_u64().unwrap() > 1000, "{report}");
        assert_eq!((findings(&report).len(), place.left()), (0, (vec![], vec![])));
    }
}

#[test]
fn a_fault_is_found_and_reduced_and_told_by_the_processor() {
    let place = Place::new();
    let (good, bad) = (faulty("good"), faulty("vector"));
    let options = ["--seed", "1", "--batches", "2", "--batch-size", "200"];
    let report = torture(&place, &good, &bad, &options).ends_with(1).json();
    let all = findings(&report);
    let named = |finding: &Value| finding["instruction"].as_str().unwrap().contains("phminposuw");
    assert!(!all.is_empty() && all.iter().all(named), "{report}");
    for finding in &all {
        assert_eq!(finding["wrong"], "b", "{finding}");
        assert!(finding["instructions"].as_u64().unwrap() <= 3, "{finding}");
        assert!(finding["lockstep"].as_str().unwrap().contains("phminposuw"), "{finding}");
    }
    // What is kept needs no tandem: a program that is right here, its source, and a firmware for both builds.
    let folder = place.path(all[0]["folder"].as_str().unwrap());
    assert_eq!(status(&[], &folder.join("reduced")), Some(0));
    assert_eq!(status(&[], &assembled(&place, &folder.join("reduced.s"))), Some(0));
    let rom = folder.join("reduced.rom").display().to_string();
    let guest = [
        "-M",
        "pc",
        "-cpu",
        "max",
        "-m",
        "64",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-bios",
        &rom,
    ];
    let line = words(&["lockstep", "--a", &good, "--b", &bad, "--format", "json", "--"]);
    let ridden = place.run(&[line, words(&guest)].concat()).ends_with(1).json();
    let instruction = ridden["divergence"]["instruction"]["a"].as_str().unwrap();
    assert!(instruction.contains("phminposuw"), "{instruction}");
    // The same seed is the same code, and comes to the same.
    let again = torture(&place, &good, &bad, &options).ends_with(1).json();
    assert_eq!(again["findings"], report["findings"]);
}

#[test]
fn code_that_only_one_build_takes_is_found() {
    let place = Place::new();
    let user = build(USER);
    let lacks = ["--b-arg", "-cpu", "--b-arg", "max,adx=off", "--seed", "3", "--batches", "1"];
    // What one of them has not is not tried, unless it is asked for.
    torture(&place, &user, &user, &[&lacks[..], &["--batch-size", "100"]].concat()).ends_with(0);
    let widened = ["--batch-size", "300", "--features", "adx"];
    let report = torture(&place, &user, &user, &[&lacks[..], &widened].concat()).ends_with(1).json();
    for finding in findings(&report) {
        let instruction = finding["instruction"].as_str().unwrap();
        assert!(instruction.starts_with("adcx") || instruction.starts_with("adox"), "{finding}");
        assert_eq!(finding["wrong"], "b", "{finding}");
        assert!(finding["ended"]["b"].as_str().unwrap().contains("SIGILL"), "{finding}");
        let reduced = place.path(finding["folder"].as_str().unwrap()).join("reduced");
        assert_eq!(status(&[], &reduced), Some(0));
        let on = |cpu: &str| Command::new(&user).args(["-cpu", cpu]).arg(&reduced).status().unwrap().code();
        // The flags that 7.2 gets wrong there are another matter.
        assert!(on("max").is_some());
        assert_eq!(on("max,adx=off"), None, "it dies of a signal");
    }
}

/// Without LZCNT the processor takes it for `bsr`. QEMU 7.2 tells plugins of a store where it is and not what it is.
#[test]
fn a_wrong_value_shows_where_builds_tell_no_values() {
    let place = Place::new();
    let user = build(USER);
    let options = ["--b-arg", "-cpu", "--b-arg", "max,abm=off", "--features", "lzcnt"];
    let amount = ["--seed", "3", "--batches", "1", "--batch-size", "150"];
    let report = torture(&place, &user, &user, &[&options[..], &amount].concat()).ends_with(1).json();
    for finding in findings(&report) {
        assert!(finding["instruction"].as_str().unwrap().starts_with("lzcnt"), "{finding}");
        assert_eq!(finding["wrong"], "b", "{finding}");
        assert!(finding["lockstep"].as_str().unwrap().starts_with("DIFFERENT: "), "{finding}");
        let reduced = place.path(finding["folder"].as_str().unwrap()).join("reduced");
        let on = |cpu: &str| Command::new(&user).args(["-cpu", cpu]).arg(&reduced).status().unwrap().code();
        assert_eq!((on("max"), on("max,abm=off")), (Some(0), Some(1)), "{finding}");
    }
}

/// Two guests that die of the same instruction end alike, and nothing behind it would be compared.
#[test]
fn what_both_builds_die_of_is_left_out_and_hides_nothing() {
    let place = Place::new();
    let user = build(USER);
    // QEMU 7.2 has none of these.
    let options = ["--features", "sha", "--seed", "4", "--batches", "1", "--batch-size", "150"];
    let report = torture(&place, &user, &user, &options).ends_with(0).json();
    let left_out = report["left_out"].as_array().unwrap();
    assert!(!left_out.is_empty(), "{report}");
    assert!(left_out.iter().all(|form| form.as_str().unwrap().starts_with("sha")), "{report}");
    assert!(report["compared"].as_u64().unwrap() > 150 * 1000, "{report}");
}

#[test]
fn ctrl_c_ends_it_with_what_was_found_by_then() {
    let place = Place::new();
    let (good, bad) = (faulty("good"), faulty("vector"));
    let line = ["torture", "--a", &good, "--b", &bad, "--seed", "1", "--batch-size", "200", "-o", "found"];
    let child = place.start(&words(&line));
    let began = std::time::Instant::now();
    while !place.path("found").read_dir().is_ok_and(|mut found| found.next().is_some()) {
        assert!(began.elapsed() < Duration::from_secs(100), "nothing is found");
        std::thread::sleep(Duration::from_millis(50));
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(ran.ends_with(1).out.contains("ended by interruption"), "{}", ran.out);
    assert!(place.left().1.is_empty());
}

#[test]
fn what_cannot_be_tortured_gets_a_clear_line() {
    let place = Place::new();
    let (user, system, other) = (build(USER), build("debian-7.2"), build("debian-7.2-user-aarch64"));
    torture(&place, &user, &system, &[]).is_refused_with(&["both", "qemu-system-x86_64"]);
    torture(&place, &other, &other, &[]).is_refused_with(&["runs none of our code"]);
    torture(&place, &user, &user, &["--features", "mmy"]).is_refused_with(&["no feature `mmy`", "avx2"]);
    torture(&place, &user, &user, &["--", "-cpu", "nothing"]).is_refused_with(&["runs none of our code"]);
    assert_eq!(place.left().0, Vec::<String>::new());
}
