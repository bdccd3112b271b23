//! Whether a side stands still in one instruction, because QEMU loops in its own code or in what it has made of the guest's.
//!
//! From outside such a side looks like one that is slow, so its probe is asked where the guest is. How long it may be in one
//! instruction is not told by a clock but by what the vCPU's thread has worked there: on a machine that has others to serve
//! any time passes.

use std::time::Duration;

/// How much that is. No instruction is known that takes a second.
pub(crate) const WORK: Duration = Duration::from_secs(10);

/// A thread that has worked so little meanwhile waits.
const IDLE: Duration = Duration::from_millis(100);

/// What was told of a side that says nothing by itself.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// How many instructions had started, and how much was worked when that was told first, and last.
    at: Option<(u64, Duration, Duration)>,
}

impl Standing {
    /// The probe was asked; gives back whether the guest goes on.
    pub fn told(&mut self, started: u64, worked: Duration) -> bool {
        match &mut self.at {
            Some((before, _, last)) if *before == started => {
                *last = worked;
                false
            }
            at => at.replace((started, worked, worked)).is_some(),
        }
    }

    /// The guest has gone on.
    pub fn forget(&mut self) {
        self.at = None;
    }

    fn worked(&self) -> Duration {
        self.at.map_or(Duration::ZERO, |(_, first, last)| last.saturating_sub(first))
    }

    /// Whether it has worked for long in one instruction.
    pub fn for_long(&self) -> bool {
        self.worked() >= WORK
    }

    /// Whether it works at all.
    pub fn works(&self) -> bool {
        self.worked() >= IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_for_long_in_one_instruction_stands_still() {
        let mut standing = Standing::default();
        assert!(!standing.told(7, Duration::from_secs(100)) && !standing.for_long());
        assert!(!standing.told(7, Duration::from_secs(109)) && !standing.for_long() && standing.works());
        assert!(!standing.told(7, Duration::from_secs(110)) && standing.for_long());
    }

    #[test]
    fn who_goes_on_or_waits_does_not() {
        let mut standing = Standing::default();
        standing.told(7, Duration::from_secs(100));
        assert!(standing.told(8, Duration::from_secs(111)) && !standing.for_long(), "it is slow");
        standing.told(8, Duration::from_millis(111_050));
        assert!(!standing.for_long() && !standing.works(), "however long that took");
        standing.told(8, Duration::from_secs(120));
        standing.forget();
        assert!(!standing.told(8, Duration::from_secs(122)) && !standing.for_long());
    }
}
