//! A user records a guest and replays it.

mod tandem;

use tandem::{ALL_BUILDS, BUILDS, Place, build, guest, words};

#[test]
fn a_linux_boot_is_recorded_and_replayed_to_the_last_instruction() {
    for name in ALL_BUILDS {
        let place = Place::new();
        let recorded = place.record("boot.tdm", &build(name), &guest("linux"));
        recorded.ends_with(0);
        assert!(recorded.out.contains("tandem guest: hello from Linux"), "the guest's console is on stdout");
        assert!(recorded.err.contains("virtual time") && recorded.err.contains("the guest shut down"));
        let bytes = std::fs::metadata(place.path("boot.tdm")).unwrap().len();
        assert!(bytes <= 128 << 10, "{name}: {bytes} bytes");

        let replayed = place.run(&["replay", "boot.tdm"]);
        replayed.ends_with(0);
        let (console, verdict) = replayed.out.trim_end().rsplit_once('\n').unwrap();
        assert!(verdict.starts_with("identical: 1,") && verdict.ends_with(" chunks"), "{verdict}");
        assert_eq!(console.trim_end(), recorded.out.trim_end(), "the console is the same");
        assert_eq!(place.left(), (words(&["boot.tdm"]), vec![]));
    }
}

#[test]
fn a_guest_that_resets_itself_is_replayed_every_time() {
    for name in BUILDS {
        let place = Place::new();
        let recorded = place.record("bios.tdm", &build(name), &guest("seabios"));
        recorded.ends_with(0);
        assert!(recorded.err.contains("a reset with -no-reboot"), "{}", recorded.err);
        let verdicts: Vec<String> = (0..10)
            .map(|_| {
                let replayed = place.run(&["replay", "bios.tdm"]);
                replayed.ends_with(0);
                replayed.out.lines().last().unwrap().to_owned()
            })
            .collect();
        assert!(verdicts[0].starts_with("identical: 6,"), "{}", verdicts[0]);
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{verdicts:?}");
    }
}

/// In host time QEMU logs tens of millions of events, of which a replay needs a few.
#[test]
fn a_boot_in_host_time_is_compacted_and_replayed_to_the_last_instruction() {
    for name in ALL_BUILDS {
        let place = Place::new();
        let line =
            [words(&["record", "-o", "host.tdm", "--time", "host", "--", &build(name)]), guest("linux")];
        place.run(&line.concat()).ends_with(0);
        let replayed = place.run(&["replay", "host.tdm"]);
        replayed.ends_with(0);
        assert!(replayed.out.contains("identical: 1,7"), "{}", replayed.out);
        let shown = place.run(&["show", "host.tdm", "--format", "json"]).json();
        assert!(shown["ending"]["dropped"].as_u64().unwrap() > 10_000_000, "{shown}");
        let bytes = shown["bytes"].as_u64().unwrap();
        assert!(bytes <= 128 << 10, "{name}: {bytes} bytes");
    }
}

#[test]
fn every_event_can_be_kept_and_the_witness_left_out() {
    let place = Place::new();
    let q = build(BUILDS[0]);
    let record = |options: &[&str]| {
        let line =
            [words(&["record"]), words(options), words(&["--time", "host", "--", &q]), guest("seabios")];
        place.run(&line.concat()).ends_with(0);
    };
    // Not to the end: QEMU takes its time over a log of every event.
    record(&["-o", "raw.tdm", "--raw", "--until-icount", "3000000"]);
    let shown = place.run(&["show", "raw.tdm", "--format", "json"]).json();
    assert_eq!(shown["ending"]["dropped"], 0);
    let kept: u64 = shown["events"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(kept, shown["ending"]["events"].as_u64().unwrap());
    place.run(&["replay", "raw.tdm"]).ends_with(0);

    record(&["-o", "plain.tdm", "--no-witness"]);
    let replayed = place.run(&["replay", "plain.tdm"]);
    replayed.ends_with(0);
    let verdict = replayed.out.lines().last().unwrap();
    assert!(verdict.starts_with("replayed: ") && verdict.contains("nothing is proven"), "{verdict}");
    let same = ["lockstep", "--a", &q, "--b", &q, "--recording", "plain.tdm"];
    place.run(&same).ends_with(0);
}

#[test]
fn the_time_policy_can_be_chosen() {
    let place = Place::new();
    let line =
        [words(&["record", "-o", "host.tdm", "--time", "host", "--", &build(BUILDS[0])]), guest("seabios")];
    let recorded = place.run(&line.concat());
    recorded.ends_with(0);
    assert!(recorded.err.contains("in host time: as --time says"), "{}", recorded.err);
    place.run(&["replay", "host.tdm"]).ends_with(0);
}

#[test]
fn a_replay_on_another_build_is_never_called_identical() {
    let place = Place::new();
    place.record("bios.tdm", &build(BUILDS[0]), &guest("seabios")).ends_with(0);
    let replayed = place.run(&["replay", "bios.tdm", "--build", &build(BUILDS[1])]);
    // 7.2 and 10.0 part in the first chunk; 10.0 then waits for an event that never comes.
    replayed.ends_with(2);
    for part in [
        "tandem: the replay stands still at icount ",
        "identical up to instruction 0 of the stream: this build and the one that recorded part behind that",
        "\n  awaited   icount ",
        "\n  usually:  ",
    ] {
        assert!(replayed.err.contains(part), "`{part}` is not in:\n{}", replayed.err);
    }
    assert!(!replayed.out.contains("identical"), "{}", replayed.out);
}

#[test]
fn a_guest_is_found_from_another_folder() {
    let place = Place::new();
    std::fs::copy(corpus::cache().unwrap().join("firmware/bios-256k.bin"), place.path("own.bin")).unwrap();
    let line = [guest("seabios"), words(&["-bios", "own.bin"])].concat();
    place.record("bios.tdm", &build(BUILDS[0]), &line).ends_with(0);
    let elsewhere = Place::new();
    let file = place.path("bios.tdm").display().to_string();
    elsewhere.run(&["replay", &file]).ends_with(0);
    // And a file that has changed since is told.
    let mut bios = std::fs::read(place.path("own.bin")).unwrap();
    bios[0] ^= 1;
    std::fs::write(place.path("own.bin"), bios).unwrap();
    elsewhere.run(&["replay", &file]).is_refused_with(&["own.bin", "has changed since"]);
    std::fs::remove_file(place.path("own.bin")).unwrap();
    elsewhere.run(&["replay", &file]).is_refused_with(&["own.bin", "put it back"]);
}
