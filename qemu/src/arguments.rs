//! QEMU's command line, as users write it, and what Tandem makes of it.
//!
//! Only as much of it is understood as is needed to choose a time policy, to refuse in time what can't be
//! recorded (QEMU fails silently on most of it), and to add what makes a run repeatable. Sources: QEMU's
//! qemu-options.hx and system/vl.c (softmmu/vl.c), 7.2 and 10.0; docs/system/replay.rst.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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

/// A command line that Tandem does not take, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("`{0}` asks for another accelerator than TCG; only TCG can be recorded and compared: remove it")]
    Accelerator(String),
    #[error("`{0}`: QEMU records and replays one vCPU only, and Tandem compares one; use -smp 1")]
    Smp(String),
    #[error("`{0}`: QEMU refuses it while recording; put snapshot=on on each -drive instead")]
    Snapshot(String),
    #[error("`{0}`: the host's local time can't be recorded; use -rtc base=utc or a fixed date")]
    LocalTime(String),
    #[error("`{0}`: Tandem chooses record and replay itself; remove rr= and rrfile=")]
    OwnReplay(String),
    #[error(
        "`{0}`: icount shift=auto follows the host's speed; give a number from 0 to 10, or leave -icount out"
    )]
    Shift(String),
    #[error("`{0}` takes QEMU out of Tandem's hands; remove it")]
    Detached(String),
    #[error("`{0}` only prints something and ends: there is no guest to run")]
    NoGuest(String),
    #[error("`{0}`: random bytes from the host's device are not recorded; use -object rng-builtin")]
    HostRandom(String),
    #[error(
        "`{0}`: a drive is recorded only behind blkreplay: -drive file=IMAGE,if=none,snapshot=on,id=img -drive driver=blkreplay,if=none,image=img,id=rr -device ...,drive=rr"
    )]
    BareDrive(String),
    #[error(
        "`{0}`: a network is recorded only through filter-replay: add -object filter-replay,id=rr,netdev=ID, or use -nic none"
    )]
    BareNetwork(String),
    #[error(
        "`{0}` waits for the outside world, so two live runs of it differ; record the guest first and give the recording with --recording"
    )]
    NotDeterministic(String),
    #[error(
        "--time virtual does not go with `{0}`: completions of disks and packets of networks never come when time is virtual; use --time host"
    )]
    Starves(String),
}

/// One option with its value, or a disk image without option.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    /// Without leading dashes; empty for a positional image.
    name: String,
    value: Option<String>,
}

impl Item {
    fn shown(&self) -> String {
        match (&self.value, self.name.is_empty()) {
            (Some(value), true) => value.clone(),
            (Some(value), false) => format!("-{} {value}", self.name),
            (None, _) => format!("-{}", self.name),
        }
    }

    fn value(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    /// The value of `key=` in a comma-separated value.
    fn key(&self, key: &str) -> Option<&str> {
        self.value().split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
    }

    /// The first comma-separated part, where it has no key.
    fn head(&self) -> &str {
        self.value().split(',').next().filter(|head| !head.contains('=')).unwrap_or_default()
    }

    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }
}

/// Options of QEMU that take no value (qemu-options.hx, entries without `HAS_ARG`).
const NO_VALUE: &[&str] = &[
    "h",
    "help",
    "version",
    "snapshot",
    "no-fd-bootchk",
    "no-acpi",
    "no-hpet",
    "nographic",
    "portrait",
    "full-screen",
    "alt-grab",
    "ctrl-grab",
    "no-quit",
    "sdl",
    "win2k-hack",
    "usb",
    "S",
    "s",
    "daemonize",
    "no-reboot",
    "no-shutdown",
    "enable-kvm",
    "singlestep",
    "preconfig",
    "nodefaults",
    "no-user-config",
    "only-migratable",
    "semihosting",
    "old-param",
    "enable-fips",
    "xen-attach",
    "xen-domid-restrict",
    "mem-prealloc",
    "enable-sync-profile",
    "curses",
    "no-frame",
    "rtc-td-hack",
    "no-kvm",
    "no-kvm-irqchip",
    "localtime",
    "qtest-log",
];

const DRIVES: &[&str] =
    &["drive", "blockdev", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "sd", "mtdblock", "pflash", ""];
const NETWORKS: &[&str] = &["netdev", "nic", "net"];

/// A command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    items: Vec<Item>,
}

impl Arguments {
    /// Takes `arguments` apart. Whatever QEMU itself would refuse is left to QEMU.
    #[must_use]
    pub fn parse(arguments: &[String]) -> Self {
        let mut items = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let item = match argument.strip_prefix('-') {
                Some(name) if !name.is_empty() => {
                    let name = name.strip_prefix('-').unwrap_or(name).to_owned();
                    let value = if NO_VALUE.contains(&name.as_str()) { None } else { rest.next().cloned() };
                    Item { name, value }
                }
                _ => Item { name: String::new(), value: Some(argument.clone()) },
            };
            items.push(item);
        }
        Arguments { items }
    }

    fn all<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Item> {
        self.items.iter().filter(|item| item.is(names))
    }

    fn has(&self, names: &[&str]) -> bool {
        self.all(names).next().is_some()
    }

    /// The first option that brings in the outside world, if any: a drive, a network, an interactive input.
    fn outside(&self) -> Option<&Item> {
        self.items.iter().find(|item| {
            if item.is(DRIVES) {
                return true;
            }
            if item.is(NETWORKS) {
                return item.head() != "none";
            }
            if item.is(&["vnc", "spice", "sdl", "curses"]) {
                return item.value() != "none";
            }
            if item.is(&["display"]) {
                return !matches!(item.head(), "none" | "egl-headless");
            }
            item.is(&["serial", "chardev", "parallel", "virtioconsole", "monitor", "qmp", "gdb"])
                && [
                    "socket",
                    "tcp:",
                    "telnet:",
                    "websocket:",
                    "unix:",
                    "udp:",
                    "udp",
                    "pty",
                    "pipe:",
                    "pipe",
                    "/dev/",
                ]
                .iter()
                .any(|kind| item.value().starts_with(kind))
        })
    }

    /// The time policy that suits the guest.
    #[must_use]
    pub fn time(&self) -> Time {
        if self.outside().is_some() { Time::Host } else { Time::Virtual }
    }

    /// Whether the guest has a serial port on stdio.
    #[must_use]
    pub fn console_input(&self) -> bool {
        self.all(&["serial"]).any(|item| matches!(item.head(), "stdio" | "mon:stdio"))
            || self.has(&["nographic"]) && !self.has(&["serial"])
    }

    /// Refuses what neither a recording nor a lockstep can take.
    fn refuse(&self) -> Result<(), Refusal> {
        for item in &self.items {
            let shown = || item.shown();
            let accelerator = |value: &str| value.split(':').any(|one| one != "tcg");
            match item.name.as_str() {
                "enable-kvm" | "xen-attach" | "xen-domid" => return Err(Refusal::Accelerator(shown())),
                "accel" if accelerator(item.key("accel").unwrap_or(item.head())) => {
                    return Err(Refusal::Accelerator(shown()));
                }
                "machine" | "M" if item.key("accel").is_some_and(accelerator) => {
                    return Err(Refusal::Accelerator(shown()));
                }
                "smp" => {
                    let count = item.key("cpus").unwrap_or(item.head());
                    let product = || {
                        ["sockets", "dies", "clusters", "cores", "threads", "maxcpus"]
                            .iter()
                            .filter_map(|key| item.key(key)?.parse::<u64>().ok())
                            .fold(1, u64::saturating_mul)
                    };
                    if count.parse().unwrap_or_else(|_| product()) > 1 {
                        return Err(Refusal::Smp(shown()));
                    }
                }
                "icount" => {
                    if item.key("rr").is_some() || item.key("rrfile").is_some() {
                        return Err(Refusal::OwnReplay(shown()));
                    }
                    if shift(item).is_none() {
                        return Err(Refusal::Shift(shown()));
                    }
                }
                "rtc" if item.key("base") == Some("localtime") => return Err(Refusal::LocalTime(shown())),
                "localtime" => return Err(Refusal::LocalTime(shown())),
                "snapshot" => return Err(Refusal::Snapshot(shown())),
                "daemonize" | "S" | "preconfig" | "incoming" => return Err(Refusal::Detached(shown())),
                "object" if item.head() == "rng-random" || item.key("qom-type") == Some("rng-random") => {
                    return Err(Refusal::HostRandom(shown()));
                }
                "h" | "help" | "version" => return Err(Refusal::NoGuest(shown())),
                "machine" | "M" | "cpu" | "device" if matches!(item.value(), "help" | "?") => {
                    return Err(Refusal::NoGuest(shown()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses drives and networks whose inputs would be lost without a word.
    fn refuse_unrecorded(&self) -> Result<(), Refusal> {
        let replayed = |item: &Item| item.value().contains("blkreplay");
        let firmware = |item: &Item| item.name == "pflash" || item.key("if") == Some("pflash");
        if !self.items.iter().any(replayed)
            && let Some(item) = self.all(DRIVES).find(|item| !firmware(item))
        {
            return Err(Refusal::BareDrive(item.shown()));
        }
        let filters = self.all(&["object"]).filter(|item| item.value().contains("filter-replay")).count();
        let mut networks = self.all(NETWORKS).filter(|item| item.head() != "none");
        if let Some(item) = networks.nth(filters) {
            return Err(Refusal::BareNetwork(item.shown()));
        }
        Ok(())
    }

    /// The command line for a run in `time` under icount; `replay` is added to `-icount` (`rr=record,...`).
    fn arranged(&self, time: Time, replay: &str) -> Vec<String> {
        let mut line = Vec::new();
        let mut add = |text: &[&str]| line.extend(text.iter().map(|&word| word.to_owned()));
        let shift = self.all(&["icount"]).last().and_then(shift).unwrap_or(0);
        for item in &self.items {
            match (item.name.as_str(), item.value()) {
                ("icount", _) => {}
                // A monitor on the guest's serial port breaks replay (docs/system/replay.rst).
                ("nographic", _) => {
                    add(&["-display", "none"]);
                    if !self.has(&["serial"]) {
                        add(&["-serial", "stdio"]);
                    }
                    if !self.has(&["monitor"]) {
                        add(&["-monitor", "none"]);
                    }
                }
                ("serial", "mon:stdio") => {
                    add(&["-serial", "stdio"]);
                    if !self.has(&["monitor"]) {
                        add(&["-monitor", "none"]);
                    }
                }
                ("", image) => add(&[image]),
                (name, _) => {
                    add(&[&format!("-{name}")]);
                    if let Some(value) = &item.value {
                        add(&[value]);
                    }
                }
            }
        }
        if !self.has(&["display", "nographic", "vnc", "spice", "sdl", "curses"]) {
            add(&["-display", "none"]);
        }
        if !self.has(NETWORKS) {
            add(&["-nic", "none"]);
        }
        let sleep = match time {
            Time::Virtual => ",sleep=off",
            Time::Host => "",
        };
        add(&["-icount", &format!("shift={shift}{sleep}{replay}")]);
        if time == Time::Virtual {
            // A machine's empty CD and floppy drives are drives whose completions never come in virtual time.
            // Naming their drivers in a -global, with the value that they have anyway, makes QEMU leave the
            // default ones out and nothing else (`default_list` in vl.c).
            for driver in ["ide-cd", "floppy", "scsi-cd"] {
                add(&["-global", &format!("{driver}.write-cache=auto")]);
            }
            let rtc: Vec<&Item> = self.all(&["rtc"]).collect();
            if !rtc.iter().any(|item| item.key("base").is_some()) {
                add(&["-rtc", "base=2026-01-01T00:00:00"]);
            }
            if !rtc.iter().any(|item| item.key("clock").is_some()) {
                add(&["-rtc", "clock=vm"]);
            }
            if !self.has(&["seed"]) {
                add(&["-seed", "1"]);
            }
        }
        line
    }

    /// The command line that records or replays in `time`: `rr` is `record` or `replay`, `log` the path that
    /// QEMU opens.
    ///
    /// # Errors
    /// Where the guest can't be recorded.
    pub fn replayed(&self, time: Time, rr: &str, log: &str) -> Result<Vec<String>, Refusal> {
        self.refuse()?;
        self.refuse_unrecorded()?;
        if let (Time::Virtual, Some(item)) = (time, self.outside()) {
            return Err(Refusal::Starves(item.shown()));
        }
        Ok(self.arranged(time, &format!(",rr={rr},rrfile={log}")))
    }

    /// Whether two builds may run this from one recording: everything but its inputs has to be repeatable.
    ///
    /// # Errors
    /// Where it isn't.
    pub fn comparable(&self) -> Result<(), Refusal> {
        self.refuse()
    }

    /// The command line of a run that is the same each time by itself, without recording.
    ///
    /// # Errors
    /// Where it would not be.
    pub fn deterministic(&self) -> Result<Vec<String>, Refusal> {
        self.refuse()?;
        match self.outside() {
            Some(item) => Err(Refusal::NotDeterministic(item.shown())),
            None => Ok(self.arranged(Time::Virtual, "")),
        }
    }

    /// The value that QEMU will use of the option `name` (the last one given), if any.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.items.iter().rev().find(|item| item.name == name)?.value.as_deref()
    }

    /// Every file that the command line names, and every file in a firmware folder that it names with `-L`;
    /// sorted, each once. A file is whatever a value, or the part behind a `=`, `:` or `,` in it, is the path of.
    #[must_use]
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for item in &self.items {
            let Some(value) = &item.value else { continue };
            if item.is(&[
                "append", "name", "D", "pidfile", "trace", "serial", "monitor", "qmp", "chardev", "parallel",
            ]) {
                continue;
            }
            if item.name == "L" {
                let entries = std::fs::read_dir(folder.join(value)).into_iter().flatten().flatten();
                files.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
                continue;
            }
            let parts = value.split(',').flat_map(|part| {
                let behind = part.split_once('=').map(|(_, behind)| behind);
                [Some(part), behind, behind.and_then(|b| b.split_once(':')).map(|(_, path)| path)]
            });
            files.extend(
                std::iter::once(value.as_str())
                    .chain(parts.flatten())
                    .filter(|part| !part.is_empty())
                    .map(|part| folder.join(part))
                    .filter(|path| path.is_file()),
            );
        }
        files.sort();
        files.dedup();
        files
    }
}

/// The shift that an `-icount` option asks for: a number from 0 to 10.
fn shift(item: &Item) -> Option<u8> {
    let shift = match item.key("shift") {
        Some(shift) => shift,
        None if item.head().is_empty() => "0",
        None => item.head(),
    };
    shift.parse().ok().filter(|&shift| shift <= 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_guest_without_outside_inputs_runs_in_virtual_time() {
        let guest = parse("-M pc -kernel vmlinuz -initrd i.gz -append console=ttyS0 -nographic -no-reboot");
        assert_eq!(guest.time(), Time::Virtual);
        assert_eq!(
            guest.replayed(Time::Virtual, "record", "/proc/self/fd/9").unwrap().join(" "),
            "-M pc -kernel vmlinuz -initrd i.gz -append console=ttyS0 -display none -serial stdio -monitor none \
             -no-reboot -nic none -icount shift=0,sleep=off,rr=record,rrfile=/proc/self/fd/9 \
             -global ide-cd.write-cache=auto -global floppy.write-cache=auto -global scsi-cd.write-cache=auto \
             -rtc base=2026-01-01T00:00:00 -rtc clock=vm -seed 1"
        );
    }

    #[test]
    fn the_users_own_time_settings_stay() {
        let line =
            parse("-icount 3 -rtc base=2001-02-03,clock=vm -seed 7 -nic none -display none").deterministic();
        let line = line.unwrap().join(" ");
        assert!(line.contains("-icount shift=3,sleep=off"), "{line}");
        assert!(line.contains("-rtc base=2001-02-03,clock=vm") && !line.contains("2026"), "{line}");
        assert!(line.contains("-seed 7") && !line.contains("-seed 1"), "{line}");
    }

    #[test]
    fn a_drive_a_network_and_an_interactive_input_run_in_host_time() {
        for line in
            ["-hda x", "disk.img", "-nic user", "-netdev user,id=n", "-serial tcp::4444,server", "-vnc :1"]
        {
            assert_eq!(parse(line).time(), Time::Host, "{line}");
            assert!(parse(line).deterministic().is_err(), "{line}");
        }
        for line in ["-nic none", "-net none", "-serial stdio", "-serial mon:stdio", "-vnc none"] {
            assert_eq!(parse(line).time(), Time::Virtual, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_recorded_is_refused_with_its_option() {
        for (line, named) in [
            ("-enable-kvm", "-enable-kvm"),
            ("-accel kvm", "-accel kvm"),
            ("-machine q35,accel=kvm:tcg", "-machine q35,accel=kvm:tcg"),
            ("-smp 2", "-smp 2"),
            ("-smp cpus=4", "-smp cpus=4"),
            ("-smp cores=2,threads=2", "-smp cores=2,threads=2"),
            ("-snapshot", "-snapshot"),
            ("-rtc base=localtime", "-rtc base=localtime"),
            ("-icount shift=auto", "-icount shift=auto"),
            ("-icount 1,rr=record,rrfile=x", "-icount 1,rr=record,rrfile=x"),
            ("-daemonize", "-daemonize"),
            ("-object rng-random,id=r,filename=/dev/random", "rng-random"),
            ("-drive file=x.img", "-drive file=x.img"),
            ("-nic user", "-nic user"),
            ("--help", "-help"),
        ] {
            let refusal = parse(line).replayed(Time::Host, "record", "log").unwrap_err().to_string();
            assert!(refusal.contains(named), "{line}: {refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
    }

    #[test]
    fn tcg_and_one_vcpu_are_taken() {
        for line in
            ["-accel tcg,one-insn-per-tb=on", "-accel tcg", "-machine pc,accel=tcg", "-smp 1", "-smp cpus=1"]
        {
            assert_eq!(parse(line).replayed(Time::Virtual, "record", "log").map(|_| ()), Ok(()), "{line}");
        }
    }

    #[test]
    fn files_are_found_wherever_an_option_names_them() {
        let folder = tempfile_folder();
        for name in ["k", "i", "d", "fw/bios.bin"] {
            std::fs::write(folder.join(name), name).unwrap();
        }
        let guest = parse(
            "-kernel k -initrd i -device loader,file=d,addr=0 -append k -L fw -fw_cfg name=opt/x,file=k",
        );
        let files: Vec<_> =
            guest.files(&folder).iter().map(|p| p.strip_prefix(&folder).unwrap().to_owned()).collect();
        assert_eq!(files, ["d", "fw/bios.bin", "i", "k"].map(PathBuf::from));
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn tempfile_folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tandem-files-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("fw")).unwrap();
        folder
    }
}
