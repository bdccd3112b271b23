//! Leaves out of a log what a replay does not need. This is the one place that says what that is:
//!
//! 1. **A warp checkpoint between instructions.** In host time QEMU passes the checkpoint
//!    `CHECKPOINT_CLOCK_WARP_ACCOUNT` each time the vCPU leaves its loop, which a guest that polls a port does every
//!    ten instructions. Where it stands between two instruction counts no warp was pending: with one, QEMU would
//!    have read a clock before the guest went on, and that read would stand there. Without the checkpoint in the
//!    log, replay's `icount_account_warp_timer` returns, which is all that it would have done with it
//!    (accel/tcg/icount-common.c in 10.0, softmmu/icount.c in 7.2). So the checkpoint goes, and the counts around it
//!    are added up, as long as the sum fits QEMU's `int`.
//!
//! Nothing else is left out, and every replay checks the result against the witness.

use super::event::{Checkpoint, Event};

/// The largest count that replay can take (`ReplayState::instruction_count` in replay/replay-internal.h).
const LARGEST: u32 = i32::MAX as u32;

/// Events go in one after the other; what has to be kept comes out, a little later.
#[derive(Debug, Default)]
pub struct Compaction {
    held: Held,
    /// Events left out so far, the instruction counts that were added to others among them.
    pub dropped: u64,
}

#[derive(Debug, Default, Clone, Copy)]
enum Held {
    #[default]
    Nothing,
    Count(u32),
    CountAndCheckpoint(u32),
}

const WARP: Event<'static> = Event::Checkpoint(Checkpoint::WarpAccount);

impl Compaction {
    /// Takes the next event and hands on those that are settled.
    #[inline]
    pub fn take(&mut self, event: &Event, mut keep: impl FnMut(&Event)) {
        match (self.held, event) {
            (Held::CountAndCheckpoint(before), Event::Instructions(after))
                if before.checked_add(*after).is_some_and(|sum| sum <= LARGEST) =>
            {
                self.held = Held::Count(before + after);
                self.dropped += 2;
            }
            (Held::Count(count), &WARP) if count > 0 => self.held = Held::CountAndCheckpoint(count),
            (_, Event::Instructions(count)) => {
                self.settle(&mut keep);
                self.held = Held::Count(*count);
            }
            _ => {
                self.settle(&mut keep);
                keep(event);
            }
        }
    }

    /// Hands on what is held back: nothing more comes, or what has come shall be stored.
    pub fn settle(&mut self, mut keep: impl FnMut(&Event)) {
        match std::mem::take(&mut self.held) {
            Held::Nothing => {}
            Held::Count(count) => keep(&Event::Instructions(count)),
            Held::CountAndCheckpoint(count) => {
                keep(&Event::Instructions(count));
                keep(&WARP);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Clock;
    use super::{Compaction, Event, LARGEST, WARP};

    fn compacted(events: &[Event<'static>]) -> (Vec<Event<'static>>, u64) {
        let mut compaction = Compaction::default();
        let mut kept = Vec::new();
        let mut instructions = 0;
        let mut keep = |event: &Event| {
            kept.push(match *event {
                Event::Instructions(count) => {
                    instructions += u64::from(count);
                    Event::Instructions(count)
                }
                Event::Clock(clock, time) => Event::Clock(clock, time),
                WARP => WARP,
                Event::Exception => Event::Exception,
                other => panic!("{other:?}"),
            });
        };
        for event in events {
            compaction.take(event, &mut keep);
        }
        compaction.settle(&mut keep);
        let whole = events.iter().map(|event| match event {
            Event::Instructions(count) => u64::from(*count),
            _ => 0,
        });
        assert_eq!(instructions, whole.sum::<u64>(), "no instruction is lost");
        (kept, compaction.dropped)
    }

    #[test]
    fn a_warp_checkpoint_between_instructions_goes() {
        let i = Event::Instructions;
        assert_eq!(compacted(&[i(5), WARP, i(6), WARP, i(7)]), (vec![i(18)], 4));
    }

    #[test]
    fn a_warp_checkpoint_anywhere_else_stays() {
        let i = Event::Instructions;
        let read = Event::Clock(Clock::VirtualRealTime, 9);
        for events in [
            vec![i(5), WARP, read, i(6)],
            vec![WARP, i(6)],
            vec![i(5), Event::Exception, WARP, i(6)],
            vec![i(5), WARP, WARP, i(6)],
            vec![i(5), WARP],
            vec![i(0), WARP, i(6)],
            vec![i(5), i(6)],
            vec![i(LARGEST), WARP, i(1)],
        ] {
            assert_eq!(compacted(&events), (events, 0));
        }
    }
}
