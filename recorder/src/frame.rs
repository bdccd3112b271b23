//! One frame: a header that says what it is and how long, and its content under zstd with a checksum.

use std::io::{self, Read, Seek, SeekFrom};

use crate::format::{FRAME_HEADER, Kind, LONGEST};

/// How hard zstd tries: as hard as it can on the small frames that a compacted log gives, and on large ones so that
/// it stays faster than QEMU writes.
const LEVEL: i32 = 19;
const LEVEL_LARGE: i32 = 9;
/// Of a guest's memory there is much, and somebody waits.
const LEVEL_STATE: i32 = 3;
pub(crate) const LARGE: usize = 1 << 20;

/// What stands before the content under the checksum, bytes: kind and first.
const INSIDE: usize = 9;

/// A frame as it is stored.
#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub first: u64,
    pub bytes: Vec<u8>,
}

impl Frame {
    /// `content`, compressed, at most [`LONGEST`] bytes.
    ///
    /// # Errors
    /// Where it is longer.
    pub fn new(kind: Kind, first: u64, content: &[u8]) -> io::Result<Self> {
        let length = u32::try_from(content.len()).ok().filter(|&length| length <= LONGEST);
        let length = length.ok_or_else(|| io::Error::other("a frame that is too long"))?;
        let mut inside = vec![kind as u8];
        inside.extend(first.to_le_bytes());
        inside.extend_from_slice(content);
        let level = match kind {
            Kind::State => LEVEL_STATE,
            _ if content.len() < LARGE => LEVEL,
            _ => LEVEL_LARGE,
        };
        // All at once, so that zstd takes no more memory than the content needs.
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.include_checksum(true)?;
        let packed = compressor.compress(&inside)?;
        let mut bytes = vec![kind as u8];
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(first.to_le_bytes());
        bytes.extend(packed);
        let stored = u32::try_from(bytes.len() - FRAME_HEADER).map_err(io::Error::other)?;
        bytes[5..9].copy_from_slice(&stored.to_le_bytes());
        Ok(Frame { kind, first, bytes })
    }
}

/// A frame's header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub length: u32,
    pub stored: u32,
    pub first: u64,
}

impl Header {
    /// Takes a header apart.
    ///
    /// # Errors
    /// Where it is none; in words.
    pub fn of(bytes: [u8; FRAME_HEADER]) -> Result<Self, String> {
        let [kind, a, b, c, d, e, f, g, h, first @ ..] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]);
        let stored = u32::from_le_bytes([e, f, g, h]);
        let kind = Kind::of(kind).ok_or_else(|| format!("a frame of kind {kind}"))?;
        // zstd adds less than 1/128 and some bytes to what does not compress.
        if length > LONGEST || stored > LONGEST + (LONGEST >> 7) + 512 {
            return Err(format!("a frame of {length} bytes, and {LONGEST} is the most"));
        }
        Ok(Header { kind, length, stored, first: u64::from_le_bytes(first) })
    }

    /// Bytes that the whole frame takes.
    #[must_use]
    pub fn whole(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.stored)
    }
}

/// Why a frame can't be read.
#[derive(Debug)]
pub enum Unreadable {
    Io(io::Error),
    /// It ends before it should.
    Short,
    Damaged(String),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Unreadable::Short } else { Unreadable::Io(error) }
    }
}

/// The header of the frame at `at` in a file of `length` bytes, which holds it whole.
///
/// # Errors
/// Where none is there.
pub fn header_at(file: &mut (impl Read + Seek), at: u64, length: u64) -> Result<Header, Unreadable> {
    let mut bytes = [0; FRAME_HEADER];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    let header = Header::of(bytes).map_err(Unreadable::Damaged)?;
    if at.checked_add(header.whole()).is_none_or(|end| end > length) {
        return Err(Unreadable::Short);
    }
    Ok(header)
}

/// The content of the frame at `at`, whose header has been read.
///
/// # Errors
/// Where it is not what the header says.
pub fn content_at(file: &mut (impl Read + Seek), at: u64, header: &Header) -> Result<Vec<u8>, Unreadable> {
    let damaged = |what: &str| Unreadable::Damaged(what.to_owned());
    let broken = |error: io::Error| Unreadable::Damaged(error.to_string());
    file.seek(SeekFrom::Start(at + FRAME_HEADER as u64))?;
    let mut decoder = zstd::Decoder::new(file.take(u64::from(header.stored))).map_err(broken)?.single_frame();
    // At most the window that the writer's level makes: a stranger's file must not choose our memory.
    decoder.window_log_max(25).map_err(broken)?;
    let mut inside = [0; INSIDE];
    decoder.read_exact(&mut inside).map_err(broken)?;
    if inside[0] != header.kind as u8 || inside[1..] != header.first.to_le_bytes() {
        return Err(damaged("a frame that is not what its header says"));
    }
    let mut content = Vec::with_capacity(header.length as usize);
    (&mut decoder).take(u64::from(header.length) + 1).read_to_end(&mut content).map_err(broken)?;
    if content.len() != header.length as usize {
        return Err(damaged("a frame that does not hold as much as it says"));
    }
    // To the end, so that the checksum is looked at.
    if decoder.read(&mut [0]).map_err(broken)? != 0 {
        return Err(damaged("a frame that holds more than it says"));
    }
    Ok(content)
}
