//! A user rides a guest with several vCPUs, which take turns.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::path::Path;
use std::process::Command;

use tandem::{Place, build, firmware, guest, words};

/// A lockstep of a build with itself.
fn lockstep(name: &str, options: &[&str], guest: &[String]) -> Vec<String> {
    let start = words(&["lockstep", "--a", &build(name), "--b", &build(name), "--format", "json"]);
    [start, words(options), words(&["--"]), guest.to_vec()].concat()
}

/// A guest in which the first vCPU starts the second and waits for it.
fn two_vcpus(place: &Place) -> Vec<String> {
    let line = "-M pc-i440fx-7.2 -cpu qemu64 -m 16 -vga none -display none -smp 2";
    let line: Vec<&str> = line.split(' ').collect();
    let image = firmware(place, "two-vcpus.s").display().to_string();
    [words(&line), words(&["-device", "isa-debug-exit,iobase=0xf4", "-bios", &image])].concat()
}

#[test]
fn a_build_is_the_same_as_itself_over_a_whole_boot_on_two_vcpus() {
    let place = Place::new();
    let line = [guest("linux"), words(&["-smp", "2"])].concat();
    let report = place.run(&lockstep("debian-10.0", &[], &line)).ends_with(0).json();
    let compared = &report["compared"];
    assert_eq!((&report["verdict"], &compared["driven_by"]), (&"same".into(), &"live".into()));
    for side in ["a", "b"] {
        let vcpus: Vec<u64> =
            compared["vcpus"][side].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
        assert!(vcpus.len() == 2 && vcpus.iter().all(|&count| count > 50_000_000), "{vcpus:?}");
        let all = compared["instructions"].as_u64().unwrap();
        assert!(vcpus.iter().sum::<u64>().abs_diff(all) < 1 << 26, "{vcpus:?} {all}");
    }
}

#[test]
fn what_the_second_vcpu_does_differently_is_named_with_it() {
    // One with loadable modules, and one as it comes out of its source.
    for name in ["debian-10.0", "good"] {
        second_vcpu(name);
    }
}

fn second_vcpu(name: &str) {
    let place = Place::new();
    let guest = two_vcpus(&place);
    let report = place.run(&lockstep(name, &[], &guest)).ends_with(0).json();
    assert_eq!(report["compared"]["vcpus"]["a"].as_array().unwrap().len(), 2);
    let options = ["--b-arg", "-cpu", "--b-arg", "qemu64,-sse3"];
    let report = place.run(&lockstep(name, &options, &guest)).ends_with(1).json();
    let divergence = &report["divergence"];
    assert_eq!(divergence["vcpu"], 1);
    assert_eq!((&divergence["kind"], &divergence["instruction"]["a"]), (&"register".into(), &"cpuid".into()));
    assert!(report["summary"].as_str().unwrap().starts_with("vCPU 1, translated block "), "{report}");
    // What is shown around it is its own.
    let next = divergence["following"]["a"][0]["text"].as_str().unwrap();
    assert!(next.starts_with("mov "), "{}", divergence["following"]);
}

/// Whose turn it is QEMU decides: another choice is no fault of what it generates.
#[test]
fn other_turns_are_no_verdict() {
    let place = Place::new();
    let options = ["--b-arg", "-icount", "--b-arg", "shift=1"];
    let report = place.run(&lockstep("debian-10.0", &options, &two_vcpus(&place))).ends_with(2).json();
    let summary = report["summary"].as_str().unwrap();
    assert!(summary.starts_with("the vCPUs took turns differently: behind instruction "), "{summary}");
    assert!(summary.contains("vCPU 0 executes on A and vCPU 1 on B"), "{summary}");
    assert!(report["divergence"].is_null(), "{report}");
}

#[test]
fn builds_that_cannot_tell_vcpus_apart_are_refused_in_a_line() {
    let place = Place::new();
    let line = words(&["-M", "pc", "-smp", "2"]);
    let old = ["side A", "QEMU 7.2", "no turn", "take 8.1 or later, or one vCPU"];
    place.run(&lockstep("debian-7.2", &[], &line)).is_refused_with(&old);
    // Built without modules and stripped, it shows nothing of its own.
    let stripped = place.path("qemu-system-x86_64");
    assert!(
        Command::new("strip")
            .arg("-o")
            .args([&stripped, Path::new(&build("good"))])
            .status()
            .unwrap()
            .success()
    );
    let stripped = stripped.display().to_string();
    let start = words(&["lockstep", "--a", &stripped, "--b", &stripped, "--format", "json", "--"]);
    let report = place.run(&[start, guest("seabios"), line.clone()].concat()).ends_with(2).json();
    let summary = report["summary"].as_str().unwrap();
    assert!(summary.contains("does not show which of several vCPUs executes"), "{summary}");
    // QEMU records one vCPU only.
    let line = [guest("disk"), words(&["-smp", "2"])].concat();
    place.run(&lockstep("debian-10.0", &[], &line)).is_refused_with(&["-smp 2", "one vCPU only"]);
}
