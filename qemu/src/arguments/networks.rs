//! Networks: every backend gets its `filter-replay`, which logs the packets that come in. A replay takes them from
//! there, so it needs no backend: a port of a hub with nobody else on it stands in for any.
//!
//! The filter takes its number by order of creation, so the order of options stays (net/filter-replay.c,
//! replay/replay-net.c, 7.2 and 10.0).

use super::fields::{Fields, escaped};
use super::item::Item;
use super::{Arguments, Change, Instead, Mode, Refusal};

/// Hubs of the user's own have small numbers.
const HUB: usize = 1_000_000;

const FILTER: &str = "packets that come in are logged by a filter-replay on the network";
const UNPLUGGED: &str = "a replay takes the packets from the recording and needs nothing of the host";

/// Whether the option is a way from the guest to the outside.
pub(super) fn is_backend(item: &Item) -> bool {
    let fields = item.fields();
    match item.name.as_str() {
        "netdev" => fields.get("type") != Some("hubport"),
        "nic" => fields.get("type") != Some("none"),
        "net" => !matches!(fields.get("type"), Some("none" | "nic") | None),
        _ => false,
    }
}

pub(super) fn refuse(item: &Item) -> Result<(), Refusal> {
    if !item.is(&["netdev", "nic", "net"]) {
        return Ok(());
    }
    let fields = item.fields();
    let kind = fields.get("type").unwrap_or_default();
    let refused = |why, instead| Err(Refusal::Unrecorded { option: item.shown(), why, instead });
    if kind.starts_with("vhost")
        || fields.is_on("vhost")
        || fields.is_on("vhostforce")
        || fields.has("vhostfd")
    {
        return refused("packets of vhost go past QEMU, which can't log them", "use vhost=off");
    }
    if matches!(kind, "bridge" | "netmap")
        || kind == "tap" && ["fd", "fds", "helper"].iter().any(|key| fields.has(key))
    {
        return refused(
            "the guest would see offloads of the host's device, which a replay has not got",
            "make a tap device and use -netdev tap,ifname=NAME",
        );
    }
    if fields.has("queues") {
        return refused("QEMU's filter-replay knows networks of one queue only", "remove queues=");
    }
    Ok(())
}

pub(super) fn instead(all: &Arguments, place: usize, mode: Mode) -> Option<Instead> {
    let item = &all.items[place];
    if mode == Mode::Live || !is_backend(item) {
        return None;
    }
    let mut fields = item.fields();
    if item.name != "netdev" && !fields.has("id") {
        fields.set("id", &format!("tandem-net-{place}"));
    }
    // Without an id QEMU refuses the option.
    let id = fields.get("id")?.to_owned();
    let kind = fields.get("type").unwrap_or("user").to_owned();
    let mut why = FILTER;
    let value = if mode == Mode::Replay {
        why = UNPLUGGED;
        unplugged(item, &fields, &id, place)
    } else {
        if kind == "tap" && item.name != "net" {
            fields.switch("vnet_hdr", false);
        }
        fields.to_string()
    };
    let mut words = vec![format!("-{}", item.name), value];
    if !all.has_filter(&id) {
        words.push("-object".to_owned());
        words.push(format!("filter-replay,id=tandem-filter-{place},netdev={}", escaped(&id)));
    }
    (words != item.words()).then(|| Instead::new(words, why))
}

/// What a guest with a virtio network card needs beside the user's options.
///
/// As QEMU has it by default, the card sends what the guest gave it in a bottom half, which 7.2 does not log (10.0 does),
/// so that it comes at another instruction in the replay (hw/net/virtio-net.c, `virtio_net_handle_tx_bh`). Sending by a
/// timer of the virtual clock is repeatable in both.
pub(super) fn added(all: &Arguments) -> Option<Change> {
    let has_card = all.items.iter().any(|item| {
        let fields = item.fields();
        match item.name.as_str() {
            "device" => fields.get("driver").is_some_and(|driver| driver.starts_with("virtio-net")),
            "nic" | "net" => fields.get("model").is_some_and(|model| model.starts_with("virtio")),
            _ => false,
        }
    });
    has_card.then(|| Change {
        was: None,
        is: ["-global", "virtio-net-device.tx=timer"].map(str::to_owned).to_vec(),
        why: "the network card sends at an instruction that is the same each time",
    })
}

/// The same network without anything behind it.
fn unplugged(item: &Item, fields: &Fields, id: &str, place: usize) -> String {
    let id = escaped(id);
    match item.name.as_str() {
        // A -net can't be a hub's port, but it is on a hub of its own accord; nothing leaves it in a replay.
        "net" => format!("user,id={id},restrict=on"),
        "nic" => {
            let mut value = format!("hubport,hubid={},id={id}", HUB + place);
            for key in ["model", "mac"] {
                if let Some(given) = fields.get(key) {
                    value.push_str(&format!(",{key}={}", escaped(given)));
                }
            }
            value
        }
        _ => format!("hubport,hubid={},id={id}", HUB + place),
    }
}

impl Arguments {
    /// Whether the user gave the network `id` its filter already.
    fn has_filter(&self, id: &str) -> bool {
        self.all(&["object"])
            .map(Item::fields)
            .any(|object| object.get("qom-type") == Some("filter-replay") && object.get("netdev") == Some(id))
    }
}

#[cfg(test)]
mod tests {
    use crate::arguments::Time;
    use crate::arguments::tests::{parse, recorded, refusal, replayed};

    #[test]
    fn every_backend_gets_its_filter() {
        for (line, in_record, in_replay) in [
            (
                "-netdev user,id=n,hostfwd=tcp::2222-:22",
                "-netdev user,id=n,hostfwd=tcp::2222-:22 -object filter-replay,id=tandem-filter-0,netdev=n",
                "-netdev hubport,hubid=1000000,id=n -object filter-replay,id=tandem-filter-0,netdev=n",
            ),
            (
                "-nic user,model=virtio-net-pci,mac=52:54:00:11:22:33",
                "-nic user,model=virtio-net-pci,mac=52:54:00:11:22:33,id=tandem-net-0 \
                 -object filter-replay,id=tandem-filter-0,netdev=tandem-net-0",
                "-nic hubport,hubid=1000000,id=tandem-net-0,model=virtio-net-pci,mac=52:54:00:11:22:33 \
                 -object filter-replay,id=tandem-filter-0,netdev=tandem-net-0",
            ),
            (
                "-nic model=e1000",
                "-nic model=e1000,id=tandem-net-0 -object filter-replay,id=tandem-filter-0,netdev=tandem-net-0",
                "-nic hubport,hubid=1000000,id=tandem-net-0,model=e1000 \
                 -object filter-replay,id=tandem-filter-0,netdev=tandem-net-0",
            ),
            (
                "-net nic,model=e1000 -net user,hostname=x",
                "-net nic,model=e1000 -net user,hostname=x,id=tandem-net-1 \
                 -object filter-replay,id=tandem-filter-1,netdev=tandem-net-1",
                "-net nic,model=e1000 -net user,id=tandem-net-1,restrict=on \
                 -object filter-replay,id=tandem-filter-1,netdev=tandem-net-1",
            ),
            (
                "-netdev tap,id=t,ifname=tap0",
                "-netdev tap,id=t,ifname=tap0,vnet_hdr=off -object filter-replay,id=tandem-filter-0,netdev=t",
                "-netdev hubport,hubid=1000000,id=t -object filter-replay,id=tandem-filter-0,netdev=t",
            ),
            (
                "-netdev user,id=n -object filter-replay,id=f,netdev=n",
                "-netdev user,id=n -object filter-replay,id=f,netdev=n",
                "-netdev hubport,hubid=1000000,id=n -object filter-replay,id=f,netdev=n",
            ),
            ("-nic none", "-nic none", "-nic none"),
        ] {
            assert_eq!(recorded(line), in_record, "{line}");
            assert_eq!(replayed(line), in_replay, "{line}");
        }
    }

    #[test]
    fn a_virtio_card_sends_by_the_virtual_clock() {
        let has_timer = |line: &str| {
            let arranged = parse(line).recorded(Time::Host, "log").unwrap();
            let replayed = parse(line).replayed(Time::Host, "log").unwrap();
            let is_timer = |line: &[String]| line.join(" ").contains("-global virtio-net-device.tx=timer");
            assert_eq!(is_timer(&arranged.line), is_timer(&replayed.line), "{line}");
            is_timer(&arranged.line)
        };
        for line in ["-nic user,model=virtio", "-netdev user,id=n -device virtio-net-pci,netdev=n"] {
            assert!(has_timer(line), "{line}");
        }
        for line in ["-nic user", "-nic none", "-device virtio-blk-pci,drive=d"] {
            assert!(!has_timer(line), "{line}");
        }
    }

    #[test]
    fn networks_that_pass_qemu_by_are_refused() {
        for line in [
            "-netdev tap,id=n,vhost=on",
            "-netdev vhost-user,id=n,chardev=c",
            "-nic vhost-vdpa,vhostdev=/dev/vhost-vdpa-0",
            "-netdev bridge,id=n,br=br0",
            "-netdev tap,id=n,helper=/usr/lib/qemu/qemu-bridge-helper",
            "-netdev tap,id=n,queues=4",
        ] {
            assert!(refusal(line).contains(&format!("`{line}`")), "{line}");
        }
    }
}
