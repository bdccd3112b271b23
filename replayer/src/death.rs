//! Where QEMU has died in a replay, and what its log has there.
//!
//! How many instructions have started by then the probe says with its last words, or at QEMU's orderly exit, which a
//! replay comes to as well when its log does not fit. Which icount that is only QEMU knows: from version 8.2 on it tells where
//! it finds its log unfit itself. Else a second replay, a commanded one, goes there in single steps, and shows
//! besides whether QEMU dies of what the recording has.

use std::fmt;
use std::process::ExitStatus;

use qemu::run::{Run, describe};
use recorder::account::grouped;
use recorder::reader::Reader;

use crate::machine::Setting;
use crate::seek::{Again, Seeker};
use crate::standstill::Standstill;
use crate::verify::so_far;

/// A QEMU that died while it replayed.
#[derive(Debug)]
pub struct Death {
    ending: String,
    /// All that it said on its standard error, and the last of it as the end of a sentence.
    errors: String,
    said: String,
    /// How many instructions of the stream had started; `None` where nobody could say.
    started: Option<u64>,
    /// The process that sent the signal of which it died, where it was not QEMU itself.
    sender: Option<i32>,
    /// So many instructions are proven to be the recorded ones, and whether this build is another one than recorded.
    identical: u64,
    other: bool,
    place: Place,
}

/// What QEMU says where a signal asks it to end (system/runstate.c, 7.2 to 11.1).
const ENDED: &str = "terminating on signal ";

/// Where that was.
#[derive(Debug)]
enum Place {
    /// Not looked for yet.
    Unknown,
    /// By QEMU's count, what was found out on the way there, and what the log has.
    At { icount: u64, found: &'static str, log: Standstill },
    /// Nobody can say.
    Lost { why: String, cause: String },
}

/// What a probe said of a QEMU that a signal ends.
#[derive(Debug, Clone, Copy)]
pub struct LastWords {
    pub started: u64,
    pub sender: Option<i32>,
}

impl Death {
    /// Of `run`, which has ended with `status`.
    #[must_use]
    pub fn of(run: &Run, status: ExitStatus, last: Option<LastWords>, identical: u64, other: bool) -> Self {
        Death {
            ending: describe(status),
            errors: run.errors(),
            said: run.last_words(),
            started: last.map(|last| last.started),
            sender: last.and_then(|last| last.sender),
            identical,
            other,
            place: Place::Unknown,
        }
    }

    /// Whether a run that came to an orderly exit before its recording did died all the same: QEMU leaves so where its log
    /// does not fit, and where somebody ends it. A guest may set the status too, and makes QEMU say nothing.
    #[must_use]
    pub fn is_one(run: &Run, status: ExitStatus) -> bool {
        status.code().is_none()
            || !status.success() && !run.last_words().is_empty()
            || run.errors().contains(ENDED)
    }

    /// Finds out where it was, where that takes it by a second replay of `recording`, which tells `progress` how far it is.
    pub fn locate(&mut self, recording: &mut Reader, setting: Setting, progress: &mut dyn FnMut(u64)) {
        let found = match (count(&self.errors), self.started) {
            (Some(icount), _) => Ok((icount, "")),
            (None, Some(0)) => Ok((0, "")),
            (None, Some(started)) => {
                let again = Seeker::new(recording, setting, progress).go_where_it_died(started);
                match again {
                    Ok(Again::Died { icount }) => Ok((icount, "; a second replay died there too")),
                    Ok(Again::Passed { icount }) => {
                        Ok((icount, "; a second replay, in single steps there, went on"))
                    }
                    Err(error) => Err(format!("a second replay to find the icount came to nothing: {error}")),
                }
            }
            (None, None) => Err("it had no time to say where in the chunk behind that".to_owned()),
        };
        self.place = match found {
            Ok((icount, found)) => {
                let cause = self.cause(!found.ends_with("went on"));
                match Standstill::of_death(recording, icount, cause.clone()) {
                    Ok(log) => Place::At { icount, found, log },
                    Err(error) => Place::Lost { why: error.to_string(), cause },
                }
            }
            Err(why) => Place::Lost { why, cause: self.cause(true) },
        };
    }

    /// What usually makes QEMU end like this; `again`: it has not been seen to go on.
    fn cause(&self, again: bool) -> String {
        if self.sender.is_some() || self.errors.contains(ENDED) {
            return "somebody ended QEMU; the recording has nothing to do with it".to_owned();
        }
        if self.ending.contains("SIGKILL") {
            return "memory ran out, and the kernel took QEMU's (its own log says so), or somebody killed it"
                .to_owned();
        }
        if let Some(event) = missing(&self.errors) {
            return format!(
                "the guest comes to a {event}, and the log has none here: it went another way before, this build does so at \
                 another time, or the log was changed"
            );
        }
        let says = |words: &[&str]| words.iter().any(|words| self.errors.contains(words));
        if says(&["unknown event kind", "Unknown ID", "invalid async event", "error reading the replay data"])
        {
            return "the log has what this QEMU does not know: it was changed, or is of another version"
                .to_owned();
        }
        if says(&["diff >= 0", "EVENT_INSTRUCTION", "read_kind == kind", "replay_"]) {
            return "QEMU and its log disagree on how many instructions were executed, or on what comes now: this build counts or \
                    asks otherwise than the one that recorded, or the guest went another way before"
                .to_owned();
        }
        if again {
            "a fault of QEMU's own, which this guest provokes; `tandem replay --at` shows the guest right before it".to_owned()
        } else {
            "chance, and not what the recording has: memory that ran out, or threads of QEMU's that got in each other's way"
                .to_owned()
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Death { ending, said, started, sender, identical, other, place, .. } = self;
        write!(f, "QEMU died while it replayed ({ending}")?;
        if let Some(sender) = sender {
            write!(f, ", which process {sender} sent")?;
        }
        write!(f, ")")?;
        if let Place::At { icount, .. } = place {
            let near = if sender.is_some() { "near" } else { "at" };
            write!(f, " {near} icount {}", grouped(*icount))?;
        }
        if let Some(started) = started {
            write!(f, ", when {} instructions of the stream had started", grouped(*started))?;
        }
        write!(f, "{said}; {}", so_far(*identical, *other))?;
        match place {
            Place::Unknown => Ok(()),
            Place::At { found, log, .. } => write!(f, "{found}{log}"),
            Place::Lost { why, cause } => write!(f, "; {why}\n  usually:  {cause}"),
        }
    }
}

/// The icount that QEMU says it is at where its log does not fit (`replay_sync_error` in replay/replay.c, from 8.2 on).
fn count(errors: &str) -> Option<u64> {
    let (_, told) = errors.rsplit_once("(insn total ")?;
    let (icount, rest) = told.split_once('/')?;
    rest.contains(" left, event ").then(|| icount.parse().ok())?
}

/// The event that QEMU says it misses in its log.
fn missing(errors: &str) -> Option<&str> {
    let (_, told) = errors.rsplit_once("Missing ")?;
    Some(told.split_once(" event in the replay log")?.0)
}

#[cfg(test)]
mod tests {
    use super::{count, missing};

    #[test]
    fn what_qemu_says_of_its_log() {
        let ten = "qemu-system-x86_64: Missing character write event in the replay log (insn total 6789/12 left, event 34 is EVENT_INSTRUCTION)";
        assert_eq!((count(ten), missing(ten)), (Some(6789), Some("character write")));
        let seven = "qemu-system-x86_64: Missing random event in the replay log";
        assert_eq!((count(seven), missing(seven)), (None, Some("random")));
        assert_eq!((count("(insn total x/1 left, event 3"), missing("Missing file")), (None, None));
    }
}
