//! Reads a recording, one that may come from a stranger: every length has a limit, whatever is wrong is told with
//! the place where it is, and no more than a frame or two is in memory at a time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use trace::message::CHUNK;

use crate::columns::Events;
use crate::console;
use crate::format::{FOOTER, FOOTER_MAGIC, HEADER, Kind, MAGIC, MOST_FRAMES, Place, VERSION};
use crate::frame::{self, Frame, Unreadable};
use crate::index;
use crate::log::Version;
use crate::log::event::Event;
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
        "`{0}` is truncated at byte {1}: its recorder died, or it was not copied whole; `tandem repair` makes a recording of what is there, or copy it again"
    )]
    Truncated(PathBuf, u64),
    #[error(
        "`{path}` is damaged at byte {at}: {what}; copy it again from where it is whole, or let `tandem repair` save what comes before"
    )]
    Damaged { path: PathBuf, at: u64, what: String },
    #[error(
        "`{0}` holds a log of QEMU's version {1:#x}, which this tandem does not know; use the tandem that made it"
    )]
    OtherLog(PathBuf, u32),
}

/// A recording's file, whose frames can be read.
#[derive(Debug)]
pub(crate) struct Frames {
    pub path: PathBuf,
    pub file: File,
    /// Bytes in the file.
    pub length: u64,
}

impl Frames {
    /// Opens the recording at `path` and reads its header.
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
        Ok(Frames { path: path.to_owned(), file, length })
    }

    /// The same file once more, with a place in it of its own, whatever has its name by now.
    pub fn again(&self) -> Result<Frames, Error> {
        let file = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            .map_err(|error| Error::Read(self.path.clone(), error))?;
        Ok(Frames { path: self.path.clone(), file, length: self.length })
    }

    fn error(&self, at: u64, unreadable: Unreadable) -> Error {
        match unreadable {
            Unreadable::Io(error) => Error::Read(self.path.clone(), error),
            Unreadable::Short => Error::Truncated(self.path.clone(), self.length),
            Unreadable::Damaged(what) => Error::Damaged { path: self.path.clone(), at, what },
        }
    }

    pub fn damaged(&self, at: u64, what: impl ToString) -> Error {
        self.error(at, Unreadable::Damaged(what.to_string()))
    }

    /// The header of the frame at `at`.
    pub fn header(&mut self, at: u64) -> Result<frame::Header, Error> {
        frame::header_at(&mut self.file, at, self.length).map_err(|unreadable| self.error(at, unreadable))
    }

    /// The content of the frame at `place`.
    pub fn content(&mut self, place: Place) -> Result<Vec<u8>, Error> {
        let header = self.header(place.at)?;
        if (header.kind, header.first) != (place.kind, place.first) {
            return Err(self.damaged(place.at, "another frame than the index names"));
        }
        frame::content_at(&mut self.file, place.at, &header)
            .map_err(|unreadable| self.error(place.at, unreadable))
    }

    /// The frame at `place`, as it is stored.
    pub fn whole(&mut self, place: Place) -> Result<Frame, Error> {
        let length = self.header(place.at)?.whole();
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(place.at));
        read.and_then(|_| (&self.file).take(length).read_to_end(&mut bytes))
            .map_err(|error| Error::Read(self.path.clone(), error))?;
        Ok(Frame { kind: place.kind, first: place.first, bytes })
    }

    /// A value kept as JSON.
    pub fn value<T: DeserializeOwned>(&mut self, place: Place) -> Result<T, Error> {
        let content = self.content(place)?;
        serde_json::from_slice(&content).map_err(|error| self.damaged(place.at, error))
    }

    /// The places of all frames, by the index; `None` where there is none.
    fn indexed(&mut self) -> Result<Option<Vec<Place>>, Error> {
        let mut footer = [0; FOOTER];
        let Some(at) = self.length.checked_sub(FOOTER as u64) else { return Ok(None) };
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(&mut footer));
        read.map_err(|error| Error::Read(self.path.clone(), error))?;
        let (offset, magic) = footer.split_at(8);
        if magic != FOOTER_MAGIC {
            return Ok(None);
        }
        let at = u64::from_le_bytes(offset.try_into().unwrap_or_default());
        let content = self.content(Place { kind: Kind::Index, at, first: 0 })?;
        let places = index::decode(&content).ok_or_else(|| self.damaged(at, "an index that is none"))?;
        Ok(Some(places))
    }

    /// The places of all frames, from one to the next, up to the first that is not there whole; and what is wrong
    /// there, if anything.
    pub fn scan(&mut self) -> (Vec<Place>, Option<Error>) {
        let mut places = Vec::new();
        let mut at = HEADER as u64;
        while at < self.length && places.len() < MOST_FRAMES {
            match self.header(at) {
                Ok(header) => {
                    places.push(Place { kind: header.kind, at, first: header.first });
                    at += header.whole();
                    // Behind the index there is only the footer.
                    if header.kind == Kind::Index {
                        break;
                    }
                }
                Err(error) => return (places, Some(error)),
            }
        }
        (places, None)
    }
}

/// A finished recording.
#[derive(Debug)]
pub struct Reader {
    frames: Frames,
    places: Vec<Place>,
    pub manifest: Manifest,
    pub ending: Ending,
    pub log: Version,
    /// The frame of the witness that was read last, and its place.
    witness: Option<(Place, Vec<u8>)>,
}

impl Reader {
    /// Opens the recording at `path` and reads manifest and ending.
    ///
    /// # Errors
    /// Where it is no finished recording.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut frames = Frames::open(path)?;
        let places = match frames.indexed()? {
            Some(places) => places,
            None => match frames.scan() {
                (places, None) => places,
                (_, Some(error)) => return Err(error),
            },
        };
        let end = places.iter().rfind(|place| place.kind == Kind::Ending).copied();
        let Some(end) = end else { return Err(Error::Truncated(path.to_owned(), frames.length)) };
        let (manifest, log) = manifest(&mut frames, &places)?;
        let ending = frames.value(end)?;
        Ok(Reader { frames, places, manifest, ending, log, witness: None })
    }

    /// The file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.frames.path
    }

    /// Bytes in the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.frames.length
    }

    /// Each kind's frames and the bytes that they take in the file.
    ///
    /// # Errors
    /// Where a header can't be read.
    pub fn sizes(&mut self) -> Result<Vec<(Kind, u64, u64)>, Error> {
        let mut sizes: Vec<(Kind, u64, u64)> = Vec::new();
        for &place in &self.places {
            let whole = self.frames.header(place.at)?.whole();
            match sizes.iter_mut().find(|(kind, ..)| *kind == place.kind) {
                Some((_, frames, bytes)) => {
                    *frames += 1;
                    *bytes += whole;
                }
                None => sizes.push((place.kind, 1, whole)),
            }
        }
        Ok(sizes)
    }

    pub(crate) fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    pub(crate) fn places(&self, kind: Kind) -> Vec<Place> {
        self.places.iter().filter(|place| place.kind == kind).copied().collect()
    }

    /// The places of all frames but the index.
    pub(crate) fn all(&self) -> Vec<Place> {
        self.places.iter().filter(|place| place.kind != Kind::Index).copied().collect()
    }

    /// Calls `on` with every event from the one at `icount` on, each with QEMU's icount before it, until it breaks.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn events(
        &mut self,
        icount: u64,
        mut on: impl FnMut(u64, &Event) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let places = self.places(Kind::Events);
        // Several frames may begin at one icount.
        let from = places.partition_point(|place| place.first < icount).saturating_sub(1);
        for &place in &places[from..] {
            let content = self.frames.content(place)?;
            let broken = |error| self.frames.damaged(place.at, error);
            let mut events = Events::new(place.first, &content).map_err(broken)?;
            while let Some((at, event)) = events.next_event().map_err(broken)? {
                if at >= icount && on(at, &event).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Writes QEMU's log as QEMU reads it, header and all.
    ///
    /// # Errors
    /// Where a frame is damaged or `to` can't be written.
    pub fn copy_log(&mut self, to: &mut impl Write) -> Result<(), Error> {
        const PIECE: usize = 1 << 20;
        let version = self.log;
        let mut failed = None;
        let mut log = version.header().to_vec();
        self.events(0, |_, event| {
            version.encode(event, &mut log);
            if log.len() < PIECE {
                return ControlFlow::Continue(());
            }
            failed = to.write_all(&log).err();
            log.clear();
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match failed.map_or_else(|| to.write_all(&log), Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::Read(self.frames.path.clone(), error)),
        }
    }

    /// The digest at the end of chunk `index`; `None` where the witness does not go so far.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn digest(&mut self, index: u64) -> Result<Option<u64>, Error> {
        let holds = |place: Place, content: &[u8]| {
            index >= place.first && index - place.first < content.len() as u64 / 8
        };
        if !self.witness.as_ref().is_some_and(|(place, content)| holds(*place, content)) {
            let before = |place: &&Place| place.kind == Kind::Witness && place.first <= index;
            let Some(&place) = self.places.iter().rfind(before) else { return Ok(None) };
            let content = self.frames.content(place)?;
            if !holds(place, &content) {
                return Ok(None);
            }
            self.witness = Some((place, content));
        }
        Ok(self.witness.as_ref().and_then(|(place, content)| {
            let at = usize::try_from(index - place.first).ok()?;
            content.as_chunks().0.get(at).map(|&digest| u64::from_le_bytes(digest))
        }))
    }

    /// Calls `on` with what the guest wrote, in order: pieces with the position in the stream of instructions, or
    /// without a witness QEMU's icount, at which each was seen.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn console(&mut self, mut on: impl FnMut(u64, &[u8]) -> ControlFlow<()>) -> Result<(), Error> {
        for place in self.places(Kind::Console) {
            let content = self.frames.content(place)?;
            match console::pieces(&content, &mut on) {
                Some(ControlFlow::Continue(())) => {}
                Some(ControlFlow::Break(())) => return Ok(()),
                None => return Err(self.frames.damaged(place.at, "a frame of console that is none")),
            }
        }
        Ok(())
    }
}

/// The manifest, which is the first frame, and the version of the log that it names.
pub(crate) fn manifest(frames: &mut Frames, places: &[Place]) -> Result<(Manifest, Version), Error> {
    let first = places.first().copied().filter(|place| place.kind == Kind::Manifest);
    let first = first.ok_or_else(|| frames.damaged(HEADER as u64, "no manifest"))?;
    let manifest: Manifest = frames.value(first)?;
    if let Some(chunk) = manifest.witness.filter(|&chunk| chunk != CHUNK) {
        let what = format!("a witness of {chunk} instructions a chunk, where {CHUNK} are expected");
        return Err(frames.damaged(first.at, what));
    }
    let log = Version::of(manifest.log);
    let log = log.ok_or_else(|| Error::OtherLog(frames.path.clone(), manifest.log))?;
    Ok((manifest, log))
}
