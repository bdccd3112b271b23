//! What each block of the guest needs when it is entered.

use trace::access::Accesses;
use trace::block::Block;
use trace::recent::Recent;

use super::memory::Telling;
use super::value::Place;

/// What each block of the guest needs when it is entered, and nothing else.
pub(super) struct Hot {
    /// Where inline code counts, once the vCPU is there: a scoreboard's entry or `TOTAL`.
    pub(super) counter: *mut u64,
    /// What stands there when the running block has run to its end, and `taken` more.
    pub(super) whole: u64,
    /// How many starts in the running block are taken back.
    pub(super) taken: u64,
    pub(super) recent: Recent,
    pub(super) accesses: Accesses,
    /// The number of the running block, where accesses are watched.
    pub(super) running: u32,
    /// Where QEMU keeps the state of the vCPU that executes, where there are several, and whose turn it was last.
    pub(super) current: *const usize,
    pub(super) turn: usize,
    /// What QEMU tells of an access.
    pub(super) telling: Telling,
    pub(super) place: Place,
    /// `whole`, where the next block is to be looked at when it is entered.
    pub(super) aside: Option<u64>,
    /// How many instructions may be entered before a block's beginning is looked at; not counted where none is.
    pub(super) room: u64,
    /// Whether the guest is looked at closely.
    pub(super) is_close: bool,
    /// Whether the counter is a running total (else it is set anew in each block).
    pub(super) running_total: bool,
}

impl Hot {
    /// Instructions of the running block that have started.
    pub(super) fn started(&self, running: Option<&Block>) -> u64 {
        let Some(block) = running else { return 0 };
        // SAFETY: a block runs, so `counter` is set: see `block_entered`.
        let now = unsafe { *self.counter };
        let marks = block.marks().len() as u64;
        let before =
            if self.running_total { self.whole().wrapping_sub(self.taken).wrapping_sub(marks) } else { 0 };
        u64::from(block.started(now.wrapping_sub(before))).wrapping_sub(self.taken)
    }

    /// What stands at `counter` when the running block has run to its end.
    pub(super) fn whole(&self) -> u64 {
        self.aside.unwrap_or(self.whole)
    }

    /// The next block that is entered goes the long way. What starts again has been translated anew before.
    pub(super) fn look_at_next(&mut self) {
        self.aside = Some(self.whole());
        // No count comes so far.
        self.whole = u64::MAX;
    }

    /// A block with so many marks is entered.
    pub(super) fn begin(&mut self, marks: u64) {
        self.taken = 0;
        self.aside = None;
        if self.running_total {
            // SAFETY: as in `block_entered`.
            self.whole = unsafe { *self.counter } + marks;
        } else {
            // SAFETY: as in `block_entered`. Cleared, because what is left there is the mark of another block.
            unsafe { *self.counter = 0 };
            self.whole = marks;
        }
    }

    /// Takes back the last start in the running block, which so has not run wholly.
    pub(super) fn take_back(&mut self) {
        self.taken += 1;
        match &mut self.aside {
            Some(whole) => *whole += 1,
            None => self.whole += 1,
        }
    }
}
