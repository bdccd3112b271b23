//! From the place where a sweep saw two runs part to the first instruction whose effect differs.
//!
//! Both run once more, as in the sweep: what QEMU generates is the same, only the probes look more often, at each block's
//! beginning in the stretch between the last place where all was equal and the first where it was not. That gives the
//! block. Then a third time, with each instruction of that block looked at: this changes the block's code, and so may hide
//! what is wrong with it. Where it does, the block is what is known for certain, and its instruction is reasoned out.
//!
//! Of long runs both are made one, where that shows the same.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};

use qemu::build::Mode;
use trace::message::{CHUNK, Look, Step, Stretch, Window};

use crate::comparator::{Order, Pair, Parted, Samples, Side};
use crate::depth;
use crate::difference::{Compared, Difference, What, first, leads};
use crate::disassembly::asks_qemu;
use crate::drive::Drive;
use crate::expansion::first_difference;
use crate::report::console::Written;
use crate::ride::naming::streams_of;
use crate::ride::sides::Ride;
use crate::ride::{Request, Trouble};

/// What it takes to run both once more.
#[derive(Clone, Copy)]
pub(crate) struct Again<'a, 'r> {
    pub request: &'a Request<'r>,
    pub drive: &'a Drive,
    /// What the sweep looked at.
    pub look: &'a Look,
    /// Of their plugin interfaces.
    pub levels: Pair<i32>,
}

/// Where two runs part.
pub(crate) struct Zoomed {
    pub difference: Difference,
    /// What was seen of each instruction, where that shows a difference too.
    pub inside: Option<Difference>,
    /// The names of the registers.
    pub names: Vec<String>,
    /// Whether accesses are known with their values.
    pub values: bool,
    /// The instructions around.
    pub windows: Pair<Vec<Window>>,
    /// What the guests had written by then.
    pub written: Written,
}

/// What one close look saw.
pub(crate) struct Close {
    pub compared: Compared,
    /// A byte that is another one on the console, with which of A's steps.
    pub console: Option<Difference>,
    pub names: Vec<String>,
    pub windows: Pair<Vec<Window>>,
    pub steps: Pair<Vec<Step>>,
    pub written: Written,
}

/// The most instructions that a block has (`TCG_MAX_INSNS` in include/tcg/tcg.h).
pub(crate) const BLOCK: u64 = 512;

/// How much of a console is looked at, bytes.
const CONSOLE: u64 = 16 << 20;

/// How often the chunks before are looked at where all differs from the beginning.
const BACK: u64 = 4;

/// Looks closely at where two runs part. `at`: the position of the first instruction that is another one, where that is
/// known. `None`: where it does not show again.
///
/// # Errors
/// Where a run fails, or the guest is not deterministic.
pub(crate) fn zoom(again: &Again, parted: Parted, at: Option<u64>) -> Result<Option<Zoomed>, Trouble> {
    let mut parted = parted;
    let mut look = again.look.clone();
    for back in 0..BACK {
        // A block more: what an instruction leaves is seen where the next one begins.
        let to = at.map_or(parted.before, |at| at.min(parted.before)) + BLOCK;
        let close = closely(again, &look, Stretch { from: parted.after, to }, Pair::default())?;
        match close.compared {
            Compared::Found(difference) => {
                return inside(again, &look, *difference, close.names, close.windows, close.written)
                    .map(Some);
            }
            // They have parted before: registers were not looked at, or not often enough.
            Compared::Before => {
                (look, _) = depth::look(None, look.loads, again.levels)
                    .map_err(|error| Trouble::Again(Box::new(error.into())))?;
                look.spacing >>= 4 * (back + 1);
                match sweep(again, &look)? {
                    Some(earlier) => parted = earlier,
                    None => return Ok(None),
                }
            }
            Compared::Same => {
                let Some(once_more) = sweep(again, again.look)? else {
                    return Err(Trouble::Undeterministic(format!(
                        "the runs parted in chunk {}, and when run again they did not",
                        parted.chunk
                    )));
                };
                if once_more.chunk != parted.chunk {
                    return Err(Trouble::Undeterministic(format!(
                        "the runs parted in chunk {}, and when run again in chunk {}",
                        parted.chunk, once_more.chunk
                    )));
                }
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// From where on a run is so long that running both a third time is worth avoiding: instructions.
const LONG: u64 = 1 << 28;

/// From which level of the plugin interface on a plugin can't have all be translated anew.
const NOT_ANEW: i32 = 7;

/// The same as [`zoom`] in one run instead of two: all is translated anew shortly before the stretch, with each instruction
/// looked at. What that changes may hide something, so what it finds counts only where this is the run that the sweep
/// saw: where it leads from the last equal samples to the unequal ones, or to the same other instruction. `samples`: those, where
/// they parted by them.
///
/// # Errors
/// Where a run fails.
pub(crate) fn at_once(
    again: &Again,
    parted: Parted,
    at: Option<u64>,
    samples: Option<Samples>,
) -> Result<Option<Zoomed>, Trouble> {
    let able = again.levels.a < NOT_ANEW && again.levels.b < NOT_ANEW;
    if !able || !again.look.registers || again.request.builds.a.mode == Mode::User || parted.after < LONG {
        return Ok(None);
    }
    let from = samples.map_or(parted.after, |samples| samples.alike.position.min(parted.after));
    let to = at.map_or(parted.before, |at| at.min(parted.before)) + BLOCK;
    let look = Look { loads: true, anew: true, ..again.look.clone() };
    let close = closely(again, &look, Stretch { from, to }, Pair::default())?;
    let Compared::Found(difference) = close.compared else { return Ok(None) };
    let shown = samples.is_some_and(|Samples { alike, unequal }| {
        let leads = |side| leads(close.steps.get(side), &alike, unequal.get(side), again.look.loads);
        leads(Side::A) && leads(Side::B)
    });
    if difference.to != difference.from + 1 || !(shown || at.is_some() && flow_parts(&close.windows)? == at) {
        return Ok(None);
    }
    let Close { names, windows, written, .. } = close;
    Ok(Some(Zoomed { difference: *difference, inside: None, names, values: look.values, windows, written }))
}

/// The position of the first instruction that is another one.
fn flow_parts(windows: &Pair<Vec<Window>>) -> Result<Option<u64>, Trouble> {
    let streams = streams_of(windows)?;
    let apart = first_difference(&streams.a, &streams.b);
    Ok(apart.and_then(|at| streams.a.get(at).or(streams.b.get(at))).map(|executed| executed.position))
}

/// Looks at each instruction of the blocks in which a difference comes about.
pub(crate) fn inside(
    again: &Again,
    look: &Look,
    difference: Difference,
    names: Vec<String>,
    windows: Pair<Vec<Window>>,
    written: Written,
) -> Result<Zoomed, Trouble> {
    let Difference { from, to, shows, .. } = difference;
    let mut zoomed = Zoomed { difference, inside: None, names, values: look.values, windows, written };
    // One instruction; or nothing is seen inside of a block but accesses, which were told with their instructions.
    if to == from + 1 || !look.registers {
        return Ok(zoomed);
    }
    let blocks = Pair::of(|side| begins(zoomed.windows.get(side), from, to));
    let look = Look { loads: true, ..look.clone() };
    // What the last instruction of a turn leaves is seen in the next, where that is not too far.
    let end = if shows - to < CHUNK { shows } else { to };
    let close = closely(again, &look, Stretch { from, to: end + 1 }, blocks)?;
    let found = match (zoomed.difference.what, close.compared, close.console) {
        (What::Console(_), _, console) => console.map(Box::new),
        (_, Compared::Found(found), _) => Some(found),
        _ => None,
    };
    if let Some(found) = found
        && found.from >= from
        && found.to <= to
    {
        zoomed.windows = close.windows;
        zoomed.written = close.written;
        zoomed.inside = Some(*found);
    }
    Ok(zoomed)
}

/// Where the blocks begin that instructions from `from` up to `to` are of.
pub(crate) fn begins(windows: &[Window], from: u64, to: u64) -> Vec<u64> {
    let mut begins = BTreeSet::new();
    for window in windows {
        let mut position = window.first;
        for visit in &window.visits {
            let end = position + u64::from(visit.ran);
            if position < to && end > from {
                let block = window.blocks.get(visit.block as usize).and_then(|block| block.first());
                begins.extend(block.map(|first| first.address));
            }
            position = end;
        }
    }
    begins.into_iter().collect()
}

/// Runs both again with samples, up to where they part; `None` where they don't.
pub(crate) fn sweep(again: &Again, look: &Look) -> Result<Option<Parted>, Trouble> {
    let mut ride = start(again)?;
    let order = ride.follow(look, again.request.interrupts, &mut |_| {})?;
    Ok(if let Order::Parted(parted) = order { Some(parted) } else { None })
}

pub(crate) fn start(again: &Again) -> Result<Ride, Trouble> {
    Ride::start(again.request, again.drive).map_err(|error| Trouble::Again(Box::new(error)))
}

/// Runs both again, and looks closely at a stretch, and at each instruction of the blocks that begin at these addresses.
pub(crate) fn closely(
    again: &Again,
    look: &Look,
    stretch: Stretch,
    inside: Pair<Vec<u64>>,
) -> Result<Close, Trouble> {
    // A program sees what its output goes to.
    let files = match again.request.builds.a.mode {
        Mode::System => Some(Pair { a: tempfile::tempfile()?, b: tempfile::tempfile()? }),
        Mode::User => None,
    };
    let mut ride = Ride::start_with(again.request, again.drive, files.as_ref())
        .map_err(|error| Trouble::Again(Box::new(error)))?;
    let (first_chunk, last) = (stretch.from / CHUNK, stretch.to / CHUNK);
    let texts = asks_qemu(ride.target());
    for side in [Side::A, Side::B] {
        let inside = inside.get(side).clone();
        let look = Look { spacing: 0, closely: Some(stretch), inside, texts, ..look.clone() };
        let keeps = u32::try_from(last - first_chunk).unwrap_or(u32::MAX).saturating_add(2);
        ride.go(side, last + 1, keeps, &look);
    }
    ride.run_up_to(last, again.request.interrupts, |_, _, _| Ok(()))?;
    let windows = ride.windows_from(first_chunk, last)?;
    let steps = std::mem::take(&mut ride.steps);
    let names = std::mem::take(&mut ride.names.a);
    let consoles = files.map(|files| consoles(&files)).transpose()?;
    let (console, written) = match consoles {
        Some(consoles) => (Difference::on_console(&steps, &consoles), Written::of(consoles, &steps)),
        None => (None, Written::default()),
    };
    Ok(Close { compared: first(&steps, stretch), console, names, windows, steps, written })
}

/// What the consoles' files have, from their beginning.
pub(crate) fn consoles(files: &Pair<File>) -> io::Result<Pair<Vec<u8>>> {
    let read = |mut file: &File| {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(CONSOLE).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    Ok(Pair { a: read(&files.a)?, b: read(&files.b)? })
}
