//! A TCG developer rides two builds in lockstep.

mod tandem;

use serde_json::Value;
use tandem::{ALL_BUILDS, BUILDS, Place, build, guest, words};

fn lockstep(a: &str, b: &str, options: &[&str], guest: &[String]) -> Vec<String> {
    let start = words(&["lockstep", "--a", &build(a), "--b", &build(b), "--format", "json"]);
    let rest = if guest.is_empty() { Vec::new() } else { [words(&["--"]), guest.to_vec()].concat() };
    [start, words(options), rest].concat()
}

#[test]
fn a_build_is_the_same_as_itself_over_a_whole_boot() {
    for name in ALL_BUILDS {
        let place = Place::new();
        let ran = place.run(&lockstep(name, name, &[], &guest("linux")));
        ran.ends_with(0);
        let report = ran.json();
        assert_eq!(report["verdict"], "same");
        assert_eq!(report["compared"]["driven_by"], "live");
        assert!(report["compared"]["instructions"].as_u64().unwrap() > 1_000_000_000);
        assert_eq!(report.get("divergence"), None);
    }
}

/// Every way to cut blocks gives the same stream: with one instruction a block, on the same recording.
#[test]
fn one_instruction_a_block_is_the_same_run() {
    let place = Place::new();
    place.record("boot.tdm", &build("debian-10.0"), &guest("linux")).ends_with(0);
    // Right before it ends this Linux stores flags behind a `bt`, which leaves OF undefined: QEMU makes another of it in a block of
    // more than one instruction.
    let options = ["--compare", "flow", "--b-arg", "-accel", "--b-arg", "tcg,one-insn-per-tb=on"];
    let options = [&["--recording", "boot.tdm"], &options[..]].concat();
    let ran = place.run(&lockstep("debian-10.0", "debian-10.0", &options, &[]));
    ran.ends_with(0);
    let report = ran.json();
    assert_eq!(report["verdict"], "same");
    assert_eq!(report["compared"]["driven_by"], "recording");
    let replayed = place.run(&["replay", "boot.tdm"]).out;
    let instructions = report["compared"]["instructions"].as_u64().unwrap();
    let grouped = recorder::account::grouped(instructions);
    assert!(replayed.contains(&format!("identical: {grouped} instructions")), "up to the guest's shutdown");
}

/// This firmware copies itself over itself with `rep movsb`, and in a block of more than one instruction what overwrites itself
/// starts twice.
#[test]
fn firmware_that_overwrites_itself_is_the_same_run_however_little_is_compared() {
    for build in ["debian-7.2", "debian-10.0"] {
        let one =
            if build == "debian-7.2" { &["-singlestep"][..] } else { &["-accel", "tcg,one-insn-per-tb=on"] };
        let one: Vec<&str> = one.iter().flat_map(|&argument| ["--b-arg", argument]).collect();
        for compared in [&["--compare", "flow"][..], &["--compare", "flow", "--loads"], &[]] {
            let place = Place::new();
            let options = [&one, compared].concat();
            let report = place.run(&lockstep(build, build, &options, &guest("seabios"))).ends_with(0).json();
            assert_eq!(report["verdict"], "same", "{build} with {compared:?}: {}", report["summary"]);
        }
    }
}

#[test]
fn two_releases_part_in_the_firmware_at_one_instruction() {
    let place = Place::new();
    let ran = place.run(&lockstep("debian-7.2", "debian-10.0", &[], &guest("linux")));
    ran.ends_with(1);
    let report = ran.json();
    let divergence = &report["divergence"];
    assert_eq!(
        (&report["verdict"], &divergence["kind"]),
        (&Value::from("different"), &Value::from("control-flow"))
    );
    let icount = divergence["icount"]["a"].as_u64().unwrap();
    assert!((200_000..220_000).contains(&icount), "{icount}");
    assert_eq!(divergence["icount"]["b"].as_u64(), Some(icount));
    // The branch that parted them, in SeaBIOS.
    let address = divergence["pc"]["a"].as_str().unwrap().strip_prefix("0x").unwrap();
    let address = u64::from_str_radix(address, 16).unwrap();
    assert!((0xe_0000..0x10_0000).contains(&address), "{address:#x}");
    assert_eq!(divergence["pc"]["b"], divergence["pc"]["a"]);
    // It acts on what a comparison with memory came to, which a build that tells no values can't say more of.
    assert!(divergence["instruction"]["a"].as_str().unwrap().starts_with("cmp"), "{divergence}");
    assert_eq!(divergence["certainty"], "flags");
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("the monitor tells flags") && notes.contains("may have been wrong before"),
        "{notes}"
    );
    for side in ["a", "b"] {
        assert!(divergence["block"][side].as_str().unwrap().starts_with("0x"));
        assert!(!divergence["previous"][side].as_array().unwrap().is_empty());
    }
    assert_ne!(divergence["next"]["a"], divergence["next"]["b"]);

    // The same again with the sides swapped.
    let swapped = place.run(&lockstep("debian-10.0", "debian-7.2", &[], &guest("linux"))).ends_with(1).json();
    assert_eq!(swapped["divergence"]["icount"]["a"].as_u64(), Some(icount));
    assert_eq!(swapped["divergence"]["next"]["a"], divergence["next"]["b"]);
    assert_eq!(swapped["divergence"]["next"]["b"], divergence["next"]["a"]);
}

#[test]
fn two_cpu_models_part_and_the_report_says_why() {
    let place = Place::new();
    for name in BUILDS {
        let options = ["--b-arg", "-cpu", "--b-arg", "max"];
        let ran = place.run(&lockstep(name, name, &options, &guest("linux")));
        let report = ran.ends_with(1).json();
        let notes = report["notes"].to_string();
        assert!(notes.contains("`cpuid`") && notes.contains("depends on the CPU model"), "{notes}");
        let text: Vec<String> = lockstep(name, name, &options, &guest("linux"))
            .into_iter()
            .filter(|word| !["--format", "json"].contains(&word.as_str()))
            .collect();
        let page = place.run(&text).out;
        assert!(page.starts_with("DIFFERENT: translated block "), "{page}");
        assert!(page.contains("only B has `-cpu max`"), "{page}");
    }
}

/// What a guest is told of its processor differs long before it acts on that, and the one who tells it is found.
#[test]
fn the_instruction_whose_result_differs_is_named_and_not_the_branch_behind() {
    let place = Place::new();
    let options = ["--b-arg", "-cpu", "--b-arg", "max"];
    let of = |depth: &[&str]| {
        let options = [&options[..], depth].concat();
        place.run(&lockstep("debian-10.0", "debian-10.0", &options, &guest("seabios"))).ends_with(1).json()
    };
    let full = of(&[]);
    let what = full["compared"]["what"].as_array().unwrap();
    assert_eq!(what[..3], ["control flow", "stores", "registers every 65,536 instructions"].map(Value::from));
    let divergence = &full["divergence"];
    assert_eq!(
        (&divergence["kind"], &divergence["certainty"]),
        (&Value::from("register"), &Value::from("seen"))
    );
    assert_eq!(divergence["instruction"]["a"], "cpuid");
    let registers = divergence["registers"].as_array().unwrap();
    let differing: Vec<&str> = registers
        .iter()
        .filter(|register| register["after"]["a"] != register["after"]["b"])
        .map(|register| register["name"].as_str().unwrap())
        .collect();
    assert_eq!(differing, ["rax", "rcx", "rdx"]);
    // Who looks at stores alone sees what the next instruction writes.
    let less = of(&["--compare", "stores"]);
    assert_eq!(less["divergence"]["kind"], "store");
    let icount = divergence["icount"]["a"].as_u64().unwrap();
    assert_eq!(less["divergence"]["icount"]["a"].as_u64(), Some(icount + 1));
}

/// A build that tells plugins no registers, and a guest that acts on a wrong one much later.
#[test]
fn registers_of_old_builds_are_read_and_their_first_difference_named() {
    let place = Place::new();
    let mut rom = vec![0xf4; 64 << 10];
    let code: &[&[u8]] = &[
        &[0x66, 0xb8, 1, 0, 0, 0],          // mov eax, 1
        &[0x0f, 0xa2],                      // cpuid
        &[0x66, 0x89, 0xce],                // mov esi, ecx
        &[0xb9, 0x00, 0xc0],                // mov cx, 0xc000
        &[0x49, 0x75, 0xfd],                // dec cx; jnz
        &[0x66, 0xf7, 0xc6, 0, 0, 0x08, 0], // test esi, 1 << 19
        &[0x74, 0x02],                      // jz
        &[0xb0, 0x01],                      // mov al, 1
        &[0xe6, 0xf4, 0xeb, 0xfe],          // out 0xf4, al (isa-debug-exit); and round
    ];
    let code = code.concat();
    rom[0xff00..0xff00 + code.len()].copy_from_slice(&code);
    rom[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0xff]);
    std::fs::write(place.path("rom.bin"), rom).unwrap();
    let machine =
        "-M pc-i440fx-7.2 -cpu qemu64 -bios rom.bin -display none -device isa-debug-exit,iobase=0xf4";
    let guest: Vec<String> = machine.split(' ').map(str::to_owned).collect();
    for (a, b) in [("debian-7.2", "debian-7.2"), ("debian-7.2", "debian-10.0"), ("debian-10.0", "debian-7.2")]
    {
        place.run(&lockstep(a, b, &[], &guest)).ends_with(0);
        let options = ["--b-arg", "-cpu", "--b-arg", "qemu64,+sse4.1"];
        let report = place.run(&lockstep(a, b, &options, &guest)).ends_with(1).json();
        let divergence = &report["divergence"];
        assert_eq!(divergence["instruction"]["a"], "cpuid", "{report}");
        assert_eq!((&divergence["kind"], &divergence["certainty"]), (&"register".into(), &"seen".into()));
        assert_eq!(divergence["icount"]["a"], 2);
        let registers = divergence["registers"].as_array().unwrap();
        let register = registers.iter().find(|register| register["name"] == "rcx").unwrap();
        let value =
            |text: &Value| u32::from_str_radix(text.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        let of = |side: &str| value(&register["after"][side]);
        assert_eq!((value(&register["before"]), of("a") ^ of("b")), (0, 1 << 19));
        assert!(report["notes"].to_string().contains("read through QEMU's monitor"), "{report}");
        // Who asks for less gets the branch that acts on it.
        let less = [&options[..], &["--compare", "flow"]].concat();
        let report = place.run(&lockstep(a, b, &less, &guest)).ends_with(1).json();
        assert!(report["divergence"]["instruction"]["a"].as_str().unwrap().starts_with('j'), "{report}");
    }
}

#[test]
fn a_recording_drives_both_sides_to_where_they_part() {
    let place = Place::new();
    place.record("boot.tdm", &build("debian-7.2"), &guest("linux")).ends_with(0);
    let options = ["--b-arg", "-cpu", "--b-arg", "max"];
    let recorded = [&["--recording", "boot.tdm"][..], &options[..]].concat();
    let ran = place.run(&lockstep("debian-7.2", "debian-7.2", &recorded, &[]));
    let report = ran.ends_with(1).json();
    assert_eq!(report["compared"]["driven_by"], "recording");
    // Live, registers would be read too.
    let options = [&options[..], &["--compare", "stores"]].concat();
    let live = place.run(&lockstep("debian-7.2", "debian-7.2", &options, &guest("linux"))).json();
    assert_eq!(report["divergence"]["pc"], live["divergence"]["pc"]);
    assert_eq!(report["divergence"]["icount"], live["divergence"]["icount"]);
}

/// 10.0 does not ask for the clock that 7.2 logs first, and waits. That is no verdict, and above all not "same".
#[test]
fn a_build_that_cannot_follow_a_recording_is_named() {
    let place = Place::new();
    place.record("bios.tdm", &build("debian-7.2"), &guest("seabios")).ends_with(0);
    let ran = place.run(&lockstep("debian-7.2", "debian-10.0", &["--recording", "bios.tdm"], &[]));
    let report = ran.ends_with(2).json();
    assert_eq!(report["verdict"], "trouble");
    assert!(report["summary"].as_str().unwrap().contains("side B stood still"), "{}", report["summary"]);
}

/// Nothing but QEMU's exit status tells the two runs apart.
#[test]
fn another_exit_status_is_a_difference() {
    let place = Place::new();
    let image = |name: &str, status: u8| {
        // At the reset vector: mov al, cs:[0xff00]; out 0xf4, al (isa-debug-exit); and round. Other code would be
        // another stream.
        let mut rom = vec![0xf4; 64 << 10];
        rom[0xfff0..0xfff9].copy_from_slice(&[0x2e, 0xa0, 0x00, 0xff, 0xe6, 0xf4, 0xeb, 0xfe, 0xf4]);
        rom[0xff00] = status;
        std::fs::write(place.path(name), rom).unwrap();
    };
    image("one.bin", 1);
    image("two.bin", 2);
    let guest = words(&["-M", "pc-i440fx-7.2", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4"]);
    let options = ["--a-arg", "-bios", "--a-arg", "one.bin", "--b-arg", "-bios", "--b-arg", "two.bin"];
    let report = place.run(&lockstep("debian-7.2", "debian-7.2", &options, &guest)).ends_with(1).json();
    assert_eq!(report["divergence"]["kind"], "exit-status");
    let options = ["--a-arg", "-bios", "--a-arg", "one.bin", "--b-arg", "-bios", "--b-arg", "one.bin"];
    place.run(&lockstep("debian-7.2", "debian-10.0", &options, &guest)).ends_with(0);
}
