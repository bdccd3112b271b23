//! Recordings from a stranger: whole, cut short, damaged, of another version.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use qemu::arguments::Time;
use qemu::build::Build;
use recorder::format::{Kind, VERSION, incomplete};
use recorder::manifest::{Ending, Manifest};
use recorder::reader::{Error, Reader};
use recorder::writer::Writer;
use tempfile::TempDir;
use trace::codec;

fn manifest(log: u32) -> Manifest {
    Manifest {
        tandem: "0".to_owned(),
        build: Build { path: "/q".into(), version: "7.2".to_owned(), sha256: "00".to_owned() },
        target: "x86_64".to_owned(),
        arguments: vec!["-M".to_owned(), "pc".to_owned()],
        folder: "/".into(),
        line: vec![],
        time: Time::Virtual,
        log,
        files: vec![],
        began: 1,
        chunk: 1 << 20,
    }
}

fn write(folder: &Path, log: u32) -> PathBuf {
    let path = folder.join("r.tdm");
    let mut writer = Writer::create(&path).unwrap();
    writer.append(Kind::Manifest, &codec::encode(&manifest(log)).unwrap()).unwrap();
    writer.append(Kind::Events, b"first ").unwrap();
    writer.append(Kind::Witness, &7u64.to_le_bytes()).unwrap();
    writer.append(Kind::Console, b"hello\n").unwrap();
    writer.append(Kind::Events, b"second").unwrap();
    writer.append(Kind::Witness, &8u64.to_le_bytes()).unwrap();
    let ending =
        Ending { position: 9, digest: 1, icount: 9, events: 2, cause: "x".to_owned(), status: Some(0) };
    writer.append(Kind::Ending, &codec::encode(&ending).unwrap()).unwrap();
    assert!(incomplete(&path).exists() && !path.exists());
    writer.finish().unwrap();
    assert!(!incomplete(&path).exists());
    path
}

#[test]
fn what_was_written_is_read() {
    let folder = TempDir::new().unwrap();
    let mut reader = Reader::open(&write(folder.path(), 0x00e0_200c)).unwrap();
    assert_eq!(reader.manifest, manifest(0x00e0_200c));
    assert_eq!(reader.witness().unwrap(), [7, 8]);
    assert_eq!(reader.console().unwrap(), b"hello\n");
    let mut log = Vec::new();
    reader.copy_log(&mut log).unwrap();
    assert_eq!(log, b"\x00\xe0\x20\x0c\0\0\0\0\0\0\0\0first second");
}

#[test]
fn a_recording_is_never_written_over() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), 0x00e0_200c);
    assert!(Writer::create(&path).unwrap_err().to_string().contains("exists"));
    std::fs::rename(&path, incomplete(&path)).unwrap();
    assert!(Writer::create(&path).unwrap_err().to_string().contains("died"));
}

#[test]
fn every_truncation_is_told() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), 0x00e0_200c);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        match Reader::open(&path) {
            Err(Error::Truncated(..)) => assert!(cut > 0),
            Err(Error::NotRecording(_)) => assert_eq!(cut, 0),
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Every changed byte is noticed: in a header by its limits, in a content by its checksum.
    #[test]
    fn a_damaged_recording_is_told_or_means_the_same(at in any::<prop::sample::Index>(),
                                                     with in prop::collection::vec(any::<u8>(), 1..12)) {
        let folder = TempDir::new().unwrap();
        let path = write(folder.path(), 0x00e0_200c);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        let end = (at + with.len()).min(bytes.len());
        bytes.splice(at..end, with);
        std::fs::write(&path, bytes).unwrap();
        if let Ok(mut reader) = Reader::open(&path) {
            let mut log = Vec::new();
            let read = (reader.witness(), reader.console(), reader.copy_log(&mut log).map(|()| log));
            if let (Ok(witness), Ok(console), Ok(log)) = read {
                prop_assert_eq!(&reader.manifest, &manifest(0x00e0_200c));
                prop_assert_eq!(witness, [7, 8]);
                prop_assert_eq!(console, b"hello\n");
                prop_assert_eq!(&log[12..], b"first second");
            }
        }
    }
}
