//! QEMU's replay log: a 12-byte header, then events. Through a pipe QEMU cannot seek back to fill in the header
//! and writes the version word as the last four bytes instead (replay/replay.c, `replay_finish`).
//!
//! [`event`] is what a log says, [`layout`] how its bytes say it, [`decoder`] reads one as
//! it arrives, [`compaction`] leaves out what a replay does not need.

pub mod compaction;
pub mod decoder;
pub mod event;
mod layout;

use event::Event;

/// The header's length, bytes: the version word and eight unused bytes.
pub const HEADER: usize = 12;

/// The longest payload of an event, bytes: a packet, a block of sound or a read from a character device is far
/// shorter.
pub const LONGEST: u64 = 4 << 20;

/// The log versions that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// QEMU 7.2 to 10.2.
    E0200c,
    /// QEMU 11.0: sound that comes in has no position any more.
    E0200d,
    /// QEMU 11.1: keys have Linux's codes, and nothing else.
    E0200e,
}

impl Version {
    /// The version with this word.
    #[must_use]
    pub fn of(word: u32) -> Option<Self> {
        [Version::E0200c, Version::E0200d, Version::E0200e].into_iter().find(|version| version.word() == word)
    }

    /// The version that a release of QEMU writes, by its major and minor number. Whether it does a log says at its end.
    #[must_use]
    pub fn written_by(release: (u32, u32)) -> Self {
        match release {
            (..=9, _) | (10, ..=2) => Version::E0200c,
            (10, _) | (11, 0) => Version::E0200d,
            _ => Version::E0200e,
        }
    }

    #[must_use]
    pub fn word(self) -> u32 {
        match self {
            Version::E0200c => 0x00e0_200c,
            Version::E0200d => 0x00e0_200d,
            Version::E0200e => 0x00e0_200e,
        }
    }

    /// The first event in `bytes` and its length; `None` where `bytes` end inside it.
    ///
    /// # Errors
    /// Where no event of this version begins so.
    pub fn event(self, bytes: &[u8]) -> Result<Option<(Event<'_>, usize)>, Malformed> {
        layout::event(self, bytes)
    }

    /// Appends `event` to `log` as QEMU writes it. Its payload is at most [`LONGEST`] bytes.
    pub fn encode(self, event: &Event, log: &mut Vec<u8>) {
        layout::encode(self, event, log);
    }

    /// The header of a log of this version, for QEMU to read.
    #[must_use]
    pub fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&self.word().to_be_bytes());
        header
    }
}

/// Bytes that are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("event kind {0}, which its version does not have")]
    Kind(u8),
    #[error("an input event of kind {0}, which its version does not have")]
    Input(u32),
    #[error("a key of kind {0}, which its version does not have")]
    Key(u32),
    #[error("an event of more than {LONGEST} bytes")]
    TooLong,
}
