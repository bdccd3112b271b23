//! QEMU's command line as users write it: every common form of a disk and a network is recorded and replayed as it is,
//! and nothing of the user's is written to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::path::PathBuf;
use std::process::Command;

use tandem::{BUILDS, Place, boot_sector, build, guest, words};

const SAID: &str = "the second sector\nwritten and read again\n";

/// The disk that `guests/disk.s` boots from, of the size of a floppy.
fn disk(place: &Place) -> Vec<u8> {
    let mut bytes = std::fs::read(boot_sector(place, "disk.s")).unwrap();
    bytes.extend_from_slice(b"the second sector\n");
    bytes.resize(1_474_560, 0);
    std::fs::write(place.path("disk.img"), &bytes).unwrap();
    bytes
}

fn qemu_img(place: &Place, arguments: &str) {
    let ran =
        Command::new("qemu-img").current_dir(place.path("")).args(arguments.split(' ')).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

fn line(options: &str) -> Vec<String> {
    words(
        &["-M pc-i440fx-7.2 -m 32 -display none -serial stdio", options]
            .join(" ")
            .split(' ')
            .collect::<Vec<_>>(),
    )
}

/// Records and replays each form of a disk on `build`.
fn every_form_of_a_disk(name: &str) {
    let place = Place::new();
    let bytes = disk(&place);
    qemu_img(&place, "create -q -f qcow2 -b disk.img -F raw over.qcow2");
    std::fs::write(place.path("cd.iso"), vec![7; 1 << 20]).unwrap();
    let over = std::fs::read(place.path("over.qcow2")).unwrap();
    for (at, form) in [
        "-hda disk.img",
        "disk.img",
        "-fda disk.img",
        "-drive file=disk.img,format=raw",
        "-drive file=disk.img,format=raw,if=virtio,cache=none",
        "-drive file=disk.img,format=raw,if=none,id=d -device virtio-blk-pci,drive=d",
        "-device virtio-scsi-pci -drive file=disk.img,format=raw,if=none,id=d -device scsi-hd,drive=d",
        "-blockdev driver=file,filename=disk.img,node-name=f -blockdev driver=raw,file=f,node-name=d -device virtio-blk-pci,drive=d",
        r#"-blockdev {"driver":"raw","node-name":"d","file":{"driver":"file","filename":"disk.img"}} -device {"driver":"virtio-blk-pci","drive":"d"}"#,
        "-drive file=over.qcow2,format=qcow2,if=virtio",
        "-hda disk.img -cdrom cd.iso",
        "-drive file=over.qcow2",
    ]
    .into_iter()
    .enumerate()
    {
        let file = format!("{at}.tdm");
        let recorded = place.record(&file, &build(name), &line(form));
        assert!(recorded.code == Some(0) && recorded.out.contains(SAID), "{form}: {}{}", recorded.out, recorded.err);
        let replayed = place.run(&["replay", &file]);
        assert!(replayed.code == Some(0), "{form}: {}{}", replayed.out, replayed.err);
        assert!(replayed.out.contains(SAID) && replayed.out.contains("identical: "), "{form}: {}", replayed.out);
    }
    assert!(std::fs::read(place.path("disk.img")).unwrap() == bytes, "the image is as it was");
    assert!(std::fs::read(place.path("over.qcow2")).unwrap() == over, "the image over it is as it was");
    // A replay of what is over an image needs the image under it as it was.
    std::fs::write(place.path("disk.img"), [&bytes[..4096], b"x"].concat()).unwrap();
    place.run(&["replay", "9.tdm"]).is_refused_with(&["disk.img", "has changed"]);
}

#[test]
fn every_form_of_a_disk_on_qemu_7_2() {
    every_form_of_a_disk(BUILDS[0]);
}

#[test]
fn every_form_of_a_disk_on_qemu_10_0() {
    every_form_of_a_disk(BUILDS[1]);
}

/// A Linux that mounts, writes and reads a virtio disk, gets an address and pings, from the line that a user would
/// write.
#[test]
fn a_linux_with_a_disk_and_a_network() {
    let place = Place::new();
    let line = guest("disk");
    let image = line
        .iter()
        .find_map(|word| word.strip_prefix("file=")?.split(',').next())
        .map(PathBuf::from)
        .unwrap();
    let before = std::fs::read(&image).unwrap();
    for name in BUILDS {
        let file = format!("{name}.tdm");
        let recorded = place.record(&file, &build(name), &line);
        recorded.ends_with(0);
        for said in [
            "disk: mounted",
            "disk: wrote and synced",
            "disk: what was written is read again",
            "disk: unmounted",
            "net: address 10.0.2.15",
            "net: 3 packets transmitted, 3 packets received",
        ] {
            assert!(recorded.out.contains(said), "{name}: `{said}` is not in:\n{}", recorded.out);
        }
        let replayed = place.run(&["replay", &file]);
        replayed.ends_with(0);
        assert!(replayed.out.contains("identical: "), "{}", replayed.out);
        assert!(replayed.out.starts_with(&recorded.out), "the console is the same");
        let shown = place.run(&["show", &file, "--format", "json"]).json();
        assert!(
            shown["events"]["packet"].as_u64() >= Some(4) && shown["events"]["block"].as_u64() > Some(0),
            "{shown}"
        );
    }
    assert!(std::fs::read(&image).unwrap() == before, "the image is as it was");
}

#[test]
fn a_serial_port_with_a_monitor_and_a_second_one_into_a_file() {
    let place = Place::new();
    disk(&place);
    for (at, ports) in ["-nographic", "-display none -serial mon:stdio", "-display none -serial stdio"]
        .into_iter()
        .enumerate()
    {
        let file = format!("{at}.tdm");
        // -nographic takes the first port only where no other is given.
        let second = if at == 0 { "" } else { " -serial file:second.txt" };
        let options = format!("-M pc -m 32 {ports}{second} -hda disk.img");
        let recorded =
            place.record(&file, &build(BUILDS[0]), &words(&options.split(' ').collect::<Vec<_>>()));
        recorded.ends_with(0);
        assert!(recorded.out.contains(SAID), "{}", recorded.out);
        if at > 0 {
            assert_eq!(std::fs::read_to_string(place.path("second.txt")).unwrap(), SAID);
            std::fs::write(place.path("second.txt"), "the user's own").unwrap();
        }
        let replayed = place.run(&["replay", &file]);
        replayed.ends_with(0);
        assert!(replayed.out.contains("identical: "), "{}", replayed.out);
        if at > 0 {
            let second = std::fs::read_to_string(place.path("second.txt")).unwrap();
            assert_eq!(second, "the user's own", "a replay writes over nothing");
        }
    }
}

/// Networks with another card than virtio's, random numbers, and a network that listens for the host.
#[test]
fn networks_and_random_numbers() {
    let place = Place::new();
    disk(&place);
    for (at, options) in [
        "-nic user,model=e1000,hostfwd=tcp:127.0.0.1:0-:22",
        "-netdev user,id=n -device rtl8139,netdev=n",
        "-net nic,model=e1000 -net user",
        "-object rng-random,filename=/dev/urandom,id=r -device virtio-rng-pci,rng=r",
    ]
    .into_iter()
    .enumerate()
    {
        for name in BUILDS {
            let file = format!("{at}-{name}.tdm");
            let line = line(&format!("-hda disk.img {options}"));
            let recorded = place.record(&file, &build(name), &line);
            assert!(
                recorded.code == Some(0) && recorded.out.contains(SAID),
                "{options}: {}{}",
                recorded.out,
                recorded.err
            );
            let replayed = place.run(&["replay", &file]);
            assert!(replayed.code == Some(0), "{options}: {}{}", replayed.out, replayed.err);
        }
    }
}

/// What would be run is shown with each change and its reason, and nothing is started.
#[test]
fn looking_first_at_what_would_be_run() {
    let place = Place::new();
    disk(&place);
    let qemu = build(BUILDS[0]);
    let line = words(&[
        "record",
        "--dry-run",
        "--",
        &qemu,
        "-nographic",
        "-hda",
        "disk.img",
        "-nic",
        "user,model=virtio",
    ]);
    let shown = place.run(&line);
    shown.ends_with(0);
    let mut lines = shown.out.lines();
    let first = lines.next().unwrap();
    for part in [&qemu, "driver=blkreplay", "filter-replay,", "virtio-net-device.tx=timer", "rr=record"] {
        assert!(first.contains(part), "`{part}` is not in: {first}");
    }
    assert!(!first.contains("-nographic"), "{first}");
    let changes: Vec<&str> = lines.collect();
    for change in
        ["-nographic -> ", "-hda disk.img -> ", "-nic user,model=virtio -> ", "+ -global ", "+ -icount "]
    {
        let of = changes.iter().find(|line| line.trim_start().starts_with(change));
        assert!(of.is_some_and(|line| line.contains(": ")), "{change}: {}", shown.out);
    }
    let (files, temporary) = place.left();
    assert_eq!((files, temporary), (words(&["boot.img", "boot.o", "disk.img"]), vec![]));
    // A doubt is told, on its own.
    let doubtful = place.run(&[line, words(&["-vga", "qxl"])].concat());
    doubtful.ends_with(0);
    assert!(doubtful.out.contains("warning: `-vga qxl`: "), "{}", doubtful.out);
}
