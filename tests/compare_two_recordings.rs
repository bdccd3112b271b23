//! A user has two recordings of one guest, and wants to know where they part.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use tandem::{BUILDS, Place, build, guest, words};

#[test]
fn two_that_are_the_same() {
    let place = Place::new();
    for file in ["a.tdm", "b.tdm"] {
        place.record(file, &build(BUILDS[0]), &guest("seabios")).ends_with(0);
    }
    let compared = place.run(&["diff", "a.tdm", "b.tdm"]);
    compared.ends_with(0);
    assert!(
        compared.out.contains("\nsame: ") && compared.out.contains("driven by a recording each"),
        "{}",
        compared.out
    );
    assert!(compared.out.ends_with("console: the same\n"), "{}", compared.out);
    // The date is read, and the guest does not see it.
    assert!(compared.out.starts_with("clock-host: differs, the first of all"), "{}", compared.out);
    place.run(&["diff", "a.tdm", "no.tdm"]).is_refused_with(&["no.tdm"]);
}

#[test]
fn two_that_were_typed_into_differently() {
    let place = Place::new();
    let shell: Vec<String> = guest("linux")
        .iter()
        .map(|word| word.replace("console=ttyS0", "console=ttyS0 rdinit=/bin/busybox quiet -- sh"))
        .collect();
    for (file, said) in [("a.tdm", "one"), ("b.tdm", "two")] {
        let script = format!("wait # \nsend echo {said}; busybox poweroff -f\\n\n");
        std::fs::write(place.path("script"), script).unwrap();
        let line =
            words(&["record", "-o", file, "--input", "script", "--timeout", "120s", "--", &build(BUILDS[0])]);
        place.run(&[line, shell.clone()].concat()).ends_with(0);
    }
    let compared = place.run(&["diff", "a.tdm", "b.tdm"]);
    compared.ends_with(1);
    for part in ["char-read: differs", "bytes=", "DIFFERENT: ", "\n-one\n", "\n+two\n"] {
        assert!(compared.out.contains(part), "`{part}` is not in:\n{}", compared.out);
    }
    let json = place.run(&["diff", "a.tdm", "b.tdm", "--format", "json"]).json();
    let kinds = json["inputs"].as_array().unwrap();
    let typed = kinds.iter().find(|difference| difference["kind"] == "char-read").unwrap();
    assert!(typed["a"]["icount"].as_u64().is_some() && typed["a"] != typed["b"], "{typed}");
    let parted = json["run"]["divergence"]["icount"]["a"].as_u64().unwrap();
    // They part when the guest has read what differs, or before, when another input came at another time.
    let first = kinds.iter().filter_map(|difference| difference["a"]["icount"].as_u64()).min().unwrap();
    assert!(parted >= first, "{parted} {first}");
    assert!(json["console"].as_str().unwrap().contains("echo two"));
}
