//! A user program's system calls: what they are called with, what they give, and what they do to memory.
//!
//! Their results are inputs: nothing that QEMU translates makes them. Random bytes alone are no input that anybody wants,
//! and each C library asks for some when it starts, so they are made the same each time.

use std::collections::HashMap;

use trace::digest::append;
use trace::message::{Call, Does};

use crate::ffi;

/// The most that is read of what a call has filled, bytes.
const MOST: u32 = 1 << 16;

/// A user program's memory, as this process has it.
#[derive(Default)]
struct Memory {
    /// Where the program's address 0 lies, as soon as it is known.
    base: Option<u64>,
}

/// What a program's system calls do, and those of late.
pub(crate) struct Calls {
    does: HashMap<i64, Vec<Does>>,
    memory: Memory,
    /// The one that has not come back.
    open: Option<Call>,
    made: Vec<Call>,
    /// This process's id.
    process: u32,
}

/// What is to be done about a call that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    Usual,
    /// It may be the last.
    Leaving,
    /// It starts a thread.
    Thread,
}

/// `CLONE_VM` and `CLONE_VFORK` (linux/sched.h): QEMU makes a process of what has both.
const SHARES_MEMORY: u64 = 0x100;
const WAITS: u64 = 0x4000;

impl Calls {
    pub(crate) fn new(does: &[(i64, Does)]) -> Self {
        let mut by_number: HashMap<i64, Vec<Does>> = HashMap::new();
        for &(number, does) in does {
            by_number.entry(number).or_default().push(does);
        }
        Calls {
            does: by_number,
            memory: Memory::default(),
            open: None,
            made: Vec::new(),
            process: std::process::id(),
        }
    }

    /// An instruction at `address` lies at `host` in this process.
    pub(crate) fn lies(&mut self, address: u64, host: u64) {
        self.memory.base = Some(host.wrapping_sub(address));
    }

    /// Whether it is known where the program's memory lies.
    pub(crate) fn knows_where(&self) -> bool {
        self.memory.base.is_some()
    }

    /// A call begins behind `position` instructions.
    pub(crate) fn begin(&mut self, position: u64, number: i64, arguments: [u64; 6]) -> Beginning {
        self.made.extend(self.open.replace(Call { position, number, arguments, result: None, filled: 0 }));
        let mut beginning = Beginning::Usual;
        for does in self.does.get(&number).into_iter().flatten() {
            match *does {
                Does::Leaves => beginning = Beginning::Leaving,
                Does::Clones { flags }
                    if arguments[usize::from(flags)] & (SHARES_MEMORY | WAITS) == SHARES_MEMORY =>
                {
                    beginning = Beginning::Thread;
                }
                _ => {}
            }
        }
        beginning
    }

    /// It has come back. Gives back whether this is still the process that it was.
    pub(crate) fn end(&mut self, number: i64, result: i64) -> bool {
        let Some(mut call) = self.open.take_if(|call| call.number == number) else { return true };
        call.result = Some(result);
        for does in self.does.get(&number).into_iter().flatten() {
            match *does {
                Does::Forks | Does::Clones { .. } if std::process::id() != self.process => return false,
                Does::Fills { argument, bytes } if result >= 0 => {
                    let length = bytes.or_else(|| u32::try_from(result).ok()).unwrap_or(0).min(MOST);
                    let filled = self.memory.read(call.arguments[usize::from(argument)], length);
                    call.filled = filled.map_or(call.filled, |filled| append(call.filled, filled));
                }
                Does::Randomizes { argument } if result > 0 => {
                    let length = u32::try_from(result).unwrap_or(MOST).min(MOST);
                    self.memory.randomize(call.arguments[usize::from(argument)], length, call.position);
                }
                _ => {}
            }
        }
        self.made.push(call);
        true
    }

    /// Those that are not told yet.
    pub(crate) fn made(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.made)
    }

    /// The same where nothing more comes.
    pub(crate) fn last(&mut self) -> Vec<Call> {
        self.made.extend(self.open.take());
        self.made()
    }

    /// The same where perhaps nothing more comes.
    pub(crate) fn perhaps_last(&mut self) -> Vec<Call> {
        let mut made = self.made();
        made.extend(self.open);
        made
    }
}

impl Memory {
    fn place(&self, address: u64) -> Option<u64> {
        (address != 0).then_some(self.base?.wrapping_add(address))
    }

    /// A digest of what lies at `address`; `None` where that can't be read.
    fn read(&self, address: u64, length: u32) -> Option<u64> {
        let mut bytes = vec![0; length as usize];
        if !ffi::read(self.place(address)?, &mut bytes) {
            return None;
        }
        Some(bytes.iter().fold(1, |digest, &byte| append(digest, byte.into())))
    }

    /// Puts bytes at `address` that look random and follow from `seed`.
    fn randomize(&self, address: u64, length: u32, seed: u64) {
        let bytes: Vec<u8> = (0..length).map(|number| append(seed, number.into()).to_be_bytes()[0]).collect();
        if let Some(place) = self.place(address) {
            ffi::write(place, &bytes);
        }
    }
}
