//! An explanation as text, side by side, at most 100 columns wide.

use super::comparison::Row;
use super::{Explanation, Stages};
use crate::comparator::Side;
use crate::text::page::{Ink, Page};

/// The width of all.
const PAGE: usize = 100;
/// What of that is no side's: the margin, and the sign between.
const MARGIN: usize = 8;
/// Lines that are the same and shown around what differs.
const CONTEXT: usize = 3;
/// Guest instructions that are shown where they are the same.
const GUEST: usize = 24;
/// Lines of a stage that are shown.
const LINES: usize = 80;

/// The explanation, to stand in a report.
pub(crate) fn render(page: &mut Page, explanation: &Explanation) {
    page.pieces(&[
        (Ink::Plain, "  "),
        (Ink::Heading, "explanation:"),
        (Ink::Plain, &format!(" {}", explanation.summary)),
    ]);
    for side in [Side::A, Side::B] {
        let block = explanation.block.get(side);
        let times = if block.times == 1 { "once".to_owned() } else { format!("{} times", block.times) };
        let ways = if block.ways > 1 { format!(", in {} ways", block.ways) } else { String::new() };
        page.line(&format!("  {side}: block {}, translated {times}{ways}", block.pc));
    }
    let Stages { guest, ops, optimised, host } = &explanation.stages;
    for (name, rows, always) in [
        ("guest code", guest, GUEST),
        ("TCG ops", ops, 0),
        ("optimised ops", optimised, 0),
        ("host code", host, 0),
    ] {
        stage(page, name, rows, always);
    }
    let width = page.columns(PAGE) - 2;
    for note in &explanation.notes {
        for line in folded(Some(&format!("note: {note}")), width) {
            page.line(&format!("  {line}"));
        }
    }
}

/// One stage; where nothing differs its lines are shown only if they are at most `always`.
fn stage(page: &mut Page, name: &str, rows: &[Row], always: usize) {
    page.blank();
    let differ = rows.iter().filter(|row| !row.same).count();
    if differ == 0 {
        page.line(&format!("  {name}: the same, {} lines", rows.len()));
        if rows.len() <= always {
            for row in rows {
                page.line(&format!("    {}", row.a.as_deref().unwrap_or_default()));
            }
        }
        return;
    }
    page.line(&format!("  {name}: {differ} of {} lines differ (| both, < only A, > only B)", rows.len()));
    let mut shown = 0;
    let mut left_out = 0;
    for (number, row) in rows.iter().enumerate() {
        let near = &rows[number.saturating_sub(CONTEXT)..rows.len().min(number + CONTEXT + 1)];
        if near.iter().all(|row| row.same) {
            left_out += 1;
            continue;
        }
        if shown == LINES {
            page.line(&format!(
                "    ... {} more lines; --format json and --report have all of them",
                rows.len() - number
            ));
            return;
        }
        the_same(page, &mut left_out);
        both(page, row);
        shown += 1;
    }
    the_same(page, &mut left_out);
}

fn the_same(page: &mut Page, count: &mut usize) {
    if *count > 0 {
        page.line(&format!("    ... {count} the same"));
    }
    *count = 0;
}

fn both(page: &mut Page, row: &Row) {
    let mark = match (&row.a, &row.b) {
        _ if row.same => ' ',
        (Some(_), None) => '<',
        (None, Some(_)) => '>',
        _ => '|',
    };
    let column = (page.columns(PAGE) - MARGIN) / 2;
    let (a, b) = (folded(row.a.as_deref(), column), folded(row.b.as_deref(), column));
    let (ink_a, ink_b) = if row.same { (Ink::Plain, Ink::Plain) } else { (Ink::OnlyA, Ink::OnlyB) };
    for number in 0..a.len().max(b.len()).max(1) {
        let part = |side: &[String]| side.get(number).cloned().unwrap_or_default();
        let mark = if number == 0 { mark } else { ' ' };
        page.pieces(&[
            (Ink::Plain, "  "),
            (ink_a, &format!("{:<column$}", part(&a))),
            (Ink::Plain, &format!(" {mark} ")),
            (ink_b, &part(&b)),
        ]);
    }
}

/// A line in pieces that fit into `width`, parted behind a space or a comma where there is one.
fn folded(line: Option<&str>, width: usize) -> Vec<String> {
    let mut parts = Vec::new();
    // Columns are not kept in a narrow place.
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    let mut rest: Vec<char> = words.join(" ").chars().collect();
    while !rest.is_empty() {
        let indent = if parts.is_empty() { 0 } else { 4 };
        let room = width - indent;
        let cut = if rest.len() <= room {
            rest.len()
        } else {
            rest[..room].iter().rposition(|c| [' ', ','].contains(c)).map_or(room, |at| at + 1)
        };
        let part: String = rest.drain(..cut).collect();
        parts.push(format!("{}{}", " ".repeat(indent), part.trim_end()));
    }
    parts
}
