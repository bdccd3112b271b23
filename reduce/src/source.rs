//! A case as assembly source.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use crate::case::Case;

/// Its instructions, a line each.
#[must_use]
pub fn listing(case: &Case) -> String {
    let mut formatter = IntelFormatter::new();
    let mut lines = String::new();
    for piece in &case.pieces {
        let bytes = if piece.jump.is_some() { [&*piece.code, &[0; 4]].concat() } else { piece.code.clone() };
        for instruction in Decoder::new(64, &bytes, DecoderOptions::NONE) {
            lines.push_str(&format!("{}: ", piece.id));
            formatter.format(&instruction, &mut lines);
            lines.push('\n');
        }
    }
    lines
}
