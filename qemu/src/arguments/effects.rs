//! What a run does outside the guest: displays, monitors, logs. A recording keeps what the user wants of them; a
//! replay has none, so that nothing is written over and nobody has to be there.

use super::item::Item;
use super::{Arguments, Instead, Mode};

/// Options that a replay leaves out.
const LEFT_OUT: &[&str] = &[
    "display",
    "vnc",
    "spice",
    "sdl",
    "curses",
    "full-screen",
    "qmp",
    "qmp-pretty",
    "gdb",
    "s",
    "D",
    "d",
    "trace",
    "pidfile",
];

const WHY: &str = "a replay has no effects outside, and needs nobody there";

/// Options that name what the run writes, and no file of the guest's.
pub(super) fn is_output(item: &Item) -> bool {
    item.is(LEFT_OUT)
        || item.is(&["serial", "parallel", "monitor", "chardev", "debugcon", "audiodev", "audio"])
        || is_dump(item)
}

fn is_dump(item: &Item) -> bool {
    item.name == "object" && item.fields().get("qom-type") == Some("filter-dump")
}

pub(super) fn instead(all: &Arguments, place: usize, mode: Mode) -> Option<Instead> {
    let item = &all.items[place];
    if mode == Mode::Replay {
        let audio = || item.fields();
        let words = match item.name.as_str() {
            "monitor" if item.value() == "none" => return None,
            "monitor" => vec!["-monitor".to_owned(), "none".to_owned()],
            "audiodev" | "audio" if audio().get("driver") != Some("none") => {
                let mut none = "none".to_owned();
                for key in ["id", "model"] {
                    if let Some(value) = audio().get(key) {
                        none.push_str(&format!(",{key}={value}"));
                    }
                }
                vec![format!("-{}", item.name), none]
            }
            _ if item.is(LEFT_OUT) || is_dump(item) => Vec::new(),
            _ => return None,
        };
        return Some(Instead::new(words, WHY));
    }
    None
}

/// What a recording can't vouch for, in words.
pub(super) fn warnings(all: &Arguments) -> impl Iterator<Item = String> {
    all.items.iter().filter_map(|item| {
        let doubt = match item.name.as_str() {
            "monitor" if !matches!(item.value(), "none" | "null" | "vc") => MONITOR,
            "qmp" | "qmp-pretty" if item.value() != "none" => MONITOR,
            "mon" if !item.fields().get("chardev").is_some_and(|id| all.is_of_the_guest(id)) => MONITOR,
            "gdb" | "s" => "what a debugger changes in the guest is not logged, and its replay goes astray",
            "audiodev" | "audio" if item.fields().get("driver") != Some("none") => {
                "replays of a guest with sound are untried"
            }
            _ => return None,
        };
        Some(format!("`{}`: {doubt}", item.shown()))
    })
}

const MONITOR: &str =
    "what a monitor's commands change in the guest is not logged, and its replay goes astray";

#[cfg(test)]
mod tests {
    use crate::arguments::Time;
    use crate::arguments::tests::{parse, recorded, replayed};

    #[test]
    fn a_replay_writes_over_nothing_and_needs_nobody() {
        for (line, becomes) in [
            ("-vnc :1 -D log -d int -pidfile p -s -qmp unix:q,server=on -trace x", ""),
            ("-monitor unix:m,server=on,wait=off", "-monitor none"),
            ("-audiodev wav,id=a,path=x.wav", "-audiodev none,id=a"),
            ("-object filter-dump,id=d,netdev=n,file=x.pcap", ""),
        ] {
            assert_eq!(recorded(line), line, "a recording keeps them");
            assert_eq!(replayed(line), becomes, "{line}");
        }
    }

    #[test]
    fn what_a_recording_cannot_vouch_for_is_a_warning() {
        for line in ["-monitor stdio", "-qmp tcp::4,server=on", "-s", "-audiodev pa,id=a"] {
            let warnings = parse(line).recorded(Time::Host, "log").unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(line), "{warnings:?}");
        }
        for line in ["-monitor none", "-serial stdio", "-nographic", "-audiodev none,id=a"] {
            assert!(parse(line).recorded(Time::Host, "log").unwrap().warnings.is_empty(), "{line}");
        }
    }
}
