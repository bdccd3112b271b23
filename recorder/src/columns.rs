//! The content of a frame of events: a column of kinds, for each kind a column of its numbers and one of its
//! payloads, and those of the host's clock ([`host_clock`]). Things that are alike lie together so, which is what zstd needs. FORMAT.md says the same to the byte.
//!
//! Kinds are numbered here and not as QEMU numbers them, so that a recording means the same whatever the version
//! of QEMU's log was.

use crate::log::event::{CAUSES, Cause, Checkpoint, Clock, Event, Input};
use crate::{host_clock, varint};

/// Kinds of events.
const KINDS: usize = 34;

const CHECKPOINT: u8 = 24;
const END: u8 = 33;

fn kind(event: &Event) -> u8 {
    match event {
        Event::Instructions(_) => 0,
        Event::Interrupt => 1,
        Event::Exception => 2,
        Event::BottomHalf(_) => 3,
        Event::BottomHalfOnce(_) => 4,
        Event::Input(Input::KeyNumber { .. }) => 5,
        Event::Input(Input::KeyCode { .. }) => 6,
        Event::Input(Input::Button { .. }) => 7,
        Event::Input(Input::Relative { .. }) => 8,
        Event::Input(Input::Absolute { .. }) => 9,
        Event::Input(Input::Touch { .. }) => 10,
        Event::InputSync => 11,
        Event::CharRead { .. } => 12,
        Event::Block(_) => 13,
        Event::Packet { .. } => 14,
        Event::Shutdown(_) => 15,
        Event::CharWrite { .. } => 16,
        Event::CharReadAll(_) => 17,
        Event::CharReadAllError(_) => 18,
        Event::AudioOut(_) => 19,
        Event::AudioIn { .. } => 20,
        Event::Random { .. } => 21,
        Event::Clock(Clock::Host, _) => 22,
        Event::Clock(Clock::VirtualRealTime, _) => 23,
        Event::Checkpoint(checkpoint) => CHECKPOINT + *checkpoint as u8,
        Event::End => END,
    }
}

/// What numbers are told relative to: where a run is, and the last number of some kinds. All zero at the beginning
/// of a frame but the icount, so that each frame stands alone.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    icount: u64,
    block: u64,
    host: u64,
    virtual_rt: u64,
    place: host_clock::Place,
}

impl Before {
    fn at(icount: u64) -> Self {
        Before { icount, ..Before::default() }
    }
}

/// The difference to a number that went before, and the number instead.
fn step(before: &mut u64, now: u64) -> i64 {
    let difference = now.wrapping_sub(*before).cast_signed();
    *before = now;
    difference
}

/// Collects the events of a frame.
#[derive(Debug)]
pub struct Builder {
    /// QEMU's icount before the first event.
    first: u64,
    before: Before,
    kinds: Vec<u8>,
    numbers: [Vec<u8>; KINDS],
    payloads: [Vec<u8>; KINDS],
    host_clock: [Vec<u8>; host_clock::COLUMNS],
    /// Bytes in all columns.
    size: usize,
}

impl Builder {
    /// Begins a frame at `icount`.
    #[must_use]
    pub fn new(icount: u64) -> Self {
        Builder {
            first: icount,
            before: Before::at(icount),
            kinds: Vec::new(),
            numbers: [const { Vec::new() }; KINDS],
            payloads: [const { Vec::new() }; KINDS],
            host_clock: [const { Vec::new() }; host_clock::COLUMNS],
            size: 0,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Appends an event.
    #[inline]
    pub fn push(&mut self, event: &Event) {
        let kind = kind(event);
        self.kinds.push(kind);
        let numbers = match event {
            Event::Clock(Clock::Host, _) => &mut self.host_clock[self.before.place.column()],
            _ => &mut self.numbers[usize::from(kind)],
        };
        self.before.place.pass(event);
        let had = numbers.len();
        let mut payload: &[u8] = &[];
        match *event {
            Event::Instructions(count) => {
                varint::put(numbers, count.into());
                self.before.icount = self.before.icount.saturating_add(count.into());
            }
            Event::Interrupt | Event::Exception | Event::InputSync | Event::Checkpoint(_) | Event::End => {}
            Event::BottomHalf(id) | Event::BottomHalfOnce(id) => {
                varint::put_signed(numbers, self.before.icount.wrapping_sub(id).cast_signed());
            }
            Event::Input(Input::KeyNumber { number, down }) => {
                varint::put(numbers, number);
                varint::put(numbers, down.into());
            }
            Event::Input(Input::KeyCode { code: number, down } | Input::Button { button: number, down }) => {
                varint::put(numbers, number.into());
                varint::put(numbers, down.into());
            }
            Event::Input(Input::Relative { axis, value } | Input::Absolute { axis, value }) => {
                varint::put(numbers, axis.into());
                varint::put_signed(numbers, value.cast_signed());
            }
            Event::Input(Input::Touch { kind, slot, tracking, axis, value }) => {
                varint::put(numbers, kind.into());
                varint::put(numbers, slot);
                varint::put_signed(numbers, tracking.cast_signed());
                varint::put(numbers, axis.into());
                varint::put_signed(numbers, value.cast_signed());
            }
            Event::CharRead { device, bytes } => {
                varint::put(numbers, device.into());
                varint::put(numbers, bytes.len() as u64);
                payload = bytes;
            }
            Event::Block(id) => varint::put_signed(numbers, step(&mut self.before.block, id)),
            Event::Packet { filter, flags, bytes } => {
                varint::put(numbers, filter.into());
                varint::put(numbers, flags.into());
                varint::put(numbers, bytes.len() as u64);
                payload = bytes;
            }
            Event::Shutdown(cause) => varint::put(numbers, cause.0.into()),
            Event::CharWrite { result, offset } => {
                varint::put_signed(numbers, result.into());
                varint::put_signed(numbers, offset.into());
            }
            Event::CharReadAll(bytes) => {
                varint::put(numbers, bytes.len() as u64);
                payload = bytes;
            }
            Event::CharReadAllError(error) => varint::put_signed(numbers, error.into()),
            Event::AudioOut(samples) => varint::put(numbers, samples),
            Event::AudioIn { recorded, position, samples } => {
                varint::put(numbers, recorded);
                varint::put(numbers, position);
                payload = samples;
            }
            Event::Random { result, bytes } => {
                varint::put_signed(numbers, result.into());
                varint::put(numbers, bytes.len() as u64);
                payload = bytes;
            }
            Event::Clock(Clock::Host, time) => {
                host_clock::put(numbers, step(&mut self.before.host, time));
            }
            Event::Clock(Clock::VirtualRealTime, time) => {
                varint::put_signed(numbers, step(&mut self.before.virtual_rt, time));
            }
        }
        self.size += 1 + numbers.len() - had + payload.len();
        if !payload.is_empty() {
            self.payloads[usize::from(kind)].extend_from_slice(payload);
        }
    }

    /// The frame's content and the icount before its first event; begins the next frame.
    pub fn finish(&mut self) -> (u64, Vec<u8>) {
        let mut content = Vec::with_capacity(self.size + 16 * KINDS);
        let column = |content: &mut Vec<u8>, column: &mut Vec<u8>| {
            varint::put(content, column.len() as u64);
            content.append(column);
        };
        column(&mut content, &mut self.kinds);
        for (numbers, payloads) in self.numbers.iter_mut().zip(&mut self.payloads) {
            column(&mut content, numbers);
            column(&mut content, payloads);
        }
        self.host_clock.iter_mut().for_each(|numbers| column(&mut content, numbers));
        let first = std::mem::replace(&mut self.first, self.before.icount);
        self.before = Before::at(self.before.icount);
        self.size = 0;
        (first, content)
    }
}

/// A content that is not columns of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(&'static str);

/// The events of a frame, one after the other.
#[derive(Debug)]
pub struct Events<'a> {
    before: Before,
    kinds: &'a [u8],
    numbers: [&'a [u8]; KINDS],
    payloads: [&'a [u8]; KINDS],
    host_clock: [&'a [u8]; host_clock::COLUMNS],
}

impl<'a> Events<'a> {
    /// The events of `content`, the first of which comes after `icount`.
    ///
    /// # Errors
    /// Where the columns are not there.
    pub fn new(icount: u64, content: &'a [u8]) -> Result<Self, Broken> {
        let mut rest = content;
        let mut column = || {
            let length = varint::get(&mut rest).and_then(|length| usize::try_from(length).ok());
            let (column, after) = rest.split_at_checked(length?)?;
            rest = after;
            Some(column)
        };
        let broken = Broken("a column of events that goes beyond its frame");
        let kinds = column().ok_or(broken)?;
        let mut numbers: [&[u8]; KINDS] = [&[]; KINDS];
        let mut payloads: [&[u8]; KINDS] = [&[]; KINDS];
        for kind in 0..KINDS {
            numbers[kind] = column().ok_or(broken)?;
            payloads[kind] = column().ok_or(broken)?;
        }
        let mut host_clock: [&[u8]; host_clock::COLUMNS] = [&[]; host_clock::COLUMNS];
        for numbers in &mut host_clock {
            *numbers = column().ok_or(broken)?;
        }
        if !rest.is_empty() {
            return Err(Broken("bytes behind the columns of a frame of events"));
        }
        Ok(Events { before: Before::at(icount), kinds, numbers, payloads, host_clock })
    }

    /// The next event and QEMU's icount before it; `None` after the last.
    ///
    /// # Errors
    /// Where a column ends too early or has what is no such number, or behind the last event something is left.
    #[inline]
    pub fn next_event(&mut self) -> Result<Option<(u64, Event<'a>)>, Broken> {
        let Some((&kind, rest)) = self.kinds.split_first() else {
            let columns = self.numbers.iter().chain(&self.payloads).chain(&self.host_clock);
            let left = columns.into_iter().any(|column| !column.is_empty());
            return if left { Err(Broken("more numbers than events")) } else { Ok(None) };
        };
        self.kinds = rest;
        let icount = self.before.icount;
        let event = self.event(kind).ok_or(Broken("an event whose numbers are missing or out of range"))?;
        self.before.place.pass(&event);
        Ok(Some((icount, event)))
    }

    fn event(&mut self, kind: u8) -> Option<Event<'a>> {
        let numbers = self.numbers.get_mut(usize::from(kind))?;
        let payloads = &mut self.payloads[usize::from(kind)];
        let event = match kind {
            0 => {
                let count = word(numbers)?;
                self.before.icount = self.before.icount.saturating_add(count.into());
                Event::Instructions(count)
            }
            1 => Event::Interrupt,
            2 => Event::Exception,
            3 => Event::BottomHalf(back(self.before.icount, numbers)?),
            4 => Event::BottomHalfOnce(back(self.before.icount, numbers)?),
            5 => Event::Input(Input::KeyNumber { number: varint::get(numbers)?, down: byte(numbers)? }),
            6 => Event::Input(Input::KeyCode { code: word(numbers)?, down: byte(numbers)? }),
            7 => Event::Input(Input::Button { button: word(numbers)?, down: byte(numbers)? }),
            8 => Event::Input(Input::Relative { axis: word(numbers)?, value: folded(numbers)? }),
            9 => Event::Input(Input::Absolute { axis: word(numbers)?, value: folded(numbers)? }),
            10 => Event::Input(Input::Touch {
                kind: word(numbers)?,
                slot: varint::get(numbers)?,
                tracking: folded(numbers)?,
                axis: word(numbers)?,
                value: folded(numbers)?,
            }),
            11 => Event::InputSync,
            12 => Event::CharRead { device: byte(numbers)?, bytes: payload(numbers, payloads)? },
            13 => Event::Block(onward(&mut self.before.block, numbers)?),
            14 => Event::Packet {
                filter: byte(numbers)?,
                flags: word(numbers)?,
                bytes: payload(numbers, payloads)?,
            },
            15 => Event::Shutdown(Cause(byte(numbers).filter(|&cause| cause < CAUSES)?)),
            16 => Event::CharWrite { result: signed(numbers)?, offset: signed(numbers)? },
            17 => Event::CharReadAll(payload(numbers, payloads)?),
            18 => Event::CharReadAllError(signed(numbers)?),
            19 => Event::AudioOut(varint::get(numbers)?),
            20 => {
                let (recorded, position) = (varint::get(numbers)?, varint::get(numbers)?);
                let length = usize::try_from(recorded.checked_mul(16)?).ok()?;
                let (samples, rest) = payloads.split_at_checked(length)?;
                *payloads = rest;
                Event::AudioIn { recorded, position, samples }
            }
            21 => Event::Random { result: signed(numbers)?, bytes: payload(numbers, payloads)? },
            22 => {
                let step = host_clock::get(&mut self.host_clock[self.before.place.column()])?;
                self.before.host = self.before.host.wrapping_add_signed(step);
                Event::Clock(Clock::Host, self.before.host)
            }
            23 => Event::Clock(Clock::VirtualRealTime, onward(&mut self.before.virtual_rt, numbers)?),
            END => Event::End,
            _ => Event::Checkpoint(*Checkpoint::ALL.get(usize::from(kind - CHECKPOINT))?),
        };
        Some(event)
    }
}

fn byte(numbers: &mut &[u8]) -> Option<u8> {
    varint::get(numbers)?.try_into().ok()
}

fn word(numbers: &mut &[u8]) -> Option<u32> {
    varint::get(numbers)?.try_into().ok()
}

fn signed(numbers: &mut &[u8]) -> Option<i32> {
    varint::get_signed(numbers)?.try_into().ok()
}

fn folded(numbers: &mut &[u8]) -> Option<u64> {
    varint::get_signed(numbers).map(i64::cast_unsigned)
}

/// A number told as the way back from `from`.
fn back(from: u64, numbers: &mut &[u8]) -> Option<u64> {
    Some(from.wrapping_sub(folded(numbers)?))
}

/// A number told as the way on from the one before.
fn onward(before: &mut u64, numbers: &mut &[u8]) -> Option<u64> {
    *before = before.wrapping_add(folded(numbers)?);
    Some(*before)
}

/// A payload whose length is among the numbers.
fn payload<'a>(numbers: &mut &[u8], payloads: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint::get(numbers)?).ok()?;
    let (payload, rest) = payloads.split_at_checked(length)?;
    *payloads = rest;
    Some(payload)
}
