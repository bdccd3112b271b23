//! A user gives lockstep a guest and no recording: how both builds are driven is chosen, and said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::{Place, Ran, build, guest, qemus, wait_until, words};

/// A lockstep of a build with itself.
fn lockstep(options: &[&str], guest: &[String]) -> Vec<String> {
    let qemu = build("debian-10.0");
    let start = words(&["lockstep", "--a", &qemu, "--b", &qemu, "--format", "json"]);
    [start, words(options), words(&["--"]), guest.to_vec()].concat()
}

#[test]
fn a_guest_with_a_disk_rides_by_a_recording_that_is_made_for_it() {
    let place = Place::new();
    let ran = place.run(&lockstep(&["--until", "Run /init"], &guest("disk")));
    let report = ran.ends_with(0).json();
    let compared = &report["compared"];
    assert_eq!(compared["driven_by"], "recording");
    let because = compared["recorded"]["because"].as_str().unwrap();
    assert!(because.starts_with("the guest has a drive, `-drive file="), "{because}");
    assert_eq!(compared["recorded"]["ended_by"], "--until: the console said `Run /init`");
    let instructions = compared["recorded"]["instructions"].as_u64().unwrap();
    assert!(instructions > 1_000_000_000, "{instructions}");
    // Behind the request to end a guest runs on for a little while, each time another one.
    assert!(compared["instructions"].as_u64().unwrap().abs_diff(instructions) < 1 << 20, "{compared}");
    assert!(ran.err.contains("tandem: recording on QEMU 10.0.2"), "{}", ran.err);
    assert!(ran.err.contains("first: the guest has a drive, `-drive"), "{}", ran.err);
    assert_eq!(place.left(), (vec![], vec![]));
}

#[test]
fn what_differs_is_found_there_as_anywhere() {
    let place = Place::new();
    let options = ["--until-icount", "100000000", "--b-arg", "-cpu", "--b-arg", "max"];
    let report = place.run(&lockstep(&options, &guest("disk"))).ends_with(1).json();
    assert_eq!(report["divergence"]["instruction"]["a"], "cpuid");
    assert_eq!(report["compared"]["driven_by"], "recording");
}

#[test]
fn a_guest_that_can_run_live_does_so_unless_its_end_is_told() {
    let place = Place::new();
    let report = place.run(&lockstep(&[], &guest("seabios"))).ends_with(0).json();
    assert_eq!(report["compared"]["driven_by"], "live");
    assert!(report["compared"]["recorded"].is_null(), "{report}");
    let report = place.run(&lockstep(&["--until", "SeaBIOS"], &guest("seabios"))).ends_with(0).json();
    assert_eq!(report["compared"]["recorded"]["because"], "--until says where it ends");
}

/// Starts a lockstep of the guest with a disk that nothing ends, and waits until it is recorded.
fn recording(place: &Place, marker: &str) -> Child {
    let line = [guest("disk"), words(&["-name", marker])].concat();
    let mut child = place.start(&lockstep(&["--compare", "flow"], &line));
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("Ctrl-C ends that"), "{said}");
    wait_until("QEMU is there", || qemus(marker).len() == 1);
    std::thread::sleep(Duration::from_secs(2));
    child
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn ctrl_c_ends_the_recording_and_what_was_recorded_is_compared() {
    let place = Place::new();
    let child = recording(&place, "tandem-driven-to-an-end");
    kill(pid(&child), Signal::SIGINT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    let report = ran.ends_with(0).json();
    assert_eq!(report["verdict"], "same");
    assert_eq!(report["compared"]["recorded"]["ended_by"], "a signal from the host");
    let notes = report["notes"].to_string();
    assert!(notes.contains("a signal ended the recording after "), "{notes}");
    assert!(report["compared"]["instructions"].as_u64().unwrap() > 1 << 20, "{report}");
}

#[test]
fn nothing_is_left_of_one_that_is_killed() {
    let place = Place::new();
    let marker = "tandem-driven-and-killed";
    let mut child = recording(&place, marker);
    kill(pid(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    wait_until("QEMU is gone too", || qemus(marker).is_empty());
    assert_eq!(place.left(), (vec![], vec![]));
}

#[test]
fn a_selfcheck_is_driven_the_same_way() {
    let place = Place::new();
    let start = words(&["selfcheck", &build("debian-10.0"), "--setting", "nochain", "--format", "json"]);
    let rest = [words(&["--until-icount", "100000000", "--"]), guest("disk")].concat();
    let checked = place.run(&[start, rest].concat());
    checked.ends_with(0);
    assert!(checked.err.contains("first: the guest has a drive, `-drive"), "{}", checked.err);
    assert_eq!(checked.json()["settings"][0]["found"], "same");
    assert_eq!(place.left(), (vec![], vec![]));
}

#[test]
fn a_program_is_not_recorded() {
    let place = Place::new();
    let qemu = build("debian-7.2-user");
    let line = ["lockstep", "--a", &qemu, "--b", &qemu, "--until", "x", "--", "/bin/true"];
    place.run(&line).is_refused_with(&["--until", "programs are not recorded"]);
}
