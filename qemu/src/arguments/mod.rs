//! QEMU's command line, as users write it, and what Tandem makes of it.
//!
//! As much of it is understood as is needed to choose a time policy, to put a guest's drives and networks where their
//! inputs are logged, to make a run repeatable, and to refuse in time what can't be recorded (QEMU fails silently on
//! most of it). What is not known here is passed on: QEMU refuses what it doesn't know. Sources: QEMU's
//! qemu-options.hx and system/vl.c (softmmu/vl.c), 7.2 and 10.0; docs/system/replay.rst.

mod devices;
mod drives;
mod effects;
mod fields;
mod files;
mod images;
mod item;
mod networks;
mod nodes;
pub mod overlays;
mod refusal;
mod serials;
mod time;

use item::Item;
pub use refusal::Refusal;
pub use time::{Outside, Time};

/// A command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    items: Vec<Item>,
}

/// The command line of a run, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arranged {
    pub line: Vec<String>,
    pub changes: Vec<Change>,
    /// What can't be vouched for, a sentence each.
    pub warnings: Vec<String>,
}

/// A place where the run's command line is not what the user gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The option as the user gave it; `None` where something is added.
    pub was: Option<String>,
    /// What stands in its place; empty where it is left out.
    pub is: Vec<String>,
    pub why: &'static str,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Neither recorded nor replayed, and the same each time.
    Live,
    Record,
    Replay,
}

/// What takes the place of an option.
struct Instead {
    words: Vec<String>,
    why: &'static str,
    warning: Option<String>,
}

impl Instead {
    fn new(words: Vec<String>, why: &'static str) -> Self {
        Instead { words, why, warning: None }
    }
}

/// What takes the place of the option that stands at a place of the line, where it must be another.
type Know = fn(&Arguments, usize, Mode) -> Option<Instead>;

/// Those who know what an option becomes; the first that does is right.
const KNOWING: &[Know] = &[
    drives::instead,
    nodes::instead,
    networks::instead,
    devices::instead,
    serials::instead,
    effects::instead,
];

/// Options that choose a display.
const DISPLAYS: &[&str] = &["display", "nographic", "vnc", "spice", "sdl", "curses"];

impl Arguments {
    /// Takes `arguments` apart. Whatever QEMU itself would refuse is left to QEMU.
    #[must_use]
    pub fn parse(arguments: &[String]) -> Self {
        Arguments { items: Item::all(arguments) }
    }

    fn all<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Item> {
        self.items.iter().filter(|item| item.is(names))
    }

    fn has(&self, names: &[&str]) -> bool {
        self.all(names).next().is_some()
    }

    /// The time policy that suits the guest.
    #[must_use]
    pub fn time(&self) -> Time {
        if time::outside(self).is_some() { Time::Host } else { Time::Virtual }
    }

    /// What makes two live runs of the guest differ, if anything: the first thing that waits for the outside world.
    #[must_use]
    pub fn outside(&self) -> Option<Outside> {
        Outside::of(self)
    }

    /// The value that QEMU will use of the option `name` (the last one given), if any.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.items.iter().rev().find(|item| item.name == name)?.value.as_deref()
    }

    /// The command line that records in `time`; `log` is the path that QEMU writes its log to.
    ///
    /// # Errors
    /// Where the guest can't be recorded.
    pub fn recorded(&self, time: Time, log: &str) -> Result<Arranged, Refusal> {
        self.logged(time, Mode::Record, &format!(",rr=record,rrfile={log}"))
    }

    /// The command line that replays what [`recorded`](Self::recorded) recorded: the same machine for the guest,
    /// without effects outside. `log` is the path that QEMU reads its log from.
    ///
    /// # Errors
    /// Where the guest can't be recorded.
    pub fn replayed(&self, time: Time, log: &str) -> Result<Arranged, Refusal> {
        self.logged(time, Mode::Replay, &format!(",rr=replay,rrfile={log}"))
    }

    fn logged(&self, time: Time, mode: Mode, replay: &str) -> Result<Arranged, Refusal> {
        refusal::refuse(self)?;
        refusal::refuse_turns(self)?;
        for item in &self.items {
            devices::refuse(item)?;
            drives::refuse(item)?;
            networks::refuse(item)?;
            serials::refuse(self, item)?;
        }
        devices::refuse_on_q35(self)?;
        if let (Time::Virtual, Some(item)) = (time, time::outside(self)) {
            return Err(Refusal::Starves(item.shown()));
        }
        Ok(self.arranged(time, mode, replay))
    }

    /// How many vCPUs the machine has at its start.
    #[must_use]
    pub fn vcpus(&self) -> u64 {
        self.all(&["smp"]).last().map_or(1, refusal::vcpus)
    }

    /// The command line of a run that is the same each time by itself, without recording.
    ///
    /// # Errors
    /// Where it would not be.
    pub fn deterministic(&self) -> Result<Arranged, Refusal> {
        refusal::refuse(self)?;
        self.items.iter().try_for_each(devices::refuse)?;
        match time::outside(self) {
            Some(item) => Err(Refusal::NotDeterministic(item.shown())),
            None => Ok(self.arranged(Time::Virtual, Mode::Live, "")),
        }
    }

    /// The command line for a run in `time` under icount.
    fn arranged(&self, time: Time, mode: Mode, replay: &str) -> Arranged {
        let mut arranged = Arranged { line: Vec::new(), changes: Vec::new(), warnings: Vec::new() };
        for (place, item) in self.items.iter().enumerate() {
            // It is put together with Tandem's own.
            if item.name == "icount" {
                continue;
            }
            let Some(instead) = KNOWING.iter().find_map(|knows| knows(self, place, mode)) else {
                arranged.line.extend(item.words());
                continue;
            };
            arranged.line.extend(instead.words.iter().cloned());
            arranged.warnings.extend(instead.warning);
            arranged.changes.push(Change { was: Some(item.shown()), is: instead.words, why: instead.why });
        }
        let mut added = Vec::new();
        let mut add = |words: [&str; 2], why| {
            added.push(Change { was: None, is: words.map(str::to_owned).to_vec(), why });
        };
        if mode == Mode::Replay && !self.has(&["nographic"]) || !self.has(DISPLAYS) {
            add(["-display", "none"], "there is no window");
        }
        if !self.has(&["netdev", "nic", "net"]) {
            add(["-nic", "none"], "leaves out the network card that QEMU adds by itself");
        }
        added.extend(networks::added(self));
        added.extend(time::added(self, time, replay));
        arranged.line.extend(added.iter().flat_map(|change| change.is.iter().cloned()));
        arranged.changes.extend(added);
        if mode == Mode::Record {
            arranged.warnings.extend(effects::warnings(self));
            arranged.warnings.extend(devices::warnings(self));
        }
        arranged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(line: &str) -> Arguments {
        Arguments::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    /// What the user's own options became: the line without what is added at its end.
    fn became(arranged: Result<Arranged, Refusal>) -> String {
        let Arranged { mut line, changes, .. } = arranged.unwrap();
        let added =
            changes.iter().filter(|change| change.was.is_none()).map(|change| change.is.len()).sum::<usize>();
        line.truncate(line.len() - added);
        line.join(" ")
    }

    pub(super) fn recorded(line: &str) -> String {
        became(parse(line).recorded(Time::Host, "log"))
    }

    pub(super) fn replayed(line: &str) -> String {
        became(parse(line).replayed(Time::Host, "log"))
    }

    pub(super) fn live(line: &str) -> String {
        became(parse(line).deterministic())
    }

    pub(super) fn refusal(line: &str) -> String {
        let guest = parse(line);
        let refusal = guest.recorded(Time::Host, "log").unwrap_err();
        assert_eq!(guest.replayed(Time::Host, "log").unwrap_err(), refusal, "a replay refuses the same");
        let text = refusal.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn a_guest_without_outside_inputs_runs_in_virtual_time() {
        let guest = parse("-M pc -kernel vmlinuz -initrd i.gz -append console=ttyS0 -nographic -no-reboot");
        assert_eq!(guest.time(), Time::Virtual);
        let arranged = guest.recorded(Time::Virtual, "/proc/self/fd/9").unwrap();
        assert_eq!(
            arranged.line.join(" "),
            "-M pc -kernel vmlinuz -initrd i.gz -append console=ttyS0 -display none -serial stdio -monitor none \
             -no-reboot -nic none -icount shift=0,sleep=off,rr=record,rrfile=/proc/self/fd/9 \
             -global ide-cd.write-cache=auto -global floppy.write-cache=auto -global scsi-cd.write-cache=auto \
             -rtc base=2026-01-01T00:00:00 -rtc clock=vm -seed 1"
        );
        assert_eq!(arranged.changes[0].was.as_deref(), Some("-nographic"));
        assert!(arranged.changes[1..].iter().all(|change| change.was.is_none() && !change.is.is_empty()));
    }

    #[test]
    fn a_drive_or_a_network_is_not_taken_in_virtual_time() {
        for line in ["-hda d.img", "-nic user", "-serial pty"] {
            let refusal = parse(line).recorded(Time::Virtual, "log").unwrap_err();
            assert_eq!(refusal, Refusal::Starves(line.to_owned()));
        }
    }

    #[test]
    fn an_option_that_is_not_known_is_passed_on() {
        assert_eq!(recorded("-no-such-option x -nodefaults -hopp"), "-no-such-option x -nodefaults -hopp");
    }

    #[test]
    fn a_replay_has_the_same_machine_whatever_the_display() {
        let line = |text: &str| parse(text).replayed(Time::Host, "log").unwrap().line.join(" ");
        assert_eq!(line("-display gtk"), line("-vnc :1"));
        assert_eq!(line("-display none"), line(""));
    }
}
