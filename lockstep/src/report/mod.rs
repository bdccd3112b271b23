//! The result of a lockstep as data: what `--format json` prints. Documented in `lockstep/REPORT.md`; a change
//! here is a change there.
//!
//! [`divergence`] is what parts two runs; [`found`] makes it of what was seen of them; [`console`] is what the guests had
//! written by then; [`reduction`] is the program that the difference comes down to.

pub mod console;
pub mod divergence;
mod found;
pub mod reduction;

use serde::Serialize;

use crate::calls::Input;
use crate::comparator::Pair;
use crate::explain::Explanation;
use crate::made::Recorded;

pub use self::console::Consoles;
pub use self::divergence::{Access, Block, Certainty, Code, Divergence, Kind, Line, Register, Seen};
pub use self::found::{BLOCKS, Telling};
pub use self::reduction::Reduction;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Same,
    Different,
    Trouble,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    /// One line that says it all.
    pub summary: String,
    pub compared: Compared,
    pub builds: Pair<Ridden>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    /// What it was reduced to, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduction: Option<Reduction>,
    /// Of user programs: the first system call that came to something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
    /// What the guests had written when they parted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<Consoles>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How to run it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
}

/// What was compared and found equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Instructions found equal.
    pub instructions: u64,
    pub chunks: u64,
    /// The kinds of things compared.
    pub what: Vec<&'static str>,
    /// `live`: two runs that are deterministic by themselves; `recording`: two replays of one recording;
    /// `recordings`: a replay each of two.
    pub driven_by: &'static str,
    /// How many instructions each vCPU executed up to where each side ended, where there are several and both have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Pair<Vec<u64>>>,
    /// How the recording came about, where one was made for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Recorded>,
}

/// One side's build and command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ridden {
    pub path: String,
    pub version: String,
    pub sha256: String,
    pub plugin_api: i32,
    pub target: String,
    pub line: Vec<String>,
}

/// A command line of Tandem's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Again {
    /// The folder that its file names are meant in.
    pub folder: String,
    pub command: Vec<String>,
}
