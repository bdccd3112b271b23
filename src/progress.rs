//! The line that says how far things are, on a terminal's standard error; and the guest's console on standard
//! output beside it.

use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, Instant};

use ::recorder::account::grouped;
use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress {
    /// Whether the guest's console stands in the middle of a line.
    within_line: Cell<bool>,
    bar: ProgressBar,
    began: Instant,
    shown: Instant,
}

impl Progress {
    pub fn new(doing: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_prefix(doing);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg}") {
            bar.set_style(style);
        }
        Progress { within_line: Cell::new(false), bar, began: Instant::now(), shown: Instant::now() }
    }

    /// Shows `instructions` and their rate, a few times a second; `more` says what else there is to say.
    pub fn show(&mut self, instructions: u64, more: impl FnOnce() -> String) {
        if self.shown.elapsed() < Duration::from_millis(100) {
            return;
        }
        self.shown = Instant::now();
        let seconds = self.began.elapsed().as_secs().max(1);
        let rate = grouped(instructions / seconds / 1_000_000);
        self.bar.set_message(format!("icount {}, {rate} million/s{}", grouped(instructions), more()));
        self.bar.tick();
    }

    /// Shows how many instructions were generated, and so many a minute.
    pub fn generated(&mut self, instructions: u64, more: impl FnOnce() -> String) {
        let minutes = self.began.elapsed().as_secs().max(1);
        let rate = grouped(instructions * 60 / minutes);
        self.bar.set_message(format!("{} instructions, {rate} a minute{}", grouped(instructions), more()));
        self.bar.tick();
    }

    /// Shows what is done now, where no instructions are counted.
    pub fn doing(&mut self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    /// Passes on what the guest wrote. Nobody may be reading, which is no reason to stop.
    pub fn console(&self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            self.within_line.set(last != b'\n');
        }
        self.bar.suspend(|| {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        });
    }

    /// A line on standard error beside what is shown.
    pub fn notice(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    pub fn done(&self) {
        self.bar.finish_and_clear();
    }

    /// The verdict behind the guest's console, on a line of its own.
    pub fn verdict(&self, text: &str) {
        if self.within_line.replace(false) {
            say("");
        }
        say(text);
    }
}

/// The program's result on standard output. Nobody may be reading.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}

/// A command line that can be pasted into a shell.
pub fn quoted(words: &[String]) -> String {
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}
