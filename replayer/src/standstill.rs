//! Where a replay stands still or has died, as far as QEMU's log says what it should do next.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;

use recorder::account::{described, grouped};
use recorder::log::event::Event;
use recorder::reader::{self, Reader};

/// A place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standstill {
    icount: u64,
    /// The last events before it, each with its icount.
    before: Vec<(u64, String)>,
    /// What the log has at this icount, or, where it has nothing there, next.
    awaited: Vec<(u64, String)>,
    /// What that usually means.
    cause: String,
}

/// How many events are told before and from the place on.
const BEFORE: usize = 2;
const FROM: usize = 4;

impl Standstill {
    /// What the log of `recording` has around `icount`.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn at(recording: &mut Reader, icount: u64) -> Result<Self, reader::Error> {
        Self::around(recording, icount, None)
    }

    /// The same for a QEMU that has died there, of `cause`.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn of_death(recording: &mut Reader, icount: u64, cause: String) -> Result<Self, reader::Error> {
        Self::around(recording, icount, Some(cause))
    }

    fn around(recording: &mut Reader, icount: u64, mut cause: Option<String>) -> Result<Self, reader::Error> {
        let mut before = VecDeque::new();
        let mut awaited = Vec::new();
        recording.events(0, |at, event| {
            // A count of instructions says how long nothing happens: it is no event to wait for.
            if matches!(event, Event::Instructions(_)) {
                return ControlFlow::Continue(());
            }
            if at < icount {
                before.push_back((at, described(event)));
                if before.len() > BEFORE {
                    before.pop_front();
                }
                return ControlFlow::Continue(());
            }
            cause.get_or_insert_with(|| usual(at > icount, event).to_owned());
            awaited.push((at, described(event)));
            if awaited.len() < FROM { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let cause = cause.unwrap_or_else(|| "the log is at its end, and the guest runs on".to_owned());
        Ok(Standstill { icount, before: before.into(), awaited, cause })
    }
}

/// What usually keeps a replay from getting to `event`; `later`: the log has it only after more instructions.
fn usual(later: bool, event: &Event) -> &'static str {
    match event {
        _ if later => {
            "the guest does not execute the instructions up to the next event: a timer is due that was not while it was recorded, or the processor waits for an interrupt that came from something QEMU does not log"
        }
        Event::Interrupt => {
            "no interrupt is pending here: the device that raised it while it was recorded does so at a time that QEMU does not log, or the replay has another state"
        }
        Event::Exception => "the instruction raises no exception here: the replay has another state",
        Event::Block(_)
        | Event::Packet { .. }
        | Event::CharRead { .. }
        | Event::BottomHalf(_)
        | Event::BottomHalfOnce(_) => {
            "the request that ends here has not been made, or the main loop does not come to where it is handed over"
        }
        Event::CharWrite { .. }
        | Event::CharReadAll(_)
        | Event::CharReadAllError(_)
        | Event::Random { .. } => {
            "the guest does not come to where it asks its device for this: it went another way before"
        }
        Event::Clock(..) | Event::Checkpoint(_) => {
            "QEMU does not come to where it reads the clock or passes the checkpoint: another build does that at other times, and so does one whose device has a timer that is not in the log"
        }
        _ => "QEMU does not come to where it takes this",
    }
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, (icount, event): &(u64, String)| {
            write!(f, "\n  {what:<8}  icount {:>15}  {event}", grouped(*icount))
        };
        for event in &self.before {
            line("before", event)?;
        }
        for (number, event) in self.awaited.iter().enumerate() {
            line(if number == 0 { "awaited" } else { "then" }, event)?;
        }
        write!(f, "\n  usually:  {}", self.cause)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use recorder::reader::Reader;

    use super::Standstill;

    #[test]
    fn it_reads_like_this() {
        let seed = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../recorder/fuzz/seeds/recording/qemu-7.2-seabios.tdm");
        let mut recording = Reader::open(&seed).unwrap();
        let interrupt = recording.ending.icount / 2;
        insta::assert_snapshot!(
            [0, interrupt, u64::MAX]
                .map(|icount| Standstill::at(&mut recording, icount).unwrap().to_string())
                .join("\n")
        );
    }
}
