//! Reads a log as it arrives in pieces, and keeps count.

use super::event::{Cause, Event};
use super::{Malformed, Version};

#[derive(Debug)]
pub struct Decoder {
    version: Version,
    /// The beginning of an event whose end has not arrived.
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

    /// Takes the next bytes of the log; hands on the events that they complete, up to and with the last one of the
    /// log.
    ///
    /// # Errors
    /// Where the log has something that is not an event.
    pub fn take(&mut self, bytes: &[u8], mut on: impl FnMut(&Event)) -> Result<(), Malformed> {
        self.pending.extend_from_slice(bytes);
        let mut used = 0;
        while !self.totals.ended {
            let Some((event, length)) = self.version.event(&self.pending[used..])? else { break };
            used += length;
            self.totals.count(&event);
            on(&event);
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
