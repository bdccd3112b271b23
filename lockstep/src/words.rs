//! What two command lines do not have in common.

use similar::{ChangeTag, TextDiff};

use crate::comparator::Pair;
use crate::report::Ridden;

/// The words that only one side's has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Only {
    pub a: Vec<String>,
    pub b: Vec<String>,
}

/// `None` where both are the same.
#[must_use]
pub fn only(builds: &Pair<Ridden>) -> Option<Only> {
    if builds.a.line == builds.b.line {
        return None;
    }
    let words = Pair::of(|side| builds.get(side).line.iter().map(String::as_str).collect::<Vec<_>>());
    let diff = TextDiff::from_slices(&words.a, &words.b);
    let of = |wanted: ChangeTag| {
        let changes = diff.iter_all_changes().filter(|change| change.tag() == wanted);
        changes.map(|change| change.value().to_owned()).collect()
    };
    Some(Only { a: of(ChangeTag::Delete), b: of(ChangeTag::Insert) })
}
