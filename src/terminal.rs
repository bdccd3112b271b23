//! The terminal while a guest is recorded: what is typed goes to the guest as it is typed, and the guest echoes it.
//! Ctrl-C stays ours.

use std::io::{IsTerminal, stdin};

use nix::sys::termios::{InputFlags, LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// A terminal that passes keys on at once. Dropped, it is as it was before.
pub struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Takes the terminal on standard input, if there is one and this process is in its foreground.
    pub fn take() -> Option<Self> {
        if !stdin().is_terminal() || nix::unistd::tcgetpgrp(stdin()).ok()? != nix::unistd::getpgrp() {
            return None;
        }
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.local_flags -= LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::IEXTEN;
        // Enter is a carriage return to the guest, as on a serial line.
        raw.input_flags -= InputFlags::ICRNL | InputFlags::IXON;
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Terminal { before })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.before);
    }
}
