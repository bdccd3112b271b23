//! TCG ops as lines of pieces.

use super::line::{Addresses, Line, Piece};
use super::log::OpLine;

/// Ops without a result, by how their names begin.
const NO_RESULT: [&str; 11] =
    ["st", "qemu_st", "br", "set_label", "goto_", "exit_tb", "discard", "mb", "insn_start", "plugin_", "cmp"];
/// Ops with two.
const TWO_RESULTS: [&str; 7] = ["add2", "sub2", "mulu2", "muls2", "div2", "divu2", "qemu_ld2"];

/// Where the block's descriptor lies, as its exits say.
#[must_use]
pub fn block(ops: &[OpLine]) -> Option<u64> {
    ops.iter().find_map(|line| match line {
        OpLine::Op { name, arguments, .. } if name == "exit_tb" => {
            constant(arguments.first()?).map(|value| value & !3).filter(|&value| value != 0)
        }
        _ => None,
    })
}

/// The helpers that are called, in order.
#[must_use]
pub fn calls<'l>(ops: &'l [OpLine]) -> Vec<&'l str> {
    let called = |line: &'l OpLine| match line {
        OpLine::Op { name, arguments, .. } if name == "call" => arguments.first().map(String::as_str),
        _ => None,
    };
    ops.iter().filter_map(called).collect()
}

/// All of `ops`.
#[must_use]
pub fn lines(ops: &[OpLine], addresses: &mut Addresses) -> Vec<Line> {
    ops.iter().map(|op| line(op, addresses)).collect()
}

fn constant(argument: &str) -> Option<u64> {
    u64::from_str_radix(argument.strip_prefix("$0x")?, 16).ok()
}

fn numbered<'t>(argument: &'t str, begin: &str) -> Option<&'t str> {
    argument
        .strip_prefix(begin)
        .filter(|rest| !rest.is_empty() && rest.bytes().all(|digit| digit.is_ascii_digit()))
}

fn is_temporary(argument: &str) -> bool {
    numbered(argument, "tmp").or_else(|| numbered(argument, "loc")).is_some()
}

/// How many of its arguments are results, and how many stand before them.
fn results(name: &str, arguments: &[String]) -> (usize, usize) {
    if name == "call" {
        // Name, flags, number of results.
        let count =
            arguments.get(2).and_then(|count| count.strip_prefix('$')).and_then(|count| count.parse().ok());
        return (3, count.unwrap_or(0));
    }
    // The type and the element of a vector.
    let before = arguments
        .iter()
        .take_while(|argument| numbered(argument, "v").or_else(|| numbered(argument, "e")).is_some())
        .count();
    let is = |begins: &[&str]| begins.iter().any(|begin| name.starts_with(begin));
    let count = if is(&NO_RESULT) {
        0
    } else if is(&TWO_RESULTS) || name.starts_with("qemu_ld") && name.ends_with("i128") {
        2
    } else {
        1
    };
    (before, count)
}

fn line(op: &OpLine, addresses: &mut Addresses) -> Line {
    let (name, arguments, liveness) = match op {
        OpLine::Instruction(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("{word:x}")).collect();
            let text = format!("---- {}", words.join(" "));
            return Line { pieces: vec![Piece::Text(text.clone())], defined: 0..0, text };
        }
        OpLine::Op { name, arguments, liveness } => (name, arguments, liveness),
    };
    let (before, count) = results(name, arguments);
    let mut pieces = vec![Piece::Text(format!("{name} "))];
    // Each argument is two pieces: what parts it from the one before, and itself.
    let place = |number: usize| 2 * number + 1;
    let mut text = format!("{name} ");
    for (number, argument) in arguments.iter().enumerate() {
        let field = name != "call" && number > 0 && arguments[number - 1] == "env";
        let (piece, shown) = if is_temporary(argument) {
            (Piece::Temporary(argument.clone()), argument.clone())
        } else if let Some(label) = argument.strip_prefix("$L").and_then(|label| label.parse().ok()) {
            (Piece::Label(label), argument.clone())
        } else if let Some(value) = constant(argument) {
            if field {
                let offset = value.cast_signed();
                let sign = if offset < 0 { "-" } else { "" };
                (Piece::Field(offset), format!("${sign}{:#x}", offset.unsigned_abs()))
            } else {
                let (piece, shown) = addresses.number(value);
                (piece, format!("${shown}"))
            }
        } else {
            (Piece::Text(argument.clone()), argument.clone())
        };
        if number > 0 {
            pieces.push(Piece::Text(",".to_owned()));
            text.push(',');
        }
        pieces.push(piece);
        text.push_str(&shown);
    }
    // Which register a result had better be in; of discard, which has none, QEMU prints what lay there before.
    let liveness = match liveness.split_once("pref=") {
        Some((before, _)) if name == "discard" => before.trim_end(),
        _ => liveness,
    };
    let defined = place(before).min(pieces.len())..place(before + count).min(pieces.len());
    if !liveness.is_empty() {
        pieces.push(Piece::Text(format!(" {liveness}")));
        text = format!("{text:<36} {liveness}");
    }
    Line { pieces, defined, text: text.trim_end().to_owned() }
}
