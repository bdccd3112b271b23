//! The blocks entered last, which a stream has not taken in yet.
//!
//! The guest's every block comes by here, so this is the one place where each instruction of ours counts: a block's
//! number is noted and nothing looked at. [`Stream::settle`](crate::stream::Stream::settle) takes them in together,
//! where the processor can work on several at once.

use crate::block::Entry;

/// How many entries are noted at the most: with QEMU's blocks of up to 512 instructions less than a chunk.
const LENGTH: usize = 1024;

/// Entries of blocks, in order, each but the last left at its end.
#[derive(Debug)]
pub struct Recent {
    entries: [Entry; LENGTH],
    /// Beyond [`LENGTH`] while closed.
    filled: usize,
}

impl Recent {
    /// Takes nothing.
    pub const CLOSED: Self = Recent { entries: [Entry::unpacked(0); LENGTH], filled: LENGTH + 1 };

    /// Notes that a block was entered; gives back whether there was room.
    #[inline]
    pub fn push(&mut self, entry: Entry) -> bool {
        let Some(place) = self.entries.get_mut(self.filled) else { return false };
        *place = entry;
        self.filled += 1;
        true
    }

    /// What is noted.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.entries.get(..self.filled).unwrap_or_default()
    }

    /// How many are noted; any number while closed.
    #[inline]
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Forgets all, and takes more.
    pub fn open(&mut self) {
        self.filled = 0;
    }

    /// Forgets all, and takes nothing more.
    pub fn close(&mut self) {
        self.filled = LENGTH + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, LENGTH, Recent};

    #[test]
    fn it_takes_so_many_and_no_more() {
        let entry = Entry::unpacked;
        let mut recent = Recent::CLOSED;
        assert!(!recent.push(entry(1)), "it is closed");
        assert!(recent.entries().is_empty());
        recent.open();
        assert!((0..LENGTH).all(|_| recent.push(entry(7))));
        assert!(!recent.push(entry(8)));
        assert_eq!(recent.entries(), [entry(7); LENGTH]);
        recent.close();
        assert!(!recent.push(entry(9)) && recent.entries().is_empty());
    }
}
