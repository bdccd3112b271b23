//! The content of a frame of console: how many pieces, then for each how far the run was when it was seen (as the
//! difference to the piece before) and its length, then all their bytes.

use std::ops::ControlFlow;

use crate::varint;

/// Collects what the guest writes for a frame.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    /// Bytes that came before this frame.
    first: u64,
    /// Where the run was, and how many bytes came then.
    pieces: Vec<(u64, u64)>,
    bytes: Vec<u8>,
}

impl Builder {
    /// Takes what was seen when the run was at `seen`.
    pub fn push(&mut self, seen: u64, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some((before, length)) if *before == seen => *length += bytes.len() as u64,
            _ => self.pieces.push((seen, bytes.len() as u64)),
        }
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The frame's `first` and content, if there is any; begins the next frame.
    pub fn finish(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.bytes.is_empty() {
            return None;
        }
        let mut content = Vec::new();
        varint::put(&mut content, self.pieces.len() as u64);
        let mut before = 0;
        for &(seen, length) in &self.pieces {
            varint::put(&mut content, seen.saturating_sub(before));
            varint::put(&mut content, length);
            before = seen;
        }
        let first = self.first;
        self.first += self.bytes.len() as u64;
        content.append(&mut self.bytes);
        self.pieces.clear();
        Some((first, content))
    }
}

/// Calls `on` with each piece of a frame: where the run was, and the bytes, until it breaks. `None` where the content
/// is no such thing.
pub(crate) fn pieces(
    content: &[u8],
    mut on: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Option<ControlFlow<()>> {
    let mut table = content;
    let count = varint::get(&mut table)?;
    // Once to find the bytes behind the table, and once for the pieces.
    let mut bytes = table;
    for _ in 0..2 * u128::from(count) {
        varint::get(&mut bytes)?;
    }
    let mut seen = 0_u64;
    for _ in 0..count {
        seen = seen.checked_add(varint::get(&mut table)?)?;
        let length = usize::try_from(varint::get(&mut table)?).ok()?;
        let (piece, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        if on(seen, piece).is_break() {
            return Some(ControlFlow::Break(()));
        }
    }
    bytes.is_empty().then_some(ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::{Builder, pieces};

    #[test]
    fn what_was_pushed_comes_back_with_its_time() {
        let mut builder = Builder::default();
        assert_eq!(builder.finish(), None);
        for (seen, bytes) in [(5, "a"), (5, "b"), (9, "cd"), (9, "")] {
            builder.push(seen, bytes.as_bytes());
        }
        let (first, content) = builder.finish().unwrap();
        let mut got = Vec::new();
        let flow = pieces(&content, |seen, bytes| {
            got.push((seen, bytes.to_vec()));
            ControlFlow::Continue(())
        });
        assert_eq!((first, flow), (0, Some(ControlFlow::Continue(()))));
        assert_eq!(got, [(5, b"ab".to_vec()), (9, b"cd".to_vec())]);
        builder.push(10, b"e");
        assert_eq!(builder.finish().unwrap().0, 4);
        for cut in 0..content.len() {
            assert_eq!(pieces(&content[..cut], |_, _| ControlFlow::Continue(())), None);
        }
    }
}
