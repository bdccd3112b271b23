//! The program that a difference comes down to, on a page.

use super::page::{Ink, Page};
use crate::report::Reduction;
use crate::report::reduction::lines;

/// What is said of it in a line, and what of each thing that differs.
pub(crate) fn said(reduction: &Reduction) -> (String, Vec<String>) {
    let count = reduction.code.len();
    let heading = format!(
        "reduced to {count} instruction{}, {}; kept in {}",
        if count == 1 { "" } else { "s" },
        reduction.wrong.said(),
        reduction.folder
    );
    (heading, lines(&reduction.differs, reduction.ended.as_ref()))
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
