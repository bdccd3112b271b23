//! What is made of a difference: as few instructions as show it, the guilty one, and who is right.

pub mod kept;
pub mod reduced;

use std::path::PathBuf;

use iced_x86::Code;
use lockstep::comparator::Pair;
use reduce::case::{End, GPR_NAMES, MXCSR_FLAGS, REGION};
use serde::Serialize;

use self::reduced::Reduced;
use crate::subject::Came;

/// Which build the real processor does not agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrong {
    A,
    B,
    Both,
    /// The real processor did not come to an end, or is none that can tell.
    Undetermined,
}

impl Wrong {
    /// In words.
    #[must_use]
    pub fn said(self) -> &'static str {
        match self {
            Wrong::A => "A is wrong",
            Wrong::B => "B is wrong",
            Wrong::Both => "both are wrong",
            Wrong::Undetermined => "undetermined which is wrong",
        }
    }
}

/// A register, or a word of memory, that is not the same on both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unequal {
    pub name: String,
    pub a: String,
    pub b: String,
    /// On the real processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real: Option<String>,
}

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

/// What differs between two ends.
#[must_use]
pub fn unequal(a: &End, b: &End, real: Option<&End>) -> Vec<Unequal> {
    let mut all = Vec::new();
    let mut compare = |name: &str, of: &dyn Fn(&End) -> String| {
        let (in_a, in_b) = (of(a), of(b));
        if in_a != in_b {
            all.push(Unequal { name: name.to_owned(), a: in_a, b: in_b, real: real.map(of) });
        }
    };
    for (number, name) in GPR_NAMES.iter().enumerate() {
        compare(name, &|end| format!("{:#x}", end.state.gpr[number]));
    }
    compare("rflags", &|end| format!("{:#x}", end.state.rflags));
    compare("mxcsr", &|end| format!("{:#x}", end.state.mxcsr));
    let big = |bytes: &[u8]| {
        let digits: String = bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        format!("0x{digits}")
    };
    for number in 0..16 {
        compare(&format!("ymm{number}"), &|end| big(&end.state.vectors[number]));
    }
    for number in 0..8 {
        compare(&format!("mm{number}"), &|end| format!("{:#x}", end.state.mmx[number]));
    }
    for at in (0..a.memory.len()).step_by(8) {
        compare(&format!("[{:#x}]", REGION + at as u64), &|end| big(&end.memory[at..at + 8]));
    }
    all
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

/// Who is wrong.
#[must_use]
pub fn wrong(ends: &Pair<Came>, real: Option<&End>) -> Wrong {
    let Some(real) = real else { return Wrong::Undetermined };
    let is_right = |came: &Came| came.end().as_ref() == Some(real);
    match (is_right(&ends.a), is_right(&ends.b)) {
        (true, false) => Wrong::B,
        (false, true) => Wrong::A,
        (false, false) => Wrong::Both,
        (true, true) => Wrong::Undetermined,
    }
}

/// How a case ended, where one did not as it should.
#[must_use]
pub fn ended(ends: &Pair<Came>) -> Option<Pair<String>> {
    let said = |came: &Came| match came {
        Came::To(_) => "comes to its end".to_owned(),
        Came::Died(how) => format!("dies ({how})"),
        Came::Hung => "does not end".to_owned(),
    };
    let all_told = matches!(ends, Pair { a: Came::To(_), b: Came::To(_) });
    (!all_told).then(|| Pair { a: said(&ends.a), b: said(&ends.b) })
}
