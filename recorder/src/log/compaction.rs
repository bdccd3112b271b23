//! Leaves out of a log what a replay does not need. This is the one place that says what that is.
//!
//! **A checkpoint of the warp timer that found nothing to do.** In host time QEMU passes
//! `CHECKPOINT_CLOCK_WARP_ACCOUNT` each time the vCPU leaves its loop, which a guest that polls a port does every ten
//! instructions. With a warp pending QEMU would have read a clock next, and the log would show it. Without one, and
//! without the checkpoint in the log, replay's `icount_account_warp_timer` returns, which is all that it would have
//! done with it (accel/tcg/icount-common.c in 10.0, softmmu/icount.c in 7.2). So it goes where what follows it has the
//! vCPU out of its loop all the same, or nobody needs it to be:
//!
//! 1. between two instruction counts, which are then added up, as long as the sum fits QEMU's `int`;
//! 2. before `CHECKPOINT_CLOCK_VIRTUAL`, which the same turn of the vCPU's loop passes next;
//! 3. between that checkpoint and instructions. (QEMU 10.0 logs 2 and 3 at each poll of its HPET.)
//!
//! Nothing else is left out, and every replay checks the result against the witness. Looked at and kept: the clock reads
//! of 10.0, because a timer may have run on what they said.

use super::event::{Checkpoint, Event};

/// The largest count that replay can take (`ReplayState::instruction_count` in replay/replay-internal.h).
const LARGEST: u32 = i32::MAX as u32;

/// Events go in one after the other; what has to be kept comes out, a little later.
#[derive(Debug, Default)]
pub struct Compaction {
    held: Held,
    /// Whether what came out last, with nothing held, is the virtual clock's checkpoint.
    behind_virtual: bool,
    /// Events left out so far, the instruction counts that were added to others among them.
    pub dropped: u64,
}

#[derive(Debug, Default, Clone, Copy)]
enum Held {
    #[default]
    Nothing,
    Count(u32),
    CountAndWarp(u32),
    Warp,
}

const WARP: Event<'static> = Event::Checkpoint(Checkpoint::WarpAccount);
const VIRTUAL: Event<'static> = Event::Checkpoint(Checkpoint::ClockVirtual);

impl Compaction {
    /// Takes the next event and hands on those that are settled.
    #[inline]
    pub fn take(&mut self, event: &Event, mut keep: impl FnMut(&Event)) {
        match (self.held, event) {
            (Held::CountAndWarp(before), Event::Instructions(after))
                if before.checked_add(*after).is_some_and(|sum| sum <= LARGEST) =>
            {
                self.held = Held::Count(before + after);
                self.dropped += 2;
            }
            (Held::Count(count), &WARP) if count > 0 => self.held = Held::CountAndWarp(count),
            (Held::Nothing, &WARP) => self.held = Held::Warp,
            (Held::CountAndWarp(count), &VIRTUAL) => {
                self.held = Held::Nothing;
                self.dropped += 1;
                self.behind_virtual = true;
                keep(&Event::Instructions(count));
                keep(event);
            }
            (Held::Warp, &VIRTUAL) => {
                self.held = Held::Nothing;
                self.dropped += 1;
                self.behind_virtual = true;
                keep(event);
            }
            (Held::Warp, Event::Instructions(count)) if self.behind_virtual => {
                self.held = Held::Count(*count);
                self.dropped += 1;
            }
            (_, Event::Instructions(count)) => {
                self.settle(&mut keep);
                self.held = Held::Count(*count);
            }
            _ => {
                self.settle(&mut keep);
                self.behind_virtual = *event == VIRTUAL;
                keep(event);
            }
        }
    }

    /// Hands on what is held back: nothing more comes, or what has come shall be stored.
    pub fn settle(&mut self, mut keep: impl FnMut(&Event)) {
        let held = std::mem::take(&mut self.held);
        match held {
            Held::Nothing => return,
            Held::Count(count) => keep(&Event::Instructions(count)),
            Held::CountAndWarp(count) => {
                keep(&Event::Instructions(count));
                keep(&WARP);
            }
            Held::Warp => keep(&WARP),
        }
        self.behind_virtual = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Clock;
    use super::{Compaction, Event, LARGEST, VIRTUAL, WARP};

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
                VIRTUAL => VIRTUAL,
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
    fn a_warp_checkpoint_beside_that_of_the_virtual_clock_goes() {
        let i = Event::Instructions;
        let poll = [i(5), WARP, VIRTUAL, WARP, i(6), WARP, VIRTUAL, WARP, i(7)];
        assert_eq!(compacted(&poll), (vec![i(5), VIRTUAL, i(6), VIRTUAL, i(7)], 4));
        assert_eq!(compacted(&[Event::Exception, WARP, VIRTUAL]), (vec![Event::Exception, VIRTUAL], 1));
        assert_eq!(compacted(&[VIRTUAL, WARP, i(1), WARP, i(2)]), (vec![VIRTUAL, i(3)], 3));
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
            vec![i(5), Event::Exception, WARP, i(6)],
            vec![VIRTUAL, WARP, read, i(6)],
            vec![VIRTUAL, Event::Exception, WARP, i(6)],
            vec![VIRTUAL, i(5), Event::Exception, WARP, i(6)],
            vec![i(5), WARP, WARP, VIRTUAL, read],
        ] {
            assert_eq!(compacted(&events), (events, 0));
        }
    }
}
