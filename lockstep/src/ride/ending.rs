//! What it comes to that both sides have ended, or one has.

use std::process::ExitStatus;
use std::time::Duration;

use qemu::run::{Happening, Run, describe};
use recorder::account::grouped;
use replayer::death::Death;
use replayer::verify::console_difference;
use trace::message::{CHUNK, ToProbe};

use super::Trouble;
use super::sides::Ride;
use crate::comparator::{Order, Pair, Side};
use crate::report::{Divergence, Kind, Report, Verdict};

impl Ride {
    /// One side has ended before its first instruction.
    pub(super) fn stillborn(&mut self) -> Result<Trouble, Trouble> {
        for side in [Side::A, Side::B] {
            self.runs.get_mut(side).say(&ToProbe::Finish);
        }
        // The other runs on for as long as it has credit.
        let ended = |run: &mut Run| run.ended(Duration::from_millis(500)).filter(|status| !status.success());
        let (side, status) = match ended(&mut self.runs.a) {
            Some(status) => (Side::A, status),
            None => (Side::B, self.runs.b.wait()?),
        };
        let said = self.runs.get(side).last_words();
        Ok(Trouble::Stillborn { side, ending: describe(status), said })
    }

    /// Makes the decision a verdict.
    pub(super) fn conclude(
        &mut self,
        order: Order,
        compares_console: bool,
        report: &mut Report,
    ) -> Result<(), Trouble> {
        match order {
            Order::Same { position } if self.stalled => {
                return Err(Trouble::Stalled(format!(
                    "both sides stood still after instruction {}",
                    grouped(position)
                )));
            }
            Order::Ended { side, at } if self.stalled => {
                report.compared.instructions = at;
                return Err(Trouble::Stalled(format!(
                    "side {side} stood still after instruction {}, the same up to there, and waited for an event that \
                     did not come",
                    grouped(at)
                )));
            }
            Order::Same { position: 0 } => {
                let statuses = self.end()?;
                let (ending, said) = (describe(statuses.a), self.runs.a.last_words());
                return Err(Trouble::Stillborn { side: Side::A, ending, said });
            }
            Order::Same { position } => {
                if self.vcpus.a.len() > 1 {
                    report.compared.vcpus = Some(self.vcpus.clone());
                }
                let statuses = self.end()?;
                report.compared.instructions = position;
                report.compared.chunks = position.div_ceil(CHUNK);
                if statuses.a != statuses.b {
                    report.verdict = Verdict::Different;
                    report.divergence = Some(Divergence::without_instruction(Kind::ExitStatus, position));
                    report.summary = format!(
                        "the same {} instructions, but A ends with {}, B with {}",
                        grouped(position),
                        describe(statuses.a),
                        describe(statuses.b)
                    );
                } else if let Some(line) =
                    console_difference(&self.consoles.a, &self.consoles.b).filter(|_| compares_console)
                {
                    report.verdict = Verdict::Different;
                    report.divergence = Some(Divergence::without_instruction(Kind::Console, position));
                    report.summary = format!(
                        "the same {} instructions, but the consoles differ in line {line}",
                        grouped(position)
                    );
                } else {
                    report.verdict = Verdict::Same;
                    report.summary = format!(
                        "{} instructions, {} chunks, no divergence",
                        grouped(position),
                        position.div_ceil(CHUNK)
                    );
                }
            }
            Order::Again { until } => return Err(Trouble::Ends(until)),
            Order::Ended { side, at } => {
                // A log that does not fit ends QEMU in order.
                let run = self.runs.get_mut(side);
                run.say(&ToProbe::Finish);
                let status = run.wait()?;
                if Death::is_one(run, status) {
                    report.compared.instructions = at;
                    let (ending, said) = (describe(status), run.last_words());
                    return Err(Trouble::Died { side, ending, started: Some(at), said });
                }
                report.verdict = Verdict::Different;
                report.compared.instructions = at;
                report.compared.chunks = at / CHUNK;
                report.divergence = Some(Divergence::without_instruction(Kind::End, at));
                report.summary = format!(
                    "the same up to instruction {}, where the guest on {side} ends and the other does not",
                    grouped(at)
                );
            }
            Order::Credit(..) | Order::Ask(..) | Order::Parted(_) => {}
        }
        Ok(())
    }

    /// Lets both QEMUs end, and hears what their guests wrote last.
    pub(super) fn end(&mut self) -> Result<Pair<ExitStatus>, Trouble> {
        for side in [Side::A, Side::B] {
            self.runs.get_mut(side).say(&ToProbe::Finish);
        }
        let statuses = Pair { a: self.runs.a.wait()?, b: self.runs.b.wait()? };
        while let Ok((side, happening)) = self.come.try_recv() {
            if let Happening::Console(bytes) = happening {
                self.wrote(side, &bytes);
            }
        }
        Ok(statuses)
    }
}
