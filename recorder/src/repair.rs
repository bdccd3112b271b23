//! Makes a proper recording of what a dead recorder left, or of a file of which a part is damaged or missing: all
//! that a replay can use, up to the first event that is not there.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use trace::message::{CHUNK, Point};

use crate::columns::Events;
use crate::format::{Kind, Place, incomplete, repairing};
use crate::frame::Frame;
use crate::log::decoder::Totals;
use crate::manifest::Ending;
use crate::reader::{self, Frames, Reader};
use crate::writer::{self, Writer, lock};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Read(#[from] reader::Error),
    #[error(transparent)]
    Write(#[from] writer::Error),
    #[error("`{0}` is being recorded right now; end that first")]
    Busy(PathBuf),
    #[error("`{0}`: {1}")]
    Io(PathBuf, io::Error),
}

/// What a file held.
#[derive(Debug)]
pub enum Found {
    /// A whole recording: nothing was changed but, where it had its incomplete name, the name.
    Whole { path: PathBuf },
    /// A part of one, of which this was made.
    Part { path: PathBuf, ending: Ending, chunks: u64, broken: Option<reader::Error>, removed: bool },
}

/// What of a file can be used.
struct Salvage {
    places: Vec<Place>,
    totals: Totals,
    ending: Option<Ending>,
    proof: Option<Point>,
    chunks: u64,
    broken: Option<reader::Error>,
}

/// Reads the file at `path` as a repair would: QEMU's icount up to which its events are there.
///
/// # Errors
/// Where it is no recording at all.
pub fn inspect(path: &Path) -> Result<u64, Error> {
    Ok(salvage(&mut Frames::open(path)?)?.totals.icount)
}

/// Looks at the recording at `path` and makes a whole one of it, as `output`, or beside it.
///
/// # Errors
/// Where nothing can be made of it.
pub fn repair(path: &Path, output: Option<&Path>) -> Result<Found, Error> {
    let io = |error| Error::Io(path.to_owned(), error);
    let named = unfinished_name(path);
    let mut frames = Frames::open(path)?;
    let held = match lock(frames.file.try_clone().map_err(io)?) {
        Ok(held) => held,
        Err(_) => return Err(Error::Busy(path.to_owned())),
    };
    if Reader::open(path).is_ok() {
        let salvage = salvage(&mut frames)?;
        if salvage.broken.is_none() {
            let named = match named {
                Some(name) => {
                    std::fs::hard_link(path, &name).and_then(|()| std::fs::remove_file(path)).map_err(io)?;
                    name
                }
                None => path.to_owned(),
            };
            return Ok(Found::Whole { path: named });
        }
    }
    let salvage = salvage(&mut frames)?;
    let output = output.map(Path::to_owned).or_else(|| named.clone());
    let output = output.unwrap_or_else(|| path.with_extension("repaired.tdm"));
    let mut writer = Writer::create_as(&output, repairing(&output), None)?;
    for &place in &salvage.places {
        let header = frames.header(place.at)?;
        let mut bytes = Vec::new();
        frames.file.seek(SeekFrom::Start(place.at)).map_err(io)?;
        (&frames.file).take(header.whole()).read_to_end(&mut bytes).map_err(io)?;
        writer.frame(&Frame { kind: place.kind, first: place.first, bytes })?;
    }
    let totals = salvage.totals;
    let ending = salvage.ending.unwrap_or_else(|| Ending {
        proof: salvage.proof,
        icount: totals.shutdown.filter(|_| totals.ended).map_or(totals.icount, |shutdown| shutdown.icount),
        events: totals.events,
        dropped: 0,
        cause: "its recorder died".to_owned(),
        cut: !totals.ended,
        status: None,
    });
    writer.end(&ending, totals.icount)?;
    writer.finish()?;
    // Of what only broke off nothing more is to be had.
    let torn = !matches!(salvage.broken, Some(reader::Error::Damaged { .. } | reader::Error::Read(..)));
    let removed = torn && named.as_ref() == Some(&output);
    drop(held);
    if removed {
        std::fs::remove_file(path).map_err(io)?;
    }
    Ok(Found::Part { path: output, ending, chunks: salvage.chunks, broken: salvage.broken, removed })
}

/// The name that an incomplete file was to get.
fn unfinished_name(path: &Path) -> Option<PathBuf> {
    let name = path.with_extension("");
    (incomplete(&name) == path).then_some(name)
}

/// Reads a file up to the first event that is missing. What lies behind, and the frames of witness and console that
/// can't be read, are left out.
fn salvage(frames: &mut Frames) -> Result<Salvage, Error> {
    let (places, mut broken) = frames.scan();
    let (manifest, _) = reader::manifest(frames, &places)?;
    let mut salvage = Salvage {
        places: Vec::new(),
        totals: Totals::default(),
        ending: None,
        proof: manifest.witness.map(|_| Point::START),
        chunks: 0,
        broken: None,
    };
    for place in places {
        let read = match place.kind {
            Kind::Index => continue,
            Kind::Ending => frames.value(place).map(|ending| salvage.ending = Some(ending)),
            Kind::Events => count(frames, place, &mut salvage.totals),
            _ => frames.content(place).map(drop),
        };
        match read {
            Ok(()) if place.kind == Kind::Ending => {}
            Ok(()) => salvage.places.push(place),
            Err(error) => {
                let events = place.kind == Kind::Events;
                broken = Some(error);
                if events {
                    break;
                }
            }
        }
    }
    // With the end of the log gone, the ending does not hold.
    if !salvage.totals.ended {
        salvage.ending = None;
    }
    for place in salvage.places.iter().filter(|place| place.kind == Kind::Witness) {
        let content = frames.content(*place)?;
        let (digests, _) = content.as_chunks();
        let first = place.first;
        salvage.chunks = salvage.chunks.max(first.saturating_add(digests.len() as u64));
        // A position is at or behind QEMU's icount, so what ends at or before the log's end was run.
        for (index, digest) in (first..).zip(digests) {
            let position = index.saturating_add(1).saturating_mul(CHUNK);
            if position <= salvage.totals.icount {
                salvage.proof = Some(Point { position, digest: u64::from_le_bytes(*digest) });
            }
        }
    }
    salvage.broken = broken;
    Ok(salvage)
}

/// Counts the events of a frame; none of them where one can't be read or the frame does not follow the last.
fn count(frames: &mut Frames, place: Place, totals: &mut Totals) -> Result<(), reader::Error> {
    if place.first != totals.icount {
        return Err(frames.damaged(place.at, "events are missing before it"));
    }
    let content = frames.content(place)?;
    let mut after = *totals;
    let mut events = Events::new(place.first, &content).map_err(|error| frames.damaged(place.at, error))?;
    while let Some((_, event)) = events.next_event().map_err(|error| frames.damaged(place.at, error))? {
        after.count(&event);
    }
    *totals = after;
    Ok(())
}
