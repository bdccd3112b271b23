//! A TCG developer reads what lockstep found on a terminal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use nix::pty::{Winsize, openpty};
use tandem::{Place, words};

fn line() -> Vec<String> {
    let fault = corpus::faults::fault("fold").unwrap();
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (good, bad) = (path(corpus::faults::good().unwrap()), path(fault.build().unwrap()));
    let symbols = path(fault.symbols().unwrap());
    let start = words(&["lockstep", "--a", &good, "--b", &bad, "--symbols", &symbols, "--"]);
    [start, fault.arguments().unwrap()].concat()
}

/// What a terminal of so many columns gets.
fn on_terminal(columns: u16, variables: &[(&str, &str)]) -> String {
    let place = Place::new();
    let size = Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let mut command = place.command(&line());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").stderr(Stdio::null());
    let mut child = command.envs(variables.iter().copied()).stdout(terminal.slave).spawn().unwrap();
    // It has the terminal open too.
    drop(command);
    let mut got = Vec::new();
    let mut master = File::from(terminal.master);
    let mut piece = [0; 4096];
    // When nobody has it open any more the read fails.
    while let Ok(count @ 1..) = master.read(&mut piece) {
        got.extend_from_slice(&piece[..count]);
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    String::from_utf8(got).unwrap()
}

/// Without what selects colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').unwrap().1);
    }
    plain
}

#[test]
fn a_terminal_gets_colours_and_lines_that_fit() {
    let text = on_terminal(80, &[]);
    assert!(text.starts_with("\u{1b}[1;31mDIFFERENT\u{1b}[0m: translated block"), "{text}");
    let guilty = text.lines().find(|line| line.contains("\u{1b}[1;7m> ")).unwrap();
    assert!(guilty.contains("0xf009a"), "{guilty}");
    let coloured = |color: &str, part: &str| {
        text.lines().any(|line| line.contains(&format!("\u{1b}[{color}m")) && line.contains(part))
    };
    assert!(coloured("33", "! rax"), "{text}");
    assert!(coloured("31", "0x49e5bfed") && coloured("32", "0x49e5bfec"), "{text}");
    assert!(coloured("1;33", "note:"), "{text}");
    let plain = plain(&text);
    assert!(plain.contains("explanation: optimiser"), "{plain}");
    for line in plain.lines() {
        assert!(line.trim_end_matches('\r').chars().count() <= 80, "{line}");
    }
    // Nothing is cut: the words are those of a wider one, which a pipe gets too.
    let words = |text: &str| text.split_whitespace().collect::<String>();
    let piped = Place::new().run(&line()).ends_with(1).out.clone();
    assert!(!piped.contains('\u{1b}'), "{piped}");
    let before = |text: &str| words(text.split("behind it").next().unwrap());
    assert_eq!(before(&plain), before(&piped));
    assert!(piped.lines().any(|line| line.chars().count() > 120), "not folded: {piped}");
}

#[test]
fn who_wants_no_colours_gets_none() {
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = on_terminal(100, &[variable]);
        assert!(!text.contains('\u{1b}') && text.contains("DIFFERENT: "), "{variable:?}: {text}");
    }
    assert!(on_terminal(100, &[("NO_COLOR", "")]).contains('\u{1b}'), "empty is as if it were not there");
}
