//! A replay in which QEMU dies says at which icount, what its log has there, and why.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use recorder::account::grouped;
use recorder::columns::Builder;
use recorder::format::Kind;
use recorder::log::event::Event;
use recorder::manifest::Ending;
use recorder::reader::Reader;
use recorder::writer::Writer;
use tandem::{BUILDS, Place, Ran, build, guest, qemus, wait_until, words};

/// Makes of the recording `from` one whose log is what `events` makes of it.
fn remade(from: &Path, to: &Path, mut events: impl FnMut(u64, &Event, &mut Builder)) {
    let mut columns = Builder::new(0);
    let mut recording = Reader::open(from).unwrap();
    let read = recording.events(0, |icount, event| {
        events(icount, event, &mut columns);
        ControlFlow::Continue(())
    });
    read.unwrap();
    let (first, content) = columns.finish();
    let mut writer = Writer::create(to, None).unwrap();
    writer.append(Kind::Manifest, 0, &serde_json::to_vec(&recording.manifest).unwrap()).unwrap();
    let mut witness = Vec::new();
    while let Some(digest) = recording.digest(witness.len() as u64 / 8).unwrap() {
        witness.extend(digest.to_le_bytes());
    }
    writer.append(Kind::Witness, 0, &witness).unwrap();
    writer.append(Kind::Events, first, &content).unwrap();
    // The log has its last events already.
    let ending = Ending { cut: false, ..recording.ending.clone() };
    writer.end(&ending, ending.icount).unwrap();
    writer.finish().unwrap();
}

/// What is told of a death: each of `parts`, in one go.
#[track_caller]
fn tells(replayed: &Ran, parts: &[String]) {
    replayed.ends_with(2);
    assert!(!replayed.out.contains("identical"), "{}", replayed.out);
    for part in parts {
        assert!(replayed.err.contains(part), "`{part}` is not in:\n{}", replayed.err);
    }
}

/// A line of the log around the place.
fn line(what: &str, icount: u64) -> String {
    format!("\n  {what:<8}  icount {:>15}  char-write", grouped(icount))
}

/// The guest writes what the log has not: QEMU 7.2 exits in order, QEMU 10.0 aborts, both on the vCPU's thread.
#[test]
fn a_log_that_lacks_what_the_guest_writes() {
    for name in BUILDS {
        let place = Place::new();
        place.record_a_kernel("whole.tdm", &build(name), "linux");
        let writes = place.icounts("whole.tdm", "char-write");
        for at in [1, writes.len() / 2] {
            let gone = writes[at];
            let less = format!("less-{at}.tdm");
            remade(&place.path("whole.tdm"), &place.path(&less), |icount, event, columns| {
                if icount != gone || !matches!(event, Event::CharWrite { .. }) {
                    columns.push(event);
                }
            });
            let known = &place.at("whole.tdm", &[&gone.to_string()])[0];
            let replayed = place.run(&["replay", &less]);
            let mut parts = vec![
                format!(" at icount {}, when {} instructions of", grouped(gone), grouped(known.position)),
                "it said: qemu-system-x86_64: Missing character write event in the replay log".to_owned(),
                format!("identical up to instruction {} of", grouped(known.position / (1 << 20) * (1 << 20))),
                line("before", writes[at - 1]),
                line("awaited", writes[at + 1]),
                "\n  usually:  the guest comes to a character write, and the log has none here".to_owned(),
            ];
            parts.extend((name == BUILDS[0]).then(|| "a second replay died there too".to_owned()));
            tells(&replayed, &parts);

            let sought =
                place.run(&["replay", &less, "--no-checkpoints", "--at", &(gone + 1000).to_string()]);
            sought.is_refused_with(&["QEMU died at icount ", "Missing character write event"]);
            let q = build(name);
            let ridden = place.run(&["lockstep", "--a", &q, "--b", &q, "--recording", &less]);
            ridden.ends_with(2);
            assert!(
                ridden.out.contains(" died (") && ridden.out.contains("Missing character write"),
                "{}",
                ridden.out
            );
        }
        assert_eq!(place.left().1, words(&[]));
    }
}

/// The log has a packet for a network that is not there, where it had a block request's end: an assertion of QEMU's fails
/// on its main thread.
#[test]
fn a_log_with_an_event_for_no_device() {
    for name in BUILDS {
        let place = Place::new();
        let line = words(&["record", "-o", "disk.tdm", "--until-icount", "20000000", "--", &build(name)]);
        place.run(&[line, guest("disk")].concat()).ends_with(0);
        let at = place.icounts("disk.tdm", "block")[0];
        remade(&place.path("disk.tdm"), &place.path("other.tdm"), |_, event, columns| match event {
            Event::Block(0) => columns.push(&Event::Packet { filter: 99, flags: 0, bytes: &[0; 60] }),
            event => columns.push(event),
        });
        let known = &place.at("disk.tdm", &[&at.to_string()])[0];
        let replayed = place.run(&["replay", "other.tdm"]);
        let parts = [
            format!(" (killed by SIGABRT) at icount {}, when {} ", grouped(at), grouped(known.position)),
            "it said: ".to_owned(),
            "a second replay died there too".to_owned(),
            format!("icount {:>15}  packet filter=99", grouped(at)),
        ];
        tells(&replayed, &parts);
        assert_eq!(place.left().1, words(&[]));
    }
}

#[test]
fn a_qemu_that_somebody_kills() {
    for name in BUILDS {
        let place = Place::new();
        let marker = format!("died-{name}");
        let guest = [guest("linux"), words(&["-name", &marker])].concat();
        place.record("r.tdm", &build(name), &guest).ends_with(0);
        for signal in [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGTERM, Signal::SIGKILL] {
            let mut child = place.start(&["replay", "r.tdm"]);
            let mut console = BufReader::new(child.stdout.as_mut().unwrap()).lines();
            assert!(console.any(|line| line.unwrap().contains("Linux version")));
            kill(Pid::from_raw(qemus(&marker)[0]), signal).unwrap();
            let replayed = Ran::of(child.wait_with_output().unwrap());
            let parts = match signal {
                Signal::SIGKILL => {
                    vec!["(killed by SIGKILL)".to_owned(), "no time to say where".to_owned()]
                }
                _ => vec![
                    " icount ".to_owned(),
                    "a second replay, in single steps there, went on".to_owned(),
                    "\n  usually:  somebody ended QEMU; the recording has nothing to do with it".to_owned(),
                ],
            };
            tells(&replayed, &parts);
            if [Signal::SIGABRT, Signal::SIGSEGV].contains(&signal) {
                let sent =
                    format!("(killed by {signal}, which process {} sent) near icount ", std::process::id());
                tells(&replayed, &[sent]);
            }
            if signal != Signal::SIGKILL {
                let number = |before: &str, behind: &str| {
                    let (_, rest) = replayed.err.split_once(before).unwrap();
                    rest.split_once(behind).unwrap().0.replace(',', "").parse::<u64>().unwrap()
                };
                let (icount, position) = (number(" icount ", ", when"), number(", when ", " instructions"));
                let same = number("identical up to instruction ", " of the stream");
                assert!((same..same + (2 << 20)).contains(&position), "{}", replayed.err);
                let known = &place.at_in_one_run("r.tdm", &[&format!("instruction:{position}")])[0];
                assert_eq!(icount, known.icount, "{}", replayed.err);
            }
            wait_until("no QEMU is left", || qemus(&marker).is_empty());
        }
        assert_eq!(place.left(), (words(&["r.tdm"]), vec![]));
    }
}
