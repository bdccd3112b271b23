//! Reads a recording, one that may come from a stranger: every length has a limit, and whatever is wrong is told
//! with the place where it is.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use trace::codec;
use trace::message::CHUNK;

use crate::format::{FRAME_HEADER, HEADER, Kind, LONGEST, MAGIC, VERSION};
use crate::log::Version;
use crate::manifest::{Ending, Manifest};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` can't be read: {1}")]
    Read(PathBuf, io::Error),
    #[error("`{0}` is not a recording of tandem's")]
    NotRecording(PathBuf),
    #[error(
        "`{0}` is a recording of format version {1}, and this tandem reads version {VERSION}; use the tandem that made it"
    )]
    OtherVersion(PathBuf, u16),
    #[error(
        "`{0}` is truncated at byte {1}: its recorder died, or it was not copied whole; record again, or copy it again"
    )]
    Truncated(PathBuf, u64),
    #[error("`{path}` is damaged at byte {at}: {what}; copy it again from where it is whole")]
    Damaged { path: PathBuf, at: u64, what: String },
    #[error(
        "`{0}` holds a log of QEMU's version {1:#x}, which this tandem does not know; use the tandem that made it"
    )]
    OtherLog(PathBuf, u32),
}

/// Where a frame's stored bytes lie.
#[derive(Debug, Clone, Copy)]
struct Place {
    kind: Kind,
    /// Of its header, in the file.
    at: u64,
    length: u32,
    stored: u32,
}

/// A finished recording.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    frames: Vec<Place>,
    pub manifest: Manifest,
    pub ending: Ending,
    pub log: Version,
}

impl Reader {
    /// Opens the recording at `path`, looks at every frame's header and reads manifest and ending.
    ///
    /// # Errors
    /// Where it is no finished recording.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let unreadable = |error| Error::Read(path.to_owned(), error);
        let mut file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut header = Vec::new();
        (&mut file).take(HEADER as u64).read_to_end(&mut header).map_err(unreadable)?;
        if header.len() < HEADER {
            return Err(if !header.is_empty() && MAGIC.starts_with(&header[..header.len().min(8)]) {
                Error::Truncated(path.to_owned(), header.len() as u64)
            } else {
                Error::NotRecording(path.to_owned())
            });
        }
        if header[..8] != MAGIC {
            return Err(Error::NotRecording(path.to_owned()));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(Error::OtherVersion(path.to_owned(), version));
        }
        let frames = scan(path, &mut file, length)?;
        let first = frames.first().copied().filter(|frame| frame.kind == Kind::Manifest);
        let last = frames.last().copied().filter(|frame| frame.kind == Kind::Ending);
        let Some(last) = last else { return Err(Error::Truncated(path.to_owned(), length)) };
        let Some(first) = first else {
            let what = "no manifest".to_owned();
            return Err(Error::Damaged { path: path.to_owned(), at: HEADER as u64, what });
        };
        let manifest: Manifest = value(path, &mut file, first)?;
        let ending = value(path, &mut file, last)?;
        if manifest.chunk != CHUNK {
            let what =
                format!("a witness of {} instructions a chunk, where {CHUNK} are expected", manifest.chunk);
            return Err(Error::Damaged { path: path.to_owned(), at: first.at, what });
        }
        let log = Version::of(manifest.log).ok_or_else(|| Error::OtherLog(path.to_owned(), manifest.log))?;
        Ok(Reader { path: path.to_owned(), file, frames, manifest, ending, log })
    }

    fn all(&mut self, kind: Kind, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Error> {
        for frame in self.frames.iter().filter(|frame| frame.kind == kind) {
            let content = content(&self.path, &mut self.file, *frame)?;
            take(&content).map_err(|error| Error::Read(self.path.clone(), error))?;
        }
        Ok(())
    }

    /// Writes QEMU's log as QEMU reads it, header and all.
    ///
    /// # Errors
    /// Where a frame is damaged or `to` can't be written.
    pub fn copy_log(&mut self, to: &mut impl Write) -> Result<(), Error> {
        to.write_all(&self.log.header()).map_err(|error| Error::Read(self.path.clone(), error))?;
        self.all(Kind::Events, |content| to.write_all(content))
    }

    fn together(&mut self, kind: Kind) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.all(kind, |content| {
            bytes.extend_from_slice(content);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The digests at the ends of the chunks.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn witness(&mut self) -> Result<Vec<u64>, Error> {
        let bytes = self.together(Kind::Witness)?;
        Ok(bytes.as_chunks().0.iter().map(|&digest| u64::from_le_bytes(digest)).collect())
    }

    /// What the guest wrote.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn console(&mut self) -> Result<Vec<u8>, Error> {
        self.together(Kind::Console)
    }
}

/// The places of all frames.
fn scan(path: &Path, file: &mut File, length: u64) -> Result<Vec<Place>, Error> {
    let mut frames = Vec::new();
    let mut at = HEADER as u64;
    while at < length {
        let mut header = [0; FRAME_HEADER];
        if length - at < FRAME_HEADER as u64 {
            return Err(Error::Truncated(path.to_owned(), length));
        }
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(&mut header))
            .map_err(|error| Error::Read(path.to_owned(), error))?;
        let [kind, a, b, c, d, e, f, g, h] = header;
        let frame_length = u32::from_le_bytes([a, b, c, d]);
        let stored = u32::from_le_bytes([e, f, g, h]);
        let damaged = |what: String| Error::Damaged { path: path.to_owned(), at, what };
        let kind = Kind::of(kind).ok_or_else(|| damaged(format!("a frame of kind {kind}")))?;
        // zstd adds less than 1/128 and some bytes to what does not compress.
        if frame_length > LONGEST || stored > LONGEST + (LONGEST >> 7) + 512 {
            return Err(damaged(format!("a frame of {frame_length} bytes, and {LONGEST} is the most")));
        }
        let next = at + FRAME_HEADER as u64 + u64::from(stored);
        if next > length {
            return Err(Error::Truncated(path.to_owned(), length));
        }
        frames.push(Place { kind, at, length: frame_length, stored });
        at = next;
    }
    Ok(frames)
}

fn content(path: &Path, file: &mut File, frame: Place) -> Result<Vec<u8>, Error> {
    let damaged = |what: String| Error::Damaged { path: path.to_owned(), at: frame.at, what };
    file.seek(SeekFrom::Start(frame.at + FRAME_HEADER as u64))
        .map_err(|error| Error::Read(path.to_owned(), error))?;
    let stored = file.take(u64::from(frame.stored));
    let mut decoder = zstd::Decoder::new(stored).map_err(|error| damaged(error.to_string()))?.single_frame();
    // At most the window that the writer's level makes: a stranger's file must not choose our memory.
    decoder.window_log_max(25).map_err(|error| damaged(error.to_string()))?;
    let mut content = Vec::new();
    decoder
        .by_ref()
        .take(u64::from(frame.length) + 2)
        .read_to_end(&mut content)
        .map_err(|error| damaged(error.to_string()))?;
    if content.first() != Some(&(frame.kind as u8)) {
        return Err(damaged("a frame that is not of the kind that it says".to_owned()));
    }
    content.remove(0);
    if content.len() == frame.length as usize {
        Ok(content)
    } else {
        Err(damaged(format!("a frame that says {} bytes and does not hold them", frame.length)))
    }
}

fn value<T: DeserializeOwned>(path: &Path, file: &mut File, frame: Place) -> Result<T, Error> {
    let content = content(path, file, frame)?;
    codec::decode(&content).map_err(|error| Error::Damaged {
        path: path.to_owned(),
        at: frame.at,
        what: error.to_string(),
    })
}
