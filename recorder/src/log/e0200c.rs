//! Log version 0xe0200c, QEMU 7.2 to 10.2. Numbers are big-endian; an array is a u32 length and its bytes.
//! Sources: replay/replay-internal.h (the kinds), replay-events.c, replay-input.c, replay-char.c, replay-net.c,
//! replay-audio.c, replay-random.c, replay-time.c of QEMU 7.2 and 10.0.

use super::{Cause, Event, LONGEST, Malformed};

pub const WORD: u32 = 0x00e0_200c;

/// The first event in `bytes` and its length; `None` where `bytes` end inside it.
pub(super) fn event(bytes: &[u8]) -> Result<Option<(Event, usize)>, Malformed> {
    let mut fields = Fields { bytes, at: 0, end: false };
    let Some(kind) = fields.u8() else { return Ok(None) };
    let event = match kind {
        0 => Event::Instructions(fields.u32().unwrap_or_default()),
        2 => Event::Exception,
        // An interrupt, the end of one input event, and the checkpoints: nothing but the kind.
        1 | 6 | 30..=38 => Event::Other(kind),
        39 => Event::End,
        // The bottom halves, the block completion, and the clocks: an id or a time.
        3 | 4 | 8 | 28 | 29 => fields.skip(8, kind),
        5 => {
            match fields.u32() {
                // A key: its own kind of number, then down or up.
                Some(0) => match fields.u32() {
                    Some(0) => fields.skip(8 + 1, kind),
                    Some(1) => fields.skip(4 + 1, kind),
                    Some(other) => return Err(Malformed::Input(other)),
                    None => Event::Other(kind),
                },
                // A button; a relative and an absolute movement; a touch.
                Some(1) => fields.skip(4 + 1, kind),
                Some(2 | 3) => fields.skip(4 + 8, kind),
                Some(4) => fields.skip(4 + 8 + 8 + 4 + 8, kind),
                Some(other) => return Err(Malformed::Input(other)),
                None => Event::Other(kind),
            }
        }
        // A character device reads: which one, and the bytes.
        7 => {
            fields.skip(1, kind);
            fields.array(kind)?
        }
        // A packet: which filter, flags, and the bytes.
        9 => {
            fields.skip(1 + 4, kind);
            fields.array(kind)?
        }
        10..=21 => Event::Shutdown(Cause(kind - 10)),
        22 => fields.skip(4 + 4, kind),
        23 => fields.array(kind)?,
        24 => fields.skip(4, kind),
        25 => fields.skip(8, kind),
        // Sound taken in: how many samples, where, and 16 bytes for each.
        26 => {
            let samples = fields.u64().unwrap_or_default();
            fields.skip(8, kind);
            fields.long(samples.saturating_mul(16), kind)?
        }
        // Random bytes: what the call returned, and the bytes.
        27 => {
            fields.skip(4, kind);
            fields.array(kind)?
        }
        _ => return Err(Malformed::Kind(kind)),
    };
    Ok((!fields.end).then_some((event, fields.at)))
}

/// The fields of one event, read in order; `end` once the bytes did not suffice.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: bool,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        self.at += N;
        self.end |= found.is_none();
        found
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn skip(&mut self, length: usize, kind: u8) -> Event {
        self.at += length;
        self.end |= self.at > self.bytes.len();
        Event::Other(kind)
    }

    fn long(&mut self, length: u64, kind: u8) -> Result<Event, Malformed> {
        match usize::try_from(length) {
            Ok(short) if length <= LONGEST => Ok(self.skip(short, kind)),
            _ => Err(Malformed::TooLong(length)),
        }
    }

    fn array(&mut self, kind: u8) -> Result<Event, Malformed> {
        match self.u32() {
            Some(length) => self.long(u64::from(length), kind),
            None => Ok(Event::Other(kind)),
        }
    }
}
