//! What differs between two recordings, beside the runs: their inputs and their consoles.

use std::fmt::Write;

use recorder::account::grouped;
use similar::TextDiff;

use crate::comparator::Side;
use crate::inputs::{Difference, Input};

/// What differs between the inputs of two recordings, a few lines for each kind.
#[must_use]
pub fn inputs(differences: &[Difference]) -> String {
    let mut page = String::new();
    if differences.is_empty() {
        page.push_str("inputs: all the same\n");
    }
    for (number, difference) in differences.iter().enumerate() {
        let first = if number == 0 { ", the first of all" } else { "" };
        let _ = writeln!(
            page,
            "{}: differs{first}, behind {} that are the same",
            difference.kind,
            grouped(difference.same)
        );
        for (side, input) in [(Side::A, &difference.a), (Side::B, &difference.b)] {
            let _ = match input {
                Some(Input { icount, input }) => {
                    writeln!(page, "  {side}  icount {:>15}  {input}", grouped(*icount))
                }
                None => writeln!(page, "  {side}  has no more of them"),
            };
        }
    }
    page
}

/// What differs between two consoles, as a diff of their lines; empty where nothing does.
#[must_use]
pub fn consoles(a: &str, b: &str) -> String {
    TextDiff::from_lines(a, b).unified_diff().context_radius(2).header("A", "B").to_string()
}
