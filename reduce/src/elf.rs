//! A static program for Linux on x86-64: a header, the image, and memory to write to (System V ABI, ELF-64).

use crate::image::{CODE, Image};
use crate::runtime::WRITTEN;

const HEADER: usize = 64;
const SEGMENT: usize = 56;
/// Where the image begins in the file: as in memory, at a page's beginning.
const PAGE: u64 = 4096;

const LOAD: u32 = 1;
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;

/// The program as a file.
#[must_use]
pub fn program(image: &Image) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    file.resize(16, 0);
    for half in [2_u16, 62] {
        // An executable, for x86-64.
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    file.extend(CODE.to_le_bytes());
    file.extend((HEADER as u64).to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    for half in [HEADER, SEGMENT, 2, 0, 0, 0] {
        file.extend(u16::try_from(half).unwrap_or_default().to_le_bytes());
    }
    let mut segment = |flags: u32, offset: u64, address: u64, in_file: u64, in_memory: u64| {
        file.extend(LOAD.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset, address, address, in_file, in_memory, PAGE] {
            file.extend(word.to_le_bytes());
        }
    };
    let length = image.bytes.len() as u64;
    segment(READ | EXECUTE, PAGE, CODE, length, length);
    segment(READ | WRITE, 0, WRITTEN.start, 0, WRITTEN.end - WRITTEN.start);
    file.resize(usize::try_from(PAGE).unwrap_or_default(), 0);
    file.extend(&image.bytes);
    file
}
