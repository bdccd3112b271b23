//! A TCG developer has one build and no good one to compare it with.

mod tandem;

use serde_json::Value;
use tandem::{ALL_BUILDS, BUILDS, Place, build, guest, words};

fn selfcheck(build: &str, options: &[&str], guest: &[String]) -> Vec<String> {
    let rest = if guest.is_empty() { Vec::new() } else { [words(&["--"]), guest.to_vec()].concat() };
    [words(&["selfcheck", build, "--format", "json"]), words(options), rest].concat()
}

fn found(checked: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let settings = checked["settings"].as_array().into_iter().flatten();
    settings.map(|setting| (text(&setting["name"]), text(&setting["found"]))).collect()
}

/// It copies itself over itself with `rep movsb`, and in a block of more than one instruction what overwrites itself starts
/// twice.
#[test]
fn firmware_is_the_same_with_every_setting() {
    for name in ALL_BUILDS {
        let place = Place::new();
        let ran = place.run(&selfcheck(&build(name), &[], &guest("seabios")));
        let checked = ran.ends_with(0).json();
        assert_eq!(checked["verdict"], "same");
        let expected = ["one-insn-per-tb", "nochain", "tb-size", "split-wx"]
            .map(|setting| (setting.to_owned(), "same".to_owned()));
        assert_eq!(found(&checked), expected, "{name}");
        for setting in checked["settings"].as_array().unwrap() {
            assert!(setting["summary"].as_str().unwrap().contains("instructions"), "{setting}");
        }
        assert_eq!(checked.get("report"), None);
    }
}

#[test]
fn a_recorded_boot_is_the_same_with_every_setting() {
    for name in BUILDS {
        let place = Place::new();
        place.record_a_kernel("boot.tdm", &build(name), "linux");
        let checked =
            place.run(&selfcheck(&build(name), &["--recording", "boot.tdm"], &[])).ends_with(0).json();
        let expected = ["one-insn-per-tb", "nochain", "tb-size", "split-wx"]
            .map(|name| (name.to_owned(), "same".to_owned()));
        assert_eq!(found(&checked), expected, "{name}");
        let line = words(&["selfcheck", &build(name), "--recording", "boot.tdm", "--setting", "nochain"]);
        let text = place.run(&line);
        assert!(text.ends_with(0).out.starts_with("same       -d nochain "), "{}", text.out);
        assert_eq!(text.out.lines().count(), 1, "{}", text.out);
    }
}

/// A build of which blocks that are not chained do something else: a wrapper, which gives it another CPU then.
#[test]
fn a_setting_that_changes_the_guest_is_reported() {
    let place = Place::new();
    let wrapper = place.path("qemu-system-x86_64");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *nochain*) set -- \"$@\" -cpu max;; esac\nexec {} \"$@\"\n",
        build("debian-10.0")
    );
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = ["--setting", "split-wx", "--setting", "nochain"];
    let checked =
        place.run(&selfcheck(&wrapper.display().to_string(), &options, &guest("linux"))).ends_with(1).json();
    assert_eq!(
        found(&checked),
        [("nochain".to_owned(), "different".to_owned()), ("split-wx".to_owned(), "same".to_owned())]
    );
    assert_eq!(checked["verdict"], "different");
    assert_eq!(checked["report"]["verdict"], "different");
    assert!(checked["report"]["notes"].to_string().contains("`cpuid`"), "{}", checked["report"]["notes"]);
    assert_eq!(place.left().0, ["qemu-system-x86_64"]);
}

#[test]
fn what_the_build_does_not_take_is_said_in_its_words() {
    let place = Place::new();
    let line = [guest("seabios"), words(&["-machine", "accel=tcg"])].concat();
    let checked =
        place.run(&selfcheck(&build("debian-7.2"), &["--setting", "tb-size"], &line)).ends_with(2).json();
    assert_eq!(found(&checked), [("tb-size".to_owned(), "refused".to_owned())]);
    let why = checked["settings"][0]["summary"].as_str().unwrap();
    assert!(why.contains("are incompatible"), "{why}");
    // An -accel of the guest's own would go before, in silence.
    let line = [guest("seabios"), words(&["-accel", "tcg"])].concat();
    let options = ["--setting", "nochain", "--setting", "tb-size", "--setting", "split-wx"];
    let checked = place.run(&selfcheck(&build("debian-7.2"), &options, &line)).ends_with(0).json();
    let expected = ["same", "refused", "refused"];
    assert_eq!(found(&checked).into_iter().map(|(_, found)| found).collect::<Vec<_>>(), expected);
    place
        .run(&selfcheck(&build("debian-7.2"), &[], &words(&["-enable-kvm"])))
        .is_refused_with(&["-enable-kvm"]);
}
