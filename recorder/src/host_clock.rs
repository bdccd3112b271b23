//! The columns of the host's clock, which are most of what a recording in host time takes. QEMU's main loop reads that
//! clock at each of its turns: once, and right after it once more. So a time goes to the column of those that say the
//! same thing: the second of a turn, or the first, by how many counts of instructions lay in between. In a column the
//! steps are alike, and zstd needs few bits for each.
//!
//! The clock is one of microseconds on most hosts (`get_clock_realtime` of include/qemu/timer.h takes gettimeofday's), so
//! a step is told in those where it can be.

use crate::log::event::{Clock, Event};
use crate::varint;

/// Columns.
pub(crate) const COLUMNS: usize = 8;

/// Which column the next time of the host's clock is in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    /// Whether the last event was one of the host's clock.
    again: bool,
    /// Counts of instructions since the last event of the host's clock.
    counts: usize,
}

impl Place {
    /// 0: right behind another time. From 1: by the counts of instructions in between, the last column for more.
    pub(crate) fn column(self) -> usize {
        if self.again { 0 } else { 1 + self.counts.min(COLUMNS - 2) }
    }

    /// Goes on behind `event`.
    #[inline]
    pub(crate) fn pass(&mut self, event: &Event) {
        match event {
            Event::Clock(Clock::Host, _) => *self = Place { again: true, counts: 0 },
            Event::Instructions(_) => *self = Place { again: false, counts: self.counts + 1 },
            _ => self.again = false,
        }
    }
}

const MICROSECOND: i64 = 1000;

/// Writes a step, ns.
pub(crate) fn put(to: &mut Vec<u8>, step: i64) {
    if step % MICROSECOND == 0 {
        varint::put(to, varint::fold(step / MICROSECOND) + 1);
    } else {
        to.push(0);
        varint::put_signed(to, step);
    }
}

/// Takes a step, ns, off the front of `from`; `None` where there is none.
pub(crate) fn get(from: &mut &[u8]) -> Option<i64> {
    match varint::get(from)? {
        0 => varint::get_signed(from),
        folded => varint::unfold(folded - 1).checked_mul(MICROSECOND),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{COLUMNS, Place, get, put};
    use crate::log::event::{Checkpoint, Clock, Event};

    proptest! {
        #[test]
        fn a_step_is_read_as_it_was_written(step in prop_oneof![any::<i64>(), (-4_000_000i64..4_000_000).prop_map(|us| us * 1000)]) {
            let mut bytes = Vec::new();
            put(&mut bytes, step);
            prop_assert_eq!(get(&mut &bytes[..]), Some(step));
            for end in 0..bytes.len() {
                prop_assert_eq!(get(&mut &bytes[..end]), None);
            }
        }
    }

    #[test]
    fn a_step_that_overflows_is_noticed() {
        assert_eq!(get(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..]), None);
    }

    #[test]
    fn times_that_say_the_same_share_a_column() {
        let time = Event::Clock(Clock::Host, 1);
        let mut place = Place::default();
        let mut columns = Vec::new();
        for event in [
            time,
            time,
            Event::Instructions(10),
            Event::Checkpoint(Checkpoint::ClockHost),
            time,
            Event::Checkpoint(Checkpoint::ClockHost),
            time,
        ] {
            if matches!(event, Event::Clock(..)) {
                columns.push(place.column());
            }
            place.pass(&event);
        }
        assert_eq!(columns, [1, 0, 2, 1]);
        for _ in 0..20 {
            place.pass(&Event::Instructions(10));
        }
        assert_eq!(place.column(), COLUMNS - 1);
    }
}
