//! The program that a difference comes down to, on a page.

use super::page::{Ink, Page};
use crate::comparator::Pair;
use crate::report::Reduction;

/// What is said of it in a line, and what of each thing that differs.
pub(crate) fn said(reduction: &Reduction) -> (String, Vec<String>) {
    let count = reduction.code.len();
    let heading = format!(
        "reduced to {count} instruction{}, {}; kept in {}",
        if count == 1 { "" } else { "s" },
        reduction.wrong.said(),
        reduction.folder
    );
    let mut lines: Vec<_> = reduction.differs.iter().map(crate::report::reduction::Unequal::said).collect();
    if let Some(Pair { a, b }) = &reduction.ended {
        lines.push(format!("on A it {a}; on B it {b}"));
    }
    (heading, lines)
}

pub(super) fn render(page: &mut Page, reduction: &Reduction) {
    let (heading, differs) = said(reduction);
    page.blank();
    page.line(&format!("  {heading}"));
    for line in &reduction.code {
        page.pieces(&[(Ink::Guilty, &format!("      {line}"))]);
    }
    for line in &differs {
        page.pieces(&[(Ink::Differs, &format!("  ! {line}"))]);
    }
}
