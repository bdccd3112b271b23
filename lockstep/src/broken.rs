//! A build that crashes or hangs where the other goes on: that is a divergence, and where it is the probe has said.

use std::time::{Duration, Instant};

use recorder::account::grouped;
use trace::message::{CHUNK, FromProbe};

use crate::comparator::{AHEAD, Pair, Side};
use crate::disassembly::asks_qemu;
use crate::report::{Divergence, Kind, Report, Verdict};
use crate::ride::{Ride, Trouble, stream_of};
use crate::texts;
use crate::zoom::Again;

/// How long the other side may take to get as far.
const PATIENCE: Duration = Duration::from_secs(60);

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
    pub fn conclude(self, ride: &mut Ride, again: &Again, report: &mut Report) -> Result<(), Trouble> {
        let Broken { side, kind, ending, said, started } = self;
        let other = side.other();
        let chunk = started / CHUNK;
        let begin = Instant::now();
        let mut passed = ride.filled(other);
        let mut ended = ride.ended_at(other);
        while passed <= chunk && ended.is_none() {
            ride.credit(other, passed + AHEAD);
            match ride.next(again.request.interrupts)? {
                Some((from, FromProbe::Chunk { index, .. })) if from == other => passed = index + 1,
                Some((from, FromProbe::End { position, .. })) if from == other => ended = Some(position),
                _ if begin.elapsed() > PATIENCE => return Err(Trouble::Both(ending + &said)),
                _ => {}
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
        let streams = Pair { a: stream.clone(), b: stream };
        let mut divergence = Divergence::broken(&target, &streams, last, kind);
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
            report.notes.push(format!("side {side} said: {line}"));
        }
        report.verdict = Verdict::Different;
        report.compared.instructions = report.compared.chunks * CHUNK;
        report.divergence = Some(divergence);
        Ok(())
    }
}
