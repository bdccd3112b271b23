//! Ctrl-C, and the signals that mean the same: counted, so that the first can end the guest in order and the
//! second end everything at once. Each command looks at the count a few times a second.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// How often the user has asked for an end.
pub static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// Begins to count.
#[allow(unsafe_code)]
pub fn listen() {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler adds to an atomic and nothing else, which is async-signal-safe.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// Leaves Ctrl-C alone counted: from now on the others end the program at once, and the kernel all that it has started.
#[allow(unsafe_code)]
pub fn leave_all_but_ctrl_c() {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the default action runs no code of ours.
        let _ = unsafe { sigaction(signal, &action) };
    }
}
