//! The connection to gdb. What gdb says comes from a thread that reads it, so that a Ctrl-C is seen while the guest runs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use gdbstub::conn::Connection;

/// gdb's Ctrl-C, outside of any packet ("Interrupts" in gdb's manual).
const INTERRUPT: u8 = 3;

/// What both ends of a link know.
#[derive(Debug, Default)]
struct State {
    /// The guest runs, so that a Ctrl-C is one.
    running: AtomicBool,
    over: AtomicBool,
}

/// Tells a [`Link`] what has come.
#[derive(Debug, Clone)]
pub struct Said {
    to: Sender<Vec<u8>>,
    state: Arc<State>,
    interrupts: &'static AtomicU32,
}

impl Said {
    /// gdb said `bytes`.
    pub fn bytes(&self, bytes: &[u8]) {
        let running = self.state.running.load(Ordering::Relaxed);
        if running && bytes.contains(&INTERRUPT) {
            self.interrupts.fetch_add(1, Ordering::Relaxed);
        }
        let rest = bytes.iter().copied().filter(|&byte| !running || byte != INTERRUPT);
        let _ = self.to.send(rest.collect());
    }

    /// Nothing more will come.
    pub fn over(&self) {
        self.state.over.store(true, Ordering::Relaxed);
        self.interrupts.fetch_add(1, Ordering::Relaxed);
        let _ = self.to.send(Vec::new());
    }
}

/// One end of a connection to gdb.
pub struct Link {
    to: Box<dyn Write>,
    /// What is to be said, until it is flushed.
    saying: Vec<u8>,
    come: Receiver<Vec<u8>>,
    next: VecDeque<u8>,
    state: Arc<State>,
}

impl Link {
    /// What is said goes to `to`; who reads what gdb says tells it to the [`Said`]. A Ctrl-C counts up `interrupts`.
    #[must_use]
    pub fn new(to: Box<dyn Write>, interrupts: &'static AtomicU32) -> (Self, Said) {
        let (tell, come) = channel();
        let state = Arc::new(State::default());
        let said = Said { to: tell, state: Arc::clone(&state), interrupts };
        (Link { to, saying: Vec::new(), come, next: VecDeque::new(), state }, said)
    }

    /// Whether nothing more will come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state.over.load(Ordering::Relaxed)
    }

    pub(super) fn listen(&self, running: bool) {
        self.state.running.store(running, Ordering::Relaxed);
    }

    /// The next byte; `None` where none will come.
    pub(super) fn next(&mut self) -> Option<u8> {
        while self.next.is_empty() {
            if self.is_over() {
                return None;
            }
            self.next.extend(self.come.recv().ok()?);
        }
        self.next.pop_front()
    }
}

impl Connection for &mut Link {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.saying.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let saying = std::mem::take(&mut self.saying);
        self.to.write_all(&saying)?;
        self.to.flush()
    }
}
