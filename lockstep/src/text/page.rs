//! The lines of a report: in colour and folded at its width where a terminal shows them, plain and as long as they are
//! elsewhere. What acts on a terminal is taken out of all text, which comes from guests and builds.

use crate::printable::printable;

/// What the page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Medium {
    pub colour: bool,
    /// Columns, where there is an end to them.
    pub width: Option<usize>,
}

/// What a piece of text is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    Plain,
    /// A verdict that is fine, that is not, and none.
    Same,
    Different,
    Trouble,
    /// The guilty instruction.
    Guilty,
    /// What only A has, and only B.
    OnlyA,
    OnlyB,
    /// What differs.
    Differs,
    Heading,
    Note,
}

impl Ink {
    /// Its parameters of the escape sequence that selects colours (ECMA-48, SGR).
    fn parameters(self) -> &'static str {
        match self {
            Ink::Plain => "",
            Ink::Same => "1;32",
            Ink::Different => "1;31",
            Ink::Trouble | Ink::Note => "1;33",
            Ink::Guilty => "1;7",
            Ink::OnlyA => "31",
            Ink::OnlyB => "32",
            Ink::Differs => "33",
            Ink::Heading => "1",
        }
    }
}

/// Where prose is folded, columns.
const PROSE: usize = 118;
/// A terminal that is narrower folds by itself.
const NARROWEST: usize = 20;

pub(crate) struct Page {
    medium: Medium,
    text: String,
}

impl Page {
    pub fn new(medium: Medium) -> Self {
        Page { medium, text: String::new() }
    }

    pub fn finished(self) -> String {
        self.text
    }

    /// How many columns there are, at most `most`.
    pub fn columns(&self, most: usize) -> usize {
        self.medium.width.map_or(most, |width| width.max(NARROWEST).min(most))
    }

    pub fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A line without a colour.
    pub fn line(&mut self, text: &str) {
        self.pieces(&[(Ink::Plain, text)]);
    }

    /// A line of pieces.
    pub fn pieces(&mut self, pieces: &[(Ink, &str)]) {
        self.folded(pieces, self.medium.width);
    }

    /// The same of words that are read one after the other.
    pub fn prose(&mut self, pieces: &[(Ink, &str)]) {
        self.folded(pieces, Some(self.columns(PROSE)));
    }

    fn folded(&mut self, pieces: &[(Ink, &str)], width: Option<usize>) {
        let mut rest: Vec<(char, Ink)> = Vec::new();
        for (ink, text) in pieces {
            rest.extend(printable(text).replace('\t', "    ").chars().map(|char| (char, *ink)));
        }
        let blank = |cell: &(char, Ink)| cell.0 == ' ';
        while rest.last().is_some_and(blank) {
            rest.pop();
        }
        let begin = rest.iter().take_while(|cell| blank(cell)).count();
        let width = width.filter(|&width| width >= NARROWEST).unwrap_or(usize::MAX);
        // What goes on stands a little further in, if there is room.
        let indent = if begin + 2 * NARROWEST > width { 0 } else { begin + 4 };
        let mut first = true;
        loop {
            let room = if first { width } else { width - indent };
            let cut = if rest.len() <= room {
                rest.len()
            } else {
                let least = if first { begin } else { 0 };
                let space = rest[..=room].iter().rposition(blank);
                space.filter(|&space| space > least).unwrap_or(room)
            };
            if !first {
                self.text.push_str(&" ".repeat(indent));
            }
            let mut part: Vec<(char, Ink)> = rest.drain(..cut).collect();
            while part.last().is_some_and(blank) {
                part.pop();
            }
            self.put(&part);
            let spaces = rest.iter().take_while(|cell| blank(cell)).count();
            rest.drain(..spaces);
            if rest.is_empty() {
                return;
            }
            first = false;
        }
    }

    fn put(&mut self, cells: &[(char, Ink)]) {
        for run in cells.chunk_by(|a, b| a.1 == b.1) {
            let parameters = if self.medium.colour { run[0].1.parameters() } else { "" };
            if !parameters.is_empty() {
                self.text.push_str("\u{1b}[");
                self.text.push_str(parameters);
                self.text.push('m');
            }
            self.text.extend(run.iter().map(|cell| cell.0));
            if !parameters.is_empty() {
                self.text.push_str("\u{1b}[0m");
            }
        }
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(medium: Medium, pieces: &[(Ink, &str)]) -> String {
        let mut page = Page::new(medium);
        page.pieces(pieces);
        page.finished()
    }

    #[test]
    fn long_lines_are_folded_at_spaces_and_go_on_further_in() {
        let narrow = Medium { colour: false, width: Some(44) };
        let long = "  1234567890 1234567890 1234567890 1234567890 1234567890";
        assert_eq!(
            page(narrow, &[(Ink::Plain, long)]),
            "  1234567890 1234567890 1234567890\n      1234567890 1234567890\n"
        );
        assert_eq!(page(Medium::default(), &[(Ink::Plain, long)]), format!("{long}\n"));
    }

    #[test]
    fn colours_are_only_where_they_are_wanted_and_none_comes_from_outside() {
        let pieces = [(Ink::Different, "DIFFERENT"), (Ink::Plain, ": a\u{1b}[31mb ")];
        let colour = Medium { colour: true, width: None };
        assert_eq!(page(colour, &pieces), "\u{1b}[1;31mDIFFERENT\u{1b}[0m: a\u{fffd}[31mb\n");
        assert_eq!(page(Medium::default(), &pieces), "DIFFERENT: a\u{fffd}[31mb\n");
    }

    proptest! {
        /// Folded, no line is too long, and nothing is lost but spaces.
        #[test]
        fn nothing_is_lost(text in "[ a-z]{0,300}", width in 1_usize..100) {
            let folded = page(Medium { colour: false, width: Some(width) }, &[(Ink::Plain, &text)]);
            let letters = |text: &str| text.chars().filter(|char| !char.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&folded), letters(&text));
            if width >= NARROWEST {
                prop_assert!(folded.lines().all(|line| line.len() <= width), "{}", folded);
            }
        }
    }
}
