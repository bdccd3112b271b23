//! Logs and recordings from a stranger who means ill: mutated in every way, below the checksums and above them. The
//! readers come back with a line or with what is there, and take little memory.
//!
//! The mutations follow from a seed, so that each run is the same. TANDEM_MUTANTS says how many of each (20,000).
//! `recorder/fuzz` has the same entry points under cargo-fuzz.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod sample;

use peak_alloc::PeakAlloc;
use recorder::format::FRAME_HEADER;
use recorder::frame::{Frame, Header, content_at};
use recorder::survive;
use std::io::Cursor;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const LOGS: [&[u8]; 2] =
    [include_bytes!("logs/qemu-7.2-seabios.log"), include_bytes!("logs/qemu-10.0-seabios.log")];

fn mutants() -> u64 {
    std::env::var("TANDEM_MUTANTS").map_or(20_000, |count| count.parse().unwrap())
}

/// Numbers that follow from a seed (splitmix64).
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    /// Changes `bytes` in a few places: bits, runs of extreme values, pieces left out, doubled or moved.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let (at, length) = (self.below(bytes.len()), 1 + self.below(16));
            let end = (at + length).min(bytes.len());
            match self.below(7) {
                _ if bytes.is_empty() => {}
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at..end].fill(0xff),
                2 => bytes[at..end].fill(0),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                5 => bytes.truncate(at),
                _ => bytes[at..end].iter_mut().for_each(|byte| *byte = self.next().to_le_bytes()[0]),
            }
        }
    }
}

#[test]
fn mutated_logs_and_recordings_are_told_or_read() {
    const MOST: usize = 256 << 20;
    let mut seeded = Seeded(1);
    for round in 0..mutants() {
        let mut log = LOGS[seeded.below(2)].to_vec();
        // Early events too, not only those of the long middle.
        log.truncate(12 + seeded.below(log.len()));
        seeded.mutate(&mut log);
        survive::log(&log);
        assert!(MEMORY.peak_usage() < MOST, "log {round}: {} bytes", MEMORY.peak_usage());
    }
    let folder = tempfile::TempDir::new().unwrap();
    let path = sample::write(folder.path(), 0x00e0_200c);
    sample::put_checkpoints(&path);
    let whole = std::fs::read(path).unwrap();
    let frames = frames(&whole);
    for round in 0..mutants() {
        let mut bytes = whole[..10].to_vec();
        if seeded.below(3) == 0 {
            bytes.clone_from(&whole);
            seeded.mutate(&mut bytes);
        } else {
            // Above the checksum: contents changed, and packed properly again.
            let changed = seeded.below(frames.len());
            for (place, (header, content)) in frames.iter().enumerate() {
                let mut content = content.clone();
                if place == changed {
                    seeded.mutate(&mut content);
                }
                bytes.extend(Frame::new(header.kind, header.first, &content).unwrap().bytes);
            }
            if seeded.below(4) == 0 {
                seeded.mutate(&mut bytes);
            }
        }
        survive::recording(&bytes);
        assert!(MEMORY.peak_usage() < MOST, "recording {round}: {} bytes", MEMORY.peak_usage());
    }
    println!("{} of each, at most {} bytes of memory", mutants(), MEMORY.peak_usage());
}

/// The frames of a recording up to its ending.
fn frames(whole: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut at = 10;
    while let Some(header) = whole.get(at..).and_then(|rest| rest.first_chunk::<FRAME_HEADER>()) {
        let header = Header::of(*header).unwrap();
        frames.push((header, content_at(&mut Cursor::new(whole), at as u64, &header).unwrap()));
        if header.kind == recorder::format::Kind::Index {
            frames.pop();
            break;
        }
        at += usize::try_from(header.whole()).unwrap();
    }
    frames
}
