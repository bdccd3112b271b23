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

/// What gdb prints for each of `commands`, which stand apart by `;`, from `moment` on.
struct Session(Vec<String>);

impl Session {
    fn of(place: &Place, moment: &str, options: &[&str], commands: &str) -> Self {
        let mut line = words(&["debug", "kernel.tdm", "--at", moment]);
        line.extend(words(options));
        line.extend(words(&["--", "-batch"]));
        let commands: Vec<&str> = commands.split(';').map(str::trim).collect();
        for (index, command) in commands.iter().enumerate() {
            line.extend(words(&["-ex", &format!("echo answer {}\\n", index + 1), "-ex", command]));
        }
        // What a monitor answers gdb prints on its standard error.
        let mut both = Command::new("sh");
        both.args(["-c", "exec \"$@\" 2>&1", "sh", env!("CARGO_BIN_EXE_tandem")]).args(line);
        let both = both.current_dir(place.path("")).env("TMPDIR", place.path("tmp")).output();
        let ran = Ran::of(both.unwrap());
        ran.ends_with(0);
        let answers = ran.out.split("\nanswer ").skip(1);
        let answers =
            answers.map(|answer| answer.split_once('\n').map_or("", |(_, answer)| answer).to_owned());
        let answers: Vec<String> = answers.collect();
        assert_eq!(answers.len(), commands.len(), "stdout:\n{}\nstderr:\n{}", ran.out, ran.err);
        Session(answers)
    }

    /// The positions that `when` and `seek` told.
    fn positions(&self) -> Vec<u64> {
        let told = self.0.iter().filter_map(|answer| answer.split_once("instruction:"));
        told.map(|(_, told)| told.lines().next().unwrap().trim().replace(',', "").parse().unwrap()).collect()
    }

    /// The values that `print` told.
    fn values(&self) -> Vec<&str> {
        let told = self.0.iter().filter(|answer| answer.starts_with('$'));
        told.map(|answer| answer.lines().next().unwrap().split(" = ").nth(1).unwrap()).collect()
    }
}

/// Where the kernel prints a character: in a loop.
const PRINTS: &str = "console:Linux version 6";

#[test]
fn a_kernel_forwards_and_backwards() {
    for name in BUILDS {
        let place = Place::new();
        place.record_a_kernel("kernel.tdm", &build(name), "linux");

        // Breakpoints and steps: what was gone through forwards is gone through backwards.
        let session = Session::of(
            &place,
            PRINTS,
            &[],
            "when; break *$pc; continue; when; continue; when; stepi; when; info registers; stepi; \
             reverse-stepi; when; info registers; reverse-stepi; when; reverse-continue; when; \
             reverse-continue; when; reverse-continue; when; continue; when; print *(long*)$sp = 1; \
             print $rax = 1; when",
        );
        let positions = session.positions();
        let [begin, first, second, behind, again, back, one, two, three, then, still] = positions[..] else {
            panic!("{:?}", session.0)
        };
        assert!(session.0[2].contains("Breakpoint 1"), "{}", session.0[2]);
        assert!(begin < first && first < second, "{positions:?}");
        assert_eq!((behind, again, back), (second + 1, second + 1, second));
        assert_eq!(session.0[8], session.0[12], "the same registers");
        assert_eq!((one, two), (first, begin));
        assert!(three < begin, "an earlier one");
        assert_eq!(then, begin);
        // A recording can't be changed.
        assert_eq!(still, begin);

        the_last_write(&place);
        what_interrupts_write(&place);

        // Both ends.
        let session = Session::of(
            &place,
            "end",
            &[],
            "stepi; continue; reverse-continue; when; reverse-stepi; stepi; when",
        );
        for index in [0, 1, 2, 4] {
            assert!(session.0[index].contains("No more reverse-execution history"), "{:?}", session.0);
        }
        assert_eq!(session.positions(), [0, 1]);

        // By name, with a file that has the kernel's names where it lay.
        let address = next_address(&place, PRINTS);
        let symbols = place.path("names.elf");
        let (source, object) = (place.path("names.s"), place.path("names.o"));
        std::fs::write(&source, ".globl prints\n.type prints, @function\nprints: nop\n").unwrap();
        assert!(Command::new("as").arg(source).arg("-o").arg(&object).status().unwrap().success());
        let mut ld = Command::new("ld");
        ld.args(["-Ttext", &address, "-e", &address, "-o"]).arg(&symbols).arg(&object);
        assert!(ld.status().unwrap().success());
        let symbols = symbols.display().to_string();
        let session = Session::of(&place, PRINTS, &["--symbols", &symbols], "break *prints; continue; when");
        assert!(session.0[1].contains("prints"), "{:?}", session.0);
        assert_eq!(session.positions(), [first]);

        if name == "debian-7.2" {
            // Of an instruction that is executed often, the last time: as the probe counts it (which can't tell the
            // addresses of one page apart from QEMU 8.0 on).
            let session =
                Session::of(&place, "end", &[], &format!("break *{address}; reverse-continue; when"));
            let counted = place.run(&["replay", "kernel.tdm", "--at", &format!("pc:{address}#99999999")]);
            let times = counted.err.split(" times").next().unwrap().rsplit(' ').next().unwrap().to_owned();
            assert!(times.parse::<u64>().unwrap() > 200, "{}", counted.err);
            let last = place.at("kernel.tdm", &[&format!("pc:{address}#{times}")]);
            assert_eq!(session.positions(), [last[0].position]);

            ctrl_c(&place);
        }
        assert_eq!(place.left().1, words(&[]));
    }
}

#[test]
fn a_kernel_for_riscv_from_checkpoints() {
    for name in ["debian-7.2-riscv64", "debian-10.0-riscv64"] {
        let place = Place::new();
        place.record_a_kernel("kernel.tdm", &build(name), "linux-riscv64");
        place.run(&["index", "kernel.tdm", "--every", "200000000"]).ends_with(0);
        let commands = "when; reverse-stepi; when; stepi; when; break *$pc; reverse-continue; when; \
                        continue; when; delete; watch -l *(long*)($sp-16); reverse-continue; when; continue; when";
        let session = Session::of(&place, PRINTS, &[], commands);
        let [start, before, again, last, forwards, write, written] = session.positions()[..] else {
            panic!("{:?}", session.0)
        };
        assert_eq!((before, again, forwards), (start - 1, start, start));
        assert!(last < start && write < start, "{:?}", session.0);
        assert_eq!(written, write + 1, "{:?}", session.0);

        let at = |options: &[&str]| {
            let mut line = words(&["replay", "kernel.tdm", "--at", &format!("instruction:{last}")]);
            line.extend(words(options));
            place.run(&line).out
        };
        assert_eq!(at(&[]), at(&["--no-checkpoints"]));
    }
}

/// The address of the next instruction at a moment.
fn next_address(place: &Place, moment: &str) -> String {
    let shown = place.at("kernel.tdm", &[moment]);
    let line = shown[0].state.lines().find(|line| line.starts_with("0x")).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

/// The last write to some words on the stack: nothing is written there between the instruction that is found and the
/// moment from which it was looked for, and each write that is met on the way back is met again on the way forward.
fn the_last_write(place: &Place) {
    for word in ["(long*)$sp", "(long*)$sp+1", "(int*)$sp+5"] {
        let session = Session::of(
            place,
            PRINTS,
            &[],
            &format!(
                "when; set $word = {word}; print *$word; watch -l *$word; reverse-continue; when; \
                 print *$word; stepi; when; print *$word; reverse-continue; reverse-continue; when; \
                 reverse-continue; when; continue; when; continue; when; continue; when; print *$word; \
                 continue; when"
            ),
        );
        let positions = session.positions();
        let [start, last, behind, older, oldest, one, two, three, beyond] = positions[..] else {
            panic!("{:?}", session.0)
        };
        assert!(oldest < older && older < last && last < start, "{positions:?}");
        // Forwards a write is told behind it.
        assert_eq!(behind, last + 1);
        assert_eq!([one, two, three], [oldest + 1, older + 1, last + 1], "{positions:?}");
        assert!(beyond > start, "{positions:?}: nothing is written between {last} and {start}");
        let [at_start, before, after, at_last] = session.values()[..] else { panic!("{:?}", session.0) };
        assert_ne!(before, after, "it changes it");
        assert_eq!((at_start, at_last), (after, after));
    }
}

/// What the processor itself writes when it takes an interrupt or an exception: the place that it will come back to.
fn what_interrupts_write(place: &Place) {
    // A page fault of the kernel's, by which it finds itself in memory; its `int3`, by which it tries itself; a device.
    let exceptions = place.icounts("kernel.tdm", "exception");
    let [.., fault, trap] = exceptions[..] else { panic!("{exceptions:?}") };
    let interrupt = *place.icounts("kernel.tdm", "interrupt").last().unwrap();
    for (moment, behind) in [(fault, 1), (trap, 0), (interrupt, 0)] {
        let handler = place.at("kernel.tdm", &[&moment.to_string()])[0].position + behind;
        let (near, far, before_it) = (handler + 10, handler - 2, handler - 1);
        let session = Session::of(
            place,
            &format!("instruction:{handler}"),
            &[],
            &format!(
                "set $word = (long*)$sp; print *$word; seek instruction:{}; watch -l *$word; \
                 reverse-continue; when; print *$word; continue; when; print *$word; reverse-stepi; \
                 when; stepi; when; seek instruction:{}; continue; when",
                near, far
            ),
        );
        let [told, before, after] = session.values()[..] else { panic!("{:?}", session.0) };
        assert_ne!(before, after, "at {moment}: {:?}", session.0);
        assert_eq!(told, after);
        let at = [near, before_it, handler, before_it, handler, far, handler];
        assert_eq!(session.positions(), at, "at {moment}: {:?}", session.0);
    }
}

#[test]
fn a_kernel_for_arm() {
    for version in BUILDS {
        let place = Place::new();
        place.record_a_kernel("kernel.tdm", &build(&format!("{version}-aarch64")), "linux-aarch64");
        let session = Session::of(
            &place,
            PRINTS,
            &[],
            "break *$pc; continue; when; delete; set $slot = (long*)$sp; print *$slot; watch -l *$slot; \
             reverse-continue; when; print *$slot; x/i $pc; stepi; when; print *$slot; reverse-stepi; \
             reverse-stepi; when; delete; stepi; when; stepi; when",
        );
        let positions = session.positions();
        let [start, last, behind, back, one, two] = positions[..] else { panic!("{:?}", session.0) };
        assert!(back < last && last < start, "{positions:?}");
        assert!(session.0[10].contains("st"), "it stores: {}", session.0[10]);
        assert_eq!((behind, one, two), (last + 1, back + 1, back + 2));
        let [at_start, before, after] = session.values()[..] else { panic!("{:?}", session.0) };
        assert_ne!(before, after, "{} changes it", session.0[10]);
        assert_eq!(after, at_start, "nothing behind it does");
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
    let (tandem, port) = wait_for_gdb(place, "kernel.tdm", "end-1000");
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
