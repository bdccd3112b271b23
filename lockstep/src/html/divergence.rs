//! What differs, on the page.

use recorder::account::grouped;

use super::markup::{Html, Row};
use crate::comparator::{Pair, Side};
use crate::report::{Block, Certainty, Code, Consoles, Divergence, Line};
use crate::text;
use crate::text::divergence::{Change, accessed, changes};

/// What marks a row without its colour.
const GUILTY: &str = "▶";
const DIFFERS: &str = "≠";

/// The kind of the difference, and where it is.
pub(super) fn found(html: &mut Html, divergence: &Divergence) {
    html.markup("<section><h2>Found</h2>\n");
    let mut rows = vec![("kind", divergence.kind.to_string())];
    let has_place = divergence.pc.a.is_some() || divergence.pc.b.is_some();
    if has_place {
        let certainty = match divergence.certainty {
            Certainty::Seen => "seen",
            Certainty::Reasoned => "reasoned",
            Certainty::Flags => "flags",
            Certainty::Unseen => "unseen",
            Certainty::First => "first",
        };
        let why = text::divergence::certainty(divergence.certainty)
            .unwrap_or("all was equal before this instruction, and not behind it");
        rows.push(("certainty", format!("{certainty}: {why}")));
    }
    if let Some(bits) = divergence.mode {
        rows.push(("mode", format!("{bits}-bit code, by its instructions' lengths")));
    }
    let rows = rows.into_iter().map(|(name, value)| Row::plain(vec![name.to_owned(), value]));
    html.table("<table class=\"named\">", &[], rows);
    if has_place {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let both = |name: &str, of: &dyn Fn(Side) -> String| {
            Row::plain(vec![name.to_owned(), of(Side::A), of(Side::B)])
        };
        let mut rows = vec![
            both("icount", &|side| grouped(*divergence.icount.get(side))),
            both("address", &|side| known(divergence.pc.get(side))),
        ];
        if divergence.symbol.a.is_some() || divergence.symbol.b.is_some() {
            rows.push(both("name", &|side| known(divergence.symbol.get(side))));
        }
        rows.push(both("instruction", &|side| known(divergence.instruction.get(side))));
        rows.push(both("in block", &|side| known(divergence.block.get(side))));
        rows.push(both("its place there", &|side| {
            let place = divergence.in_block.get(side);
            place.map_or_else(|| "-".to_owned(), |(number, of)| format!("{number} of {of}"))
        }));
        if divergence.seen.icount != divergence.icount.a {
            let seen = &divergence.seen;
            rows.push(both("showed first", &|side| {
                format!("icount {}, {}", grouped(seen.icount), known(seen.pc.get(side)))
            }));
        }
        rows.push(both("goes on to", &|side| {
            divergence
                .next
                .get(side)
                .clone()
                .map_or_else(|| "its end".to_owned(), |next| next.replace('`', ""))
        }));
        html.table("<table class=\"sides named\">", &["", "A", "B"], rows.into_iter());
    }
    html.markup("</section>\n");
}

/// The guilty block, what its instruction does, and what comes before and behind.
pub(super) fn around(html: &mut Html, divergence: &Divergence) {
    code(html, divergence);
    registers(html, divergence);
    if !divergence.accesses.a.is_empty() || !divergence.accesses.b.is_empty() {
        html.markup("<section><h2>Accesses</h2>\n");
        let lines = Pair::of(|side| divergence.accesses.get(side).iter().map(accessed).collect());
        differing(html, &lines);
        html.markup("</section>\n");
    }
    if !divergence.following.a.is_empty() || !divergence.following.b.is_empty() {
        html.markup("<section><h2>Behind it</h2>\n");
        let line =
            |line: &Line| format!("{}  {}{}", line.pc, line.text, text::divergence::named(&line.symbol));
        differing(html, &Pair::of(|side| divergence.following.get(side).iter().map(line).collect()));
        html.markup("</section>\n");
    }
    if divergence.previous.a.is_empty() && divergence.previous.b.is_empty() {
        return;
    }
    html.markup("<section><h2>The last blocks up to it</h2>\n");
    // Builds may cut the same instructions into other blocks.
    if divergence.previous.a == divergence.previous.b {
        blocks(html, &divergence.previous.a);
    } else {
        html.markup("<details open><summary>as A cut them</summary>\n");
        blocks(html, &divergence.previous.a);
        html.markup("</details>\n<details><summary>as B cut them</summary>\n");
        blocks(html, &divergence.previous.b);
        html.markup("</details>\n");
    }
    html.markup("</section>\n");
}

fn code(html: &mut Html, divergence: &Divergence) {
    let Pair { a, b } = &divergence.code;
    if a.is_empty() && b.is_empty() {
        return;
    }
    html.markup("<section><h2>The guilty block</h2>\n");
    let row = |code: &Code| {
        let (class, mark) = if code.guilty { ("guilty", GUILTY) } else { ("", "") };
        let symbol = code.symbol.clone().unwrap_or_default();
        Row {
            class,
            cells: vec![mark.to_owned(), code.pc.clone(), symbol, code.bytes.clone(), code.text.clone()],
        }
    };
    if a == b {
        html.table("<table class=\"code block\">", &[], a.iter().map(row));
    } else {
        html.markup("<h3>A</h3>\n");
        html.table("<table class=\"code block\">", &[], a.iter().map(row));
        html.markup("<h3>B</h3>\n");
        html.table("<table class=\"code block\">", &[], b.iter().map(row));
    }
    html.markup("</section>\n");
}

fn registers(html: &mut Html, divergence: &Divergence) {
    if divergence.registers.is_empty() {
        return;
    }
    html.markup("<section><h2>Registers that it changes</h2>\n");
    let rows = divergence.registers.iter().map(|register| {
        let (class, mark) = if register.differs() { ("differs", DIFFERS) } else { ("", "") };
        let Pair { a, b } = register.after.clone();
        Row { class, cells: vec![mark.to_owned(), register.name.clone(), register.before.clone(), a, b] }
    });
    html.table("<table class=\"code registers\">", &["", "register", "before", "A behind", "B behind"], rows);
    html.markup("</section>\n");
}

/// Lines of which either side may have some alone.
fn differing(html: &mut Html, lines: &Pair<Vec<String>>) {
    let rows = changes(lines).into_iter().map(|Change { only, text }| {
        let (class, mark) = match only {
            Some(Side::A) => ("only-a", "− A"),
            Some(Side::B) => ("only-b", "+ B"),
            None => ("", ""),
        };
        Row { class, cells: vec![mark.to_owned(), text] }
    });
    html.table("<table class=\"code lines\">", &[], rows);
}

fn blocks(html: &mut Html, blocks: &[Block]) {
    for (number, block) in blocks.iter().enumerate() {
        let symbol = text::divergence::named(&block.symbol);
        html.within("<h3>block ", &format!("{}{symbol}", block.pc), "</h3>\n");
        let is_last = number + 1 == blocks.len();
        let count = block.instructions.len();
        let rows = block.instructions.iter().enumerate().map(|(number, line)| {
            let is_guilty = is_last && number + 1 == count;
            let (class, mark) = if is_guilty { ("guilty", GUILTY) } else { ("", "") };
            let cells = vec![
                mark.to_owned(),
                grouped(line.icount),
                line.pc.clone(),
                line.bytes.clone(),
                line.text.clone(),
            ];
            Row { class, cells }
        });
        html.table("<table class=\"code\">", &[], rows);
    }
}

/// What the guests had written.
pub(super) fn consoles(html: &mut Html, consoles: &Consoles) {
    let Consoles { differ_in, sides: Pair { a, b } } = consoles;
    html.markup("<section><h2>Console so far</h2>\n");
    let differ = match differ_in {
        Some(line) => format!("They differ in line {line}."),
        None => "They are the same as far as both go.".to_owned(),
    };
    let count = format!(
        "{} bytes on A, {} on B. {differ} The last lines {}:",
        grouped(a.bytes),
        grouped(b.bytes),
        consoles.extent()
    );
    html.within("<p>", &count, "</p>\n");
    differing(html, &Pair { a: a.lines.clone(), b: b.lines.clone() });
    html.markup("</section>\n");
}
