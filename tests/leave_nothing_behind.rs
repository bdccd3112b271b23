//! Whatever dies: no process, socket, FIFO or temporary file stays, and what was recorded does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::{BUILDS, Place, Ran, build, guest, qemus, rom, wait_until, words};

/// The Linux guest, under a name by which its processes are found.
fn named(marker: &str) -> Vec<String> {
    [guest("linux"), words(&["-name", marker])].concat()
}

fn recording(place: &Place, marker: &str) -> Child {
    let line = [words(&["record", "-o", "r.tdm", "--", &build(BUILDS[1])]), named(marker)].concat();
    let child = place.start(&line);
    // Two seconds of recording, so that there is something to lose.
    let began = std::time::Instant::now();
    wait_until("QEMU runs", || qemus(marker).len() == 1 && began.elapsed().as_secs() >= 2);
    child
}

fn signal(pid: u32, with: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), with).unwrap();
}

fn nothing_left(place: &Place, marker: &str, files: &[&str]) {
    wait_until("no QEMU is left", || qemus(marker).is_empty());
    assert_eq!(place.left(), (words(files), vec![]));
}

#[test]
fn ctrl_c_ends_the_guest_and_keeps_the_recording() {
    let place = Place::new();
    let child = recording(&place, "left-ctrl-c");
    signal(child.id(), Signal::SIGINT);
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.ends_with(0);
    assert!(ran.err.contains("ended by: a signal from the host"), "{}", ran.err);
    nothing_left(&place, "left-ctrl-c", &["r.tdm"]);
    let replayed = place.run(&["replay", "r.tdm"]);
    replayed.ends_with(0);
    assert!(replayed.out.contains("identical: "), "{}", replayed.out);
}

#[test]
fn a_killed_qemu_is_told_and_what_was_recorded_is_kept() {
    let place = Place::new();
    let child = recording(&place, "left-killed-qemu");
    kill(Pid::from_raw(qemus("left-killed-qemu")[0]), Signal::SIGKILL).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.is_refused_with(&["QEMU died (killed by SIGKILL", "is kept in `r.tdm`"]);
    nothing_left(&place, "left-killed-qemu", &["r.tdm"]);
}

#[test]
fn a_killed_recorder_takes_its_qemu_along() {
    let place = Place::new();
    let mut child = recording(&place, "left-killed-recorder");
    signal(child.id(), Signal::SIGKILL);
    child.wait().unwrap();
    nothing_left(&place, "left-killed-recorder", &["r.tdm.incomplete"]);
    place.run(&["replay", "r.tdm.incomplete"]).is_refused_with(&["truncated", "tandem repair"]);
}

/// A guest that halts for ever: its QEMU runs nothing that could notice that nobody is there any more.
#[test]
fn a_killed_recorder_takes_even_an_idle_qemu_along() {
    let place = Place::new();
    let line = [rom(&place, &[0xfa, 0xf4]), words(&["-name", "left-idle"])].concat();
    let start = words(&["record", "-o", "r.tdm", "--", &build(BUILDS[0])]);
    let mut child = place.start(&[start, line].concat());
    let began = std::time::Instant::now();
    wait_until("QEMU runs", || qemus("left-idle").len() == 1 && began.elapsed().as_secs() >= 1);
    signal(child.id(), Signal::SIGKILL);
    child.wait().unwrap();
    nothing_left(&place, "left-idle", &["code.bin", "r.tdm.incomplete"]);
}

fn riding(place: &Place, marker: &str) -> Child {
    let q = build(BUILDS[0]);
    let line = [words(&["lockstep", "--a", &q, "--b", &q, "--"]), named(marker)].concat();
    let child = place.start(&line);
    wait_until("both QEMUs run", || qemus(marker).len() == 2);
    child
}

#[test]
fn a_killed_lockstep_takes_both_qemus_along() {
    let place = Place::new();
    let mut child = riding(&place, "left-killed-lockstep");
    signal(child.id(), Signal::SIGKILL);
    child.wait().unwrap();
    nothing_left(&place, "left-killed-lockstep", &[]);
}

#[test]
fn ctrl_c_ends_a_lockstep() {
    let place = Place::new();
    let child = riding(&place, "left-lockstep");
    std::thread::sleep(std::time::Duration::from_millis(500));
    signal(child.id(), Signal::SIGINT);
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.ends_with(2);
    assert!(ran.out.starts_with("trouble: interrupted"), "{}", ran.out);
    nothing_left(&place, "left-lockstep", &[]);
}

#[test]
fn a_killed_side_is_trouble_and_never_the_same() {
    let place = Place::new();
    let child = riding(&place, "left-side");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    kill(Pid::from_raw(qemus("left-side")[0]), Signal::SIGKILL).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.ends_with(2);
    assert!(ran.out.starts_with("trouble: the QEMU of side "), "{}", ran.out);
    assert!(ran.out.contains("killed by SIGKILL"), "{}", ran.out);
    nothing_left(&place, "left-side", &[]);
}

#[test]
fn a_killed_replay_leaves_no_log() {
    let place = Place::new();
    place.record("r.tdm", &build(BUILDS[0]), &named("left-replay")).ends_with(0);
    let mut child = place.start(&["replay", "r.tdm"]);
    wait_until("QEMU replays", || qemus("left-replay").len() == 1);
    assert_eq!(place.left(), (words(&["r.tdm"]), vec![]), "the log has no name while it is replayed");
    signal(child.id(), Signal::SIGKILL);
    child.wait().unwrap();
    nothing_left(&place, "left-replay", &["r.tdm"]);
}

#[test]
fn a_replay_by_several_leaves_nothing() {
    let place = Place::new();
    place.record("r.tdm", &build(BUILDS[0]), &named("left-pieces")).ends_with(0);
    place.run(&["index", "r.tdm"]).ends_with(0);
    for with in [Signal::SIGINT, Signal::SIGKILL] {
        let child = place.start(&["replay", "r.tdm", "--jobs", "3"]);
        wait_until("QEMUs replay", || qemus("left-pieces").len() == 3);
        assert_eq!(place.left(), (words(&["r.tdm"]), vec![]), "nothing has a name while it is replayed");
        signal(child.id(), with);
        let ran = Ran::of(child.wait_with_output().unwrap());
        if with == Signal::SIGINT {
            ran.ends_with(2);
            assert!(
                ran.err.contains("interrupted at icount ") && ran.err.lines().count() == 1,
                "{}",
                ran.err
            );
            assert!(!ran.out.contains("identical"), "{}", ran.out);
        }
        nothing_left(&place, "left-pieces", &["r.tdm"]);
    }
}
