//! A TCG developer has a build that is wrong somewhere, and a guest: which instruction is it?
//!
//! The builds are QEMU with one small edit each, of which the guilty instruction is known (corpus/faults/list.txt).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use serde_json::Value;
use tandem::Place;

fn ride(fault: &corpus::faults::Fault) -> Value {
    let place = Place::new();
    let good = corpus::faults::good().unwrap().display().to_string();
    let bad = fault.build().unwrap().display().to_string();
    let line =
        ["lockstep", "--explain", "--format", "json", "--a", &good, "--b", &bad, "--"].map(str::to_owned);
    let report = place.run(&[line.to_vec(), fault.arguments().unwrap()].concat()).ends_with(1).json();
    assert_eq!(place.left(), (vec![], vec![]));
    report
}

/// How many instructions are executed before the guilty one: not by a ride, but by a replay of a recording.
fn before(place: &Place, fault: &corpus::faults::Fault) -> u64 {
    let recording = format!("{}.tdm", fault.guest);
    if !place.path(&recording).exists() {
        let good = corpus::faults::good().unwrap().display().to_string();
        let line = ["record", "--time", "virtual", "-o", &recording, "--", &good].map(str::to_owned);
        place.run(&[line.to_vec(), fault.arguments().unwrap()].concat()).ends_with(0);
    }
    let moment = format!("pc:{:x}#{}", fault.address().unwrap(), fault.nth);
    place.run(&["replay", &recording, "--at", &moment, "--format", "json"]).ends_with(0).json()["instruction"]
        .as_u64()
        .unwrap()
}

/// The stage is named where both builds make something else of the block.
#[test]
fn each_fault_is_laid_at_the_right_instruction_and_stage() {
    let mut wrong = Vec::new();
    let place = Place::new();
    for fault in corpus::faults::faults() {
        let report = ride(&fault);
        let divergence = &report["divergence"];
        let wanted = format!("{:#x}", fault.address().unwrap());
        if divergence["pc"]["a"] != wanted.as_str() {
            wrong.push(format!("{}: {wanted} is guilty, and it says {}", fault.name, report["summary"]));
        }
        let wanted = before(&place, &fault);
        if divergence["icount"]["a"] != wanted {
            wrong.push(format!("{}: it is icount {wanted}, and it says {}", fault.name, report["summary"]));
        }
        let stage = match fault.stage.name() {
            "helper" | "device" => "none",
            // One side executes what was there before.
            "runtime" => "guest-code",
            made => made,
        };
        // The instruction by which it is found is a later one where the guilty one tells nothing itself.
        let later = divergence["seen"]["icount"].as_u64() > divergence["icount"]["a"].as_u64();
        let certainty = divergence["certainty"].as_str().unwrap();
        if certainty != "reasoned" && later != matches!(certainty, "flags" | "unseen") {
            wrong.push(format!("{}: it is said to show first at {}", fault.name, divergence["seen"]));
        }
        if divergence["stage"] != stage || report["explanation"]["stage"] != stage {
            wrong.push(format!(
                "{}: its stage is {stage}, and it says {}",
                fault.name, report["explanation"]["summary"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A good build that tells no registers, and of another release: they are read through its monitor.
#[test]
fn an_old_good_build_is_good_enough() {
    for (name, certainty) in [
        ("flag", "flags"),
        ("fold", "reasoned"),
        ("liveness", "reasoned"),
        ("encoding", "seen"),
        ("link", "seen"),
    ] {
        let fault = corpus::faults::fault(name).unwrap();
        let place = Place::new();
        let (good, bad) = (tandem::build("debian-7.2"), fault.build().unwrap().display().to_string());
        let line = ["lockstep", "--format", "json", "--a", &good, "--b", &bad, "--"].map(str::to_owned);
        let report = place.run(&[line.to_vec(), fault.arguments().unwrap()].concat()).ends_with(1).json();
        let divergence = &report["divergence"];
        assert_eq!(divergence["pc"]["a"], format!("{:#x}", fault.address().unwrap()), "{name}: {report}");
        assert_eq!(divergence["certainty"], certainty, "{name}: {report}");
        assert!(report["notes"].to_string().contains("QEMU's monitor"), "{report}");
        assert_eq!(place.left(), (vec![], vec![]));
    }
}

/// A byte that is another one on its way from the guest to the device: the guest knows nothing of it.
#[test]
fn what_only_the_console_shows_has_its_instruction() {
    let report = ride(&corpus::faults::fault("console").unwrap());
    let divergence = &report["divergence"];
    assert_eq!(divergence["kind"], "console");
    assert_eq!(divergence["instruction"]["a"], "out dx, al");
    assert_eq!(divergence["accesses"]["a"][0]["value"], "0x7e");
    assert_eq!(divergence["accesses"]["b"][0]["value"], "0x7f");
}

/// A helper that never comes back, in the middle of instructions of which none is counted by itself. Whoever wants to know why
/// reads what QEMU said last.
#[test]
fn a_build_that_hangs_in_its_own_code_does_so_at_an_instruction() {
    let report = ride(&corpus::faults::fault("hang").unwrap());
    let divergence = &report["divergence"];
    assert_eq!(divergence["kind"], "hang");
    assert_eq!(divergence["instruction"]["a"], "seto cl");
    assert_eq!(divergence["in_block"]["a"], serde_json::json!([6, 9]));
    let summary = report["summary"].as_str().unwrap();
    assert!(summary.contains("side B stood still") && summary.contains("side A went on"), "{summary}");
    let last = divergence["previous"]["a"].as_array().unwrap().last().unwrap();
    assert_eq!(last["instructions"].as_array().unwrap().last().unwrap()["text"], "seto cl");
    assert!(report["notes"].to_string().contains("side B said: no end"), "{report}");
}

/// The good build against itself, over the same guests.
#[test]
fn a_good_build_is_not_accused() {
    let good = corpus::faults::good().unwrap().display().to_string();
    let place = Place::new();
    let mut guests: Vec<Vec<String>> =
        corpus::faults::faults().map(|fault| fault.arguments().unwrap()).collect();
    guests.sort();
    guests.dedup();
    assert!(guests.len() > 4);
    for guest in guests {
        for options in [&[][..], &["--loads"]] {
            let line = ["lockstep", "--a", &good, "--b", &good].map(str::to_owned);
            let options = [options, &["--"]].concat();
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            place.run(&[line.to_vec(), options, guest.clone()].concat()).ends_with(0);
        }
    }
}
