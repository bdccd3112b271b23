//! What both builds make of the guilty block, on the page: each stage with its sides beside one another.

use super::markup::{Html, Row};
use crate::comparator::Side;
use crate::explain::comparison;
use crate::explain::{Explanation, Stages};

pub(super) fn explained(html: &mut Html, explanation: &Explanation) {
    html.markup("<section><h2>What the builds make of the guilty block</h2>\n");
    html.within("<p><strong>", &explanation.summary, "</strong></p>\n");
    let rows = [Side::A, Side::B].map(|side| {
        let block = explanation.block.get(side);
        let ways = if block.ways > 1 { format!("in {} ways", block.ways) } else { String::new() };
        let cells = vec![side.to_string(), block.pc.clone(), block.times.to_string(), ways];
        Row::plain(cells)
    });
    html.table("<table>", &["side", "block", "times translated", ""], rows.into_iter());
    let Stages { guest, ops, optimised, host } = &explanation.stages;
    for (name, rows) in
        [("Guest code", guest), ("TCG ops", ops), ("Optimised ops", optimised), ("Host code", host)]
    {
        stage(html, name, rows);
    }
    if !explanation.notes.is_empty() {
        html.markup("<ul>\n");
        for note in &explanation.notes {
            html.within("<li>", note, "</li>\n");
        }
        html.markup("</ul>\n");
    }
    html.markup("</section>\n");
}

fn stage(html: &mut Html, name: &'static str, rows: &[comparison::Row]) {
    let differ = rows.iter().filter(|row| !row.same).count();
    let how = match differ {
        0 => format!("{name}: the same, {} lines", rows.len()),
        _ => format!("{name}: {differ} of {} lines differ", rows.len()),
    };
    // What differs, and what it was made of.
    let is_open = differ > 0 || name == "Guest code";
    html.markup(if is_open { "<details open><summary>" } else { "<details><summary>" });
    html.text(&how);
    html.markup("</summary>\n");
    let rows = rows.iter().map(|row| {
        let (class, mark) = match (&row.a, &row.b) {
            _ if row.same => ("", ""),
            (Some(_), None) => ("differs", "<"),
            (None, Some(_)) => ("differs", ">"),
            _ => ("differs", "≠"),
        };
        let side = |line: &Option<String>| {
            let words: Vec<&str> = line.as_deref().unwrap_or_default().split_whitespace().collect();
            words.join(" ")
        };
        Row { class, cells: vec![side(&row.a), mark.to_owned(), side(&row.b)] }
    });
    html.table("<table class=\"code beside\">", &["A", "", "B"], rows);
    html.markup("</details>\n");
}
