//! What the guests had written to their consoles when two runs parted: the last lines.
//!
//! Where a side was looked at closely its console is known at each place that was looked at. Else it is what had come when
//! the sweep found that the runs part: neither side stands just there.

use replayer::verify::console_difference;
use serde::Serialize;
use trace::message::Step;

use crate::comparator::{Pair, Side};
use crate::printable::printable;

/// How many of the last lines are told, and how much of each, characters.
const LINES: usize = 10;
const LONGEST: usize = 1000;

/// Both consoles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consoles {
    /// The first line in which they differ as far as both go, from 1.
    pub differ_in: Option<usize>,
    #[serde(flatten)]
    pub sides: Pair<Console>,
}

/// What one side has written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Console {
    /// Instructions by when that was all, where that is known.
    pub icount: Option<u64>,
    /// All that it had written, bytes.
    pub bytes: u64,
    /// The last lines, without what would move a terminal's cursor.
    pub lines: Vec<String>,
}

impl Console {
    fn of(bytes: &[u8], icount: Option<u64>) -> Self {
        let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut lines: Vec<String> = whole.rsplit(|&byte| byte == b'\n').take(LINES).map(line).collect();
        lines.reverse();
        if bytes.is_empty() {
            lines.clear();
        }
        Console { icount, bytes: bytes.len() as u64, lines }
    }
}

fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes));
    let mut shown: String = printable(&text).chars().take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

impl Consoles {
    /// What of them the lines are the last ones of.
    #[must_use]
    pub fn extent(&self) -> &'static str {
        match (self.sides.a.icount, self.differ_in) {
            (Some(_), _) => "written by then",
            (None, Some(_)) => "up to the first line that differs",
            (None, None) => "written by about then",
        }
    }

    /// As they are; up to the first line that differs and with it, where they do.
    #[must_use]
    pub fn by_now(consoles: &Pair<Vec<u8>>) -> Self {
        let differ_in = console_difference(&consoles.a, &consoles.b);
        Consoles {
            differ_in,
            sides: Pair::of(|side| {
                let bytes = consoles.get(side);
                Console::of(differ_in.map_or(bytes, |line| first_lines(bytes, line)), None)
            }),
        }
    }
}

fn first_lines(bytes: &[u8], count: usize) -> &[u8] {
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.nth(count - 1).map_or(bytes, |(end, _)| &bytes[..=end])
}

/// What both sides wrote while they were looked at closely.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    bytes: Pair<Vec<u8>>,
    /// How many bytes it were at which positions.
    marks: Pair<Vec<(u64, u64)>>,
}

impl Written {
    pub fn of(bytes: Pair<Vec<u8>>, steps: &Pair<Vec<Step>>) -> Self {
        let marks = |side| steps.get(side).iter().map(|step| (step.position, step.written)).collect();
        Written { marks: Pair { a: marks(Side::A), b: marks(Side::B) }, bytes }
    }

    /// The consoles at the last place before the instruction at `icount` that was looked at, or at the first of all. `None`
    /// where a side has none.
    pub fn at(&self, icount: u64) -> Option<Consoles> {
        let by = |side: Side| {
            let marks = self.marks.get(side);
            let (at, count) = *marks.iter().rev().find(|(at, _)| *at <= icount).or(marks.first())?;
            let bytes = self.bytes.get(side);
            Some((at, &bytes[..bytes.len().min(usize::try_from(count).ok()?)]))
        };
        let ((a, ours), (b, theirs)) = (by(Side::A)?, by(Side::B)?);
        Some(Consoles {
            differ_in: console_difference(ours, theirs),
            sides: Pair { a: Console::of(ours, Some(a)), b: Console::of(theirs, Some(b)) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(position: u64, written: u64) -> Step {
        Step {
            position,
            address: 0,
            vcpu: 0,
            ends: false,
            registers: Vec::new(),
            written,
            accesses: Vec::new(),
        }
    }

    #[test]
    fn what_was_written_later_is_left_out() {
        let steps =
            Pair { a: vec![step(10, 0), step(20, 6), step(30, 12)], b: vec![step(12, 0), step(25, 6)] };
        let bytes = Pair { a: b"first\nsecond".to_vec(), b: b"first\n".to_vec() };
        let written = Written::of(bytes, &steps);
        let at = |icount| {
            let Consoles { differ_in, sides: Pair { a, b } } = written.at(icount).unwrap();
            assert_eq!(differ_in, None);
            ((a.icount, a.lines), (b.icount, b.lines))
        };
        let lines = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        assert_eq!(at(29), ((Some(20), lines(&["first"])), (Some(25), lines(&["first"]))));
        assert_eq!(at(30).0, (Some(30), lines(&["first", "second"])));
        assert_eq!(at(5), ((Some(10), lines(&[])), (Some(12), lines(&[]))), "where nothing is known before");
        assert_eq!(Written::default().at(5), None);
    }

    #[test]
    fn consoles_that_differ_are_told_up_to_the_line_in_which_they_do() {
        let consoles = Pair { a: b"same\nhere\nmore\n".to_vec(), b: b"same\nthere\nand\nso".to_vec() };
        let Consoles { differ_in, sides } = Consoles::by_now(&consoles);
        assert_eq!(
            (differ_in, sides.a.lines.join("|"), sides.b.lines.join("|")),
            (Some(2), "same|here".to_owned(), "same|there".to_owned())
        );
    }

    #[test]
    fn only_the_last_lines_are_told_and_nothing_that_moves_the_cursor() {
        let text: String = (0..20).map(|number| format!("line {number}\r\n")).collect();
        let console = Console::of((text + "\u{1b}[2Jwiped").as_bytes(), None);
        assert_eq!((console.lines.len(), &*console.lines[0]), (LINES, "line 11"));
        assert_eq!(console.lines[9], "\u{fffd}[2Jwiped");
        let long = Console::of("x".repeat(5000).as_bytes(), None);
        assert_eq!((long.bytes, long.lines[0].chars().count()), (5000, LONGEST + 1));
    }
}
