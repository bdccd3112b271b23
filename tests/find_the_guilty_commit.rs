//! A developer whose guest runs differently since some commit of QEMU's has that commit found: by `tandem bisect`, or by
//! `git bisect run tandem step`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod history;
mod tandem;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use corpus::faults::fault;
use history::{History, git, history};
use tandem::{Place, Ran, words};

/// What builds QEMU where the system's own meson is too old (./setup has unpacked a newer one), and has the given cache.
fn building(command: &mut Command, cache: Option<&Path>) {
    let meson = corpus::cache().unwrap().join("meson/usr");
    let path = std::env::var("PATH").unwrap();
    command.env("PYTHONPATH", meson.join("lib/python3/dist-packages"));
    command.env("PATH", format!("{}:/usr/bin:{path}", meson.join("bin").display()));
    if let Some(cache) = cache {
        command.env("XDG_CACHE_HOME", cache);
    }
}

/// Has the broken commit of a branch looked for; `options` are more of `tandem`'s.
fn bisect(
    place: &Place,
    history: &History,
    branch: &str,
    options: &[&str],
    guest: &[String],
    cache: Option<&Path>,
) -> Ran {
    let repository = history.repository.display().to_string();
    let start = words(&["bisect", "--repo", &repository, "--good", "base", "--bad", branch, "--format", "json"]);
    let line = [start, words(options), words(&["--"]), guest.to_vec()].concat();
    let mut command = place.command(&line);
    building(&mut command, cache);
    Ran::of(command.output().unwrap())
}

/// What stands in the result of a branch's bisection.
fn is_found(history: &History, branch: &str, ran: &Ran, file: &str) {
    let found = ran.ends_with(0).json();
    assert_eq!(found["commit"]["id"], history.broken(branch), "{}", ran.err);
    assert!(found["message"].as_str().unwrap().contains("breaks something"));
    // The commit touches another file too, and before this one.
    assert_eq!(found["hunks"].as_array().unwrap().len(), 2, "{}", found["hunks"]);
    assert_eq!(found["hunks"][0]["file"], file, "{}", found["hunks"]);
    assert!(found["hunks"][0]["because"].is_string(), "{}", found["hunks"]);
    assert_eq!(found["report"]["verdict"], "different");
    let marks: Vec<_> = found["steps"].as_array().unwrap().iter().map(|step| step["mark"].clone()).collect();
    assert!(marks.contains(&"good".into()) && marks.contains(&"bad".into()), "{marks:?}");
    assert!(marks.contains(&"skip".into()), "one that does not build is on the way: {marks:?}");
}

/// The program of tests/guests/bisected.s, with the part in which the fault shows.
fn program(place: &Place, part: &str) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/bisected.s");
    let (object, program) = (place.path("bisected.o"), place.path("bisected"));
    assert!(Command::new("as").arg("-o").arg(&object).arg(source).status().unwrap().success());
    assert!(Command::new("ld").arg("-o").arg(&program).arg(object).status().unwrap().success());
    vec![program.display().to_string(), part.to_owned()]
}

#[test]
fn the_commit_that_broke_a_machine_is_found() {
    let place = Place::new();
    let history = history();
    let before = history.state();
    let fault = fault("encoding").unwrap();
    let ran = bisect(&place, &history, fault.name, &[], &fault.arguments().unwrap(), None);
    is_found(&history, fault.name, &ran, fault.file);
    let report = &ran.json()["report"]["divergence"];
    assert_eq!(report["pc"]["a"], format!("{:#x}", fault.address().unwrap()));
    assert_eq!(report["stage"], "backend");
    assert_eq!(history.state(), before, "the user's repository is as it was");
}
