//! QEMU's replay log: a 12-byte header, then events. Through a pipe QEMU cannot seek back to fill in the header
//! and writes the version word as the last four bytes instead (replay/replay.c, `replay_finish`).

pub mod e0200c;

/// The header's length, bytes: the version word and eight unused bytes.
pub const HEADER: usize = 12;

/// The log versions that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// QEMU 7.2 to 10.2.
    E0200c,
}

impl Version {
    /// The version with this word.
    #[must_use]
    pub fn of(word: u32) -> Option<Self> {
        (word == e0200c::WORD).then_some(Version::E0200c)
    }

    #[must_use]
    pub fn word(self) -> u32 {
        match self {
            Version::E0200c => e0200c::WORD,
        }
    }

    /// The first event in `bytes` and its length; `None` where `bytes` end inside it.
    ///
    /// # Errors
    /// Where no event of this version begins so.
    pub fn event(self, bytes: &[u8]) -> Result<Option<(Event, usize)>, Malformed> {
        match self {
            Version::E0200c => e0200c::event(bytes),
        }
    }

    /// The header of a log of this version, for QEMU to read.
    #[must_use]
    pub fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&self.word().to_be_bytes());
        header
    }
}

/// What an event means for a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// So many instructions were retired.
    Instructions(u32),
    Exception,
    /// The guest's end was requested.
    Shutdown(Cause),
    /// The last event.
    End,
    /// Any other, by its number.
    Other(u8),
}

/// Who ended the guest (qapi/run-state.json, `ShutdownCause`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause(pub u8);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            1 => "QEMU met an error on the host",
            2 => "QMP quit",
            3 => "QMP system_reset",
            4 => "a signal from the host",
            5 => "QEMU's window was closed",
            6 => "the guest shut down",
            7 => "the guest reset itself",
            8 => "the guest panicked",
            9 => "a subsystem was reset",
            10 => "a snapshot was loaded",
            _ => "an unknown cause",
        })
    }
}

/// Bytes that are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("event kind {0}, which log version {WORD:#x} does not have", WORD = e0200c::WORD)]
    Kind(u8),
    #[error("an input event of kind {0}, which log version {WORD:#x} does not have", WORD = e0200c::WORD)]
    Input(u32),
    #[error("an event of {0} bytes, and {LONGEST} is the most")]
    TooLong(u64),
}

/// The longest event taken, bytes: a packet, a block of sound or a read from a character device is far shorter.
pub const LONGEST: u64 = 16 << 20;

/// Reads a log as it arrives in pieces, and keeps count.
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
}

impl Decoder {
    #[must_use]
    pub fn new(version: Version) -> Self {
        Decoder { version, pending: Vec::new(), totals: Totals::default() }
    }

    /// Takes the next bytes of the log; gives back those that complete events, from the first byte of one to the
    /// last byte of another, up to and with the last event of the log.
    ///
    /// # Errors
    /// Where the log has something that is not an event.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        self.pending.extend_from_slice(bytes);
        let mut used = 0;
        while !self.totals.ended {
            let Some((event, length)) = self.version.event(&self.pending[used..])? else { break };
            used += length;
            self.totals.events += 1;
            match event {
                Event::Instructions(count) => self.totals.icount += u64::from(count),
                Event::Exception => self.totals.exceptions += 1,
                Event::Shutdown(cause) => {
                    let Totals { icount, exceptions, events, .. } = self.totals;
                    let before = Shutdown { cause, icount, exceptions, events: events - 1 };
                    self.totals.shutdown.get_or_insert(before);
                }
                Event::End => self.totals.ended = true,
                Event::Other(_) => {}
            }
        }
        let complete = self.pending.drain(..used).collect();
        if self.totals.ended
            && let Some(&word) = self.pending.first_chunk()
        {
            self.totals.trailer = Some(u32::from_be_bytes(word));
        }
        Ok(complete)
    }
}
