//! What a recording comes to: events by kind, and each event in words.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use qemu::stub::to_hex;

use crate::log::event::{Clock, Event, Input};
use crate::reader::{Error, Reader};

/// Sums over a recording's events.
#[derive(Debug, Default)]
pub struct Account {
    /// Events by the name of their kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Bytes that character devices wrote, as far as QEMU logs them: its serial ports.
    pub written: u64,
    /// The first and the last time that the guest read of the host's clock, ns since 1970.
    pub host: Option<(u64, u64)>,
}

impl Account {
    /// Counts the events of `recording`.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn of(recording: &mut Reader) -> Result<Self, Error> {
        let mut account = Account::default();
        recording.events(0, |_, event| {
            *account.kinds.entry(event.name()).or_default() += 1;
            match *event {
                Event::CharWrite { offset, .. } => account.written += u64::try_from(offset).unwrap_or(0),
                Event::Clock(Clock::Host, time) => account.host.get_or_insert((time, time)).1 = time,
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        Ok(account)
    }
}

/// Where in QEMU's icount the bytes of the console were written, taken from the events of the guest's serial port.
/// It holds where the console is that one port.
#[derive(Debug)]
pub struct Stamps {
    /// Icount, and the bytes written up to and with that event.
    ends: Vec<(u64, u64)>,
}

/// The most stamps that are kept; behind them a console has no icounts.
const MOST_STAMPS: usize = 1 << 22;

impl Stamps {
    /// The stamps of `recording`; `None` where the console is not what one serial port wrote.
    ///
    /// # Errors
    /// Where a frame is damaged.
    pub fn of(recording: &mut Reader) -> Result<Option<Self>, Error> {
        let mut ends = Vec::new();
        let mut written = 0;
        recording.events(0, |icount, event| {
            if let Event::CharWrite { offset, .. } = *event {
                written += u64::try_from(offset).unwrap_or(0);
                ends.push((icount, written));
            }
            if ends.len() < MOST_STAMPS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let mut console = 0;
        recording.console(|_, bytes| {
            console += bytes.len() as u64;
            ControlFlow::Continue(())
        })?;
        // Where a guest was cut off, the one may be a little behind the other.
        let fits = written == console || recording.ending.cut && written > 0 && written <= console;
        Ok((fits || ends.len() == MOST_STAMPS).then_some(Stamps { ends }))
    }

    /// How many bytes of the console were written up to `icount`; `None` where that is behind what is known.
    #[must_use]
    pub fn written(&self, icount: u64) -> Option<u64> {
        let behind = self.ends.partition_point(|&(at, _)| at <= icount);
        let last = behind.checked_sub(1).and_then(|index| self.ends.get(index));
        (behind < MOST_STAMPS).then_some(last.map_or(0, |&(_, written)| written))
    }

    /// QEMU's icount when the console's byte at `place` was written.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<u64> {
        let index = self.ends.partition_point(|&(_, written)| written <= place);
        self.ends.get(index).map(|&(icount, _)| icount)
    }
}

/// A field of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    Signed(i64),
    Word(&'static str),
    Bytes(&'a [u8]),
}

/// An event's fields by name.
#[must_use]
pub fn fields<'a>(event: &Event<'a>) -> Vec<(&'static str, Field<'a>)> {
    use Field::{Bytes, Number, Signed, Word};
    let axis = |axis: u32| match axis {
        0 => Word("x"),
        1 => Word("y"),
        other => Number(other.into()),
    };
    let named = |names: &'static [&'static str], number: u32| {
        usize::try_from(number)
            .ok()
            .and_then(|at| names.get(at))
            .map_or(Number(number.into()), |name| Word(name))
    };
    match *event {
        Event::Instructions(count) => vec![("count", Number(count.into()))],
        Event::BottomHalf(id) | Event::BottomHalfOnce(id) => vec![("scheduled_at", Number(id))],
        Event::Block(id) => vec![("request", Number(id))],
        Event::Input(Input::KeyNumber { number, down }) => {
            vec![("number", Number(number)), ("down", Number(down.into()))]
        }
        Event::Input(Input::KeyCode { code, down }) => {
            vec![("key", named(KEYS, code)), ("down", Number(down.into()))]
        }
        Event::Input(Input::Button { button, down }) => {
            vec![("button", named(BUTTONS, button)), ("down", Number(down.into()))]
        }
        Event::Input(Input::Relative { axis: along, value } | Input::Absolute { axis: along, value }) => {
            vec![("axis", axis(along)), ("value", Signed(value.cast_signed()))]
        }
        Event::Input(Input::Touch { kind, slot, tracking, axis: along, value }) => vec![
            ("touch", named(TOUCHES, kind)),
            ("slot", Number(slot)),
            ("tracking", Signed(tracking.cast_signed())),
            ("axis", axis(along)),
            ("value", Signed(value.cast_signed())),
        ],
        Event::CharRead { device, bytes } => vec![("device", Number(device.into())), ("bytes", Bytes(bytes))],
        Event::Packet { filter, flags, bytes } => {
            vec![("filter", Number(filter.into())), ("flags", Number(flags.into())), ("bytes", Bytes(bytes))]
        }
        Event::Shutdown(cause) => vec![("cause", Number(cause.0.into()))],
        Event::CharWrite { result, offset } => {
            vec![("result", Signed(result.into())), ("written", Signed(offset.into()))]
        }
        Event::CharReadAll(bytes) => vec![("bytes", Bytes(bytes))],
        Event::CharReadAllError(error) => vec![("error", Signed(error.into()))],
        Event::AudioOut(samples) => vec![("samples", Number(samples))],
        Event::AudioIn { recorded, position, samples } => {
            vec![("samples", Number(recorded)), ("position", Number(position)), ("bytes", Bytes(samples))]
        }
        Event::Random { result, bytes } => vec![("result", Signed(result.into())), ("bytes", Bytes(bytes))],
        Event::Clock(_, time) => vec![("ns", Number(time))],
        Event::Interrupt | Event::Exception | Event::InputSync | Event::Checkpoint(_) | Event::End => {
            Vec::new()
        }
    }
}

/// A number with a comma every three digits.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An event as people read it, in one line.
#[must_use]
pub fn described(event: &Event) -> String {
    let mut line = event.name().to_owned();
    for (name, field) in fields(event) {
        line.push_str(&format!(" {name}={}", text(field)));
    }
    if let Event::Shutdown(cause) = event {
        line.push_str(&format!(" ({cause})"));
    }
    line
}

/// A field for people: of bytes the first, as text where that is what they are.
fn text(field: Field) -> String {
    const SHOWN: usize = 48;
    match field {
        Field::Number(number) => number.to_string(),
        Field::Signed(number) => number.to_string(),
        Field::Word(word) => word.to_owned(),
        Field::Bytes(bytes) => {
            let first = &bytes[..bytes.len().min(SHOWN)];
            let is_text = first.iter().all(|byte| byte.is_ascii_graphic() || b" \r\n\t".contains(byte));
            let shown = if is_text { format!("\"{}\"", first.escape_ascii()) } else { to_hex(first) };
            let more = if bytes.len() > SHOWN { "..." } else { "" };
            format!("{shown}{more} ({} bytes)", bytes.len())
        }
    }
}

/// qapi/ui.json, `InputButton`, `InputMultiTouchType` and `QKeyCode`, QEMU 10.0; 7.2 has the same without the last keys.
const BUTTONS: &[&str] = &[
    "left",
    "middle",
    "right",
    "wheel-up",
    "wheel-down",
    "side",
    "extra",
    "wheel-left",
    "wheel-right",
    "touch",
];
const TOUCHES: &[&str] = &["begin", "update", "end", "cancel", "data"];
#[rustfmt::skip]
const KEYS: &[&str] = &[
    "unmapped", "shift", "shift_r", "alt", "alt_r", "ctrl", "ctrl_r", "menu", "esc", "1", "2", "3", "4",
    "5", "6", "7", "8", "9", "0", "minus", "equal", "backspace", "tab", "q", "w", "e", "r", "t", "y", "u",
    "i", "o", "p", "bracket_left", "bracket_right", "ret", "a", "s", "d", "f", "g", "h", "j", "k", "l",
    "semicolon", "apostrophe", "grave_accent", "backslash", "z", "x", "c", "v", "b", "n", "m", "comma",
    "dot", "slash", "asterisk", "spc", "caps_lock", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9",
    "f10", "num_lock", "scroll_lock", "kp_divide", "kp_multiply", "kp_subtract", "kp_add", "kp_enter",
    "kp_decimal", "sysrq", "kp_0", "kp_1", "kp_2", "kp_3", "kp_4", "kp_5", "kp_6", "kp_7", "kp_8", "kp_9",
    "less", "f11", "f12", "print", "home", "pgup", "pgdn", "end", "left", "up", "down", "right", "insert",
    "delete", "stop", "again", "props", "undo", "front", "copy", "open", "paste", "find", "cut", "lf",
    "help", "meta_l", "meta_r", "compose", "pause", "ro", "hiragana", "henkan", "yen", "muhenkan",
    "katakanahiragana", "kp_comma", "kp_equals", "power", "sleep", "wake", "audionext", "audioprev",
    "audiostop", "audioplay", "audiomute", "volumeup", "volumedown", "mediaselect", "mail", "calculator",
    "computer", "ac_home", "ac_back", "ac_forward", "ac_refresh", "ac_bookmarks", "lang1", "lang2", "f13",
    "f14", "f15", "f16", "f17", "f18", "f19", "f20", "f21", "f22", "f23", "f24",
];

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([0, 999, 1000, 1_713_184_716].map(grouped), ["0", "999", "1,000", "1,713,184,716"]);
    }
}
