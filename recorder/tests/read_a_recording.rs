//! Recordings from a stranger: whole, cut short, of another version, and repaired.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod sample;

use std::ops::ControlFlow;
use std::path::Path;

use recorder::format::{FOOTER, Kind, VERSION, incomplete};
use recorder::gather;
use recorder::reader::{Error, Reader};
use recorder::repair::{self, Found, repair};
use recorder::writer::Writer;
use sample::{CHUNKS, console, ending, events, log, manifest, write, write_unfinished};
use tempfile::TempDir;
use trace::message::Point;

const LOG: u32 = 0x00e0_200c;

/// A folder in memory: a thousand files that are made sure of on a disk take their time.
fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap()
}

fn read_log(reader: &mut Reader) -> Vec<u8> {
    let mut log = Vec::new();
    reader.copy_log(&mut log).unwrap();
    log
}

fn read_console(reader: &mut Reader) -> Vec<u8> {
    let mut all = Vec::new();
    reader
        .console(|_, bytes| {
            all.extend_from_slice(bytes);
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

#[test]
fn what_was_written_is_read() {
    let folder = TempDir::new().unwrap();
    let mut reader = Reader::open(&write(folder.path(), LOG)).unwrap();
    assert_eq!(reader.manifest, manifest(LOG));
    assert_eq!(reader.ending, ending());
    assert_eq!(read_console(&mut reader), console());
    assert_eq!(read_log(&mut reader), log());
    for (index, digest) in (0..).zip(CHUNKS) {
        assert_eq!(reader.digest(index).unwrap(), Some(digest));
    }
    // Backwards, and where there is none.
    assert_eq!(reader.digest(0).unwrap(), Some(CHUNKS[0]));
    assert_eq!(reader.digest(CHUNKS.len() as u64).unwrap(), None);
}

#[test]
fn reading_can_begin_at_any_icount() {
    let folder = TempDir::new().unwrap();
    let mut reader = Reader::open(&write(folder.path(), LOG)).unwrap();
    let all = events(&mut reader, 0);
    assert_eq!(all.len(), 12);
    for icount in (0..40).chain((3 << 20)..(3 << 20) + 40) {
        let from: Vec<_> = all.iter().filter(|(at, _)| *at >= icount).cloned().collect();
        assert_eq!(events(&mut reader, icount), from, "from {icount}");
    }
}

/// What was written in many frames and is gathered says the same, in fewer bytes, and is all that is left.
#[test]
fn a_gathered_recording_is_the_same() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), LOG);
    let before = std::fs::metadata(&path).unwrap().len();
    let read = |reader: &mut Reader| {
        let digests: Vec<_> = (0..5).map(|index| reader.digest(index).unwrap()).collect();
        let mut console = Vec::new();
        let on = |seen: u64, bytes: &[u8]| {
            console.push((seen, bytes.to_vec()));
            ControlFlow::Continue(())
        };
        reader.console(on).unwrap();
        (read_log(reader), events(reader, 0), digests, console, reader.ending.cause.clone())
    };
    let mut plain = Reader::open(&path).unwrap();
    assert!(plain.sizes().unwrap().iter().any(|&(kind, frames, _)| kind == Kind::Events && frames == 2));
    std::fs::remove_file(&path).unwrap();

    let mut writer = write_unfinished(&path, LOG);
    writer.end(&ending(), 0).unwrap();
    let bytes = gather::finish(writer).unwrap();
    let mut gathered = Reader::open(&path).unwrap();
    assert_eq!(read(&mut gathered), read(&mut plain));
    assert!(gathered.sizes().unwrap().iter().all(|&(_, frames, _)| frames == 1));
    assert!(bytes < before && bytes == std::fs::metadata(&path).unwrap().len());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    // A name that was taken meanwhile is not written over.
    std::fs::remove_file(&path).unwrap();
    let mut writer = write_unfinished(&path, LOG);
    writer.end(&ending(), 0).unwrap();
    std::fs::write(&path, "somebody else's").unwrap();
    assert!(gather::finish(writer).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    assert!(incomplete(&path).exists(), "what was recorded is kept");
}

/// The fuzzer's seed is a recording as it is written now.
#[test]
fn the_seed_can_be_read() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/recording/qemu-7.2-seabios.tdm");
    let mut reader = Reader::open(&seed).unwrap();
    assert!(events(&mut reader, 0).len() > 100);
}

/// Without its index a recording is the same, a little slower to open.
#[test]
fn a_missing_index_is_made_up_for() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), LOG);
    let whole = std::fs::read(&path).unwrap();
    let footer = whole.len() - FOOTER;
    let index = usize::try_from(u64::from_le_bytes(*whole[footer..].first_chunk().unwrap())).unwrap();
    for end in [index, footer, footer + 3] {
        std::fs::write(&path, &whole[..end]).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(read_log(&mut reader), log());
    }
}

#[test]
fn a_recording_is_never_written_over() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), LOG);
    assert!(Writer::create(&path, None).unwrap_err().to_string().contains("exists"));
    std::fs::rename(&path, incomplete(&path)).unwrap();
    let abandoned = Writer::create(&path, None).unwrap_err().to_string();
    assert!(abandoned.contains("died") && abandoned.contains("tandem repair"), "{abandoned}");
    std::fs::remove_file(incomplete(&path)).unwrap();
    let _writer = Writer::create(&path, None).unwrap();
    assert!(Writer::create(&path, None).unwrap_err().to_string().contains("another tandem"));
}

/// Whatever a file is cut down to: it is told, or nothing is missing; and a repair gives what was there, as a whole
/// recording, or says that it holds nothing.
#[test]
fn every_truncation_is_told_and_repaired() {
    let folder = in_memory();
    let path = write(folder.path(), LOG);
    let whole = std::fs::read(&path).unwrap();
    let all = events(&mut Reader::open(&path).unwrap(), 0);
    let complete = log();
    let mut longest = 0;
    for cut in 0..whole.len() {
        let broken = folder.path().join("b.tdm.incomplete");
        std::fs::write(&broken, &whole[..cut]).unwrap();
        let opened = Reader::open(&broken);
        match (&opened, repair(&broken, None)) {
            (Err(Error::NotRecording(_)), Err(repair::Error::Read(Error::NotRecording(_)))) => {
                assert_eq!(cut, 0)
            }
            (Err(Error::Truncated(..)), Err(_)) => assert_eq!(longest, 0, "cut at {cut}"),
            (Err(Error::Truncated(..)), Ok(Found::Part { path, ending, .. })) => {
                let mut reader = Reader::open(&path).unwrap();
                let held = events(&mut reader, 0);
                longest = held.len();
                let whole_log = read_log(&mut reader) == complete;
                assert_eq!(ending.cut, !whole_log, "cut at {cut}");
                if ending.cut {
                    assert_eq!(held[..held.len() - 2], all[..held.len() - 2]);
                    assert_eq!(held[held.len() - 2].1, "shutdown");
                }
                let proof = ending.proof.unwrap();
                assert!(proof == Point::START || proof.position <= ending.icount, "{ending:?}");
                assert!(!broken.exists());
                std::fs::remove_file(path).unwrap();
            }
            (Ok(_), Ok(Found::Whole { path })) => {
                assert!(!broken.exists());
                std::fs::remove_file(path).unwrap();
            }
            (opened, repaired) => panic!("cut at {cut}: {opened:?}, {repaired:?}"),
        }
        let _ = std::fs::remove_file(broken);
    }
    assert!(longest > 10);
}

/// The repaired file has everything up to the damage, and the damaged one stays.
#[test]
fn a_damaged_recording_is_repaired_up_to_the_damage() {
    let folder = in_memory();
    let path = write(folder.path(), LOG);
    let whole = std::fs::read(&path).unwrap();
    for at in 10..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        std::fs::write(&path, &bytes).unwrap();
        match repair(&path, None) {
            Ok(Found::Whole { .. }) => {
                // In what nobody reads while the index is there, or in the index itself.
                assert_eq!(read_log(&mut Reader::open(&path).unwrap()), log(), "damaged at {at}");
            }
            Ok(Found::Part { path: made, removed, .. }) => {
                assert!(!removed || !path.exists());
                let mut reader = Reader::open(&made).unwrap();
                let events = events(&mut reader, 0);
                assert_eq!(events.last().unwrap().1, "end", "damaged at {at}");
                std::fs::remove_file(made).unwrap();
            }
            Err(error) => {
                let line = error.to_string();
                assert!(!line.contains('\n') && line.contains("r.tdm"), "{line}");
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "damaged at {at}: the damaged file stays");
    }
}

#[test]
fn what_is_being_recorded_is_not_repaired() {
    let folder = TempDir::new().unwrap();
    let writer = write_unfinished(&folder.path().join("r.tdm"), LOG);
    let busy = repair(writer.incomplete(), None);
    assert!(matches!(busy, Err(repair::Error::Busy(_))), "{busy:?}");
    let left = writer.incomplete().to_owned();
    drop(writer);
    assert!(matches!(repair(&left, None), Ok(Found::Part { .. })));
}

#[test]
fn another_version_and_another_log_are_told() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), 0x00e0_2001);
    assert!(matches!(Reader::open(&path), Err(Error::OtherLog(_, 0x00e0_2001))));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    std::fs::write(&path, bytes).unwrap();
    let error = Reader::open(&path).unwrap_err().to_string();
    assert!(error.contains("version 9") && error.contains(&format!("version {VERSION}")), "{error}");
}

/// A limit on the size ends a recording in order.
#[test]
fn what_does_not_fit_is_told_and_the_ending_still_fits() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("small.tdm");
    let most = 1 << 20;
    let mut writer = Writer::create(&path, Some(most)).unwrap();
    sample::begin(&mut writer, LOG);
    let noise: Vec<u8> =
        (0..100_000_u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let full =
        (0..).find_map(|first| writer.append(recorder::format::Kind::Piece, first, &noise[..50_000]).err());
    let told = full.unwrap().to_string();
    assert!(told.contains("small.tdm") && told.contains("--max-size"), "{told}");
    writer.end(&ending(), 0).unwrap();
    let bytes = writer.finish().unwrap();
    assert!(bytes <= most && bytes > most / 2, "{bytes}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
    Reader::open(Path::new(&path)).unwrap();
}
