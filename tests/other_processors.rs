//! A user's guest is for another processor than x86.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use tandem::{Place, build, guest, words};

/// The first words of the line that says where a moment is, and the line with the address of the next instruction.
fn moments(out: &str) -> Vec<(String, String)> {
    let mut lines = out.lines().filter(|line| line.starts_with("at icount ") || line.starts_with("0x"));
    let mut all = Vec::new();
    while let Some(at) = lines.next() {
        if at.starts_with("at icount ") {
            all.push((at.to_owned(), lines.next().unwrap().to_owned()));
        }
    }
    all
}

/// A register of the processor's model, and the table of devices that names it.
#[test]
fn it_is_ridden_and_its_code_and_registers_are_shown() {
    let models = ["--a-arg", "-cpu", "--a-arg", "cortex-a57", "--b-arg", "-cpu", "--b-arg", "cortex-a72"];
    for (version, instruction, certainty) in
        [("debian-7.2", "ldr w0, [x2, #4]", "first"), ("debian-10.0", "mrs x2, midr_el1", "seen")]
    {
        let place = Place::new();
        let qemu = build(&format!("{version}-aarch64"));
        let line = words(&["lockstep", "--a", &qemu, "--b", &qemu, "--format", "json"]);
        let line = [line, words(&models), words(&["--"]), guest("linux-aarch64")].concat();
        let report = place.run(&line).ends_with(1).json();
        let divergence = &report["divergence"];
        assert_eq!(divergence["instruction"]["a"], instruction, "{report}");
        assert_eq!(divergence["certainty"], certainty);
        let registers = divergence["registers"].as_array().unwrap();
        assert_eq!(registers.len(), 1, "{divergence}");
        assert_ne!(registers[0]["after"]["a"], registers[0]["after"]["b"]);
        // Whether memory was the same before, a build that tells no values can't say.
        let doubted = report["notes"].to_string().contains("may have been wrong before");
        assert_eq!(doubted, certainty == "first", "{report}");
    }
}

#[test]
fn it_is_recorded_and_replayed_and_its_moments_are_gone_to() {
    for target in ["aarch64", "riscv64"] {
        for version in ["debian-7.2", "debian-10.0"] {
            let place = Place::new();
            let qemu = build(&format!("{version}-{target}"));
            let recorded = place.record("boot.tdm", &qemu, &guest(&format!("linux-{target}")));
            recorded.ends_with(0);
            assert!(recorded.out.contains("tandem guest: hello from Linux"), "{}", recorded.out);
            let replayed = place.run(&["replay", "boot.tdm"]);
            replayed.ends_with(0);
            assert!(replayed.out.lines().last().unwrap().starts_with("identical: "), "{}", replayed.out);

            let at = |moments: &[&str]| {
                let mut line = words(&["replay", "boot.tdm"]);
                line.extend(moments.iter().flat_map(|moment| words(&["--at", moment])));
                let ran = place.run(&line);
                ran.ends_with(0);
                ran.out
            };
            let forwards = moments(&at(&["300000000", "612345678", "console:hello"]));
            assert_eq!(forwards.len(), 3);
            let indexed = place.run(&["index", "boot.tdm", "--every", "200000000"]);
            indexed.ends_with(0);
            assert!(indexed.out.contains("each proven by a restore"), "{}", indexed.out);
            assert!(!indexed.out.contains("no checkpoint"), "{}", indexed.out);
            let mut backwards = moments(&at(&["console:hello", "612345678", "300000000"]));
            backwards.reverse();
            assert_eq!(forwards, backwards, "{version} {target}");
        }
    }
}
