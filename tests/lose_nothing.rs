//! Whatever dies while a guest is recorded, at whatever moment: what was recorded is kept, becomes a proper recording
//! and replays up to its end.
//!
//! TANDEM_KILLS says how often each is killed (2); the moments follow from a seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::{BUILDS, Place, Ran, build, guest, qemus, rom, wait_until, words};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Qemu,
    Recorder,
    Both,
}

/// The number in a line behind `word`, its digits in groups.
fn number_behind(line: &str, word: &str) -> u64 {
    let (_, behind) = line.split_once(word).unwrap_or_else(|| panic!("no `{word}` in {line}"));
    let digits: String =
        behind.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("no number behind `{word}` in {line}"))
}

/// Records the guest `line` in `place`, where nothing but files of its own is, and kills `victim`.
fn killed(place: &Place, line: Vec<String>, victim: Victim, build: &str, time: &str, after: Duration) {
    let (own, _) = place.left();
    let marker = &format!("lose-{victim:?}-{}", after.as_millis());
    let line =
        [words(&["record", "--time", time, "-o", "r.tdm", "--", build]), line, words(&["-name", marker])];
    let child = place.start(&line.concat());
    wait_until("QEMU runs", || qemus(marker).len() == 1);
    std::thread::sleep(after);
    let kill = |pid: i32| {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    };
    let qemu = qemus(marker);
    if victim != Victim::Recorder {
        qemu.iter().copied().for_each(kill);
    }
    if victim != Victim::Qemu {
        kill(i32::try_from(child.id()).unwrap());
    }
    let ran = Ran::of(child.wait_with_output().unwrap());
    wait_until("no QEMU is left", || qemus(marker).is_empty());
    let told = format!("{victim:?} after {after:?} on {build} in {time} time");
    let held = if victim == Victim::Qemu {
        // The recorder has seen it and closed the recording.
        ran.is_refused_with(&["QEMU died (killed by SIGKILL", "is kept in `r.tdm`"]);
        let repaired = place.run(&["repair", "r.tdm"]);
        repaired.ends_with(0);
        assert!(repaired.out.contains("is whole; nothing to repair"), "{told}: {}", repaired.out);
        let shown = place.run(&["show", "r.tdm", "--format", "json"]).json();
        shown["ending"]["icount"].as_u64().unwrap()
    } else {
        assert_eq!(place.left(), ([own.clone(), words(&["r.tdm.incomplete"])].concat(), vec![]), "{told}");
        let repaired = place.run(&["repair", "r.tdm.incomplete"]);
        repaired.ends_with(0);
        number_behind(&repaired.out, "up to icount")
    };
    assert_eq!(place.left(), ([own, words(&["r.tdm"])].concat(), vec![]), "{told}");
    let replayed = place.run(&["replay", "r.tdm"]);
    replayed.ends_with(0);
    let verdict = replayed.out.lines().last().unwrap();
    assert!(
        verdict.starts_with("identical: ") || verdict.contains("\nidentical: "),
        "{told}: {}",
        replayed.out
    );
    assert_eq!(number_behind(verdict, "replayed on to icount"), held, "{told}: {verdict}");
    let proven = number_behind(verdict, "identical:");
    println!("{told}: icount {held}, proven up to {proven}");
    assert!(proven <= held && held - proven < (1 << 20) + 400_000_000, "{told}: {verdict}");
}

#[test]
fn kill_9_at_any_moment() {
    let times = std::env::var("TANDEM_KILLS").map_or(2, |times| times.parse().unwrap());
    let mut seed = 88_172_645_463_325_252_u64;
    let mut done = 0;
    for _ in 0..times {
        for victim in [Victim::Qemu, Victim::Recorder, Victim::Both] {
            // xorshift64
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let after = Duration::from_millis(50 + seed % 5000);
            let policy = if seed & 1 << 40 == 0 { "virtual" } else { "host" };
            let build = build(BUILDS[usize::from(seed & 1 << 41 == 0)]);
            killed(&Place::new(), guest("linux"), victim, &build, policy, after);
            done += 1;
        }
    }
    println!("{done} of {done} recordings repaired and replayed");
}

/// A guest that does nothing but write, so that what is there of QEMU's log ends in what belongs to one write.
#[test]
fn kill_9_in_the_middle_of_an_event() {
    for (name, time) in BUILDS.into_iter().zip(["virtual", "host"]) {
        for (victim, after) in [(Victim::Qemu, 300), (Victim::Qemu, 410), (Victim::Recorder, 520)] {
            let place = Place::new();
            // mov $0x3f8, %dx; out %al, %dx; jmp to that
            let line = rom(&place, &[0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfd]);
            killed(&place, line, victim, &build(name), time, Duration::from_millis(after));
        }
    }
}
