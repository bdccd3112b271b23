//! Reads a log as it arrives in pieces, and keeps count.
//!
//! A log may break off anywhere, and a replay has to be able to end where it does. What has arrived of it is therefore
//! handed on up to a place where QEMU does not ask for more: before an event that it waits for. Instructions without what
//! they came to next, say, would have it ask for the character that they write.

use super::event::{Cause, Event};
use super::{Malformed, Version};

#[derive(Debug)]
pub struct Decoder {
    version: Version,
    /// From the last event on that QEMU waits for: what belongs to it may not have arrived.
    pending: Vec<u8>,
    pub totals: Totals,
}

/// What a log has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// QEMU's icount.
    pub icount: u64,
    pub events: u64,
    pub exceptions: u64,
    /// The first shutdown request, where there was one.
    pub shutdown: Option<Shutdown>,
    /// Whether the last event has been read.
    pub ended: bool,
    /// The version word behind the last event.
    pub trailer: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    pub cause: Cause,
    /// QEMU's icount at the last event before it.
    pub icount: u64,
    /// Exceptions before it.
    pub exceptions: u64,
    /// Events before it.
    pub events: u64,
}

impl Totals {
    /// Whether QEMU ended without a request to shut down: it always adds one right before the last event
    /// (replay/replay.c, `replay_finish`).
    #[must_use]
    pub fn unrequested(&self) -> bool {
        self.shutdown.is_some_and(|shutdown| shutdown.events + 2 == self.events)
    }

    /// Counts an event.
    #[inline]
    pub fn count(&mut self, event: &Event) {
        self.events += 1;
        match *event {
            Event::Instructions(count) => self.icount = self.icount.saturating_add(u64::from(count)),
            Event::Exception => self.exceptions += 1,
            Event::Shutdown(cause) => {
                let Totals { icount, exceptions, events, .. } = *self;
                let before = Shutdown { cause, icount, exceptions, events: events - 1 };
                self.shutdown.get_or_insert(before);
            }
            Event::End => self.ended = true,
            _ => {}
        }
    }
}

impl Decoder {
    #[must_use]
    pub fn new(version: Version) -> Self {
        Decoder { version, pending: Vec::new(), totals: Totals::default() }
    }

    /// Takes the next bytes of the log; hands on the events up to the last place where a replay could end, up to and
    /// with the last one of the log.
    ///
    /// # Errors
    /// Where the log has something that is not an event.
    pub fn take(&mut self, bytes: &[u8], mut on: impl FnMut(&Event)) -> Result<(), Malformed> {
        self.pending.extend_from_slice(bytes);
        let (mut read, mut used) = (0, 0);
        let mut held = Vec::new();
        while !self.totals.ended {
            let Some((event, length)) = self.version.event(&self.pending[read..])? else { break };
            if !event.is_demanded() {
                used = read;
                for before in held.drain(..) {
                    self.totals.count(&before);
                    on(&before);
                }
            }
            read += length;
            if event == Event::End {
                used = read;
                self.totals.count(&event);
                on(&event);
            } else {
                held.push(event);
            }
        }
        self.pending.drain(..used);
        if self.totals.ended
            && let Some(&word) = self.pending.first_chunk()
        {
            self.totals.trailer = Some(u32::from_be_bytes(word));
            self.pending.clear();
        }
        Ok(())
    }
}
