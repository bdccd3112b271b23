//! Why no ride comes about, or no verdict.

use std::io;

use qemu::arguments::Refusal;
use qemu::{monitor, run};
use recorder::account::grouped;
use replayer::source;

use super::sides::STALL;
use crate::calls::Input;
use crate::comparator::{OutOfTurn, Pair, Side};
use crate::depth::TooDeep;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("side {0}: {1}")]
    Run(Side, run::Error),
    #[error("side {0}: {1}")]
    Refused(Side, Refusal),
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    TooDeep(#[from] TooDeep),
    #[error(
        "side {user} emulates single programs and side {system} a whole machine: two builds of one kind are needed"
    )]
    Modes { user: Side, system: Side },
    #[error(
        "a recording is of a whole machine, and these builds emulate single programs: give a program behind `--` instead"
    )]
    NoRecordings,
    #[error(transparent)]
    Program(#[from] qemu::program::Refusal),
    #[error(
        "side {0}: QEMU {1} gives a vCPU no turn while another is busy up to the next timer, and guests that wait for one another stand still; take 8.1 or later, or one vCPU"
    )]
    Turns(Side, String),
    #[error("side A is a {0} and side B a {1}: two builds of one guest architecture are needed")]
    Targets(String, String),
}

/// What came instead of a verdict. The report says it too.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    OutOfTurn(#[from] OutOfTurn),
    #[error("the QEMU of side {side} died ({ending}){}{said}", by_then(*.started))]
    Died { side: Side, ending: String, started: Option<u64>, said: String },
    #[error("the QEMU of side {side} ended before its guest's first instruction ({ending}){said}")]
    Stillborn { side: Side, ending: String, said: String },
    #[error("the probe of side {0} can't go on: {1}")]
    Probe(Side, String),
    #[error("the QEMUs of both sides {0}")]
    Both(String),
    #[error("{0} for {limit} s", limit = STALL.as_secs())]
    Stalled(String),
    #[error("interrupted")]
    Interrupted,
    #[error(
        "the vCPUs took turns differently: behind instruction {}, the same up to there, vCPU {} executes on A and vCPU {} on B; QEMU's builds choose turns themselves, so this is no verdict on what they make of the guest",
        grouped(*.at), .vcpus.a, .vcpus.b
    )]
    Turns { at: u64, vcpus: Pair<u32> },
    #[error("the digests of chunk {0} differ, but the instructions that the probes name do not")]
    Unfound(u64),
    #[error(
        "the runs end elsewhere each time, so far apart that what was done to memory before instruction {} can't be compared; have the \
         guest stand still once it has asked QEMU to end (`hlt`)",
        grouped(*.0)
    )]
    Ends(u64),
    #[error("the probe of side {0} has forgotten where they part")]
    Forgotten(Side),
    #[error(
        "this guest is not deterministic with these settings: {0}; what differs is an input and not what either build makes of it"
    )]
    Undeterministic(String),
    #[error(
        "values differ in chunk {0}, each time that the builds are run; but where they are looked at closely nothing does"
    )]
    Hidden(u64),
    #[error("{} differs in each run of one build too: an input that differs, and not what either build makes of it", .0.described())]
    Input(Input),
    #[error("registers can't be read: {0}")]
    Unread(monitor::Error),
    #[error("{0}")]
    Again(Box<Error>),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How many instructions had started when a QEMU died, where that is known.
fn by_then(started: Option<u64>) -> String {
    started.map_or_else(String::new, |started| format!(" when {} instructions had started", grouped(started)))
}
