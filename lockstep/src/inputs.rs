//! Which inputs of two recordings of one guest differ: of each kind the first that does.
//!
//! Inputs of one kind are compared one by one in their order, each with its icount: so a packet more does not make every
//! interrupt behind it another one.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use recorder::account::described;
use recorder::log::event::Event;
use recorder::reader::{self, Reader};
use serde::Serialize;

use crate::comparator::{Pair, Side};

/// An input, and the icount at which it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Input {
    pub icount: u64,
    /// In words, with its values.
    pub input: String,
}

/// The first inputs of one kind that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub kind: &'static str,
    /// How many of this kind are the same before.
    pub same: u64,
    /// `null` where a side has no more of them.
    pub a: Option<Input>,
    pub b: Option<Input>,
}

impl Difference {
    /// The icount from which on they differ.
    #[must_use]
    pub fn icount(&self) -> u64 {
        let icount = |input: &Option<Input>| input.as_ref().map_or(u64::MAX, |input| input.icount);
        icount(&self.a).min(icount(&self.b))
    }
}

/// Whether the event comes from outside, and is not only what the guest makes of it.
fn is_input(event: &Event) -> bool {
    !matches!(
        event,
        Event::Instructions(_)
            | Event::Exception
            | Event::Checkpoint(_)
            | Event::CharWrite { .. }
            | Event::AudioOut(_)
            | Event::BottomHalf(_)
            | Event::BottomHalfOnce(_)
            | Event::InputSync
            | Event::End
    )
}

/// How many inputs go over at a time.
const BATCH: usize = 1024;

type Batch = Vec<(&'static str, Input)>;

/// The inputs of a recording, in batches.
fn send(recording: &mut Reader, to: &SyncSender<Batch>) -> Result<(), reader::Error> {
    let mut batch = Vec::new();
    recording.events(0, |icount, event| {
        if is_input(event) {
            batch.push((event.name(), Input { icount, input: described(event) }));
        }
        if batch.len() < BATCH || to.send(std::mem::take(&mut batch)).is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    let _ = to.send(batch);
    Ok(())
}

/// What has come of one kind and has no partner yet.
#[derive(Default)]
struct Waiting {
    same: u64,
    queues: Pair<VecDeque<Input>>,
    differs: bool,
}

/// The first inputs of each kind that differ, in the order of their icounts.
///
/// # Errors
/// Where a recording can't be read.
pub fn differences(recordings: Pair<&mut Reader>) -> Result<Vec<Difference>, reader::Error> {
    let (to_a, from_a) = sync_channel(4);
    let (to_b, from_b) = sync_channel(4);
    let Pair { a, b } = recordings;
    std::thread::scope(|scope| {
        let readers = [scope.spawn(move || send(a, &to_a)), scope.spawn(move || send(b, &to_b))];
        let found = compared(&Pair { a: from_a, b: from_b });
        for reader in readers {
            reader.join().unwrap_or(Ok(()))?;
        }
        Ok(found)
    })
}

fn compared(from: &Pair<Receiver<Batch>>) -> Vec<Difference> {
    let mut kinds: BTreeMap<&'static str, Waiting> = BTreeMap::new();
    let mut found = Vec::new();
    let mut come = true;
    while come {
        come = false;
        for side in [Side::A, Side::B] {
            let Ok(batch) = from.get(side).recv() else { continue };
            come = true;
            for (kind, input) in batch {
                let waiting = kinds.entry(kind).or_default();
                if !waiting.differs {
                    waiting.queues.get_mut(side).push_back(input);
                    found.extend(settled(kind, waiting));
                }
            }
        }
    }
    for (kind, waiting) in kinds {
        let Waiting { same, mut queues, differs } = waiting;
        let (a, b) = (queues.a.pop_front(), queues.b.pop_front());
        if !differs && (a.is_some() || b.is_some()) {
            found.push(Difference { kind, same, a, b });
        }
    }
    found.sort_by_key(Difference::icount);
    found
}

/// Compares what has a partner.
fn settled(kind: &'static str, waiting: &mut Waiting) -> Option<Difference> {
    while let (Some(_), Some(_)) = (waiting.queues.a.front(), waiting.queues.b.front()) {
        let (a, b) = (waiting.queues.a.pop_front(), waiting.queues.b.pop_front());
        if a != b {
            waiting.differs = true;
            waiting.queues = Pair::default();
            return Some(Difference { kind, same: waiting.same, a, b });
        }
        waiting.same += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::{Difference, Input, compared};
    use crate::comparator::Pair;

    fn input(icount: u64, text: &str) -> Input {
        Input { icount, input: text.to_owned() }
    }

    #[test]
    fn each_kind_is_compared_by_itself() {
        let ((to_a, a), (to_b, b)) = (sync_channel(4), sync_channel(4));
        to_a.send(vec![("clock", input(1, "1")), ("packet", input(5, "p")), ("clock", input(9, "2"))])
            .unwrap();
        to_b.send(vec![("clock", input(1, "1")), ("clock", input(9, "3")), ("clock", input(10, "4"))])
            .unwrap();
        drop((to_a, to_b));
        assert_eq!(
            compared(&Pair { a, b }),
            [
                Difference { kind: "packet", same: 0, a: Some(input(5, "p")), b: None },
                Difference { kind: "clock", same: 1, a: Some(input(9, "2")), b: Some(input(9, "3")) },
            ]
        );
    }
}
