//! A recording with checkpoints is proven by several QEMUs at once, and what they say is what one says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::ops::ControlFlow;
use std::path::Path;

use recorder::account::grouped;
use recorder::checkpoint::{Checkpoint, Store};
use recorder::columns::Builder;
use recorder::format::Kind;
use recorder::reader::Reader;
use recorder::writer::Writer;
use tandem::{BUILDS, Place, Ran, build, guest, words};
use trace::message::CHUNK;

/// What one QEMU and several say of a recording: the same, but for how many they were.
fn the_same_by(place: &Place, file: &str, jobs: &[&str]) {
    let whole = place.run(&["replay", file, "--jobs", "1"]);
    whole.ends_with(0);
    let (console, verdict) = split(&whole);
    for many in jobs {
        let pieces = place.run(&["replay", file, "-j", many]);
        pieces.ends_with(0);
        assert_eq!(pieces.err, "");
        let (also, by) = split(&pieces);
        assert_eq!(also, console);
        assert_eq!(by, format!("{verdict}, by {many} QEMUs at once"));
    }
    assert_eq!(place.left().1, words(&[]));
}

/// The console and the verdict.
fn split(ran: &Ran) -> (&str, &str) {
    ran.out.trim_end().rsplit_once('\n').unwrap()
}

#[test]
fn a_linux_boot_in_host_time() {
    for name in BUILDS {
        let place = Place::new();
        let line = words(&["record", "-o", "boot.tdm", "--time", "host", "--", &build(name)]);
        place.run(&[line, guest("linux")].concat()).ends_with(0);
        place.run(&["index", "boot.tdm"]).ends_with(0);
        the_same_by(&place, "boot.tdm", &["3"]);
    }
}

#[test]
fn a_guest_with_a_disk_and_a_network() {
    let place = Place::new();
    place.record("disk.tdm", &build(BUILDS[1]), &guest("disk")).ends_with(0);
    place.run(&["index", "disk.tdm"]).ends_with(0);
    the_same_by(&place, "disk.tdm", &["4"]);
}

fn varint(to: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        to.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

/// Makes of the recording `from` one with another witness or other checkpoints.
fn remade(from: &Path, to: &Path, witness: impl Fn(u64, u64) -> u64, checkpoints: impl Fn(&mut Checkpoint)) {
    let mut recording = Reader::open(from).unwrap();
    let mut writer = Writer::create(to, None).unwrap();
    writer.append(Kind::Manifest, 0, &serde_json::to_vec(&recording.manifest).unwrap()).unwrap();
    let mut digests = Vec::new();
    while let Some(digest) = recording.digest(digests.len() as u64 / 8).unwrap() {
        digests.extend(witness(digests.len() as u64 / 8, digest).to_le_bytes());
    }
    writer.append(Kind::Witness, 0, &digests).unwrap();
    let mut columns = Builder::new(0);
    let read = recording.events(0, |_, event| {
        columns.push(event);
        ControlFlow::Continue(())
    });
    read.unwrap();
    let (first, content) = columns.finish();
    writer.append(Kind::Events, first, &content).unwrap();
    let mut console = Vec::new();
    let read = recording.console(|_, bytes| {
        console.extend_from_slice(bytes);
        ControlFlow::Continue(())
    });
    read.unwrap();
    let mut content = vec![1, 0];
    varint(&mut content, console.len());
    content.extend(console);
    writer.append(Kind::Console, 0, &content).unwrap();
    writer.append(Kind::Ending, 0, &serde_json::to_vec(&recording.ending).unwrap()).unwrap();
    writer.finish().unwrap();
    let mut store = Store::create(&mut Reader::open(to).unwrap()).unwrap();
    for icount in recording.checkpoints() {
        let mut checkpoint = recording.checkpoint(icount).unwrap().unwrap();
        for image in &mut checkpoint.images {
            let file = tempfile::tempfile().unwrap();
            recording.restore(icount, image, &file).unwrap();
            *image = store.keep(&file).unwrap();
        }
        checkpoints(&mut checkpoint);
        store.add(&checkpoint).unwrap();
    }
    store.finish().unwrap();
}

#[test]
fn what_differs_or_only_seems_to() {
    let place = Place::new();
    place.record_a_kernel("whole.tdm", &build(BUILDS[0]), "linux");
    place.run(&["index", "whole.tdm", "--every", "35000000"]).ends_with(0);
    the_same_by(&place, "whole.tdm", &["2"]);
    let (whole, other) = (place.path("whole.tdm"), place.path("other.tdm"));
    let begins = Reader::open(&whole).unwrap().checkpoints();
    let length = Reader::open(&whole).unwrap().ending.icount;

    // In the last piece, and in the first.
    for chunk in [(begins[begins.len() - 1] + length) / 2 / CHUNK, 7] {
        remade(&whole, &other, |at, digest| digest ^ u64::from(at == chunk), |_| ());
        let replayed = place.run(&["replay", "other.tdm", "--jobs", "2"]);
        replayed.ends_with(1);
        assert_eq!(
            replayed.out.lines().last().unwrap(),
            format!(
                "different: chunk {chunk}, instructions {} to {}; everything before is identical",
                grouped(chunk * CHUNK),
                grouped((chunk + 1) * CHUNK)
            )
        );
        assert_eq!(replayed.err.contains("no proof"), chunk != 7, "{}", replayed.err);
        std::fs::remove_file(&other).unwrap();
    }

    // A checkpoint that is wrong makes no recording differ, and no console be shown twice.
    let verdict = place.run(&["replay", "whole.tdm", "--jobs", "1"]).out;
    remade(&whole, &other, |_, digest| digest, |checkpoint| checkpoint.point.digest ^= 1);
    let replayed = place.run(&["replay", "other.tdm", "--jobs", "2"]);
    replayed.ends_with(0);
    assert_eq!(replayed.out, verdict);
    assert_eq!(replayed.err.lines().count(), 1, "{}", replayed.err);
    assert!(replayed.err.contains("replaying it from the beginning"), "{}", replayed.err);
    assert_eq!(place.left().1, words(&[]));
}
