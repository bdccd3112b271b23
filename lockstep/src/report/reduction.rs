//! What a difference comes down to: a program of a few instructions on which the builds still part.

use serde::Serialize;

use crate::comparator::Pair;

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

impl Unequal {
    /// As a line.
    fn said(&self) -> String {
        let real = self.real.as_ref().map_or_else(String::new, |real| format!(", the real processor {real}"));
        format!("{}: {} on A, {} on B{real}", self.name, self.a, self.b)
    }
}

/// What a program comes to on both, a line each; `ended`: how it ends, where one does not come to its end.
#[must_use]
pub fn lines(differs: &[Unequal], ended: Option<&Pair<String>>) -> Vec<String> {
    let ended = ended.map(|Pair { a, b }| format!("on A it {a}; on B it {b}"));
    differs.iter().map(Unequal::said).chain(ended).collect()
}

/// The program that is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reduction {
    /// Where it is kept.
    pub folder: String,
    /// Its instructions.
    pub code: Vec<String>,
    pub wrong: Wrong,
    /// What it comes to.
    pub differs: Vec<Unequal>,
    /// How it ends on A and on B, where one of them does not come to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Pair<String>>,
}
