//! Text of the guest's, of a build's or of a file's, which may be anything, without what would do something to who reads
//! it: move a terminal's cursor, or turn the direction of what stands behind.

/// `text` with U+FFFD in the place of such characters. Tabs stay.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if acts(char) { '\u{fffd}' } else { char }).collect()
}

fn acts(char: char) -> bool {
    char.is_control() && char != '\t'
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_acts_on_a_terminal_is_taken_out_and_the_rest_stays() {
        assert_eq!(printable("a\tb\u{1b}[2J\u{9b}1m\rä€"), "a\tb\u{fffd}[2J\u{fffd}1m\u{fffd}ä€");
        assert_eq!(printable("\u{202e}evil"), "\u{fffd}evil");
    }
}
