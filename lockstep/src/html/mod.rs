//! The result of a lockstep as one page to attach to a bug: HTML that needs nothing beside itself, runs no script, and
//! is made of the [`Report`] alone.
//!
//! [`markup`] writes it, and keeps text from becoming markup; [`divergence`] is what differs, [`explanation`] what both builds
//! make of the guilty block.

mod divergence;
mod explanation;
mod markup;

use self::markup::{Html, Row};
use crate::comparator::{Pair, Side};
use crate::report::{Reduction, Report, Verdict};
use crate::selfcheck::{Checked, Found};
use crate::text;
use crate::words::{self, Only};

/// What stands before the title. The policy has a browser ask for nothing and run nothing, whatever the rest says.
const BEGIN: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta name=\"color-scheme\" content=\"light dark\">
<meta name=\"generator\" content=\"tandem\">
<title>";

/// A page of a lockstep.
#[must_use]
pub fn render(report: &Report) -> String {
    page(report.verdict, &report.summary, |html| body(html, report))
}

/// A page of a build's check against itself.
#[must_use]
pub fn selfcheck(checked: &Checked) -> String {
    let summary = checked.report.as_ref().map_or_else(
        || "the build against itself, with settings that must not change the guest".to_owned(),
        |report| report.summary.clone(),
    );
    page(checked.verdict, &summary, |html| {
        html.markup("<section><h2>Settings</h2>\n");
        let row = |tried: &crate::selfcheck::Tried| {
            let (class, found) = match tried.found {
                Found::Same => ("", "same"),
                Found::Different => ("differs", "DIFFERENT"),
                Found::Refused => ("", "refused"),
                Found::Trouble => ("differs", "trouble"),
            };
            let arguments = tried.arguments.join(" ");
            let cells = [tried.name, found, &arguments, &tried.summary].map(str::to_owned);
            Row { class, cells: cells.to_vec() }
        };
        let columns = ["setting", "found", "on side B", "what came of it"];
        html.table("<table>", &columns, checked.settings.iter().map(row));
        html.markup("</section>\n<section><h2>Checked</h2>\n");
        let build = &checked.build;
        let rows = [
            ("path", build.path.clone()),
            ("QEMU", build.version.clone()),
            ("SHA-256", build.sha256.clone()),
            ("guest", quoted(&build.line)),
        ];
        let rows = rows.into_iter().map(|(name, value)| Row::plain(vec![name.to_owned(), value]));
        html.table("<table class=\"named\">", &[], rows);
        html.markup("</section>\n");
        if let Some(report) = &checked.report {
            body(html, report);
        }
    })
}

fn page(verdict: Verdict, summary: &str, body: impl FnOnce(&mut Html)) -> String {
    let (header, verdict) = match verdict {
        Verdict::Same => ("<header class=\"same\">", "same"),
        Verdict::Different => ("<header class=\"different\">", "DIFFERENT"),
        Verdict::Trouble => ("<header class=\"trouble\">", "trouble"),
    };
    let mut html = Html::new();
    html.markup(BEGIN);
    html.text(&format!("tandem lockstep: {verdict}: {summary}"));
    html.markup("</title>\n<style>\n");
    html.markup(include_str!("style.css"));
    html.markup("</style>\n</head>\n<body>\n<main>\n");
    html.markup(header);
    html.within("<p>", verdict, "</p>");
    html.within("<h1>", summary, "</h1></header>\n");
    body(&mut html);
    html.within(
        "<footer>Made by tandem ",
        env!("CARGO_PKG_VERSION"),
        "</footer>\n</main>\n</body>\n</html>\n",
    );
    html.finished()
}

/// All but the verdict.
fn body(html: &mut Html, report: &Report) {
    if let Some(divergence) = &report.divergence {
        divergence::found(html, divergence);
    }
    if let Some(input) = &report.input {
        html.within("<section><h2>System call</h2><p>", &input.described(), "</p></section>\n");
    }
    if !report.notes.is_empty() {
        html.markup("<section><h2>Notes</h2>\n<ul>\n");
        for note in &report.notes {
            html.within("<li>", note, "</li>\n");
        }
        html.markup("</ul></section>\n");
    }
    if let Some(divergence) = &report.divergence {
        divergence::around(html, divergence);
    }
    if let Some(consoles) = &report.console {
        divergence::consoles(html, consoles);
    }
    if let Some(explanation) = &report.explanation {
        explanation::explained(html, explanation);
    }
    if let Some(reduction) = &report.reduction {
        reduced(html, reduction);
    }
    builds(html, report);
    html.within("<section><h2>Compared</h2><p>", &text::compared(&report.compared), "</p></section>\n");
    if let Some(again) = &report.again {
        html.markup("<section><h2>To run it again</h2>\n");
        let command =
            format!("cd {}\n{}", quoted(std::slice::from_ref(&again.folder)), quoted(&again.command));
        html.within("<pre class=\"command\">", &command, "</pre></section>\n");
    }
}

/// The program that the difference comes down to.
fn reduced(html: &mut Html, reduction: &Reduction) {
    let (heading, differs) = text::reduction::said(reduction);
    html.markup("<section><h2>Reduced</h2>\n");
    html.within("<p>", &heading, "</p>\n");
    html.within("<pre>", &reduction.code.join("\n"), "</pre>\n<ul>\n");
    for line in &differs {
        html.within("<li>", line, "</li>\n");
    }
    html.markup("</ul></section>\n");
}

/// Both builds, their command lines, and in what these differ.
fn builds(html: &mut Html, report: &Report) {
    html.markup("<section><h2>Builds</h2>\n");
    let both =
        |name: &str, of: &dyn Fn(Side) -> String| Row::plain(vec![name.to_owned(), of(Side::A), of(Side::B)]);
    let Pair { a, b } = &report.builds;
    let build = |side| if side == Side::A { a } else { b };
    let rows = [
        both("path", &|side| build(side).path.clone()),
        both("QEMU", &|side| build(side).version.clone()),
        both("guests", &|side| build(side).target.clone()),
        both("plugin API", &|side| build(side).plugin_api.to_string()),
        both("SHA-256", &|side| build(side).sha256.clone()),
        both("command line", &|side| quoted(&build(side).line)),
    ];
    html.table("<table class=\"sides named\">", &["", "A", "B"], rows.into_iter());
    match words::only(&report.builds) {
        None => html.markup("<p>The command lines are the same.</p>\n"),
        Some(Only { a, b }) => {
            let row = |class, side: &str, words: &[String]| {
                let words = if words.is_empty() { "nothing".to_owned() } else { quoted(words) };
                Row { class, cells: vec![format!("only {side} has"), words] }
            };
            let rows = [row("only-a", "A", &a), row("only-b", "B", &b)];
            html.table("<table class=\"named\">", &[], rows.into_iter());
        }
    }
    html.markup("</section>\n");
}

/// Words as one can paste them into a shell.
fn quoted(words: &[String]) -> String {
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

#[cfg(test)]
mod tests;
