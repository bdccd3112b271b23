//! A user says when a recording is to end, types into the guest, or meets a limit. What was recorded replays.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::{BUILDS, Place, Ran, build, guest, qemus, rom, wait_until, words};

fn record(place: &Place, options: &[&str], guest: &[String]) -> Ran {
    place.run(
        &[
            words(&["record", "-o", "r.tdm"]),
            words(options),
            words(&["--", &build(BUILDS[0])]),
            guest.to_vec(),
        ]
        .concat(),
    )
}

fn replays(place: &Place) -> String {
    let replayed = place.run(&["replay", "r.tdm"]);
    replayed.ends_with(0);
    assert!(replayed.out.contains("identical: "), "{}", replayed.out);
    replayed.out
}

fn instructions(place: &Place) -> u64 {
    place.run(&["show", "r.tdm", "--format", "json"]).json()["ending"]["icount"].as_u64().unwrap()
}

#[test]
fn at_a_text_on_the_console() {
    let place = Place::new();
    let ran = record(&place, &["--until", "Linux version [0-9]+"], &guest("linux"));
    ran.ends_with(0);
    assert!(ran.err.contains("ended by: --until: the console said `Linux version 6`"), "{}", ran.err);
    assert!(!ran.out.contains("Run /init"), "it ended long before the guest did");
    assert!(replays(&place).contains("Linux version"));
    record(&place, &["--until", "("], &guest("linux")).ends_with(2);
}

#[test]
fn at_an_icount() {
    let place = Place::new();
    let ran = record(&place, &["--until-icount", "100000000"], &guest("linux"));
    ran.ends_with(0);
    assert!(ran.err.contains("ended by: --until-icount 100000000"), "{}", ran.err);
    let icount = instructions(&place);
    assert!((100_000_000..300_000_000).contains(&icount), "{icount}");
    replays(&place);
}

#[test]
fn after_a_time() {
    let place = Place::new();
    let ran = record(&place, &["--timeout", "1s"], &guest("linux"));
    ran.is_refused_with(&["--timeout after 1 s", "is kept in `r.tdm`"]);
    replays(&place);
}

#[test]
fn when_the_guest_hangs() {
    let place = Place::new();
    // cli; hlt
    let line = rom(&place, &[0xfa, 0xf4]);
    for time in ["host", "virtual"] {
        let ran = record(&place, &["--no-progress", "2s", "--timeout", "30s", "--time", time], &line);
        ran.is_refused_with(&["no progress for 2 s", "is kept in `r.tdm`"]);
        assert_eq!(place.left().0, words(&["code.bin", "r.tdm"]));
        std::fs::remove_file(place.path("r.tdm")).unwrap();
    }
}

/// A QEMU that does nothing at all, not even end when it is told to.
#[test]
fn when_qemu_hangs() {
    let place = Place::new();
    let line = [guest("linux"), words(&["-name", "stop-hung"])].concat();
    let start = words(&["record", "-o", "r.tdm", "--no-progress", "3s", "--", &build(BUILDS[0])]);
    let child = place.start(&[start, line].concat());
    let began = std::time::Instant::now();
    wait_until("QEMU runs", || qemus("stop-hung").len() == 1 && began.elapsed().as_secs() >= 2);
    kill(Pid::from_raw(qemus("stop-hung")[0]), Signal::SIGSTOP).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.is_refused_with(&["no progress for 3 s", "is kept in `r.tdm`"]);
    wait_until("no QEMU is left", || qemus("stop-hung").is_empty());
    replays(&place);
}

/// rdrand %eax; jmp to it: events that nothing makes smaller.
const NOISE: &[u8] = &[0x66, 0x0f, 0xc7, 0xf0, 0xeb, 0xfa];

#[test]
fn at_a_size() {
    let place = Place::new();
    let line = rom(&place, NOISE);
    let ran = record(&place, &["--max-size", "300K", "--timeout", "30s"], &line);
    ran.is_refused_with(&["--max-size", "is kept in `r.tdm`"]);
    assert!(std::fs::metadata(place.path("r.tdm")).unwrap().len() <= 300 << 10);
    replays(&place);
    record(&place, &["--max-size", "1K"], &line).ends_with(2);
}

/// On a disk of 400 KB, which is mounted for the recorder alone.
#[test]
fn on_a_full_disk() {
    let place = Place::new();
    std::fs::create_dir(place.path("disk")).unwrap();
    let line = [
        words(&["record", "-o", "disk/r.tdm", "--timeout", "30s", "--", &build(BUILDS[0])]),
        rom(&place, NOISE),
    ];
    let script = "mount -t tmpfs -o size=400k none disk && \"$@\"; code=$?; cp disk/* . && exit $code";
    let ran = Command::new("unshare")
        .args(if std::fs::metadata("/proc/self").unwrap().uid() == 0 { ["-m", "--"] } else { ["-Urm", "--"] })
        .args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_tandem")])
        .args(line.concat())
        .current_dir(place.path(""))
        .stdin(std::process::Stdio::null())
        .output();
    let ran = Ran::of(ran.unwrap());
    ran.is_refused_with(&["the disk is full", "is kept in `disk/r.tdm`"]);
    assert_eq!(place.left().0, words(&["code.bin", "disk", "r.tdm"]));
    replays(&place);
}

#[test]
fn a_second_ctrl_c_ends_it_at_once() {
    let place = Place::new();
    let line = [guest("linux"), words(&["-name", "stop-twice"])].concat();
    let child = place.start(&[words(&["record", "-o", "r.tdm", "--", &build(BUILDS[0])]), line].concat());
    let began = std::time::Instant::now();
    wait_until("QEMU runs", || qemus("stop-twice").len() == 1 && began.elapsed().as_secs() >= 2);
    // So that the first one has no effect.
    kill(Pid::from_raw(qemus("stop-twice")[0]), Signal::SIGSTOP).unwrap();
    for _ in 0..2 {
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.is_refused_with(&["interrupted twice", "is kept in `r.tdm`"]);
    wait_until("no QEMU is left", || qemus("stop-twice").is_empty());
    replays(&place);
}

/// A shell in the guest, driven by a script; what was typed is in the recording and comes again from there.
#[test]
fn after_a_script_was_typed() {
    let place = Place::new();
    let script = "# A shell instead of the init; it asks for the cursor's place before it reads.\nwait # \\e[6n\nsend echo tandem was h\\x65re; /bin/busybox poweroff -f\\n\n";
    std::fs::write(place.path("script"), script).unwrap();
    let shell = |word: String| {
        if word == "console=ttyS0" { "console=ttyS0 rdinit=/bin/busybox -- sh".to_owned() } else { word }
    };
    let line: Vec<String> = guest("linux").into_iter().map(shell).collect();
    let ran = record(&place, &["--input", "script", "--timeout", "120"], &line);
    ran.ends_with(0);
    assert!(ran.err.contains("in host time: a script is typed"), "{}", ran.err);
    assert!(ran.out.contains("\ntandem was here") && ran.err.contains("the guest shut down"), "{}", ran.out);
    assert!(replays(&place).contains("\ntandem was here"));
    let events = place.run(&["show", "r.tdm", "--events"]).out;
    assert!(events.contains("char-read device=0 bytes=\"e"), "what was typed is an event");

    place
        .run(&["record", "-o", "x", "--input", "script", "--", &build(BUILDS[0]), "-serial", "null"])
        .is_refused_with(&["--input", "-serial stdio"]);
    std::fs::write(place.path("script"), "wait a\nsned b").unwrap();
    place
        .run(&["record", "-o", "x", "--input", "script", "--", &build(BUILDS[0]), "-serial", "stdio"])
        .is_refused_with(&["`script`", "line 2", "`sned`"]);
}
