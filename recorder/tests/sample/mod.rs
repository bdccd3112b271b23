//! A small recording with everything in it, for the tests of the file's two ends.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use qemu::arguments::Time;
use qemu::build::Build;
use recorder::checkpoint::{Checkpoint, Store};
use recorder::columns::Builder;
use recorder::format::Kind;
use recorder::log::Version;
use recorder::log::decoder::Decoder;
use recorder::manifest::{Ending, Manifest};
use recorder::reader::Reader;
use recorder::writer::Writer;
use trace::message::Point;

pub const CHUNKS: [u64; 3] = [7, 8, 9];

pub fn manifest(log: u32) -> Manifest {
    Manifest {
        tandem: "0".to_owned(),
        build: Build {
            path: "/q".into(),
            version: "7.2".to_owned(),
            sha256: "00".to_owned(),
            mode: qemu::build::Mode::System,
        },
        target: "x86_64".to_owned(),
        arguments: vec!["-M".to_owned(), "pc".to_owned()],
        folder: "/".into(),
        line: vec![],
        time: Time::Virtual,
        log,
        files: vec![],
        began: 1,
        witness: Some(1 << 20),
        compacted: true,
    }
}

pub fn ending() -> Ending {
    Ending {
        proof: Some(Point { position: 3 << 20, digest: 9 }),
        icount: 3 << 20,
        events: 12,
        dropped: 0,
        cause: "x".to_owned(),
        cut: false,
        status: Some(0),
    }
}

/// A packet, a block completion, clocks and instructions; the last two end the log.
fn bodies() -> [Vec<u8>; 2] {
    let instructions = |count: u32| [&[0][..], &count.to_be_bytes()].concat();
    let clock = |time: u64| [&[28][..], &time.to_be_bytes()].concat();
    let packet = [&[9, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], b"hello"].concat();
    let block = [&[8][..], &3_u64.to_be_bytes()].concat();
    [
        [instructions(5), clock(100), packet, instructions(20), vec![1]].concat(),
        [instructions(3 << 20), clock(90), block, vec![30], instructions(2), vec![14], vec![39]].concat(),
    ]
}

pub fn log() -> Vec<u8> {
    [Version::E0200c.header().to_vec(), bodies().concat()].concat()
}

pub fn console() -> Vec<u8> {
    b"hello\nworld\n".to_vec()
}

fn pieces(seen: u8, bytes: &[u8]) -> Vec<u8> {
    // One piece: where the run was, its length, its bytes.
    [&[1, seen, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
}

pub fn begin(writer: &mut Writer, log: u32) {
    writer.append(Kind::Manifest, 0, &serde_json::to_vec(&manifest(log)).unwrap()).unwrap();
}

/// All but the ending.
pub fn write_unfinished(path: &Path, log: u32) -> Writer {
    let mut writer = Writer::create(path, None).unwrap();
    begin(&mut writer, log);
    let mut columns = Builder::new(0);
    let mut decoder = Decoder::new(Version::E0200c);
    let mut events = |writer: &mut Writer, body: &[u8]| {
        decoder.take(body, |event| columns.push(event)).unwrap();
        let (first, content) = columns.finish();
        writer.append(Kind::Events, first, &content).unwrap();
    };
    let [one, two] = bodies();
    events(&mut writer, &one);
    writer.append(Kind::Witness, 0, &CHUNKS[0].to_le_bytes()).unwrap();
    writer.append(Kind::Console, 0, &pieces(0, b"hello\n")).unwrap();
    events(&mut writer, &two);
    let rest: Vec<u8> = CHUNKS[1..].iter().flat_map(|digest| digest.to_le_bytes()).collect();
    writer.append(Kind::Witness, 1, &rest).unwrap();
    writer.append(Kind::Console, 6, &pieces(40, b"world\n")).unwrap();
    writer
}

pub fn write(folder: &Path, log: u32) -> PathBuf {
    let path = folder.join("r.tdm");
    let mut writer = write_unfinished(&path, log);
    assert!(!path.exists());
    writer.end(&ending(), 0).unwrap();
    let incomplete = writer.incomplete().to_owned();
    writer.finish().unwrap();
    assert!(path.exists() && !incomplete.exists());
    path
}

/// What the file of the sample's first checkpoint holds; the second's differs in one byte.
pub fn state() -> Vec<u8> {
    let mut seed = 1_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_be_bytes()[0]
    };
    let mut state: Vec<u8> = (0..100_000).map(|_| noise()).collect();
    state.resize(300_000, 0);
    state.extend((0..70_000).map(|_| noise()));
    state
}

/// Puts two checkpoints into the recording at `path`.
pub fn put_checkpoints(path: &Path) {
    let mut store = Store::create(&mut Reader::open(path).unwrap()).unwrap();
    for (icount, changed) in [(100, 0), (200, 1)] {
        let mut bytes = state();
        bytes[50_000] ^= changed;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let point = Point { position: icount, digest: 5 };
        let images = vec![store.keep(&file).unwrap()];
        store.add(&Checkpoint { icount, point, build: "00".to_owned(), rearms: false, images }).unwrap();
    }
    store.finish().unwrap();
}

/// The events from `icount` on: icount and kind.
pub fn events(reader: &mut Reader, icount: u64) -> Vec<(u64, &'static str)> {
    let mut events = Vec::new();
    reader
        .events(icount, |at, event| {
            events.push((at, event.name()));
            ControlFlow::Continue(())
        })
        .unwrap();
    events
}
