//! How a log's bytes say its events. Numbers are big-endian; an array is a u32 length and its bytes.
//! Sources: replay/replay-internal.h (the kinds), replay-events.c, replay-input.c, replay-char.c, replay-net.c,
//! replay-audio.c, replay-random.c, replay-time.c of QEMU 7.2 and 10.0; what 0xe0200d and 0xe0200e changed as the patches
//! "Start saves/restores recorded samples" and "replay: Use Linux key codes" have it.

use super::event::{CAUSES, Cause, Checkpoint, Clock, Event, Input};
use super::{LONGEST, Malformed, Version};

const SHUTDOWN: u8 = 10;
const SHUTDOWN_LAST: u8 = SHUTDOWN + CAUSES - 1;
const CHECKPOINT: u8 = 30;

/// The first event in `bytes` and its length; `None` where `bytes` end inside it.
pub(super) fn event(version: Version, bytes: &[u8]) -> Result<Option<(Event<'_>, usize)>, Malformed> {
    let mut fields = Fields { version, bytes, at: 0 };
    Ok(fields.event()?.map(|event| (event, fields.at)))
}

/// The fields of one event, read in order. `None`: the bytes end too early.
struct Fields<'a> {
    version: Version,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    #[inline]
    fn event(&mut self) -> Result<Option<Event<'a>>, Malformed> {
        // What most of a log is, first.
        let event = match self.u8() {
            None => return Ok(None),
            Some(0) => self.u32().map(Event::Instructions),
            Some(1) => Some(Event::Interrupt),
            Some(2) => Some(Event::Exception),
            Some(3) => self.u64().map(Event::BottomHalf),
            Some(4) => self.u64().map(Event::BottomHalfOnce),
            Some(5) => self.input()?.map(Event::Input),
            Some(6) => Some(Event::InputSync),
            Some(7) => {
                let Some(device) = self.u8() else { return Ok(None) };
                self.array()?.map(|bytes| Event::CharRead { device, bytes })
            }
            Some(8) => self.u64().map(Event::Block),
            Some(9) => {
                let (Some(filter), Some(flags)) = (self.u8(), self.u32()) else { return Ok(None) };
                self.array()?.map(|bytes| Event::Packet { filter, flags, bytes })
            }
            Some(kind @ SHUTDOWN..=SHUTDOWN_LAST) => Some(Event::Shutdown(Cause(kind - SHUTDOWN))),
            Some(22) => {
                self.i32().zip(self.i32()).map(|(result, offset)| Event::CharWrite { result, offset })
            }
            Some(23) => self.array()?.map(Event::CharReadAll),
            Some(24) => self.i32().map(Event::CharReadAllError),
            Some(25) => self.u64().map(Event::AudioOut),
            Some(26) => {
                let Some(recorded) = self.u64() else { return Ok(None) };
                let placed = if self.version == Version::E0200c { self.u64() } else { Some(0) };
                let Some(position) = placed else { return Ok(None) };
                self.long(recorded.saturating_mul(16))?.map(|samples| Event::AudioIn {
                    recorded,
                    position,
                    samples,
                })
            }
            Some(27) => {
                let Some(result) = self.i32() else { return Ok(None) };
                self.array()?.map(|bytes| Event::Random { result, bytes })
            }
            Some(28) => self.u64().map(|time| Event::Clock(Clock::Host, time)),
            Some(29) => self.u64().map(|time| Event::Clock(Clock::VirtualRealTime, time)),
            Some(39) => Some(Event::End),
            Some(kind) => {
                let place = usize::from(kind.wrapping_sub(CHECKPOINT));
                let checkpoint = Checkpoint::ALL.get(place).ok_or(Malformed::Kind(kind))?;
                Some(Event::Checkpoint(*checkpoint))
            }
        };
        Ok(event)
    }

    fn input(&mut self) -> Result<Option<Input>, Malformed> {
        let Some(kind) = self.u32() else { return Ok(None) };
        let input = match kind {
            0 if self.version == Version::E0200e => {
                let key = self.u32().zip(self.u8());
                key.map(|(number, down)| Input::KeyNumber { number: u64::from(number), down })
            }
            0 => match self.u32() {
                None => None,
                Some(0) => self.u64().zip(self.u8()).map(|(number, down)| Input::KeyNumber { number, down }),
                Some(1) => self.u32().zip(self.u8()).map(|(code, down)| Input::KeyCode { code, down }),
                Some(other) => return Err(Malformed::Key(other)),
            },
            1 => self.u32().zip(self.u8()).map(|(button, down)| Input::Button { button, down }),
            2 => self.u32().zip(self.u64()).map(|(axis, value)| Input::Relative { axis, value }),
            3 => self.u32().zip(self.u64()).map(|(axis, value)| Input::Absolute { axis, value }),
            4 => {
                let (Some(kind), Some(slot), Some(tracking), Some(axis), Some(value)) =
                    (self.u32(), self.u64(), self.u64(), self.u32(), self.u64())
                else {
                    return Ok(None);
                };
                Some(Input::Touch { kind, slot, tracking, axis, value })
            }
            other => return Err(Malformed::Input(other)),
        };
        Ok(input)
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = *self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(found)
    }

    #[inline]
    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    #[inline]
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn array(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.u32() {
            Some(length) => self.long(u64::from(length)),
            None => Ok(None),
        }
    }

    fn long(&mut self, length: u64) -> Result<Option<&'a [u8]>, Malformed> {
        let length = usize::try_from(length).ok().filter(|_| length <= LONGEST);
        let length = length.ok_or(Malformed::TooLong)?;
        let found = self.bytes.get(self.at..).and_then(|rest| rest.get(..length));
        self.at += length;
        Ok(found)
    }
}

/// Appends `event` as QEMU writes it. Payloads are at most [`LONGEST`] bytes.
pub(super) fn encode(version: Version, event: &Event, log: &mut Vec<u8>) {
    let mut kind = |kind: u8| log.push(kind);
    match *event {
        Event::Instructions(count) => {
            kind(0);
            log.extend(count.to_be_bytes());
        }
        Event::Interrupt => kind(1),
        Event::Exception => kind(2),
        Event::BottomHalf(id) => number(log, 3, id),
        Event::BottomHalfOnce(id) => number(log, 4, id),
        Event::Input(input) => {
            kind(5);
            encode_input(version, &input, log);
        }
        Event::InputSync => kind(6),
        Event::CharRead { device, bytes } => {
            log.extend([7, device]);
            array(log, bytes);
        }
        Event::Block(id) => number(log, 8, id),
        Event::Packet { filter, flags, bytes } => {
            log.extend([9, filter]);
            log.extend(flags.to_be_bytes());
            array(log, bytes);
        }
        Event::Shutdown(cause) => kind(SHUTDOWN + cause.0),
        Event::CharWrite { result, offset } => {
            kind(22);
            log.extend(result.to_be_bytes());
            log.extend(offset.to_be_bytes());
        }
        Event::CharReadAll(bytes) => {
            kind(23);
            array(log, bytes);
        }
        Event::CharReadAllError(error) => {
            kind(24);
            log.extend(error.to_be_bytes());
        }
        Event::AudioOut(samples) => number(log, 25, samples),
        Event::AudioIn { recorded, position, samples } => {
            number(log, 26, recorded);
            if version == Version::E0200c {
                log.extend(position.to_be_bytes());
            }
            log.extend_from_slice(samples);
        }
        Event::Random { result, bytes } => {
            kind(27);
            log.extend(result.to_be_bytes());
            array(log, bytes);
        }
        Event::Clock(Clock::Host, time) => number(log, 28, time),
        Event::Clock(Clock::VirtualRealTime, time) => number(log, 29, time),
        Event::Checkpoint(checkpoint) => kind(CHECKPOINT + checkpoint as u8),
        Event::End => kind(39),
    }
}

fn number(log: &mut Vec<u8>, kind: u8, number: u64) {
    log.push(kind);
    log.extend(number.to_be_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "a payload is at most LONGEST bytes")]
fn array(log: &mut Vec<u8>, bytes: &[u8]) {
    log.extend((bytes.len() as u32).to_be_bytes());
    log.extend_from_slice(bytes);
}

fn encode_input(version: Version, input: &Input, log: &mut Vec<u8>) {
    let mut words = |words: &[u32]| words.iter().for_each(|word| log.extend(word.to_be_bytes()));
    match *input {
        Input::KeyNumber { number, down } if version == Version::E0200e => {
            words(&[0, u32::try_from(number).unwrap_or(u32::MAX)]);
            log.push(down);
        }
        Input::KeyNumber { number, down } => {
            words(&[0, 0]);
            log.extend(number.to_be_bytes());
            log.push(down);
        }
        Input::KeyCode { code, down } => {
            words(&[0, 1, code]);
            log.push(down);
        }
        Input::Button { button, down } => {
            words(&[1, button]);
            log.push(down);
        }
        Input::Relative { axis, value } => {
            words(&[2, axis]);
            log.extend(value.to_be_bytes());
        }
        Input::Absolute { axis, value } => {
            words(&[3, axis]);
            log.extend(value.to_be_bytes());
        }
        Input::Touch { kind, slot, tracking, axis, value } => {
            words(&[4, kind]);
            log.extend(slot.to_be_bytes());
            log.extend(tracking.to_be_bytes());
            log.extend(axis.to_be_bytes());
            log.extend(value.to_be_bytes());
        }
    }
}
