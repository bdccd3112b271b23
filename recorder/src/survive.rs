//! What a stranger's bytes go through, all of it in one call: the entry points of the fuzz targets and of the test
//! that does the same from a seed. They must come back, whatever the bytes are.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::account::{Account, Stamps, fields};
use crate::columns::{Builder, Events};
use crate::log::compaction::Compaction;
use crate::log::decoder::Decoder;
use crate::log::{HEADER, Version};
use crate::reader::Reader;
use crate::repair;

/// Reads `bytes` as QEMU's log, header and all, in two pieces: decoded, compacted, put into columns, read from them
/// and encoded.
///
/// # Panics
/// Where what was read is not written as it was.
pub fn log(bytes: &[u8]) {
    let version = Version::E0200c;
    let body = bytes.get(HEADER..).unwrap_or_default();
    let mut decoder = Decoder::new(version);
    let mut compaction = Compaction::default();
    let mut columns = Builder::new(0);
    let mut again = Vec::new();
    let (one, two) = body.split_at(body.len() / 2);
    for piece in [one, two] {
        let taken = decoder.take(piece, |event| {
            version.encode(event, &mut again);
            compaction.take(event, |event| columns.push(event));
        });
        if taken.is_err() {
            break;
        }
    }
    assert!(body.starts_with(&again), "a log is not encoded as it was decoded");
    compaction.settle(|event| columns.push(event));
    let (first, content) = columns.finish();
    let Ok(mut events) = Events::new(first, &content) else { panic!("columns that can't be read") };
    let mut icount = 0;
    while let Ok(Some((at, event))) = events.next_event() {
        icount = at;
        let _ = fields(&event);
    }
    assert!(icount <= decoder.totals.icount, "columns have more instructions than the log");
}

/// Reads `bytes` as a recording: all that `replay`, `show`, `repair` and a seek do with it.
pub fn recording(bytes: &[u8]) {
    let Ok(file) = in_memory(bytes) else { return };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if let Ok(mut reader) = Reader::open(&path) {
        let _ = reader.copy_log(&mut io::sink());
        let _ = reader.sizes();
        let _ = Account::of(&mut reader);
        let _ = Stamps::of(&mut reader).map(|stamps| stamps.map(|stamps| stamps.at(3)));
        let _ = reader.console(|_, _| ControlFlow::Continue(()));
        let _ = reader.events(u64::MAX / 2, |_, _| ControlFlow::Continue(()));
        for index in [0, 1, u64::MAX / 2, u64::MAX] {
            let _ = reader.digest(index);
        }
        for icount in reader.checkpoints().into_iter().take(4) {
            let Ok(Some(checkpoint)) = reader.checkpoint(icount) else { continue };
            for image in checkpoint.images.iter().take(4) {
                let _ = in_memory(&[]).map(|to| reader.restore(icount, image, &to));
            }
        }
    }
    let _ = repair::inspect(&path);
}

fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"recording", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}
