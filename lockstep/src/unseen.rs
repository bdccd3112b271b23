//! What differs on the guest's console, or in QEMU's exit status, and in no digest: a value that was wrong for a short while,
//! between two samples. Both are run again and looked at more often, and at last at each block around the place where the
//! consoles part.

use std::time::Instant;

use trace::message::{CHUNK, FromProbe, Look, Stretch};

use crate::comparator::{Pair, Side};
use crate::difference::Compared;
use crate::ride::{COMING, Trouble};
use crate::zoom::{Again, Zoomed, closely, inside, start, sweep, zoom};

/// Instructions between two samples where they are denser.
const DENSER: u64 = 1 << 12;

/// How many chunks are run between two looks at the consoles, at first.
const STRIDE: u64 = 64;

/// Looks for an instruction that explains it. `end`: where both ended; `console`: whether the consoles differ. `None` where
/// none is found.
///
/// # Errors
/// Where a run fails, or the guest is not deterministic.
pub(crate) fn explain(again: &Again, end: u64, console: bool) -> Result<Option<Zoomed>, Trouble> {
    let look = Look { loads: true, spacing: DENSER, ..again.look.clone() };
    if let Some(parted) = sweep(again, &look)? {
        return zoom(&Again { look: &look, ..*again }, parted, None);
    }
    let chunk = if console { written(again)? } else { Some(end / CHUNK) };
    let Some(chunk) = chunk else { return Ok(None) };
    // What a guest wrote may have come here a little later than it was written.
    let stretch = Stretch { from: chunk.saturating_sub(1) * CHUNK, to: ((chunk + 1) * CHUNK).min(end) };
    let close = closely(again, &look, stretch, Pair::default())?;
    let difference = match close.compared {
        Compared::Found(difference) => Some(*difference),
        Compared::Same | Compared::Before => close.console,
    };
    let zoomed = difference
        .map(|difference| inside(again, &look, difference, close.names, close.windows, close.written));
    zoomed.transpose()
}

/// The chunk by whose end the consoles have parted.
fn written(again: &Again) -> Result<Option<u64>, Trouble> {
    let Some(coarse) = parted_between(again, 0, STRIDE)? else { return Ok(None) };
    let fine = parted_between(again, coarse.saturating_sub(STRIDE), 1)?;
    Ok(Some(fine.unwrap_or(coarse).saturating_sub(1)))
}

/// Runs both `first` chunks and then so many at a time, until their consoles differ; gives back how many chunks that were.
fn parted_between(again: &Again, first: u64, stride: u64) -> Result<Option<u64>, Trouble> {
    let mut ride = start(again)?;
    let mut credit = first.max(stride);
    for side in [Side::A, Side::B] {
        ride.go(side, credit, 0, &Look::default());
    }
    let mut filled = Pair { a: 0, b: 0 };
    let mut ended = Pair { a: false, b: false };
    loop {
        let there = |side| *ended.get(side) || *filled.get(side) >= credit;
        let (a, b) = (there(Side::A), there(Side::B));
        if !(a && b) {
            match ride.next(again.request.interrupts)? {
                Some((side, FromProbe::Chunk { index, .. })) => *filled.get_mut(side) = index + 1,
                Some((side, FromProbe::End { .. })) => *ended.get_mut(side) = true,
                _ => {}
            }
            continue;
        }
        let since = Instant::now();
        while since.elapsed() < COMING {
            ride.next(again.request.interrupts)?;
        }
        if ride.consoles_differ() {
            return Ok(Some(credit));
        }
        if ended.a && ended.b {
            return Ok(None);
        }
        credit += stride;
        ride.credit(Side::A, credit);
        ride.credit(Side::B, credit);
    }
}
