//! The result of a bisection, as data and as text. The data is documented in `bisect/RESULT.md`; a change here is a change
//! there.

use std::fmt::Write;

use lockstep::printable::printable;
use lockstep::report::Report;
use lockstep::text::{self, Medium};
use serde::Serialize;

use crate::hunks::Hunk;
use crate::repository::Commit;
use crate::search::Mark;

/// What came of one commit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    #[serde(flatten)]
    pub commit: Commit,
    pub mark: Mark,
    /// Why, in a line.
    pub because: String,
    /// How long its build took, seconds; 0 where it was kept from before.
    pub built: f64,
    /// How long its guest ran.
    pub ran: f64,
    /// Where the log of its build lies, where that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// The first bad commit, and what it does.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    pub commit: Commit,
    pub parent: Commit,
    pub author: String,
    pub date: String,
    pub message: String,
    pub hunks: Vec<Hunk>,
    /// How often the good build ran alone: to be stored, and to be compared with that. None where its run was kept.
    pub good_runs: u32,
    pub steps: Vec<Step>,
    /// Where the log of `git bisect` lies.
    pub log: String,
    /// Its parent as side A, and it as side B.
    pub report: Report,
}

/// How many lines of hunks are printed that nothing speaks for.
const MOST_LINES: usize = 200;

/// The whole result.
#[must_use]
pub fn render(found: &Found, medium: Medium) -> String {
    let mut page = String::new();
    let Found { commit, author, date, message, hunks, steps, .. } = found;
    let _ = writeln!(page, "first bad commit: {}", commit.id);
    let _ = writeln!(page, "author  {}\ndate    {date}\n", printable(author));
    for line in message.lines() {
        let _ = writeln!(page, "    {}", printable(line).trim_end());
    }
    let count = |mark| steps.iter().filter(|step| step.mark == mark).count();
    let _ = writeln!(
        page,
        "\n{} commits tried: {} good, {} bad, {} skipped; the log of git bisect is {}\n",
        steps.len(),
        count(Mark::Good),
        count(Mark::Bad),
        count(Mark::Skip),
        found.log
    );
    let _ = writeln!(page, "its parent {} (A) against it (B):", found.parent.short());
    page.push_str(text::render(&found.report, medium).trim_end());
    page.push_str("\n\nwhat it changes:\n");
    let mut lines = 0;
    for (place, hunk) in hunks.iter().enumerate() {
        if hunk.because.is_none() && lines > MOST_LINES {
            let _ = writeln!(page, "... and {} more; git show {}", hunks.len() - place, commit.short());
            break;
        }
        let because =
            hunk.because.as_ref().map_or_else(String::new, |because| format!(" (likely: {because})"));
        let _ = writeln!(page, "{}{}", printable(&hunk.file), printable(&because));
        for line in hunk.text.lines() {
            let _ = writeln!(page, "    {}", printable(line).trim_end());
            lines += 1;
        }
    }
    page
}
