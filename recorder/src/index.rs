//! The index at a recording's end: where each frame is and where its content begins, so that a reader goes
//! straight to an icount. Where it is missing, going from frame to frame gives the same.

use crate::format::{Kind, MOST_FRAMES, Place};
use crate::varint;

/// The index's content: how many frames, then for each its kind, how far it lies behind the one before, and its
/// `first`.
pub(crate) fn encode(places: &[Place]) -> Vec<u8> {
    let mut content = Vec::new();
    varint::put(&mut content, places.len() as u64);
    let mut before = 0;
    for place in places {
        content.push(place.kind as u8);
        varint::put(&mut content, place.at - before);
        varint::put(&mut content, place.first);
        before = place.at;
    }
    content
}

/// The frames that an index names; `None` where it is not one.
pub(crate) fn decode(mut content: &[u8]) -> Option<Vec<Place>> {
    let count = usize::try_from(varint::get(&mut content)?).ok()?;
    // Three bytes a frame at least.
    if count > MOST_FRAMES || count > content.len() / 3 {
        return None;
    }
    let mut places = Vec::with_capacity(count);
    let mut at = 0_u64;
    for _ in 0..count {
        let (&kind, rest) = content.split_first()?;
        content = rest;
        at = at.checked_add(varint::get(&mut content)?)?;
        places.push(Place { kind: Kind::of(kind)?, at, first: varint::get(&mut content)? });
    }
    content.is_empty().then_some(places)
}
