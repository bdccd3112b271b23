//! A TCG developer wants no guest of a billion instructions in a bug report, but the few that it takes: `--reduce` cuts them
//! out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use corpus::faults::{fault, good};
use serde_json::Value;
use tandem::programs::{assembled, status};
use tandem::{Place, Ran, build, guest, words};

/// Rides the guest that shows a fault, and reduces that.
fn reduced(place: &Place, name: &str) -> Value {
    let fault = fault(name).unwrap();
    let (good, bad) = (good().unwrap().display().to_string(), fault.build().unwrap().display().to_string());
    let line = words(&["lockstep", "--a", &good, "--b", &bad, "--format", "json", "--reduce", "cut", "--"]);
    place.run(&[line, fault.arguments().unwrap()].concat()).ends_with(1).json()
}

fn code(report: &Value) -> Vec<&str> {
    let code = report["reduction"]["code"].as_array();
    code.unwrap_or_else(|| panic!("{}", report["notes"])).iter().map(|line| line.as_str().unwrap()).collect()
}

/// Flags that are not told, memory, a vector, and code of 32 bit.
#[test]
fn what_a_machine_s_code_does_wrong_is_shown_by_a_program() {
    for (name, last, most, seen) in [
        ("flag", "add eax, ebx", 2, "pushfq"),
        ("stored", "not word ptr [", 1, "not word ptr ["),
        ("vector", "phminposuw xmm0, xmm1", 1, "phminposuw"),
        ("encoding", "rol eax, 0x1b", 1, "rol eax, 0x1b"),
    ] {
        let place = Place::new();
        let report = reduced(&place, name);
        let code = code(&report);
        assert!(code.len() <= most && code.last().unwrap().starts_with(last), "{name}: {code:?}");
        assert_eq!(report["reduction"]["wrong"], "b", "{name}: {}", report["reduction"]);
        assert_eq!(place.left(), (words(&["cut"]), vec![]));
        let folder = place.path("cut");
        assert_eq!(status(&[], &folder.join("reduced")), Some(0));
        assert_eq!(status(&[], &assembled(&place, &folder.join("reduced.s"))), Some(0));
        // On a machine it is the same difference; of flags alone it shows where they are written down.
        let rom = folder.join("reduced.rom").display().to_string();
        let builds = ["a", "b"].map(|side| report["builds"][side]["path"].as_str().unwrap());
        let ride = words(&["lockstep", "--a", builds[0], "--b", builds[1], "--format", "json", "--"]);
        let machine =
            words(&["-M", "pc", "-m", "64", "-nodefaults", "-display", "none", "-no-reboot", "-bios", &rom]);
        let processor = words(&["-cpu", "qemu64,+sse4.1"]);
        let again = place.run(&[ride, machine, processor].concat()).ends_with(1).json();
        let instruction = again["divergence"]["instruction"]["a"].as_str().unwrap();
        assert!(instruction.starts_with(seen), "{name}: {}", again["summary"]);
    }
}

/// What the report says, a person reads.
#[test]
fn the_report_says_what_it_comes_down_to() {
    let place = Place::new();
    let fault = fault("fold").unwrap();
    let (good, bad) = (good().unwrap().display().to_string(), fault.build().unwrap().display().to_string());
    let line =
        words(&["lockstep", "--a", &good, "--b", &bad, "--reduce", "cut", "--report", "page.html", "--"]);
    let ran = place.run(&[line, fault.arguments().unwrap()].concat());
    ran.ends_with(1);
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    for text in [&ran.out, &page] {
        for part in [
            "reduced to 2 instructions, B is wrong; kept in cut",
            "mov eax, 0x12345678",
            "xor eax, 0x5bd1e995",
            "rax: 0x49e5bfed on A, 0x49e5bfec on B, the real processor 0x49e5bfed",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

/// An exception's frame, a device, an address of another processor: the difference stays found, a note says why there is no
/// program, and no folder.
#[test]
fn what_needs_more_than_code_is_said() {
    for (name, why) in [
        ("frame", "it comes of more than this code, its registers and memory"),
        ("console", "needs no more than registers and memory"),
    ] {
        let place = Place::new();
        let report = reduced(&place, name);
        let notes = report["notes"].to_string();
        assert!(notes.contains("not reduced: ") && notes.contains(why), "{name}: {notes}");
        assert_eq!((report.get("reduction"), place.left()), (None, (vec![], vec![])), "{name}");
    }
    let place = Place::new();
    let [a, b] = ["debian-7.2-aarch64", "debian-10.0-aarch64"].map(build);
    let line = words(&["lockstep", "--a", &a, "--b", &b, "--b-arg", "-cpu", "--b-arg", "cortex-a72"]);
    let more = words(&["--format", "json", "--reduce", "cut", "--"]);
    let report = place.run(&[line, more, guest("linux-aarch64")].concat()).ends_with(1).json();
    let notes = report["notes"].to_string();
    assert!(notes.contains("not reduced: the builds emulate aarch64"), "{notes}");
    assert_eq!(place.left(), (vec![], vec![]));
}

#[test]
fn a_folder_that_holds_something_is_not_written_to() {
    let place = Place::new();
    let build = build("debian-10.0");
    let ride = |folder: &str| -> Ran {
        let line = words(&["lockstep", "--a", &build, "--b", &build, "--reduce", folder, "--"]);
        place.run(&[line, guest("rom-arithmetic")].concat())
    };
    std::fs::create_dir(place.path("mine")).unwrap();
    std::fs::write(place.path("mine/notes"), "precious").unwrap();
    ride("mine").is_refused_with(&["`mine`", "something in it already"]);
    ride("mine/notes").is_refused_with(&["`mine/notes`"]);
    // Equal builds leave no folder.
    ride("cut").ends_with(0);
    assert_eq!(place.left(), (words(&["mine"]), vec![]));
}
