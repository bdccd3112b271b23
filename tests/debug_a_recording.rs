//! A user debugs a recorded kernel with gdb, forwards and backwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::{BUILDS, Place, Ran, build, guest, wait_until, words};

/// A shell on the kernel of `guest`, with the names of the kernel's code on its console.
fn record_a_shell(place: &Place, build: &str, guest_name: &str) -> Ran {
    let script = "wait # \\e[6n\n\
        send b=/bin/busybox; $b mount -t proc proc /proc; $b grep -m 2 -E ' (ksys_read|ksys_write)$' /proc/kallsyms\\n\n\
        wait # \\e[6n\n\
        send echo names; echo one; echo two; echo three; $b ls /; $b poweroff -f\\n\n";
    std::fs::write(place.path("script"), script).unwrap();
    let line = guest(guest_name).into_iter().map(|word| match word.strip_prefix("console=") {
        Some(console) => format!("console={console} rdinit=/bin/busybox -- sh"),
        None => word,
    });
    let options = words(&["record", "-o", "shell.tdm", "--input", "script", "--", build]);
    let recorded = place.run(&[options, line.collect()].concat());
    recorded.ends_with(0);
    recorded
}

/// The address that the guest's kernel has for `name`.
fn address(recorded: &Ran, name: &str) -> String {
    let line = recorded.out.lines().find(|line| line.trim_end().ends_with(&format!(" {name}")));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{}", recorded.out));
    format!("0x{}", line.split_whitespace().next().unwrap())
}

/// What gdb prints for `commands`, from `moment` on: an answer each.
fn debug(place: &Place, moment: &str, options: &[&str], commands: &[&str]) -> Vec<String> {
    let mut line = words(&["debug", "shell.tdm", "--at", moment]);
    line.extend(words(options));
    line.extend(words(&["--", "-batch"]));
    for (index, command) in commands.iter().enumerate() {
        line.extend(words(&["-ex", &format!("echo answer {}\\n", index + 1), "-ex", command]));
    }
    // What a monitor answers gdb prints on its standard error.
    let mut both = Command::new("sh");
    both.args(["-c", "exec \"$@\" 2>&1", "sh", env!("CARGO_BIN_EXE_tandem")]).args(line);
    let ran = Ran::of(both.current_dir(place.path("")).env("TMPDIR", place.path("tmp")).output().unwrap());
    ran.ends_with(0);
    let answers: Vec<String> = ran
        .out
        .split("\nanswer ")
        .skip(1)
        .map(|answer| answer.split_once('\n').map_or(String::new(), |(_, answer)| answer.to_owned()))
        .collect();
    assert_eq!(answers.len(), commands.len(), "stdout:\n{}\nstderr:\n{}", ran.out, ran.err);
    answers
}

/// The position in an answer to `when`.
fn position(answer: &str) -> u64 {
    let (_, position) = answer.split_once("instruction:").unwrap_or_else(|| panic!("no moment in: {answer}"));
    position.lines().next().unwrap().trim().replace(',', "").parse().unwrap()
}

#[test]
fn a_kernel_forwards_and_backwards() {
    for name in BUILDS {
        let place = Place::new();
        let recorded = record_a_shell(&place, &build(name), "linux");
        let (read, write) = (address(&recorded, "ksys_read"), address(&recorded, "ksys_write"));
        let stop = format!("break *{write}");

        // Breakpoints and steps: what was gone through forwards is gone through backwards.
        let at = |answers: &[String], index: usize| position(&answers[index - 1]);
        let answers = debug(
            &place,
            "console:names\r",
            &[],
            &[
                &stop,
                "continue",
                "when",
                "continue",
                "when",
                "stepi",
                "when",
                "info registers", // 8
                "stepi",
                "reverse-stepi",
                "when",
                "info registers", // 12
                "reverse-stepi",
                "when",
                "reverse-continue",
                "when",
                "reverse-continue",
                "when", // 18
                "continue",
                "when",
                "print *(long*)$sp = 1",
                "print $rax = 1",
                "when", // 23
            ],
        );
        let (first, second) = (at(&answers, 3), at(&answers, 5));
        assert!(answers[1].contains("Breakpoint 1"), "{}", answers[1]);
        assert!(first < second);
        assert_eq!(at(&answers, 7), second + 1);
        assert_eq!(at(&answers, 11), second + 1);
        assert_eq!(answers[7], answers[11], "the same registers");
        assert_eq!(at(&answers, 14), second);
        assert_eq!(at(&answers, 16), first);
        assert!(at(&answers, 18) < first, "an earlier one");
        assert_eq!(at(&answers, 20), first);
        // A recording can't be changed.
        assert_eq!(at(&answers, 23), first);

        // The last write of an address. Where a function begins its return address lies on the stack, and the last to
        // have written there is the call.
        let value = "print/x *(long*)$slot";
        let answers = debug(
            &place,
            "end",
            &[],
            &[
                "seek 'console:names\r'",
                &stop,
                "continue",
                "when",
                "set $slot = $sp",
                value,
                "delete", // 7
                "watch -l *(long*)$slot",
                "reverse-continue",
                "when",
                "print $pc",
                "x/2i $pc",
                value,
                "stepi", // 14
                "when",
                value,
                "info registers rip",
                "print $slot", // 18
            ],
        );
        let (start, write_at) = (at(&answers, 4), at(&answers, 10));
        assert_eq!(start, first);
        assert!(write_at < start && start < write_at + 200, "a call, and jumps behind it");
        assert!(answers[11].contains("call"), "{}", answers[11]);
        assert_eq!(at(&answers, 15), write_at + 1);
        let printed = |index: usize| answers[index - 1].split(" = ").nth(1).unwrap().lines().next().unwrap();
        assert_ne!(printed(13), printed(16), "it changes it");
        assert_eq!(printed(16), printed(6));
        let behind = answers[11].lines().nth(1).unwrap().trim().split([':', ' ']).next().unwrap();
        assert_eq!(printed(16), behind, "it is the address of the instruction behind the call");

        // Forwards from before, each write is met, and the one found is the last before the moment.
        let slot = answers[17].split("0x").nth(1).unwrap().lines().next().unwrap();
        let mut commands = vec![format!("watch *(long*)0x{slot}")];
        commands.extend((0..30).flat_map(|_| words(&["continue", "when"])));
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        let answers = debug(&place, &format!("instruction:{}", write_at - 1500), &[], &commands);
        let mut met: Vec<u64> = answers.iter().skip(2).step_by(2).map(|answer| position(answer)).collect();
        met.retain(|&at| at <= start);
        assert_eq!(met.last(), Some(&(write_at + 1)), "{met:?}");
        // And backwards the same ones.
        let mut commands = vec![format!("watch *(long*)0x{slot}")];
        commands.extend((0..met.len()).flat_map(|_| words(&["reverse-continue", "when"])));
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        let answers = debug(&place, &format!("instruction:{start}"), &[], &commands);
        let mut back: Vec<u64> =
            answers.iter().skip(2).step_by(2).map(|answer| position(answer) + 1).collect();
        back.reverse();
        assert_eq!(back, met);

        // Both ends.
        let answers = debug(
            &place,
            "end",
            &[],
            &["stepi", "continue", "reverse-continue", "when", "reverse-stepi", "stepi", "when"],
        );
        for index in [1, 2, 3, 5] {
            assert!(answers[index - 1].contains("No more reverse-execution history"), "{answers:?}");
        }
        assert_eq!((at(&answers, 4), at(&answers, 7)), (0, 1));

        if name == "debian-7.2" {
            // Of an instruction that is executed often, the last time: as the probe counts it (which can't tell the
            // addresses of one page apart from QEMU 8.0 on).
            let hot = &read;
            let answers = debug(&place, "end", &[], &[&format!("break *{hot}"), "reverse-continue", "when"]);
            let counted = place.run(&["replay", "shell.tdm", "--at", &format!("pc:{hot}#99999999")]);
            let times = counted.err.split(" times").next().unwrap().rsplit(' ').next().unwrap().to_owned();
            assert!(times.parse::<u64>().unwrap() > 200, "{}", counted.err);
            let last = place.run(&["replay", "shell.tdm", "--at", &format!("pc:{hot}#{times}")]);
            let counted = last.out.split(", instruction ").nth(1).unwrap().split(' ').next().unwrap();
            assert_eq!(at(&answers, 3), counted.replace(',', "").parse::<u64>().unwrap());

            ctrl_c(&place);
        }

        // By name, with a file that has the kernel's names where it lay.
        let symbols = place.path("names.elf");
        let (source, object) = (place.path("names.s"), place.path("names.o"));
        std::fs::write(&source, ".globl ksys_write\n.type ksys_write, @function\nksys_write: nop\n").unwrap();
        assert!(Command::new("as").arg(source).arg("-o").arg(&object).status().unwrap().success());
        let mut ld = Command::new("ld");
        ld.args(["-Ttext", &write, "-e", &write, "-o"]).arg(&symbols).arg(&object);
        assert!(ld.status().unwrap().success());
        let symbols = symbols.display().to_string();
        let answers = debug(
            &place,
            "console:names\r",
            &["--symbols", &symbols],
            &["break *ksys_write", "continue", "when"],
        );
        assert!(answers[1].contains("ksys_write"), "{answers:?}");
        assert_eq!(at(&answers, 3), first);
        assert_eq!(place.left().1, words(&[]));
    }
}

#[test]
fn a_kernel_for_arm() {
    for version in BUILDS {
        let place = Place::new();
        let recorded = record_a_shell(&place, &build(&format!("{version}-aarch64")), "linux-aarch64");
        let stop = format!("break *{}", address(&recorded, "ksys_write"));
        let slot = "print *(long*)$slot";
        let answers = debug(
            &place,
            "console:names\r",
            &[],
            &[
                &stop,
                "continue",
                "when",
                "delete",
                "set $slot = $sp",
                slot,
                "watch -l *(long*)$slot", // 7
                "reverse-continue",
                "when",
                slot,
                "x/i $pc",
                "stepi",
                "when",
                slot, // 14
                "reverse-stepi",
                "reverse-stepi",
                "when",
                "delete",
                "stepi",
                "when",
                "stepi",
                "when", // 22
            ],
        );
        let at = |index: usize| position(&answers[index - 1]);
        let printed =
            |index: usize| answers[index - 1].split(" = ").nth(1).unwrap().lines().next().unwrap().to_owned();
        assert!(at(9) < at(3));
        assert!(answers[10].contains("st"), "it stores: {}", answers[10]);
        assert_eq!(at(13), at(9) + 1);
        assert_ne!(printed(10), printed(14), "{} changes it", answers[10]);
        assert_eq!(printed(14), printed(6), "nothing behind it does");
        assert!(at(17) < at(9));
        assert_eq!((at(20), at(22)), (at(17) + 1, at(17) + 2));
    }
}

/// A `tandem debug --no-gdb` that waits, and the port.
fn wait_for_gdb(place: &Place, file: &str, moment: &str) -> (std::process::Child, String) {
    let mut tandem = place.start(&["debug", file, "--no-gdb", "--at", moment]);
    let mut told = String::new();
    BufReader::new(tandem.stdout.as_mut().unwrap()).read_line(&mut told).unwrap();
    let port = told.trim().strip_prefix("waiting for gdb: target remote 127.0.0.1:");
    let port = port.unwrap_or_else(|| panic!("{told}")).to_owned();
    (tandem, port)
}

/// Whether a process of this test's user has all these words in its command line.
fn running(words: &[&str]) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .any(|line| words.iter().all(|word| line.contains(word)) && !line.contains("tandem\0debug"))
}

/// Says `packet` to a gdb server.
fn say(to: &mut TcpStream, packet: &str) {
    let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
    to.write_all(format!("${packet}#{sum:02x}").as_bytes()).unwrap();
}

/// Has the guest go back all the way to look for what is not there, and says that it is enough.
fn ctrl_c(place: &Place) {
    let (tandem, port) = wait_for_gdb(place, "shell.tdm", "end-1000");
    let mut gdb = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    gdb.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    say(&mut gdb, "Z0,123456,1");
    say(&mut gdb, "bc");
    std::thread::sleep(Duration::from_millis(500));
    gdb.write_all(&[3]).unwrap();
    let mut said = Vec::new();
    while !said.windows(4).any(|word| word == b"$T02" || word == b"$S02") {
        let mut piece = [0; 256];
        let length = gdb.read(&mut piece).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&said));
        said.extend(&piece[..length]);
    }
    drop(gdb);
    Ran::of(tandem.wait_with_output().unwrap()).ends_with(0);
}

#[test]
fn with_a_debugger_of_ones_own() {
    let place = Place::new();
    place.record("f.tdm", &build(BUILDS[0]), &guest("seabios")).ends_with(0);

    // A gdb that comes by itself, and leaves.
    let (tandem, port) = wait_for_gdb(&place, "f.tdm", "1000000");
    let remote = format!("target remote 127.0.0.1:{port}");
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-batch", "-ex", &remote, "-ex", "monitor when", "-ex", "stepi", "-ex", "monitor when"]);
    let gdb = Ran::of(gdb.output().unwrap());
    assert!(gdb.err.contains("icount 1,000,000,") && gdb.err.contains("icount 1,000,001,"), "{}", gdb.err);
    Ran::of(tandem.wait_with_output().unwrap()).ends_with(0);

    // What is no gdb.
    let (tandem, port) = wait_for_gdb(&place, "f.tdm", "1000000");
    let mut browser = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: $x#00 $m,,,#1f $\xff\xff#zz\r\n\r\n").unwrap();
    let _ = browser.shutdown(std::net::Shutdown::Write);
    let ran = Ran::of(tandem.wait_with_output().unwrap());
    assert!(!ran.err.contains("panic"), "{}", ran.err);

    // Ctrl-C while nobody comes.
    let (tandem, _) = wait_for_gdb(&place, "f.tdm", "1000000");
    kill(Pid::from_raw(i32::try_from(tandem.id()).unwrap()), Signal::SIGINT).unwrap();
    Ran::of(tandem.wait_with_output().unwrap()).ends_with(0);

    // Killed at once, with a gdb of its own.
    let slow = "shell exec sleep 98765";
    let mut tandem = place.start(&["debug", "f.tdm", "--at", "1000000", "--", "-ex", slow]);
    wait_until("gdb is there", || running(&["gdb", slow]));
    assert!(running(&["qemu-system", "socket,id=tandem-stub"]));
    kill(Pid::from_raw(i32::try_from(tandem.id()).unwrap()), Signal::SIGKILL).unwrap();
    tandem.wait().unwrap();
    wait_until("QEMU is gone", || !running(&["qemu-system", "socket,id=tandem-stub"]));
    wait_until("gdb is gone", || !running(&["gdb", slow]));

    for (line, why) in [
        (&["debug", "f.tdm", "--gdb", "/nowhere/gdb"][..], "/nowhere/gdb"),
        (&["debug", "f.tdm", "--at", "999999999999"], "behind the recording's end"),
        (&["debug", "f.tdm", "--symbols", "f.tdm"], "ELF"),
        (&["debug", "none.tdm"], "none.tdm"),
    ] {
        place.run(line).is_refused_with(&[why]);
    }
    assert_eq!(place.left(), (words(&["f.tdm"]), words(&[])));
}
