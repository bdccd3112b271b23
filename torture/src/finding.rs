//! What is made of a difference: as few instructions as show it, the guilty one, and who is right.

use std::path::PathBuf;

use iced_x86::Code;
use lockstep::comparator::Pair;
use lockstep::report::reduction::{Unequal, Wrong};
use reduce::case::MXCSR_FLAGS;
use reduce::subjects::Reduced;
use serde::Serialize;

/// What makes two findings one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// This form is guilty.
    Form(Code),
    /// Nothing but these of `MXCSR`'s flags differ, which many forms may set.
    Exceptions(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The sequence's number in its seed.
    pub sequence: u64,
    /// The instruction behind which both differ first.
    pub instruction: String,
    /// How many instructions are left.
    pub instructions: usize,
    /// Those.
    pub code: Vec<String>,
    pub wrong: Wrong,
    pub differs: Vec<Unequal>,
    /// How the sequence ended on a side, where it did not as it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Pair<String>>,
    /// What a lockstep of what is left says.
    pub lockstep: String,
    /// How many sequences it explains.
    pub times: u64,
    /// Where it is kept.
    pub folder: PathBuf,
    #[serde(skip)]
    pub key: Key,
}

/// What makes it one with others.
#[must_use]
pub fn key(reduced: &Reduced) -> Key {
    if let (Some(mut a), Some(b)) = (reduced.ends.a.end(), reduced.ends.b.end()) {
        let apart = a.state.mxcsr ^ b.state.mxcsr;
        a.state.mxcsr = b.state.mxcsr;
        if a == b && apart & !MXCSR_FLAGS == 0 {
            return Key::Exceptions(apart);
        }
    }
    Key::Form(reduced.guilty.0)
}
