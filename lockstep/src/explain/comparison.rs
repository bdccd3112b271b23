//! Two sides' lines beside one another. Lines are the same where they differ only in what stands for the same thing on
//! both: each temporary, label, pointer of one side goes with one of the other's.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use serde::Serialize;
use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::line::{Line, Piece};
use crate::comparator::Pair;

/// A line of each side; where they are not the same they may both be there or one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub a: Option<String>,
    pub b: Option<String>,
    pub same: bool,
}

/// What goes with what.
#[derive(Debug)]
struct Partners<T> {
    of_a: HashMap<T, T>,
    of_b: HashMap<T, T>,
}

impl<T> Default for Partners<T> {
    fn default() -> Self {
        Partners { of_a: HashMap::new(), of_b: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Partners<T> {
    /// Whether they go together; from now on, where neither has a partner.
    fn agree(&mut self, a: &T, b: &T) -> bool {
        match (self.of_a.get(a), self.of_b.get(b)) {
            (None, None) => {
                self.of_a.insert(a.clone(), b.clone());
                self.of_b.insert(b.clone(), a.clone());
                true
            }
            (Some(partner), Some(_)) => partner == b,
            _ => false,
        }
    }

    fn forget_a(&mut self, a: &T) {
        if let Some(partner) = self.of_a.remove(a) {
            self.of_b.remove(&partner);
        }
    }

    fn forget_b(&mut self, b: &T) {
        if let Some(partner) = self.of_b.remove(b) {
            self.of_a.remove(&partner);
        }
    }
}

/// What goes together in all of the stages of one translation.
#[derive(Debug)]
pub struct Matching {
    pointers: Partners<u64>,
    /// Where the two may keep their CPU state in another order of fields; else offsets have to be the same.
    fields: Option<BTreeMap<i64, i64>>,
}

impl Matching {
    /// `other_layout`: whether the fields of the CPU state may lie elsewhere.
    #[must_use]
    pub fn new(other_layout: bool) -> Self {
        Matching { pointers: Partners::default(), fields: other_layout.then(BTreeMap::new) }
    }

    /// A field may have moved, but not past another.
    fn fields_agree(&mut self, a: i64, b: i64) -> bool {
        let Some(fields) = &mut self.fields else { return a == b };
        if let Some(&known) = fields.get(&a) {
            return known == b;
        }
        let before = fields.range(..a).next_back().is_none_or(|(_, &before)| before < b);
        let behind = fields.range(a..).next().is_none_or(|(_, &behind)| behind > b);
        if before && behind {
            fields.insert(a, b);
        }
        before && behind
    }

    /// Puts the lines of one stage beside one another.
    pub fn rows(&mut self, lines: &Pair<Vec<Line>>) -> Vec<Row> {
        let skeletons = Pair::of(|side| lines.get(side).iter().map(Line::skeleton).collect::<Vec<_>>());
        let mut rows = Vec::new();
        let mut stage = Stage::default();
        for step in capture_diff_slices(Algorithm::Myers, &skeletons.a, &skeletons.b) {
            let (a, b) = (&lines.a[step.old_range()], &lines.b[step.new_range()]);
            if matches!(step, DiffOp::Equal { .. }) {
                for (a, b) in a.iter().zip(b) {
                    let same = stage.agree(self, a, b);
                    rows.push(Row { a: Some(a.text.clone()), b: Some(b.text.clone()), same });
                }
                continue;
            }
            for number in 0..a.len().max(b.len()) {
                let (a, b) = (a.get(number), b.get(number));
                stage.passed(a, b);
                let text = |line: Option<&Line>| line.map(|line| line.text.clone());
                rows.push(Row { a: text(a), b: text(b), same: false });
            }
        }
        rows
    }
}

#[derive(Default)]
struct Stage {
    temporaries: Partners<String>,
    labels: Partners<u64>,
}

fn defined(line: &Line) -> impl Iterator<Item = &String> {
    line.pieces[line.defined.clone()].iter().filter_map(|piece| match piece {
        Piece::Temporary(name) => Some(name),
        _ => None,
    })
}

impl Stage {
    /// Of two lines with one skeleton, whether they are the same.
    fn agree(&mut self, matching: &mut Matching, a: &Line, b: &Line) -> bool {
        let mut same = a.pieces.len() == b.pieces.len();
        for (number, pieces) in a.pieces.iter().zip(&b.pieces).enumerate() {
            same &= match pieces {
                // A new value needs no old partner.
                (Piece::Temporary(_), Piece::Temporary(_)) if a.defined.contains(&number) => true,
                (Piece::Temporary(a), Piece::Temporary(b)) => self.temporaries.agree(a, b),
                (Piece::Label(a), Piece::Label(b)) => self.labels.agree(a, b),
                (Piece::Pointer(a), Piece::Pointer(b)) => matching.pointers.agree(a, b),
                (Piece::Field(a), Piece::Field(b)) => matching.fields_agree(*a, *b),
                (a, b) => a == b,
            };
        }
        self.passed(Some(a), Some(b));
        if same {
            for (a, b) in defined(a).zip(defined(b)) {
                self.temporaries.agree(a, b);
            }
        }
        same
    }

    /// What they define is no longer what it was.
    fn passed(&mut self, a: Option<&Line>, b: Option<&Line>) {
        a.into_iter().flat_map(defined).for_each(|name| self.temporaries.forget_a(name));
        b.into_iter().flat_map(defined).for_each(|name| self.temporaries.forget_b(name));
    }
}
