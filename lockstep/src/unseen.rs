//! What differs on the guest's console, or in QEMU's exit status, and in no digest: a value that was wrong for a short while,
//! between two samples. Both are run again and looked at more often. Where nothing shows then either, each sample has said how
//! much of the console was written by then, and so between which two the consoles part: there each block is looked at.

use trace::message::{CHUNK, Look, Stretch};

use crate::comparator::{Order, Pair};
use crate::difference::{Compared, parted, written};
use crate::ride::Trouble;
use crate::ride::sides::Ride;
use crate::zoom::{Again, Zoomed, closely, consoles, inside, zoom};

/// Instructions between two samples where they are denser.
const DENSER: u64 = 1 << 12;

/// Looks for an instruction that explains it. `end`: where both ended; `console`: whether the consoles differ. `None` where
/// none is found.
///
/// # Errors
/// Where a run fails, or the guest is not deterministic.
pub(crate) fn explain(again: &Again, end: u64, console: bool) -> Result<Option<Zoomed>, Trouble> {
    let look = Look { loads: true, spacing: DENSER, ..again.look.clone() };
    let files = Pair { a: tempfile::tempfile()?, b: tempfile::tempfile()? };
    let mut ride = Ride::start_with(again.request, again.drive, Some(&files))
        .map_err(|error| Trouble::Again(Box::new(error)))?;
    if let Order::Parted(parted) = ride.follow(&look, again.request.interrupts, &mut |_| {})? {
        drop(ride);
        return zoom(&Again { look: &look, ..*again }, parted, None);
    }
    let stretch = if console {
        let Some(place) = parted(&consoles(&files)?) else { return Ok(None) };
        // What was written behind the last sample was so by the end.
        let (first, last) = ([(0, 0)], [(end, u64::MAX)]);
        let before = |seen: &(u64, u64)| seen.0 < end;
        let sampled = |side| ride.written.get(side).iter().copied().filter(before);
        let seen = Pair::of(|side| first.into_iter().chain(sampled(side)).chain(last));
        written(&seen, place)
    } else {
        let chunk = end / CHUNK;
        Some(Stretch { from: chunk.saturating_sub(1) * CHUNK, to: end })
    };
    // Two QEMUs at a time are enough.
    drop(ride);
    let Some(stretch) = stretch else { return Ok(None) };
    let close = closely(again, &look, stretch, Pair::default())?;
    let difference = match close.compared {
        Compared::Found(difference) => Some(*difference),
        Compared::Same | Compared::Before => close.console,
    };
    let zoomed = difference
        .map(|difference| inside(again, &look, difference, close.names, close.windows, close.written));
    zoomed.transpose()
}
