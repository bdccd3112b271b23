//! A user goes to a moment of a recording, by each of its names, forwards and backwards, with checkpoints and without.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use tandem::{ALL_BUILDS, BUILDS, Place, boot_sector, build, guest, words};

/// Every nth of them, `count` in all.
fn some(of: &[u64], count: usize) -> Vec<String> {
    of.iter().step_by(of.len().div_ceil(count)).map(u64::to_string).collect()
}

#[test]
fn a_linux_by_every_name_with_checkpoints_and_without() {
    for name in ALL_BUILDS {
        let place = Place::new();
        let recorded = place.record_a_kernel("boot.tdm", &build(name), "linux");

        // Where the log has interrupts and exceptions QEMU's own stop is one of two states by chance.
        let mut moments = some(&place.icounts("boot.tdm", "interrupt"), 6);
        moments.extend(some(&place.icounts("boot.tdm", "exception"), 6));
        moments.extend(words(&["1", "199999937"]));
        moments.sort_by_key(|icount| icount.parse::<u64>().unwrap());
        moments.insert(0, "0".to_owned());
        moments.extend(words(&["end-1", "end"]));
        let moments: Vec<&str> = moments.iter().map(String::as_str).collect();
        let forwards = place.at("boot.tdm", &moments);
        let end = &forwards[forwards.len() - 1];
        assert!(forwards.iter().all(|at| at.state.contains("RIP=") || at.state.contains("EIP=")));

        let indexed = place.run(&["index", "boot.tdm", "--every", "35000000"]);
        indexed.ends_with(0);
        assert!(indexed.out.contains(" checkpoints, each proven by a restore"), "{}", indexed.out);
        let made: u64 = indexed.out.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert_eq!(made, end.icount / 35_000_000);
        assert!(!indexed.out.contains("no checkpoint at"), "{}", indexed.out);
        place.run(&["replay", "boot.tdm"]).ends_with(0);
        // Backwards, so that each begins anew at a checkpoint.
        let backwards: Vec<&str> = moments.iter().rev().copied().collect();
        let mut again = place.at("boot.tdm", &backwards);
        again.reverse();
        assert_eq!(again, forwards, "{name}");

        // By position: each start of an instruction that faults has its own.
        let positions: Vec<String> =
            forwards.iter().rev().map(|at| format!("instruction:{}", at.position)).collect();
        let positions: Vec<&str> = positions.iter().map(String::as_str).collect();
        let mut by_position = place.at("boot.tdm", &positions);
        by_position.reverse();
        assert_eq!(by_position, forwards, "{name}");

        // By what the guest has written; its console up to there is shown, and no more.
        let named = place.run(&["replay", "boot.tdm", "--at", "console:Linux versio[n]"]);
        named.ends_with(0);
        let console = named.out.split("\nat icount").next().unwrap();
        assert!(console.ends_with("] Linux version"), "{console}");
        assert!(recorded.out.starts_with(console));

        // By an address: the nth time that the instruction there is about to start.
        let at = &by_position[8];
        let address = at.state.lines().find(|line| line.starts_with("0x")).unwrap();
        let address = address.split_whitespace().next().unwrap();
        let [first, third] =
            &place.at("boot.tdm", &[&format!("pc:{address}"), &format!("pc:{address}#3")])[..]
        else {
            panic!("two moments");
        };
        assert!(
            first.state.contains(&format!("\n{address}")) && third.state.contains(&format!("\n{address}"))
        );
        assert!(first.position < third.position && first.position <= at.position);

        for (moment, why) in [
            (format!("{}", end.icount + 1), "is behind the recording's end"),
            ("console:no such words".to_owned(), "nothing that matches"),
            ("pc:1234567#2".to_owned(), "never"),
            ("end-99999999999".to_owned(), "before the beginning"),
        ] {
            place.run(&["replay", "boot.tdm", "--at", &moment]).is_refused_with(&[why]);
        }
        place.run(&["index", "boot.tdm", "--remove"]).ends_with(0);
        assert!(std::fs::metadata(place.path("boot.tdm")).unwrap().len() < 100_000);
        assert_eq!(place.left(), (words(&["boot.tdm"]), words(&[])));
    }
}

#[test]
fn a_guest_with_a_disk_and_a_network_from_its_checkpoints() {
    for name in BUILDS {
        let place = Place::new();
        place.record("disk.tdm", &build(name), &guest("disk")).ends_with(0);
        // While it reads, while it writes, while it is on the network.
        let blocks = place.icounts("disk.tdm", "block");
        let packets = place.icounts("disk.tdm", "packet");
        let mut moments = some(&blocks, 8);
        moments.extend(some(&packets, 3));
        moments.push("end".to_owned());
        let moments: Vec<&str> = moments.iter().map(String::as_str).collect();
        let backwards: Vec<&str> = moments.iter().rev().copied().collect();
        let mut again = place.at("disk.tdm", &backwards);
        again.reverse();
        // Made by itself on the first seek of a recording as long as this.
        let summary = place.run(&["show", "disk.tdm"]);
        assert!(summary.out.contains("checkpoints"), "{}", summary.out);
        assert_eq!(place.at_in_one_run("disk.tdm", &moments), again, "{name}");
    }
}

#[test]
fn a_moment_is_shown_as_data() {
    let place = Place::new();
    place.record_a_kernel("boot.tdm", &build(BUILDS[0]), "linux");
    let writes = place.icounts("boot.tdm", "char-write");
    let (late, early) = (writes[150], writes[20]);
    let moments = [late.to_string(), early.to_string()];
    let at = ["--at", &moments[0], "--at", &moments[1]];
    let shown = place.at("boot.tdm", &[&moments[0], &moments[1]]);
    let ran = place.run(&[&["replay", "boot.tdm", "--format", "json"][..], &at].concat());
    ran.ends_with(0);
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{}", ran.out);
    for (line, shown) in lines.iter().zip(&shown) {
        assert_eq!((&line["icount"], &line["instruction"]), (&shown.icount.into(), &shown.position.into()));
        assert_eq!(line["proven"], true);
        // The same as is shown as text.
        let value = |name: &str| line["registers"][name].as_str().unwrap();
        for name in ["RAX", "RIP", "CR3"] {
            let digits = value(name).strip_prefix("0x").unwrap();
            assert!(shown.state.contains(&format!("{name}={digits}")), "{name}: {}", shown.state);
        }
        assert!(line["registers_text"].as_str().unwrap().contains("CS ="));
        let next = &line["next"][0];
        assert_eq!(next["address"], value("RIP"));
        assert!(shown.state.contains(next["text"].as_str().unwrap()), "{next}\n{}", shown.state);
        assert!(next["symbol"].is_null());
    }
    // Of each the console up to it, the byte that has just been written included.
    let console = |line: usize| lines[line]["console"].as_str().unwrap();
    assert_eq!((console(0).len(), console(1).len()), (151, 21));
    assert!(console(0).starts_with(console(1)));
    let alone = place.run(&["replay", "boot.tdm", "--format", "json"]);
    alone.ends_with(2);
}

#[test]
fn code_has_names_where_a_file_has_them() {
    let place = Place::new();
    // A floppy's size, or else the firmware takes it for none.
    let image = boot_sector(&place, "disk.s");
    std::fs::OpenOptions::new().append(true).open(&image).unwrap().set_len(1440 << 10).unwrap();
    let image = image.display().to_string();
    let qemu = build(BUILDS[0]);
    let line = words(&[
        "record",
        "-o",
        "b.tdm",
        "--until-icount",
        "60000000",
        "--",
        &qemu,
        "-hda",
        &image,
        "-nographic",
    ]);
    place.run(&line).ends_with(0);
    let symbols = place.path("boot.elf");
    let object = place.path("boot.o");
    let mut link = std::process::Command::new("ld");
    link.args(["-m", "elf_i386", "-Ttext", "0x7c00", "-e", "0x7c00", "-o"]).arg(&symbols).arg(object);
    assert!(link.status().unwrap().success());
    let symbols = symbols.display().to_string();
    let shown = place.run(&["replay", "b.tdm", "--at", "pc:7c00", "--symbols", &symbols]);
    shown.ends_with(0);
    assert!(shown.out.contains("0x0000000000007c00 <"), "{}", shown.out);
    place.run(&["replay", "b.tdm", "--at", "5", "--symbols", &image]).is_refused_with(&["boot.img", "ELF"]);
    place.run(&["replay", "b.tdm", "--symbols", &symbols]).ends_with(2);
}
