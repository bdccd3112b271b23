//! A developer has builds of QEMU with a fault of known place, to try a comparison of builds on: each differs from the
//! good build first at the place that the list names, and in nothing else that a kernel's boot shows.
//!
//! The place is proven without lockstep, by going there in recordings of both builds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use corpus::faults::{Fault, GOOD, fault, faults, good};
use tandem::moments::Shown;
use tandem::{Place, guest, words};

/// Where a run goes on for ever.
const FAR: u64 = 20_000_000;

/// How the effect of a guilty instruction is seen right after it.
enum Effect {
    Registers,
    /// By its registers one instruction later: right after it an interrupt has not been taken yet.
    RegistersThen,
    /// In so many bytes from this address on.
    Memory(&'static str, &'static str),
    Console,
    /// By its registers here, because to stop right after it would hide it.
    RegistersAt(&'static str),
    /// By what the guest says of it, because to stop anywhere near would hide it, as does what a replay knows of exceptions.
    Says(&'static str, &'static str),
    /// QEMU dies in it.
    Death,
    /// QEMU never comes out of it.
    Hang,
}

fn effect(of: &Fault) -> Effect {
    match of.name {
        "stored" => Effect::Memory("2", "0x9004"),
        "frame" => Effect::Memory("40", "$sp"),
        "real-frame" => Effect::Memory("6", "0x20ffa"),
        "interrupt" | "timer" => Effect::RegistersThen,
        "console" => Effect::Console,
        "changed-code" => Effect::RegistersAt("changed_again"),
        "liveness" => Effect::Says("00001111\n00010047", "00000000\n00010047"),
        "call-flags" => Effect::Says("\n00004444\n", "\n00003333\n"),
        "death" => Effect::Death,
        "hang" => Effect::Hang,
        _ => Effect::Registers,
    }
}

/// Records a fault's guest on `build`.
fn record(place: &Place, file: &str, build: &Path, of: &Fault) -> tandem::Ran {
    let far = FAR.to_string();
    let mut line = words(&["record", "-o", file, "--time", "virtual"]);
    if of.name == "link" {
        line.extend(words(&["--until-icount", &far]));
    }
    line.extend(words(&["--", &build.display().to_string()]));
    place.run(&[line, of.arguments().unwrap()].concat())
}

fn at(place: &Place, file: &str, moment: &str) -> Shown {
    place.at_in_one_run(file, &[moment]).remove(0)
}

/// What gdb prints of the memory at a moment.
fn memory(place: &Place, file: &str, moment: &str, count: &str, address: &str) -> String {
    let print = format!("x/{count}xb {address}");
    let ran = place.run(&["debug", file, "--at", moment, "--", "-batch", "-ex", &print]);
    ran.ends_with(0);
    ran.out.lines().filter(|line| line.starts_with("0x") && line.contains(":\t")).collect()
}

#[test]
fn the_good_build_runs_each_guest_to_its_end() {
    let place = Place::new();
    for (name, console) in [
        ("rom-real", "00001111\n00000047\n"),
        ("rom-arithmetic", "80000000\n49e5bfed\n0c000000\n00c09300\n00040003\n~\n0000002a\n"),
        ("rom-blocks", "11111111\n22222222\n000003e8\n"),
        ("rom-exceptions", "00001111\n00010047\n00007000\n00004444\n"),
        ("rom-interrupts", "00000000\n00000000\n"),
        ("rom-hang", "00000001\n"),
        ("rom-late", "07a13f40\n"),
    ] {
        let file = format!("{name}.tdm");
        let recorded = place.record(&file, &good().unwrap().display().to_string(), &guest(name));
        recorded.ends_with(0);
        assert_eq!(recorded.out, console, "{name}");
    }
}

/// Goes to the guilty instruction of each fault of a guest, on the good build and on the faulty one: all is the same right
/// before it, and its effect is another.
fn each_acts_first_at_its_place(guest: &str) {
    let place = Place::new();
    let build = |of: &Fault| of.build().unwrap();
    let shown: Vec<Fault> = faults().filter(|of| of.guest == guest).collect();
    let good_ran = record(&place, "good.tdm", &good().unwrap(), &Fault { name: GOOD, ..shown[0].clone() });
    good_ran.ends_with(0);
    for of in &shown {
        let guilty = format!("pc:{:x}#{}", of.address().unwrap(), of.nth);
        let before = at(&place, "good.tdm", &guilty);
        if let Effect::Death = effect(of) {
            // It leaves no recording as long as this, but tells where it dies in the good one's.
            let died = place.run(&["replay", "good.tdm", "--build", &build(of).display().to_string()]);
            died.ends_with(2);
            let started = recorder::account::grouped(before.position + 1);
            let started = format!("when {started} instructions of the stream had started");
            assert!(died.err.contains(&started), "{}: not {started}:\n{}", of.name, died.err);
            continue;
        }
        if let Effect::Hang = effect(of) {
            // Whoever looks at its registers there hangs too.
            never_comes_out(&place, of);
            continue;
        }
        let ran = record(&place, "bad.tdm", &build(of), of);
        ran.ends_with(0);
        assert_eq!(at(&place, "bad.tdm", &guilty), before, "{}: before {guilty}", of.name);

        let after = format!("instruction:{}", before.position + 1);
        let both = ["good.tdm", "bad.tdm"];
        let seen = match effect(of) {
            Effect::Registers => both.map(|file| at(&place, file, &after).state),
            Effect::RegistersThen => {
                let then = format!("instruction:{}", before.position + 2);
                both.map(|file| at(&place, file, &then).state)
            }
            Effect::Memory(count, address) => {
                let [good, bad] = both.map(|file| at(&place, file, &after));
                assert_eq!(good, bad, "{}: only memory is to differ", of.name);
                both.map(|file| memory(&place, file, &after, count, address))
            }
            Effect::Says(good, bad) => {
                assert!(good_ran.out.contains(good) && ran.out.contains(bad), "{}:\n{}", of.name, ran.out);
                assert_eq!(good_ran.out.replace(good, bad), ran.out, "{}: what else it says", of.name);
                [good, bad].map(str::to_owned)
            }
            // QEMU does not log what goes to this console, so when it was written is not known.
            Effect::Console => {
                let [good, bad] = both.map(|file| at(&place, file, &after));
                assert_eq!(good, bad, "{}: only the console is to differ", of.name);
                let [good, bad] = [good_ran.out.clone(), ran.out];
                let differing = good.bytes().zip(bad.bytes()).filter(|(good, bad)| good != bad);
                assert_eq!((good.len(), differing.collect()), (bad.len(), vec![(b'~', 0x7f)]));
                [good, bad]
            }
            Effect::RegistersAt(label) => {
                let there = format!("pc:{:x}", of.address_of(label).unwrap());
                both.map(|file| at(&place, file, &there).state)
            }
            Effect::Death | Effect::Hang => unreachable!("told above"),
        };
        assert!(!seen[0].is_empty());
        assert_ne!(seen[0], seen[1], "{}: after {guilty}", of.name);
        std::fs::remove_file(place.path("bad.tdm")).unwrap();
    }
}

/// By QEMU's own log of what is executed: the guilty instruction is the last, and was not executed more often before.
fn never_comes_out(place: &Place, of: &Fault) {
    let log = place.path("executed.log");
    let one_by_one =
        ["-accel", "tcg,one-insn-per-tb=on", "-d", "exec,nochain", "-D", &log.display().to_string()];
    assert_eq!(console(&of.build().unwrap(), &of.arguments().unwrap(), &one_by_one, SHORT), None);
    let executed = std::fs::read_to_string(log).unwrap();
    let guilty = format!("/{:016x}/", of.address().unwrap());
    assert!(executed.lines().last().unwrap().contains(&guilty), "{executed}");
    assert_eq!(executed.matches(&guilty).count() as u64, of.nth);
}

#[test]
fn a_fault_that_hangs() {
    each_acts_first_at_its_place("rom-hang");
}

#[test]
fn faults_in_real_mode() {
    each_acts_first_at_its_place("rom-real");
}

#[test]
fn faults_of_single_instructions() {
    each_acts_first_at_its_place("rom-arithmetic");
}

#[test]
fn faults_of_blocks_that_change() {
    each_acts_first_at_its_place("rom-blocks");
}

#[test]
fn faults_of_exceptions() {
    each_acts_first_at_its_place("rom-exceptions");
}

#[test]
fn faults_of_interrupts() {
    each_acts_first_at_its_place("rom-interrupts");
}

#[test]
fn a_fault_that_acts_late() {
    each_acts_first_at_its_place("rom-late");
}

/// How many seconds a run may take, and one that never ends.
const LONG: &str = "100";
const SHORT: &str = "10";

/// What a guest writes on a build, live, with more options; nothing where QEMU dies, or runs for longer than `patience`.
fn console(build: &Path, guest: &[String], options: &[&str], patience: &str) -> Option<String> {
    let mut line = Command::new("timeout");
    line.args(["-s", "KILL", patience])
        .arg(build)
        .args(guest)
        .args(["-icount", "shift=0,sleep=off"])
        .args(options);
    line.args(["-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"]).stdin(Stdio::null());
    let ran = line.stderr(Stdio::null()).output().unwrap();
    ran.status.success().then(|| String::from_utf8(ran.stdout).unwrap())
}

#[test]
fn ways_of_running_that_hide_a_fault() {
    for (way, options) in [
        ("one-insn-per-tb", ["-accel", "tcg,one-insn-per-tb=on", "-D", "/dev/null"]),
        ("nochain", ["-d", "nochain", "-D", "/dev/null"]),
    ] {
        let mut expected = BTreeMap::new();
        // Two are not on the console anyway, and one takes long.
        for of in faults().filter(|of| !["stored", "timer", "late"].contains(&of.name)) {
            let guest = of.arguments().unwrap();
            let good =
                expected.entry(of.guest).or_insert_with(|| console(&good().unwrap(), &guest, &options, LONG));
            assert!(good.is_some());
            let patience = if of.name == "hang" { SHORT } else { LONG };
            let hidden = console(&of.build().unwrap(), &guest, &options, patience) == *good;
            assert_eq!(hidden, of.hidden.contains(&way), "{} under {way}", of.name);
        }
    }
}

/// The console of a Linux boot, its end included, on a build.
fn boot(build: &Path) -> String {
    let booted = console(build, &guest("linux"), &["-nodefaults"], LONG);
    booted.unwrap_or_else(|| panic!("{}", build.display()))
}

#[test]
fn a_build_with_a_fault_boots_linux_as_the_good_one_does() {
    let expected = boot(&good().unwrap());
    assert!(expected.contains("tandem guest: hello from Linux") && expected.contains("reboot: Power down"));
    let others: BTreeMap<&str, String> =
        faults().map(|fault| (fault.name, boot(&fault.build().unwrap()))).collect();
    for (name, console) in others {
        assert!(console == expected, "{name} differs:\n{console}\n-- the good one:\n{expected}");
    }
}

#[test]
fn a_fault_is_told_by_its_name() {
    let place = Place::new();
    let listed = place.run(&["corpus"]);
    listed.ends_with(0);
    for of in faults() {
        assert!(listed.out.lines().any(|line| line.starts_with(&format!("fault {:<12} ", of.name))));
    }
    let of = fault("flag").unwrap();
    let told = place.run(&["corpus", "--fault", "flag"]);
    told.ends_with(0);
    assert!(
        told.out.contains(&format!("\nguilty   pc:{:x}#1 (overflow)\n", of.address().unwrap())),
        "{}",
        told.out
    );
    assert!(told.out.contains(&of.build().unwrap().display().to_string()));
    place.run(&["corpus", "--fault", "nope"]).is_refused_with(&["no fault `nope`", "flag"]);
}
