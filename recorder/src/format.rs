//! The layout of a recording (`.tdm`), version 3. FORMAT.md beside this folder is the description to the byte, for
//! who writes a reader of their own; here is what the code needs of it. Numbers are little-endian.
//!
//! ```text
//! header   8 bytes  "TANDEM\r\n"
//!          u16      version
//! frame    u8       kind (see Kind)
//!          u32      length of the content, bytes
//!          u32      length of what is stored, bytes
//!          u64      first: where the content begins, in what its kind counts
//!          ...      kind, first and content, as one zstd frame with checksum
//! ...
//! footer   u64      where the frame of the index begins
//!          8 bytes  "TDMINDEX"
//! ```
//!
//! What a reader can meet on disk: `NAME.incomplete` while it is recorded, or for good where the recorder died
//! (no ending); `NAME` once it is finished, by a rename; `NAME.repairing`, `NAME.packing` and `NAME.indexing`
//! while a whole recording, or one with its guest's files or with checkpoints, is made of another. Nothing else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Changes with every change of the layout or of what the frames hold.
///
/// - 1: QEMU's log as it is, witness, console, manifest and ending in bincode.
/// - 2: events in columns; `first` in each frame's header; index and footer; manifest and ending in JSON.
/// - 3: the witness is made of what instructions are within their pages, not of their addresses; checkpoints.
pub const VERSION: u16 = 3;

pub const MAGIC: [u8; 8] = *b"TANDEM\r\n";

/// The header's length, bytes.
pub const HEADER: usize = 10;

/// A frame's own header's length, bytes.
pub const FRAME_HEADER: usize = 17;

/// The footer's length, bytes.
pub const FOOTER: usize = 16;

pub const FOOTER_MAGIC: [u8; 8] = *b"TDMINDEX";

/// The most that one frame may hold, bytes.
pub const LONGEST: u32 = 16 << 20;

/// The most frames that a recording may have; three a second fill them in two weeks.
pub const MOST_FRAMES: usize = 1 << 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// How the recording was started, JSON. Always the first frame.
    Manifest = 1,
    /// Events in columns; counts QEMU's icount.
    Events = 2,
    /// Digests at the ends of chunks, u64 each; counts chunks.
    Witness = 3,
    /// What the guest wrote, and when; counts bytes.
    Console = 4,
    /// How the recording ended, JSON.
    Ending = 5,
    /// Where the frames are. The last one.
    Index = 6,
    /// A piece of a guest's file; counts pieces.
    Piece = 7,
    /// Which pieces make which file, JSON.
    Files = 8,
    /// Bytes of checkpoints' files; counts such frames.
    State = 9,
    /// A checkpoint; counts QEMU's icount.
    Checkpoint = 10,
}

impl Kind {
    #[must_use]
    pub fn of(byte: u8) -> Option<Self> {
        use Kind::{Checkpoint, Console, Ending, Events, Files, Index, Manifest, Piece, State, Witness};
        [Manifest, Events, Witness, Console, Ending, Index, Piece, Files, State, Checkpoint]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub kind: Kind,
    /// Of its header, in the file.
    pub at: u64,
    /// Where its content begins, in what its kind counts.
    pub first: u64,
}

/// The name that a recording has until it is finished.
#[must_use]
pub fn incomplete(path: &Path) -> PathBuf {
    with_suffix(path, ".incomplete")
}

/// The name that a repaired recording has until it is finished.
#[must_use]
pub fn repairing(path: &Path) -> PathBuf {
    with_suffix(path, ".repairing")
}

/// The name of the copy with the guest's files in it until that is finished.
#[must_use]
pub fn packing(path: &Path) -> PathBuf {
    with_suffix(path, ".packing")
}

/// The name of the copy with checkpoints in it until that is finished.
#[must_use]
pub fn indexing(path: &Path) -> PathBuf {
    with_suffix(path, ".indexing")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
