//! Serial and parallel ports and the character devices behind them. QEMU logs what `-serial` and `-parallel` take in,
//! by number of the port, so ports stay in number and order; a bare `-chardev` is not logged, and a monitor on a
//! port breaks replay (chardev/char.c, 7.2 and 10.0; docs/system/replay.rst).

use super::fields::{Fields, escaped};
use super::item::Item;
use super::{Arguments, Instead, Mode, Refusal};

const SPLIT: &str = "a monitor on the guest's serial port breaks replay";
const SILENT: &str = "a replay has no effects outside: what comes in is in the recording";

/// Backends from which nothing ever comes in.
const SILENT_BACKENDS: &[&str] = &["null", "ringbuf", "memory"];

/// The host's own ports.
const HOST_PORTS: &[&str] = &["serial", "tty", "parallel", "parport"];

/// Devices that write only.
const WRITING: &[&str] = &["isa-debugcon"];

impl Arguments {
    fn chardev(&self, id: &str) -> Option<Fields> {
        self.all(&["chardev"]).map(Item::fields).find(|chardev| chardev.get("id") == Some(id))
    }

    /// Whether `-serial`, `-parallel` or a device has the character device.
    pub(super) fn is_of_the_guest(&self, id: &str) -> bool {
        let named = |item: &Item| item.value().strip_prefix("chardev:") == Some(id);
        self.all(&["serial", "parallel"]).any(named)
            || self.all(&["device"]).any(|item| item.fields().get("chardev") == Some(id))
    }

    fn has_monitor(&self, id: &str) -> bool {
        self.all(&["mon"]).any(|item| item.fields().get("chardev") == Some(id))
    }

    /// Whether `-nographic` gives the guest a serial port on stdio (`qemu_create_default_devices`, vl.c).
    fn has_port_of_nographic(&self) -> bool {
        let has_own = |item: &Item| item.fields().get("driver") == Some("isa-serial");
        self.has(&["nographic"])
            && !self.has(&["serial", "nodefaults"])
            && !self.all(&["device"]).any(has_own)
    }

    /// Whether the guest has a serial port on stdio, so that what is typed there is logged.
    #[must_use]
    pub fn console_input(&self) -> bool {
        let is_stdio = |item: &Item| match item.value().strip_prefix("chardev:") {
            Some(id) => self.chardev(id).is_some_and(|chardev| chardev.get("backend") == Some("stdio")),
            None => matches!(item.head(), "stdio" | "mon:stdio"),
        };
        self.all(&["serial"]).any(is_stdio) || self.has_port_of_nographic()
    }
}

pub(super) fn refuse(all: &Arguments, item: &Item) -> Result<(), Refusal> {
    let refused = |why, instead| Err(Refusal::Unrecorded { option: item.shown(), why, instead });
    match item.name.as_str() {
        "serial" | "parallel"
            if item.value().starts_with("/dev/") && !item.value().starts_with("/dev/pts/") =>
        {
            refused("QEMU does not log a port of the host", "give a socket or a pty")
        }
        "chardev" if item.fields().get("backend").is_some_and(|kind| HOST_PORTS.contains(&kind)) => {
            refused("QEMU does not log a port of the host", "give a socket or a pty")
        }
        "device" => {
            let fields = item.fields();
            let writes = fields.get("driver").is_some_and(|driver| WRITING.contains(&driver));
            let speaks = |chardev: &Fields| {
                let backend = chardev.get("backend").unwrap_or_default();
                !SILENT_BACKENDS.contains(&backend) && (backend != "file" || chardev.has("input-path"))
            };
            let chardev = fields.get("chardev").and_then(|id| all.chardev(id));
            if !writes && chardev.as_ref().is_some_and(speaks) {
                return refused(
                    "QEMU logs what comes in through -serial, and not through a -chardev of a device",
                    "use -serial, or a -chardev that nothing comes from (file, null)",
                );
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(super) fn instead(all: &Arguments, place: usize, mode: Mode) -> Option<Instead> {
    let item = &all.items[place];
    let option = |value: &str| vec![format!("-{}", item.name), value.to_owned()];
    match item.name.as_str() {
        "nographic" => {
            let mut words = vec!["-display".to_owned(), "none".to_owned()];
            if all.has_port_of_nographic() {
                words.extend(["-serial".to_owned(), "stdio".to_owned()]);
            }
            if !all.has(&["monitor"]) {
                words.extend(["-monitor".to_owned(), "none".to_owned()]);
            }
            Some(Instead::new(words, SPLIT))
        }
        "serial" => {
            let port = item.value().strip_prefix("mon:");
            let backend = port.unwrap_or(item.value());
            let silenced = mode == Mode::Replay && !is_kept(backend);
            let mut words = option(if silenced { "null" } else { backend });
            if port.is_some() && !all.has(&["monitor"]) {
                words.extend(["-monitor".to_owned(), "none".to_owned()]);
            }
            let why = if port.is_some() { SPLIT } else { SILENT };
            (silenced || port.is_some()).then(|| Instead::new(words, why))
        }
        "parallel" | "debugcon" if mode == Mode::Replay && !is_kept(item.value()) => {
            Some(Instead::new(option("null"), SILENT))
        }
        "chardev" => chardev(all, item.fields(), mode),
        "mon" if mode == Mode::Replay => Some(Instead::new(Vec::new(), SILENT)),
        "mon" => {
            let fields = item.fields();
            let shared = fields.get("chardev").is_some_and(|id| all.is_of_the_guest(id));
            shared.then(|| Instead::new(Vec::new(), SPLIT))
        }
        _ => None,
    }
}

/// Backends that a replay may have.
fn is_kept(backend: &str) -> bool {
    matches!(backend, "stdio" | "none" | "null") || backend.starts_with("chardev:")
}

fn chardev(all: &Arguments, mut fields: Fields, mode: Mode) -> Option<Instead> {
    let id = fields.get("id")?.to_owned();
    let backend = fields.get("backend").unwrap_or_default();
    let of_the_guest = all.is_of_the_guest(&id);
    let word = "-chardev".to_owned();
    if mode == Mode::Replay && backend != "null" && (backend != "stdio" || !of_the_guest) {
        return Some(Instead::new(vec![word, format!("null,id={}", escaped(&id))], SILENT));
    }
    if fields.is_on("mux") && of_the_guest && all.has_monitor(&id) {
        fields.remove("mux");
        return Some(Instead::new(vec![word, fields.to_string()], SPLIT));
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::arguments::tests::{parse, recorded, refusal, replayed};

    #[test]
    fn ports_keep_their_number_and_a_replay_touches_nothing() {
        for (line, in_record, in_replay) in [
            ("-serial mon:stdio", "-serial stdio -monitor none", "-serial stdio -monitor none"),
            (
                "-serial stdio -serial file:second.log -serial none -serial tcp::44,server",
                "-serial stdio -serial file:second.log -serial none -serial tcp::44,server",
                "-serial stdio -serial null -serial none -serial null",
            ),
            ("-parallel file:p", "-parallel file:p", "-parallel null"),
            ("-debugcon file:p", "-debugcon file:p", "-debugcon null"),
            (
                "-chardev stdio,id=c,mux=on -serial chardev:c -mon chardev=c",
                "-chardev stdio,id=c -serial chardev:c",
                "-chardev stdio,id=c -serial chardev:c",
            ),
            (
                "-chardev socket,id=q,path=s,server=on -mon chardev=q,mode=control",
                "-chardev socket,id=q,path=s,server=on -mon chardev=q,mode=control",
                "-chardev null,id=q",
            ),
            (
                "-chardev file,id=c,path=log -device isa-debugcon,chardev=c",
                "-chardev file,id=c,path=log -device isa-debugcon,chardev=c",
                "-chardev null,id=c -device isa-debugcon,chardev=c",
            ),
            (
                "-nographic",
                "-display none -serial stdio -monitor none",
                "-display none -serial stdio -monitor none",
            ),
        ] {
            assert_eq!(recorded(line), in_record, "{line}");
            assert_eq!(replayed(line), in_replay, "{line}");
        }
    }

    #[test]
    fn input_that_qemu_does_not_log_is_refused() {
        for (line, named) in [
            ("-serial /dev/ttyS0", "-serial /dev/ttyS0"),
            ("-chardev serial,id=c,path=/dev/ttyUSB0", "-chardev serial,id=c,path=/dev/ttyUSB0"),
            ("-chardev stdio,id=c -device isa-serial,chardev=c", "-device isa-serial,chardev=c"),
            (
                "-chardev socket,id=c,path=x -device virtserialport,chardev=c",
                "-device virtserialport,chardev=c",
            ),
        ] {
            assert!(refusal(line).contains(&format!("`{named}`: ")), "{line}");
        }
        for line in [
            "-chardev stdio,id=c -device isa-debugcon,chardev=c",
            "-chardev null,id=c -device pci-serial,chardev=c",
        ] {
            assert_eq!(recorded(line), line);
        }
    }

    #[test]
    fn a_port_on_stdio_takes_what_is_typed() {
        for line in [
            "-serial stdio",
            "-serial mon:stdio",
            "-nographic",
            "-chardev stdio,id=c -serial chardev:c",
            "-serial null -serial stdio",
        ] {
            assert!(parse(line).console_input(), "{line}");
        }
        for line in [
            "",
            "-serial null",
            "-nographic -serial file:x",
            "-nographic -nodefaults",
            "-chardev stdio,id=c -device isa-debugcon,chardev=c",
            "-chardev file,id=c,path=x -serial chardev:c",
        ] {
            assert!(!parse(line).console_input(), "{line}");
        }
    }
}
