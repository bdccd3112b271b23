//! The layout of a recording (`.tdm`), version 1. Numbers are little-endian.
//!
//! ```text
//! header   8 bytes  "TANDEM\r\n"
//!          u16      version
//! frame    u8       kind (see Kind)
//!          u32      length of the content, bytes
//!          u32      length of what is stored, bytes
//!          ...      the kind again and the content, as one zstd frame with checksum
//! ```
//!
//! The first frame is the manifest, the last one the ending; between them frames of events, witness and console
//! come as they were made. The contents of all frames of one kind, put together, are:
//! - events: QEMU's log without its header, from the first event to the last;
//! - witness: the digest at the end of each chunk, u64 each;
//! - console: the bytes that the guest wrote;
//! - manifest and ending: one [`trace::codec`] value each.
//!
//! What a reader can meet on disk: `NAME.incomplete` while it is recorded, or for good where the recorder died
//! (no ending); `NAME` once it is finished, by a rename. Nothing else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Changes with every change of the layout or of what the frames hold.
pub const VERSION: u16 = 1;

pub const MAGIC: [u8; 8] = *b"TANDEM\r\n";

/// The header's length, bytes.
pub const HEADER: usize = 10;

/// A frame's own header's length, bytes.
pub const FRAME_HEADER: usize = 9;

/// The most that one frame may hold, bytes.
pub const LONGEST: u32 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Manifest = 1,
    Events = 2,
    Witness = 3,
    Console = 4,
    Ending = 5,
}

impl Kind {
    #[must_use]
    pub fn of(byte: u8) -> Option<Self> {
        [Kind::Manifest, Kind::Events, Kind::Witness, Kind::Console, Kind::Ending]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

/// The name that a recording has until it is finished.
#[must_use]
pub fn incomplete(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".incomplete");
    PathBuf::from(name)
}
