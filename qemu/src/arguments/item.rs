//! One option of QEMU's command line.

use super::fields::Fields;

/// One option with its value, or a disk image without option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Without leading dashes; empty for a positional image.
    pub(super) name: String,
    pub(super) value: Option<String>,
}

impl Item {
    /// Takes a command line apart. Whatever QEMU itself would refuse is left to QEMU.
    pub(super) fn all(arguments: &[String]) -> Vec<Self> {
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
        items
    }

    /// As the user gave it.
    pub(super) fn shown(&self) -> String {
        self.words().join(" ")
    }

    /// The words of the command line that it is.
    pub(super) fn words(&self) -> Vec<String> {
        let option = (!self.name.is_empty()).then(|| format!("-{}", self.name));
        option.into_iter().chain(self.value.clone()).collect()
    }

    pub(super) fn value(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    pub(super) fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// The value taken apart.
    pub(super) fn fields(&self) -> Fields {
        let implied = IMPLIED.iter().find(|(name, _)| *name == self.name).map_or("", |(_, key)| key);
        Fields::parse(self.value(), implied)
    }

    /// The first word, where it has no key.
    pub(super) fn head(&self) -> &str {
        self.value().split(',').next().filter(|head| !head.contains('=')).unwrap_or_default()
    }
}

/// The key of a first word that has none, by option (`implied_opt_name` of QEMU's option lists).
const IMPLIED: &[(&str, &str)] = &[
    ("drive", "file"),
    ("blockdev", "driver"),
    ("device", "driver"),
    ("object", "qom-type"),
    ("netdev", "type"),
    ("nic", "type"),
    ("net", "type"),
    ("chardev", "backend"),
    ("mon", "chardev"),
    ("machine", "type"),
    ("M", "type"),
    ("accel", "accel"),
    ("smp", "cpus"),
    ("icount", "shift"),
    ("rtc", "base"),
    ("audiodev", "driver"),
    ("audio", "driver"),
    ("display", "type"),
    ("fsdev", "fsdriver"),
    ("virtfs", "fsdriver"),
    ("tpmdev", "type"),
];

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

#[cfg(test)]
mod tests {
    use super::Item;

    #[test]
    fn options_values_and_images_are_told_apart() {
        let line = ["--nographic", "-m", "64", "disk.img", "-snapshot", "-drive", "a,if=ide", "-x"];
        let items = Item::all(&line.map(str::to_owned));
        let shown: Vec<String> = items.iter().map(Item::shown).collect();
        assert_eq!(shown, ["-nographic", "-m 64", "disk.img", "-snapshot", "-drive a,if=ide", "-x"]);
        assert_eq!(items[4].fields().get("file"), Some("a"));
    }
}
