//! Writes a recording, frame by frame, so that whatever dies the frames before are kept.
//!
//! Room for the ending is kept on the disk at all times, so that a full disk, or a limit that the user has set,
//! ends a recording properly instead of breaking it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, Flock, FlockArg, OFlag, fallocate};
use nix::unistd::linkat;

use crate::columns;
use crate::format::{FOOTER_MAGIC, HEADER, Kind, LONGEST, MAGIC, MOST_FRAMES, Place, VERSION, incomplete};
use crate::frame::Frame;
use crate::index;
use crate::log::event::{Cause, Event};
use crate::manifest::Ending;

/// What is kept free for the ending and a first index, bytes; [`INDEXED`] more for each frame.
const ENDING_ROOM: u64 = 64 << 10;
const INDEXED: u64 = 12;

/// The least that a limit on the size may be, bytes.
pub const LEAST: u64 = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` exists; name another file, or move it away")]
    Exists(PathBuf),
    #[error("`{0}` is being written by another tandem; name another file")]
    Busy(PathBuf),
    #[error(
        "`{0}` exists: its recorder died while it wrote it; make a recording of it with `tandem repair`, or move it away"
    )]
    Abandoned(PathBuf),
    #[error("`{0}` can't be written: {1}")]
    Write(PathBuf, io::Error),
    #[error("no more room for `{0}`: {1}")]
    Full(PathBuf, &'static str),
}

/// A recording that is being written. Dropped before it is finished, it stays under its incomplete name.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    incomplete: PathBuf,
    file: Flock<File>,
    written: u64,
    frames: Vec<Place>,
    /// The most that the file may come to, bytes.
    most: u64,
    /// Whether the file system can keep room.
    keeps_room: bool,
    /// Whether the file has a name yet.
    named: bool,
}

impl Writer {
    /// Begins the recording that will be `path`, of at most `most` bytes.
    ///
    /// # Errors
    /// Where it exists or can't be written.
    pub fn create(path: &Path, most: Option<u64>) -> Result<Self, Error> {
        Writer::create_as(path, incomplete(path), most)
    }

    /// Begins the recording that will be `path` and is `incomplete` until then.
    ///
    /// # Errors
    /// Where one of the two exists or can't be written.
    pub fn create_as(path: &Path, incomplete: PathBuf, most: Option<u64>) -> Result<Self, Error> {
        if path.exists() {
            return Err(Error::Exists(path.to_owned()));
        }
        Writer::begin(path, incomplete, most)
    }

    /// Begins what will take the place of the recording `path`. It has no name until then, or, where the file system
    /// knows no such files, is `incomplete`.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn create_beside(path: &Path, incomplete: PathBuf) -> Result<Self, Error> {
        match Writer::nameless(path, incomplete.clone()) {
            Ok(writer) => Ok(writer),
            Err(_) => Writer::begin(path, incomplete, None),
        }
    }

    /// Begins a recording in an empty file that has no name and gets none.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn create_in(file: File) -> Result<Self, Error> {
        // Where such files are.
        let folder = std::env::temp_dir();
        let itself = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let file = lock(file).map_err(|errno| Error::Write(folder.clone(), errno.into()))?;
        let mut writer = Writer::headed(&folder, itself, file, None)?;
        writer.named = false;
        Ok(writer)
    }

    fn begin(path: &Path, incomplete: PathBuf, most: Option<u64>) -> Result<Self, Error> {
        let write = |error| Error::Write(path.to_owned(), error);
        let file = match OpenOptions::new().write(true).create_new(true).open(&incomplete) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let theirs = File::open(&incomplete).map_err(write)?;
                return Err(match lock(theirs) {
                    Err(_) => Error::Busy(incomplete),
                    Ok(_) => Error::Abandoned(incomplete),
                });
            }
            other => other.map_err(write)?,
        };
        let file = lock(file).map_err(|errno| write(errno.into()))?;
        let begun = Writer::headed(path, incomplete.clone(), file, most);
        begun.inspect_err(|_| drop(std::fs::remove_file(incomplete)))
    }

    /// Writes the header of an empty file.
    fn headed(path: &Path, incomplete: PathBuf, file: Flock<File>, most: Option<u64>) -> Result<Self, Error> {
        let mut writer = Writer {
            path: path.to_owned(),
            incomplete,
            file,
            written: 0,
            frames: Vec::new(),
            most: most.unwrap_or(u64::MAX),
            keeps_room: true,
            named: true,
        };
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&VERSION.to_le_bytes());
        writer.keep_room(HEADER as u64)?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// Makes sure that `length` bytes can be written and the recording ended after them.
    fn keep_room(&mut self, length: u64) -> Result<(), Error> {
        let end = self.written + length + ENDING_ROOM + INDEXED * self.frames.len() as u64;
        if end > self.most {
            return Err(Error::Full(self.path.clone(), "the limit that --max-size sets"));
        }
        if !self.keeps_room {
            return Ok(());
        }
        let end = i64::try_from(end).unwrap_or(i64::MAX);
        match fallocate(&*self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, end) {
            Ok(()) => Ok(()),
            Err(Errno::ENOSPC | Errno::EDQUOT) => Err(self.full()),
            Err(Errno::EFBIG) => Err(Error::Full(self.path.clone(), "the largest file allowed here")),
            // A file system that can't; a full disk is met when it is written to.
            Err(_) => {
                self.keeps_room = false;
                Ok(())
            }
        }
    }

    fn full(&self) -> Error {
        Error::Full(self.path.clone(), "the disk is full")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Err(error) = (&*self.file).write_all(bytes) {
            // What has been written of it is no whole frame.
            let _ = self.file.set_len(self.written);
            let _ = (&*self.file).seek(SeekFrom::Start(self.written));
            return Err(match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => self.full(),
                _ => Error::Write(self.incomplete.clone(), error),
            });
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Appends a frame. After an [`Error::Full`] the ending still fits.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn frame(&mut self, frame: &Frame) -> Result<(), Error> {
        if self.frames.len() >= MOST_FRAMES {
            return Err(Error::Full(self.path.clone(), "the most frames that a recording may have"));
        }
        self.keep_room(frame.bytes.len() as u64)?;
        self.last(frame)
    }

    /// Appends a frame for which room has been kept: one of those that end a recording.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn last(&mut self, frame: &Frame) -> Result<(), Error> {
        let place = Place { kind: frame.kind, at: self.written, first: frame.first };
        self.put(&frame.bytes)?;
        self.frames.push(place);
        Ok(())
    }

    /// A frame of `content`, to be appended.
    ///
    /// # Errors
    /// Where it is too long.
    pub fn pack(&self, kind: Kind, first: u64, content: &[u8]) -> Result<Frame, Error> {
        Frame::new(kind, first, content).map_err(|error| Error::Write(self.incomplete.clone(), error))
    }

    /// Appends `content` as one frame.
    ///
    /// # Errors
    /// Where it can't be written; at most [`LONGEST`] bytes can.
    pub fn append(&mut self, kind: Kind, first: u64, content: &[u8]) -> Result<(), Error> {
        debug_assert!(content.len() <= LONGEST as usize);
        let frame = self.pack(kind, first, content)?;
        self.frame(&frame)
    }

    /// Writes what ends a recording at `icount`: for a guest that was cut off the events without which no replay
    /// ends, and the ending itself.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn end(&mut self, ending: &Ending, icount: u64) -> Result<(), Error> {
        if ending.cut {
            let mut columns = columns::Builder::new(icount);
            columns.push(&Event::Shutdown(Cause::HOST_SIGNAL));
            columns.push(&Event::End);
            let (first, content) = columns.finish();
            let frame = self.pack(Kind::Events, first, &content)?;
            self.last(&frame)?;
        }
        let content = serde_json::to_vec(ending);
        let content = content.map_err(|error| Error::Write(self.incomplete.clone(), error.into()))?;
        let frame = self.pack(Kind::Ending, 0, &content)?;
        self.last(&frame)
    }

    /// What has been written is on the disk itself: it outlives the machine.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(|error| Error::Write(self.incomplete.clone(), error))
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

    /// Whether the file has a name.
    pub(crate) fn is_named(&self) -> bool {
        self.named
    }

    /// Nothing has been recorded that would be worth keeping: removes the file.
    pub fn abandon(self) {
        if self.named {
            let _ = std::fs::remove_file(&self.incomplete);
        }
    }

    /// Writes the index; all frames have been written, and all is on the disk then.
    pub(crate) fn seal(&mut self) -> Result<(), Error> {
        let at = self.written;
        let content = index::encode(&self.frames);
        // Of more than a million frames or so there is none; a reader then goes from frame to frame.
        if content.len() <= LONGEST as usize {
            let frame = self.pack(Kind::Index, 0, &content)?;
            self.last(&frame)?;
            let footer = [&at.to_le_bytes()[..], &FOOTER_MAGIC].concat();
            self.put(&footer)?;
        }
        // The room that was kept and not needed goes back.
        let done = self.file.set_len(self.written).and_then(|()| self.file.sync_all());
        done.map_err(|error| Error::Write(self.incomplete.clone(), error))
    }

    /// Writes the index and gives the recording its name. Gives back its bytes.
    ///
    /// # Errors
    /// Where that fails; the incomplete file is left then.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.seal()?;
        self.name()
    }

    /// Gives a recording that is whole its name.
    pub(crate) fn name(self) -> Result<u64, Error> {
        // `hard_link` fails where the name was taken meanwhile; a rename would replace that file.
        let named = match std::fs::hard_link(&self.incomplete, &self.path) {
            Ok(()) => std::fs::remove_file(&self.incomplete),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // A file system without hard links.
            Err(_) => std::fs::rename(&self.incomplete, &self.path),
        };
        named.map_err(|error| Error::Write(self.path, error))?;
        Ok(self.written)
    }

    /// Begins another file for the same recording, which has no name until [`name_over`](Self::name_over).
    pub(crate) fn unnamed(&self) -> Result<Self, Error> {
        Writer::nameless(&self.path, self.incomplete.clone())
    }

    fn nameless(path: &Path, incomplete: PathBuf) -> Result<Self, Error> {
        let write = |error| Error::Write(path.to_owned(), error);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut options = OpenOptions::new();
        options.write(true).mode(0o666).custom_flags(OFlag::O_TMPFILE.bits());
        let file = options.open(folder.unwrap_or(Path::new("."))).map_err(write)?;
        let file = lock(file).map_err(|errno| write(errno.into()))?;
        let mut writer = Writer::headed(path, incomplete, file, None)?;
        writer.named = false;
        Ok(writer)
    }

    /// Links a file without a name to `name`.
    fn link(&self, name: &Path) -> Result<(), Errno> {
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(AT_FDCWD, file.as_str(), AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW)
    }

    /// Gives a recording without a name that of `other`, which is the same recording and goes.
    pub(crate) fn name_over(self, other: Writer) -> Result<u64, Error> {
        match self.link(&self.path) {
            Ok(()) => {
                let gone = std::fs::remove_file(&other.incomplete);
                gone.map_err(|error| Error::Write(other.incomplete.clone(), error))?;
                Ok(self.written)
            }
            Err(_) => other.name(),
        }
    }

    /// Writes the index and takes the place of the recording that was there.
    ///
    /// # Errors
    /// Where that fails; the one that was there is as it was then.
    pub fn finish_over(mut self) -> Result<(), Error> {
        self.seal()?;
        if !self.named {
            // What has this name was left by one that died in the next moment.
            let _ = std::fs::remove_file(&self.incomplete);
            self.link(&self.incomplete).map_err(|errno| Error::Write(self.path.clone(), errno.into()))?;
        }
        std::fs::rename(&self.incomplete, &self.path).map_err(|error| Error::Write(self.path, error))
    }
}

/// Takes a file for this process alone, as long as it has it open.
pub(crate) fn lock(file: File) -> Result<Flock<File>, Errno> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}
