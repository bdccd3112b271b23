//! What the guest's time follows, and the settings that make it the same each time.

use serde::{Deserialize, Serialize};

use super::item::Item;
use super::{Arguments, Change, drives, networks};

/// What the guest's time follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Time {
    /// `sleep=off`: the clock is the instruction count and nothing else. Without outside inputs every run is the same.
    Virtual,
    /// `sleep=on`: idle guests wait in host time, as disks and networks need it.
    Host,
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Time::Virtual => "virtual",
            Time::Host => "host",
        })
    }
}

/// Character devices through which something outside can speak at any time.
const SPEAKING: &[&str] =
    &["socket", "tcp:", "telnet:", "websocket:", "unix:", "udp:", "udp", "pty", "pipe:", "pipe", "/dev/"];

/// The first option that brings in the outside world, if any: a drive, a network, an interactive input.
pub(super) fn outside(all: &Arguments) -> Option<&Item> {
    all.items.iter().find(|item| match item.name.as_str() {
        "vnc" | "spice" | "sdl" | "curses" => item.value() != "none",
        "display" => !matches!(item.head(), "none" | "egl-headless"),
        "serial" | "chardev" | "parallel" | "monitor" | "qmp" | "qmp-pretty" | "gdb" => {
            let value = item.value();
            let value = value.strip_prefix("mon:").unwrap_or(value);
            SPEAKING.iter().any(|kind| value.starts_with(kind))
        }
        "s" => true,
        _ => drives::completes_later(all, item) || networks::is_backend(item),
    })
}

/// What brings the outside world into a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    pub what: &'static str,
    /// The option as the user gave it.
    pub option: String,
}

impl std::fmt::Display for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the guest has {}, `{}`", self.what, self.option)
    }
}

impl Outside {
    pub(super) fn of(all: &Arguments) -> Option<Self> {
        let item = outside(all)?;
        let what = if drives::completes_later(all, item) {
            "a drive"
        } else if networks::is_backend(item) {
            "a network"
        } else {
            "an interactive input"
        };
        Some(Outside { what, option: item.shown() })
    }
}

/// The shift that an `-icount` option asks for: a number from 0 to 10.
pub(super) fn shift(item: &Item) -> Option<u8> {
    let fields = item.fields();
    fields.get("shift").unwrap_or("0").parse().ok().filter(|&shift| shift <= 10)
}

/// What a run in `time` needs beside the user's options; `replay` is added to `-icount` (`,rr=record,...`).
pub(super) fn added(all: &Arguments, time: Time, replay: &str) -> Vec<Change> {
    let mut added = Vec::new();
    let mut add = |words: [&str; 2], why| {
        added.push(Change { was: None, is: words.map(str::to_owned).to_vec(), why });
    };
    let icount: Vec<&Item> = all.all(&["icount"]).collect();
    let shift = icount.last().and_then(|item| shift(item)).unwrap_or(0);
    let sleep = match time {
        Time::Virtual => ",sleep=off",
        Time::Host => "",
    };
    add(
        ["-icount", &format!("shift={shift}{sleep}{replay}")],
        "time counts instructions, and inputs are kept with their place in it",
    );
    if time == Time::Host {
        return added;
    }
    // A machine's empty CD and floppy drives are drives whose completions never come in virtual time.
    // Naming their drivers in a -global, with the value that they have anyway, makes QEMU leave the
    // default ones out and nothing else (`default_list` in vl.c).
    for driver in ["ide-cd", "floppy", "scsi-cd"] {
        add(
            ["-global", &format!("{driver}.write-cache=auto")],
            "leaves out the machine's empty drive, whose completions never come in virtual time",
        );
    }
    let rtc: Vec<_> = all.all(&["rtc"]).map(Item::fields).collect();
    if !rtc.iter().any(|fields| fields.has("base")) {
        add(["-rtc", "base=2026-01-01T00:00:00"], "the same date each time");
    }
    if !rtc.iter().any(|fields| fields.has("clock")) {
        add(["-rtc", "clock=vm"], "the date moves with the guest's time and not with the host's");
    }
    if all.all(&["seed"]).next().is_none() {
        add(["-seed", "1"], "the same random numbers each time");
    }
    added
}

#[cfg(test)]
mod tests {
    use super::Time;
    use crate::arguments::tests::parse;

    #[test]
    fn the_users_own_time_settings_stay() {
        let line =
            parse("-icount 3 -rtc base=2001-02-03,clock=vm -seed 7 -nic none -display none").deterministic();
        let line = line.unwrap().line.join(" ");
        assert!(line.contains("-icount shift=3,sleep=off"), "{line}");
        assert!(line.contains("-rtc base=2001-02-03,clock=vm") && !line.contains("2026"), "{line}");
        assert!(line.contains("-seed 7") && !line.contains("-seed 1"), "{line}");
    }

    #[test]
    fn what_brings_the_outside_in_is_told_apart() {
        let outside = |line: &str| parse(line).outside().unwrap().to_string();
        assert_eq!(outside("-M pc -hda x"), "the guest has a drive, `-hda x`");
        assert_eq!(outside("-nic user"), "the guest has a network, `-nic user`");
        assert_eq!(outside("-vnc :1"), "the guest has an interactive input, `-vnc :1`");
    }

    #[test]
    fn a_drive_a_network_and_an_interactive_input_run_in_host_time() {
        for line in [
            "-hda x",
            "disk.img",
            "-fda x",
            "-nic user",
            "-netdev user,id=n",
            "-serial tcp::4444,server",
            "-serial mon:telnet::4444,server",
            "-vnc :1",
            "-gdb tcp::1234",
            "-s",
        ] {
            assert_eq!(parse(line).time(), Time::Host, "{line}");
            let outside = parse(line).outside().unwrap().to_string();
            assert!(outside.contains(&format!("`{line}`")), "{outside}");
            assert!(parse(line).deterministic().is_err(), "{line}");
        }
        for line in ["-nic none", "-net none", "-serial stdio", "-serial mon:stdio", "-vnc none", "-pflash x"]
        {
            assert_eq!((parse(line).time(), parse(line).outside()), (Time::Virtual, None), "{line}");
        }
    }
}
