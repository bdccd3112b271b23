//! How long a replay takes for a part of a recording, about: as long as the recording took, by what it has of the host's
//! clock. Instructions say little: a guest that polls a port takes fifty times as long for them as one that computes.

use std::ops::ControlFlow;

use recorder::log::event::{Clock, Event};
use recorder::reader::{self, Reader};

/// How long an instruction takes where the clock says nothing, nanoseconds.
const USUAL: u64 = 5;

/// The longest that is believed: a recording sleeps where its guest waits, and a replay does not.
const LONGEST: u64 = 100;

/// How many instructions apart the clock is looked at.
const APART: u64 = 1 << 20;

/// Icounts, in order, and how many nanoseconds it takes from the beginning up to there.
pub(crate) struct Course(Vec<(u64, u64)>);

impl Course {
    /// The course of `recording`.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn of(recording: &mut Reader) -> Result<Self, reader::Error> {
        let mut known = vec![(0, 0)];
        let (mut icount, mut took) = (0, 0);
        let mut clock = None;
        recording.events(0, |at, event| {
            let Event::Clock(Clock::Host, now) = *event else { return ControlFlow::Continue(()) };
            let passed = at - icount;
            if passed < APART && clock.is_some() {
                return ControlFlow::Continue(());
            }
            // The host's clock may be set while it is recorded.
            let slept = clock.map(|before| now.saturating_sub(before));
            took += slept.unwrap_or(passed * USUAL).clamp(passed, passed * LONGEST);
            (icount, clock) = (at, Some(now));
            known.push((icount, took));
            ControlFlow::Continue(())
        })?;
        Ok(Course(known))
    }

    /// Nanoseconds up to `icount`.
    pub fn at(&self, icount: u64) -> u64 {
        let behind = self.0.partition_point(|&(known, _)| known <= icount);
        let (from, took) = behind.checked_sub(1).map_or((0, 0), |before| self.0[before]);
        let passed = icount - from;
        let more = self.0.get(behind).map_or(passed * USUAL, |&(to, then)| {
            let share = u128::from(passed) * u128::from(then - took) / u128::from(to - from);
            u64::try_from(share).unwrap_or(u64::MAX)
        });
        took.saturating_add(more)
    }
}

#[cfg(test)]
impl Course {
    pub fn usual() -> Self {
        Course(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::{Course, USUAL};

    #[test]
    fn between_what_is_known_it_is_even() {
        let course = Course(vec![(0, 0), (100, 1000), (200, 1100)]);
        let at = [0, 50, 100, 150, 200, 300].map(|icount| course.at(icount));
        assert_eq!(at, [0, 500, 1000, 1050, 1100, 1100 + 100 * USUAL]);
        assert_eq!(Course::usual().at(7), 7 * USUAL);
    }
}
