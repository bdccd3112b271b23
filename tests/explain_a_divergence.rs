//! A TCG developer sees what both builds make of the guilty block.

mod tandem;

use serde_json::Value;
use tandem::{Place, Ran, build, guest, words};

fn explained(place: &Place, a: &str, b: &str, options: &[&str], guest: &[String]) -> Ran {
    let start = words(&["lockstep", "--a", &build(a), "--b", &build(b), "--explain"]);
    let rest = if guest.is_empty() { Vec::new() } else { [words(&["--"]), guest.to_vec()].concat() };
    place.run(&[start, words(options), rest].concat())
}

fn rows<'v>(explanation: &'v Value, stage: &str) -> &'v Vec<Value> {
    explanation[stage].as_array().unwrap_or_else(|| panic!("no {stage} in {explanation}"))
}

fn differ(explanation: &Value, stage: &str) -> bool {
    rows(explanation, stage).iter().any(|row| row["same"] == false)
}

/// Two releases part in the firmware; they make other ops of most code.
#[test]
fn two_releases_make_other_ops_of_the_block() {
    let place = Place::new();
    let ran = explained(&place, "debian-7.2", "debian-10.0", &["--format", "json"], &guest("linux"));
    let report = ran.ends_with(1).json();
    let explanation = &report["explanation"];
    assert_eq!(explanation["stage"], "frontend", "{explanation}");
    for side in ["a", "b"] {
        let block = &explanation["block"][side];
        assert_eq!(
            block["pc"],
            report["divergence"]["previous"][side].as_array().unwrap().last().unwrap()["pc"]
        );
        assert_eq!(block["whole"], true);
        assert!(block["times"].as_u64().unwrap() >= 1);
    }
    // The guest's code is the same, and has the instruction that parted them.
    assert!(!differ(explanation, "guest"));
    let guilty = report["divergence"]["pc"]["a"].as_str().unwrap();
    let has = |row: &Value| row["a"].as_str().is_some_and(|line| line.starts_with(guilty));
    assert!(rows(explanation, "guest").iter().any(has), "{explanation}");
    for stage in ["ops", "optimised", "host"] {
        assert!(differ(explanation, stage) && rows(explanation, stage).iter().any(|row| row["same"] == true));
    }
    assert!(explanation["notes"].to_string().contains("two releases"), "{}", explanation["notes"]);
    assert_eq!(place.left(), (Vec::new(), Vec::new()));

    let page = explained(&place, "debian-7.2", "debian-10.0", &[], &guest("linux")).out;
    let shown: Vec<&str> = page.lines().skip_while(|line| !line.contains("explanation: frontend")).collect();
    assert!(shown.len() > 20, "{page}");
    assert!(
        shown.iter().take_while(|line| !line.contains("note:")).all(|line| line.chars().count() <= 100),
        "{page}"
    );
}

/// Another CPU model answers `cpuid` otherwise: the code that branches on it is the same.
#[test]
fn a_difference_in_a_helper_is_not_put_down_to_the_translation() {
    let place = Place::new();
    let options = ["--b-arg", "-cpu", "--b-arg", "max", "--format", "json"];
    let live = explained(&place, "debian-10.0", "debian-10.0", &options, &guest("linux")).ends_with(1).json();
    place.record_a_kernel("boot.tdm", &build("debian-10.0"), "linux");
    let options = [&["--recording", "boot.tdm"][..], &options[..]].concat();
    let recorded = explained(&place, "debian-10.0", "debian-10.0", &options, &[]).ends_with(1).json();
    for report in [live, recorded] {
        assert_eq!(report["explanation"]["stage"], "none", "{}", report["explanation"]);
        assert!(
            report["explanation"]["summary"].as_str().unwrap().contains("the same code: look at helpers")
        );
    }
    assert_eq!(place.left(), (vec!["boot.tdm".to_owned()], Vec::new()));
}

#[test]
fn other_processors_are_explained_too() {
    for target in ["aarch64", "riscv64"] {
        let place = Place::new();
        let (a, b) = (format!("debian-7.2-{target}"), format!("debian-10.0-{target}"));
        let ran = explained(&place, &a, &b, &["--format", "json"], &guest(&format!("linux-{target}")));
        let report = ran.ends_with(1).json();
        let explanation = &report["explanation"];
        assert!(!explanation.is_null(), "{target}: {}", report["notes"]);
        assert!(!differ(explanation, "guest"));
        assert!(!rows(explanation, "host").is_empty());
    }
}

#[test]
fn what_is_not_asked_for_is_not_done() {
    let place = Place::new();
    let line = |options: &[&str]| {
        let (a, b) = (build("debian-7.2"), build("debian-10.0"));
        let start = words(&["lockstep", "--a", &a, "--b", &b, "--format", "json"]);
        [start, words(options), words(&["--"]), guest("linux")].concat()
    };
    for options in [&[][..], &["--explain", "--no-explain"]] {
        assert_eq!(place.run(&line(options)).ends_with(1).json().get("explanation"), None);
    }
}
