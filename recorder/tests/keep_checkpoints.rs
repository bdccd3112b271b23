//! Checkpoints in a recording: what goes in comes out, once stored, and the recording stays what it is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod sample;

use std::fs::File;
use std::io::{Read, Seek, Write};

use proptest::prelude::*;
use recorder::checkpoint::{Store, remove};
use recorder::format::indexing;
use recorder::reader::Reader;

fn content(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn restored(reader: &mut Reader, icount: u64) -> Vec<u8> {
    let checkpoint = reader.checkpoint(icount).unwrap().unwrap();
    assert_eq!((checkpoint.icount, checkpoint.point.position), (icount, icount));
    let file = tempfile::tempfile().unwrap();
    reader.restore(icount, &checkpoint.images[0], &file).unwrap();
    content(file)
}

#[test]
fn what_two_have_in_common_is_stored_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = sample::write(folder.path(), 0x00e0_200c);
    let before = std::fs::read(&path).unwrap();
    sample::put_checkpoints(&path);
    let mut reader = Reader::open(&path).unwrap();
    assert_eq!(reader.checkpoints(), [100, 200]);
    let mut other = sample::state();
    assert!(restored(&mut reader, 100) == other);
    other[50_000] ^= 1;
    assert!(restored(&mut reader, 200) == other);
    assert!(reader.checkpoint(150).unwrap().is_none());
    // Noise does not compress; one piece of it is there twice.
    let grown = reader.bytes() - before.len() as u64;
    assert!((170_000..215_000).contains(&grown), "{grown}");
    assert_eq!(reader.digest(2).unwrap(), Some(9));

    assert_eq!(remove(&path).unwrap(), 2);
    assert_eq!(remove(&path).unwrap(), 0);
    assert!(std::fs::read(&path).unwrap() == before, "without them it is what it was");
    assert!(!indexing(&path).exists());
}

#[test]
fn what_is_abandoned_leaves_the_recording_as_it_was() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = sample::write(folder.path(), 0x00e0_200c);
    let before = std::fs::read(&path).unwrap();
    let mut store = Store::create(&mut Reader::open(&path).unwrap()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sample::state()).unwrap();
    store.keep(&file).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "it has no name until it is whole");
    store.abandon();
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_file_comes_back(parts in prop::collection::vec((any::<u8>(), 1usize..200_000, any::<bool>()), 0..8), end in 0u64..100_000) {
        let folder = tempfile::TempDir::new().unwrap();
        let path = sample::write(folder.path(), 0x00e0_200c);
        let mut store = Store::create(&mut Reader::open(&path).unwrap()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        for (byte, length, hole) in parts {
            if hole {
                file.seek_relative(i64::try_from(length).unwrap()).unwrap();
            } else {
                let bytes: Vec<u8> = (0..length).map(|at| byte.wrapping_mul(u8::try_from(at / 1000 % 256).unwrap())).collect();
                file.write_all(&bytes).unwrap();
            }
        }
        let length = file.stream_position().unwrap() + end;
        file.set_len(length).unwrap();
        let image = store.keep(&file).unwrap();
        let point = trace::message::Point::START;
        let images = vec![image];
        store.add(&recorder::checkpoint::Checkpoint { icount: 0, point, build: String::new(), rearms: false, images }).unwrap();
        store.finish().unwrap();
        let mut reader = Reader::open(&path).unwrap();
        prop_assert!(restored(&mut reader, 0) == content(file));
    }
}
