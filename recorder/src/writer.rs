//! Writes a recording, frame by frame, so that whatever dies the frames before are kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::format::{FRAME_HEADER, HEADER, Kind, LONGEST, MAGIC, VERSION, incomplete};

/// How hard zstd tries: high enough for the small logs of virtual time, and still faster than QEMU writes the
/// large ones of host time.
const LEVEL: i32 = 9;

/// A frame as it is stored.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// `content`, compressed, at most [`LONGEST`] bytes.
    ///
    /// # Errors
    /// Where it is longer.
    pub fn new(kind: Kind, content: &[u8]) -> io::Result<Self> {
        let length = u32::try_from(content.len()).ok().filter(|&length| length <= LONGEST);
        let length = length.ok_or_else(|| io::Error::other("a frame that is too long"))?;
        let mut bytes = vec![kind as u8];
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 4]);
        let mut encoder = zstd::Encoder::new(bytes, LEVEL)?;
        encoder.include_checksum(true)?;
        // The kind is inside too, under the checksum.
        encoder.write_all(&[kind as u8])?;
        encoder.write_all(content)?;
        let mut bytes = encoder.finish()?;
        let stored = u32::try_from(bytes.len() - FRAME_HEADER).map_err(io::Error::other)?;
        bytes[FRAME_HEADER - 4..FRAME_HEADER].copy_from_slice(&stored.to_le_bytes());
        Ok(Frame { bytes })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` exists; name another file, or move it away")]
    Exists(PathBuf),
    #[error("`{0}` exists: another recorder is writing it, or died while it did; move it away")]
    Abandoned(PathBuf),
    #[error("`{0}` can't be written: {1}")]
    Write(PathBuf, io::Error),
}

/// A recording that is being written. Dropped before it is finished, it stays under its incomplete name.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    incomplete: PathBuf,
    file: File,
    written: u64,
}

impl Writer {
    /// Begins the recording that will be `path`.
    ///
    /// # Errors
    /// Where it exists or can't be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        if path.exists() {
            return Err(Error::Exists(path.to_owned()));
        }
        let incomplete = incomplete(path);
        let file = OpenOptions::new().write(true).create_new(true).open(&incomplete).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                Error::Abandoned(incomplete.clone())
            } else {
                Error::Write(path.to_owned(), error)
            }
        })?;
        let mut writer = Writer { path: path.to_owned(), incomplete, file, written: 0 };
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&VERSION.to_le_bytes());
        writer.put(&header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| Error::Write(self.incomplete.clone(), error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn frame(&mut self, frame: &Frame) -> Result<(), Error> {
        self.put(&frame.bytes)
    }

    /// Appends `content` in as many frames as it needs.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn append(&mut self, kind: Kind, content: &[u8]) -> Result<(), Error> {
        for part in content.chunks(LONGEST as usize) {
            let frame =
                Frame::new(kind, part).map_err(|error| Error::Write(self.incomplete.clone(), error))?;
            self.frame(&frame)?;
        }
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The name that the file has until it is finished.
    #[must_use]
    pub fn incomplete(&self) -> &Path {
        &self.incomplete
    }

    /// Nothing has been recorded that would be worth keeping: removes the file.
    pub fn abandon(self) {
        let _ = std::fs::remove_file(&self.incomplete);
    }

    /// Gives the recording its name; its last frame has been written.
    ///
    /// # Errors
    /// Where that fails; the incomplete file is left then.
    pub fn finish(self) -> Result<(), Error> {
        let done = self.file.sync_all().and_then(|()| {
            // `hard_link` fails where the name was taken meanwhile; a rename would replace that file.
            match std::fs::hard_link(&self.incomplete, &self.path) {
                Ok(()) => std::fs::remove_file(&self.incomplete),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
                // A file system without hard links.
                Err(_) => std::fs::rename(&self.incomplete, &self.path),
            }
        });
        done.map_err(|error| Error::Write(self.path, error))
    }
}
