//! Bad input gets one line that says what is wrong and what to do, and exit code 2.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::os::unix::fs::PermissionsExt;

use tandem::{BUILDS, Place, build, guest, words};

fn script(place: &Place, name: &str, text: &str) -> String {
    let path = place.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_qemu_that_is_none() {
    let place = Place::new();
    place.record("x", "/no/such/qemu", &[]).is_refused_with(&["no QEMU at `/no/such/qemu`"]);
    place.record("x", "/bin/true", &[]).is_refused_with(&["/bin/true", "is not a QEMU"]);
    let a = build(BUILDS[0]);
    place
        .run(&["lockstep", "--a", &a, "--b", "nope", "--", "-M", "pc"])
        .is_refused_with(&["no QEMU at `nope`"]);
    assert_eq!(place.left(), (vec![], vec![]));
}

#[test]
fn more_compared_than_a_build_can_tell() {
    let place = Place::new();
    let (a, b) = (build("debian-10.0"), build("debian-7.2"));
    let line = words(&["lockstep", "--compare", "full", "--a", &a, "--b", &b, "--"]);
    place
        .run(&[line, guest("seabios")].concat())
        .is_refused_with(&["side B tells no registers", "`--compare stores` is the most"]);
    assert_eq!(place.left(), (vec![], vec![]));
}

/// A wrapper around a real QEMU, which says what a build configured otherwise says. There is no such build here.
#[test]
fn a_qemu_without_tcg_or_without_plugins() {
    let place = Place::new();
    let real = build(BUILDS[0]);
    let no_tcg = script(
        &place,
        "no-tcg",
        &format!(r#"[ "$1" = -accel ] && {{ echo Accelerators:; echo kvm; exit; }}; exec {real} "$@""#),
    );
    place.record("x", &no_tcg, &guest("seabios")).is_refused_with(&["has no TCG", "kvm"]);
    let no_plugins = script(
        &place,
        "no-plugins",
        &format!(
            r#"case "$*" in *-plugin*) echo "qemu: plugin interface not enabled in this build" >&2; exit 1;; esac; exec {real} "$@""#
        ),
    );
    place.record("x", &no_plugins, &guest("seabios")).is_refused_with(&["built without plugins"]);
    assert_eq!(place.left(), (words(&["no-plugins", "no-tcg"]), vec![]));
}

#[test]
fn a_device_that_qemu_cannot_make() {
    for version in BUILDS {
        let place = Place::new();
        let mut line = guest("seabios");
        line.extend(words(&["-device", "e1000,romfile=no-such.rom"]));
        let refused = place.record("x.tdm", &build(version), &line);
        refused.is_refused_with(&["before the guest's first instruction", "no-such.rom"]);
        assert_eq!(place.left(), (vec![], vec![]));
    }
}

#[test]
fn a_guest_that_cannot_be_recorded() {
    let place = Place::new();
    for (option, parts) in [
        ("-enable-kvm", &["-enable-kvm", "TCG"][..]),
        ("-accel kvm", &["-accel kvm"]),
        ("-smp 2", &["-smp 2", "one vCPU"]),
        ("-snapshot", &["-snapshot"]),
        ("-rtc base=localtime", &["localtime"]),
        ("-M q35 -hda disk.img", &["-hda disk.img", "AHCI", "if=virtio"]),
        ("-device nvme,serial=1", &["-device nvme", "virtio-blk-pci"]),
        ("-netdev tap,id=n,vhost=on", &["vhost=on", "vhost=off"]),
        ("-virtfs local,path=/tmp,mount_tag=t,security_model=none", &["-virtfs", "disk image"]),
        ("-hda none.img", &["none.img"]),
    ] {
        let line: Vec<String> = option.split(' ').map(str::to_owned).collect();
        place.record("x", &build(BUILDS[0]), &line).is_refused_with(parts);
    }
    let a = build(BUILDS[0]);
    let live = ["lockstep", "--a", &a, "--b", &a, "--", "-hda", "disk.img"];
    place.run(&live).is_refused_with(&["side A can't be recorded", "'disk.img'"]);
    assert_eq!(place.left(), (vec![], vec![]));
}

/// What QEMU itself refuses is told in QEMU's words.
#[test]
fn an_option_that_qemu_does_not_know() {
    let place = Place::new();
    let refused = place.record("x", &build(BUILDS[0]), &words(&["-M", "no-such-machine"]));
    refused.is_refused_with(&["ended before the guest's first instruction"]);
    assert_eq!(place.left(), (vec![], vec![]), "nothing was recorded, nothing is left");
}

#[test]
fn a_recording_that_is_none_or_not_whole() {
    let place = Place::new();
    place.run(&["replay", "none.tdm"]).is_refused_with(&["none.tdm", "can't be read"]);
    std::fs::write(place.path("text.tdm"), "not a recording at all").unwrap();
    place.run(&["replay", "text.tdm"]).is_refused_with(&["text.tdm", "is not a recording"]);
    place.record("bios.tdm", &build(BUILDS[0]), &guest("seabios")).ends_with(0);
    let whole = std::fs::read(place.path("bios.tdm")).unwrap();
    std::fs::write(place.path("cut.tdm"), &whole[..whole.len() / 2]).unwrap();
    place.run(&["replay", "cut.tdm"]).is_refused_with(&["cut.tdm", "truncated"]);
    let mut other = whole.clone();
    other[8] = 99;
    std::fs::write(place.path("other.tdm"), other).unwrap();
    place
        .run(&["replay", "other.tdm"])
        .is_refused_with(&["format version 99", "use the tandem that made it"]);
    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    std::fs::write(place.path("damaged.tdm"), damaged).unwrap();
    place.run(&["replay", "damaged.tdm"]).is_refused_with(&["damaged.tdm"]);
    place.record("bios.tdm", &build(BUILDS[0]), &guest("seabios")).is_refused_with(&["bios.tdm", "exists"]);
}

#[test]
fn a_probe_that_is_missing() {
    let place = Place::new();
    let line = [words(&["record", "-o", "x", "--", &build(BUILDS[0])]), guest("seabios")].concat();
    place
        .run_with(("TANDEM_PROBE", "/no/probe.so"), &line)
        .is_refused_with(&["/no/probe.so", "TANDEM_PROBE"]);
}
