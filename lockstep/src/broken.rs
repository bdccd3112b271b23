//! A build that crashes or hangs where the other goes on: that is a divergence, and where it is the probe has said.

use recorder::account::grouped;
use trace::block::Table;
use trace::message::{CHUNK, FromProbe, Look};

use crate::comparator::{AHEAD, Pair, Side};
use crate::disassembly::asks_qemu;
use crate::expansion::Executed;
use crate::printable::printable;
use crate::report::{Divergence, Kind, Report, Verdict};
use crate::ride::Trouble;
use crate::ride::naming::stream_of;
use crate::ride::sides::Ride;
use crate::texts;
use crate::zoom::{Again, start};

/// How many lines of what QEMU said last are shown.
const LINES: usize = 10;

/// The QEMU of a side that is gone, or stands still.
pub(crate) struct Broken {
    pub side: Side,
    pub kind: Kind,
    /// How it ended, or that it did not.
    pub ending: String,
    /// What it said last, as the end of a sentence.
    pub said: String,
    /// How many of its instructions had started.
    pub started: u64,
}

impl Broken {
    /// Has the other side show that it goes on, and makes a verdict of it.
    ///
    /// # Errors
    /// Where the other side does not go on either.
    pub fn conclude(self, again: &Again, ride: &mut Ride, report: &mut Report) -> Result<(), Trouble> {
        let Broken { side, kind, ending, said, started } = self;
        let other = side.other();
        let chunk = started / CHUNK;
        ride.is_alone();
        let mut passed = ride.filled(other);
        let mut ended = ride.ended_at(other);
        // Each once: what is said to one that does not listen fills its socket, and then waits.
        let mut credit = 0;
        while passed <= chunk && ended.is_none() {
            if credit < passed + AHEAD {
                credit = passed + AHEAD;
                ride.credit(other, credit);
            }
            match ride.next(again.request.interrupts) {
                Ok(Some((from, FromProbe::Chunk { index, .. }))) if from == other => passed = index + 1,
                Ok(Some((from, FromProbe::End { position, .. }))) if from == other => ended = Some(position),
                Err(Trouble::Died { .. } | Trouble::Stalled(_)) => return Err(Trouble::Both(ending + &said)),
                happened => drop(happened?),
            }
        }
        if ended.is_some_and(|position| position <= started) {
            return Err(Trouble::Both(ending + &said));
        }
        // What the broken one has executed nobody can ask any more: up to its last full chunk it was the same.
        let mut windows = ride.windows_of(other, chunk)?;
        let target = report.builds.a.target.clone();
        if asks_qemu(&target) {
            // Two QEMUs at a time are enough.
            ride.kill();
            texts::fill(again, &mut [&mut windows])?;
        }
        let stream = stream_of(other, &windows)?;
        let last = stream.iter().position(|executed| executed.position + 1 == started);
        let last = match last.map(|last| (last, uncounted(&target, &stream[last]))) {
            Some((last, before @ 1..)) => {
                let earliest = started - before as u64;
                let once_more = once_more(again, side)?.filter(|at| (earliest..=started).contains(at));
                if once_more.is_none() {
                    report.notes.push(format!(
                        "it is this instruction or one of the {before} before it: when side {side} was run again, with each counted, it \
                         was none of them"
                    ));
                }
                let back = once_more.map_or(0, |at| usize::try_from(started - at).unwrap_or_default());
                Some(last - back)
            }
            last => last.map(|(last, _)| last),
        };
        let streams = Pair { a: stream.clone(), b: stream };
        let mut divergence = Divergence::broken(again.request.telling(&target), &streams, last, kind);
        *divergence.next.get_mut(side) = None;
        report.summary =
            format!("the QEMU of side {side} {ending} in {}; side {other} went on", divergence.place());
        report.notes.push(format!(
            "what side {side} executed is known up to instruction {}, the end of its last full chunk; from there on the blocks \
             are those of side {other}",
            grouped(report.compared.chunks * CHUNK)
        ));
        let errors = ride.errors(side);
        let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            report.notes.push(format!("side {side} said: {}", printable(line)));
        }
        report.verdict = Verdict::Different;
        report.compared.instructions = report.compared.chunks * CHUNK;
        report.divergence = Some(divergence);
        Ok(())
    }
}

/// How many instructions before `last` it may have been instead: those that can't be left are not counted one by one.
fn uncounted(target: &str, last: &Executed) -> usize {
    let block = Table::of(target).intern(&last.block.iter().collect());
    let counted = block.marks().iter().map(|&mark| usize::from(mark) - 1).rfind(|&mark| mark <= last.number);
    last.number - counted.unwrap_or(0)
}

/// Runs both until `side` breaks again; gives back how many of its instructions had started, each counted.
fn once_more(again: &Again, side: Side) -> Result<Option<u64>, Trouble> {
    let mut ride = start(again)?;
    ride.go(side, u64::MAX, 0, &Look { each: true, ..again.look.clone() });
    loop {
        match ride.next(again.request.interrupts) {
            Err(Trouble::Died { started, .. }) => return Ok(started),
            Err(Trouble::Stalled(_)) | Ok(Some((_, FromProbe::End { .. }))) => return Ok(None),
            happened => drop(happened?),
        }
    }
}
