//! A recording is written in many small frames, so that little is lost when something dies. When it has ended that is
//! over, and zstd packs few large ones better: they are gathered.
//!
//! The incomplete file is whole by then and stays until the gathered one has the recording's name, which had none before:
//! whatever dies in between, the recording is there under one of the two names.

use std::fmt::Display;
use std::ops::ControlFlow;

use crate::format::Kind;
use crate::frame::LARGE;
use crate::reader::Reader;
use crate::writer::{self, Writer};
use crate::{columns, console};

/// The most that is gathered, bytes as stored. Of a larger recording the frames are not that small, and it would take
/// time that somebody waits.
const MOST: u64 = 512 << 10;

/// About the most of a frame, bytes: what is packed as well as zstd can, with room for a last event.
const FRAME: usize = LARGE - (128 << 10);

/// Writes the index of what `writer` has written, gathers it where that makes it smaller, and gives it its name; one that gets
/// none is not kept, and left as it is. Gives back its bytes.
///
/// # Errors
/// Where the recording can't be finished; the incomplete file is left then.
pub fn finish(mut writer: Writer) -> Result<u64, writer::Error> {
    writer.seal()?;
    if !writer.is_named() {
        return Ok(writer.written());
    }
    // What can't be gathered, for want of room or of a file system that can do it, stays as it is.
    match gathered(&writer) {
        Some(smaller) => smaller.name_over(writer),
        None => writer.name(),
    }
}

fn gathered(writer: &Writer) -> Option<Writer> {
    if writer.written() > MOST {
        return None;
    }
    let mut recording = Reader::open(writer.incomplete()).ok()?;
    let mut smaller = writer.unnamed().ok()?;
    copy(&mut recording, &mut smaller).ok()?;
    smaller.seal().ok()?;
    (smaller.written() < writer.written()).then_some(smaller)
}

fn copy(recording: &mut Reader, to: &mut Writer) -> Result<(), String> {
    copy_all(recording, Kind::Manifest, to)?;
    let mut events = columns::Builder::new(0);
    let mut failed = None;
    let put = |events: &mut columns::Builder, to: &mut Writer| {
        let (first, content) = events.finish();
        to.append(Kind::Events, first, &content).err()
    };
    let read = recording.events(0, |_, event| {
        // A frame ends where a log may (log::decoder).
        if events.size() >= FRAME && !event.is_demanded() {
            failed = put(&mut events, to);
        }
        events.push(event);
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    read.map_err(told)?;
    if failed.is_none() && !events.is_empty() {
        failed = put(&mut events, to);
    }
    if let Some(error) = failed {
        return Err(told(error));
    }

    let mut console = console::Builder::default();
    let read = recording.console(|seen, bytes| {
        console.push(seen, bytes);
        if console.size() < FRAME { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    read.map_err(told)?;
    if console.size() >= FRAME {
        return Err("a console of many frames".to_owned());
    }
    if let Some((first, content)) = console.finish() {
        to.append(Kind::Console, first, &content).map_err(told)?;
    }

    let mut witness = Vec::new();
    for place in recording.places(Kind::Witness) {
        witness.extend(recording.frames().content(place).map_err(told)?);
    }
    if !witness.is_empty() {
        to.append(Kind::Witness, 0, &witness).map_err(told)?;
    }
    copy_all(recording, Kind::Ending, to)
}

/// Copies all frames of a kind.
fn copy_all(recording: &mut Reader, kind: Kind, to: &mut Writer) -> Result<(), String> {
    for place in recording.places(kind) {
        let frame = recording.frames().whole(place).map_err(told)?;
        to.frame(&frame).map_err(told)?;
    }
    Ok(())
}

fn told(error: impl Display) -> String {
    error.to_string()
}
