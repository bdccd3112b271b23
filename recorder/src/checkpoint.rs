//! Checkpoints kept with a recording: what its guest was like at a moment, so that a replay can begin there.
//!
//! To a recording a checkpoint's state is a few files of QEMU's, of which it knows nothing. They are cut where their
//! content says (FastCDC), so that what two checkpoints have in common, most of the guest's memory, is found whatever
//! stands before it, and is stored once.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fastcdc::v2020::FastCDC;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use qemu::digest::Digest;
use serde::{Deserialize, Serialize};
use trace::codec;
use trace::message::Point;

use crate::format::{Kind, Place, indexing};
use crate::pack::copy;
use crate::reader::{self, Frames, Reader};
use crate::writer::{self, Writer};

/// A state of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Instructions retired before it, by QEMU's count.
    pub icount: u64,
    /// Where it is in the stream of instructions.
    pub point: Point,
    /// SHA-256 of the build whose state it is, which alone can begin with it; hexadecimal.
    pub build: String,
    /// Whether timers that QEMU forgets have to be armed again after it is restored: an HPET's, or a RISC-V machine's.
    pub rearms: bool,
    /// The state: the machine's, then that of each drive.
    pub images: Vec<Image>,
}

/// A file, in pieces; between them are zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its length, bytes.
    pub length: u64,
    pieces: Vec<Piece>,
}

/// Bytes of a file, and where they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    /// Where in the file.
    at: u64,
    /// The frame, counted from 0, where in it, and how long.
    frame: u32,
    from: u32,
    length: u32,
}

impl Checkpoint {
    /// How many bytes its state has, zeros left out.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.images.iter().flat_map(|image| &image.pieces).map(|piece| u64::from(piece.length)).sum()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Read(#[from] reader::Error),
    #[error(transparent)]
    Write(#[from] writer::Error),
    #[error("a checkpoint can't be kept: {0}")]
    Io(#[from] io::Error),
    #[error("a checkpoint can't be kept: {0}")]
    Code(#[from] codec::Error),
    #[error(
        "the checkpoint at icount {icount} in the recording is none: {what}; `tandem index --remove` takes all checkpoints out"
    )]
    Damaged { icount: u64, what: String },
}

/// Bytes of a frame of state, before the last piece.
const FRAME: usize = 4 << 20;

/// The shortest, usual and longest piece that is looked for in other checkpoints, bytes.
const PIECES: (usize, usize, usize) = (2 << 10, 8 << 10, 32 << 10);

/// The most of a file that is read at once, bytes.
const STRETCH: usize = 8 << 20;

/// The longest file that a checkpoint may have, bytes.
const LONGEST: u64 = 1 << 40;

/// The recording with checkpoints, while it is written.
pub struct Store {
    writer: Writer,
    /// Where each piece that is stored lies.
    known: HashMap<String, Piece>,
    frame: Vec<u8>,
    frames: u32,
}

impl Store {
    /// Begins a copy of `recording` that will have new checkpoints and take its place.
    ///
    /// # Errors
    /// Where it can't be written beside the recording.
    pub fn create(recording: &mut Reader) -> Result<Self, Error> {
        let path = recording.path().to_owned();
        let mut writer = Writer::create_beside(&path, indexing(&path))?;
        let kept = |kind| !matches!(kind, Kind::State | Kind::Checkpoint);
        match copy(recording, kept, &mut writer) {
            Ok(()) => Ok(Store { writer, known: HashMap::new(), frame: Vec::new(), frames: 0 }),
            Err(error) => {
                writer.abandon();
                Err(error)
            }
        }
    }

    /// Stores what `file` holds.
    ///
    /// # Errors
    /// Where it can't be read or stored.
    pub fn keep(&mut self, file: &File) -> Result<Image, Error> {
        let length = file.metadata()?.len();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut buffer = vec![0; STRETCH];
        let mut at = 0;
        while let Some((begin, end)) = data(file, at, length)? {
            let (_, _, longest) = PIECES;
            let mut place = begin;
            while place < end {
                let wanted = usize::try_from(end - place).unwrap_or(STRETCH).min(STRETCH);
                file.read_exact_at(&mut buffer[..wanted], place)?;
                let whole = wanted as u64 == end - place;
                let mut used = 0;
                for chunk in FastCDC::new(&buffer[..wanted], PIECES.0, PIECES.1, PIECES.2) {
                    // The next stretch begins with what a border between two may have cut.
                    if !whole && chunk.offset + longest > wanted {
                        break;
                    }
                    let bytes = &buffer[chunk.offset..chunk.offset + chunk.length];
                    used = chunk.offset + chunk.length;
                    if bytes.iter().any(|&byte| byte != 0) {
                        let stored = self.piece(bytes)?;
                        push(&mut pieces, Piece { at: place + chunk.offset as u64, ..stored });
                    }
                }
                place += used as u64;
            }
            at = end;
        }
        Ok(Image { length, pieces })
    }

    /// Where these bytes are stored, now at the latest.
    fn piece(&mut self, bytes: &[u8]) -> Result<Piece, Error> {
        let mut digest = Digest::default();
        digest.add(bytes);
        let key = digest.hex();
        if let Some(&known) = self.known.get(&key) {
            return Ok(known);
        }
        let number = |length: usize| u32::try_from(length).map_err(io::Error::other);
        let piece = Piece {
            at: 0,
            frame: self.frames,
            from: number(self.frame.len())?,
            length: number(bytes.len())?,
        };
        self.frame.extend_from_slice(bytes);
        self.known.insert(key, piece);
        if self.frame.len() >= FRAME {
            self.flush()?;
        }
        Ok(piece)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.frame.is_empty() {
            self.writer.append(Kind::State, self.frames.into(), &self.frame)?;
            self.frames += 1;
            self.frame.clear();
        }
        Ok(())
    }

    /// Adds a checkpoint, all of whose files are stored.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn add(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        self.flush()?;
        Ok(self.writer.append(Kind::Checkpoint, checkpoint.icount, &codec::encode(checkpoint)?)?)
    }

    /// The recording is now this one.
    ///
    /// # Errors
    /// Where that fails; the one that was there is as it was then.
    pub fn finish(self) -> Result<(), Error> {
        Ok(self.writer.finish_over()?)
    }

    /// Leaves the recording as it was.
    pub fn abandon(self) {
        self.writer.abandon();
    }
}

/// The next stretch of a file's bytes that is no hole.
fn data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).map_err(io::Error::other)?;
        lseek(file, at, whence).map(i64::cast_unsigned).map_err(io::Error::from)
    };
    if at >= length {
        return Ok(None);
    }
    match seek(at, Whence::SeekData) {
        Ok(begin) => Ok(Some((begin, seek(begin, Whence::SeekHole)?))),
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(None),
        // A file system without holes.
        Err(_) => Ok(Some((at, length))),
    }
}

/// Adds a piece, to the one before where the two lie one after the other in both places.
fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    if let Some(last) = pieces.last_mut()
        && last.at + u64::from(last.length) == piece.at
        && last.frame == piece.frame
        && last.from + last.length == piece.from
    {
        last.length += piece.length;
    } else {
        pieces.push(piece);
    }
}

/// Takes all checkpoints out of the recording at `path`; gives back how many there were.
///
/// # Errors
/// Where it can't be written anew.
pub fn remove(path: &Path) -> Result<usize, Error> {
    let mut recording = Reader::open(path)?;
    let count = recording.places(Kind::Checkpoint).len();
    if count > 0 {
        Store::create(&mut recording)?.finish()?;
    }
    Ok(count)
}

impl Reader {
    /// At which icounts there are checkpoints, in order.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<u64> {
        let mut icounts: Vec<u64> = self.places(Kind::Checkpoint).iter().map(|place| place.first).collect();
        icounts.sort_unstable();
        icounts
    }

    /// The checkpoint at `icount`, where there is one.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn checkpoint(&mut self, icount: u64) -> Result<Option<Checkpoint>, Error> {
        let Some(place) = self.places(Kind::Checkpoint).into_iter().find(|place| place.first == icount)
        else {
            return Ok(None);
        };
        let content = self.frames().content(place)?;
        let damaged = |what: String| Error::Damaged { icount, what };
        let checkpoint: Checkpoint = codec::decode(&content).map_err(|error| damaged(error.to_string()))?;
        if checkpoint.icount != icount {
            return Err(damaged("it is of another moment".to_owned()));
        }
        Ok(Some(checkpoint))
    }

    /// Writes an image of the checkpoint at `icount` into `to`, an empty file, on all cores.
    ///
    /// # Errors
    /// Where it can't be read or written.
    pub fn restore(&mut self, icount: u64, image: &Image, to: &File) -> Result<(), Error> {
        if image.length > LONGEST {
            return Err(Error::Damaged { icount, what: "a file longer than any".to_owned() });
        }
        to.set_len(image.length)?;
        let mut pieces = image.pieces.clone();
        pieces.sort_unstable_by_key(|piece| (piece.frame, piece.at));
        let frames: HashMap<u64, _> =
            self.places(Kind::State).into_iter().map(|place| (place.first, place)).collect();
        let mut framed: Vec<_> = pieces.chunk_by(|a, b| a.frame == b.frame).collect();
        let most = std::thread::available_parallelism().map_or(1, NonZero::get);
        let lots = framed.len().div_ceil(most).max(1);
        let restoration = Restoration { icount, length: image.length, frames: &frames, to };
        std::thread::scope(|scope| {
            let mut others = Vec::new();
            while framed.len() > lots {
                let lot = framed.split_off(framed.len() - lots);
                let mut from = self.frames().again()?;
                others.push(scope.spawn(move || restoration.write(&mut from, &lot)));
            }
            let mine = restoration.write(self.frames(), &framed);
            others
                .into_iter()
                .map(|other| {
                    other.join().unwrap_or_else(|_| {
                        Err(io::Error::other("a thread that restores it panicked").into())
                    })
                })
                .fold(mine, Result::and)
        })
    }
}

/// Where the pieces of an image are to be found, and to go.
#[derive(Clone, Copy)]
struct Restoration<'a> {
    icount: u64,
    /// Of the image, bytes.
    length: u64,
    frames: &'a HashMap<u64, Place>,
    to: &'a File,
}

impl Restoration<'_> {
    /// Writes pieces, those of a frame together.
    fn write(self, from: &mut Frames, framed: &[&[Piece]]) -> Result<(), Error> {
        let damaged = |what: &str| Error::Damaged { icount: self.icount, what: what.to_owned() };
        for &pieces in framed {
            let frame = pieces.first().map_or(0, |piece| piece.frame);
            let place = *self.frames.get(&frame.into()).ok_or_else(|| damaged("a piece is missing"))?;
            let content = from.content(place)?;
            for piece in pieces {
                let end = piece.at.checked_add(piece.length.into()).filter(|&end| end <= self.length);
                let range = piece.from as usize..piece.from as usize + piece.length as usize;
                match (content.get(range), end) {
                    (Some(bytes), Some(_)) => self.to.write_all_at(bytes, piece.at)?,
                    _ => return Err(damaged("a piece that does not fit")),
                }
            }
        }
        Ok(())
    }
}
