//! A recording goes to another machine, with the guest's files inside it.

mod tandem;

use tandem::{BUILDS, Place, build, guest, words};

#[test]
fn a_packed_recording_replays_without_the_guests_files() {
    let place = Place::new();
    let firmware = corpus::cache().unwrap().join("firmware");
    std::fs::create_dir(place.path("fw")).unwrap();
    for name in ["bios-256k.bin", "kvmvapic.bin", "vgabios-stdvga.bin"] {
        std::fs::copy(firmware.join(name), place.path("fw").join(name)).unwrap();
    }
    // By a path from here, and by one from the root.
    for (name, folder) in
        [("relative", "fw".to_owned()), ("absolute", place.path("fw").display().to_string())]
    {
        let file = format!("{name}.tdm");
        let line = [guest("seabios"), words(&["-L", &folder])].concat();
        let line: Vec<String> = line.into_iter().filter(|word| !word.contains("/firmware")).collect();
        let line: Vec<String> = line
            .iter()
            .enumerate()
            .filter(|(at, word)| *word != "-L" || line[at + 1] == folder)
            .map(|(_, word)| word.clone())
            .collect();
        place.record(&file, &build(BUILDS[0]), &line).ends_with(0);
        place
            .run(&["unpack", &file, "out"])
            .is_refused_with(&["does not hold its guest's files", "tandem pack"]);
        let packed = place.run(&["pack", &file]);
        packed.ends_with(0);
        assert!(packed.out.contains("3 files"), "{}", packed.out);
        place.run(&["pack", &file]).is_refused_with(&["already"]);
        place.run(&["replay", &file]).ends_with(0);
    }
    std::fs::rename(place.path("fw"), place.path("gone")).unwrap();
    for name in ["relative", "absolute"] {
        let (file, out) = (format!("{name}.tdm"), format!("out-{name}"));
        place.run(&["replay", &file]).is_refused_with(&["bios-256k.bin", "--files"]);
        place.run(&["unpack", &file, &out]).ends_with(0);
        let replayed = place.run(&["replay", &file, "--files", &out]);
        replayed.ends_with(0);
        assert!(replayed.out.contains("identical: 6,"), "{}", replayed.out);
        place.run(&["unpack", &file, &out]).is_refused_with(&["has something in it"]);
        let bios = place.path(&out).join(place.path("fw/bios-256k.bin").strip_prefix("/").unwrap());
        let mut bytes = std::fs::read(&bios).unwrap();
        assert_eq!(bytes, std::fs::read(place.path("gone/bios-256k.bin")).unwrap());
        bytes[5] ^= 1;
        std::fs::write(&bios, bytes).unwrap();
        place.run(&["replay", &file, "--files", &out]).is_refused_with(&["bios-256k.bin", "has changed"]);
    }
}
