//! Devices whose inputs QEMU does not log: it says nothing of them and the replay goes astray, so they are refused.
//!
//! Sources: the users of `replay_` in QEMU's hw/, block/, chardev/, net/ and backends/, 7.2 and 10.0; and runs.

use super::item::Item;
use super::{Arguments, Instead, Mode, Refusal, drives};

/// What is refused of the devices whose driver is, or begins with (`*`), the first word.
const UNRECORDED: &[(&str, &str, &str)] = &[
    ("vfio-*", "what a passed-through PCI device does is not logged", "use an emulated device"),
    ("usb-host", "what a passed-through USB device does is not logged", "use an emulated device"),
    ("usb-redir", "what a redirected USB device does is not logged", "use an emulated device"),
    (
        "usb-mtp",
        "the host's folder can change between recording and replay",
        "put the files into a disk image",
    ),
    ("u2f-passthru", "what a passed-through key does is not logged", "remove it"),
    ("ccid-card-*", "what a smart card says is not logged", "remove it"),
    (
        "vhost-*",
        "what a vhost device does goes past QEMU, which can't log it",
        "use the virtio device without vhost",
    ),
    (
        "virtio-9p*",
        "what the host's folder holds is not logged",
        "put the files into a disk image or an initramfs",
    ),
    ("virtio-gpu-gl*", "what the host's GPU does is not logged", "use virtio-gpu or VGA"),
    ("virtio-vga-gl", "what the host's GPU does is not logged", "use virtio-vga or VGA"),
    ("virtio-gpu-rutabaga*", "what the host's GPU does is not logged", "use virtio-gpu or VGA"),
    ("virtio-vga-rutabaga", "what the host's GPU does is not logged", "use virtio-vga or VGA"),
    ("ivshmem-*", "what others write into shared memory is not logged", "remove it"),
    ("scsi-generic", "a passed-through SCSI device is no plain file", "use scsi-hd with an image"),
    ("scsi-block", "a passed-through SCSI device is no plain file", "use scsi-hd with an image"),
    (
        "nvme*",
        "QEMU does not log when its commands are complete, and replays of it go astray",
        "use -device virtio-blk-pci",
    ),
    ("ahci", AHCI, AHCI_INSTEAD),
    ("ich9-ahci", AHCI, AHCI_INSTEAD),
    ("ufs*", "QEMU does not log when its commands are complete", "use -device virtio-blk-pci"),
];

/// QEMU 7.2 records and replays it, 10.0 hangs while it records (hw/ide/ahci.c, `check_bh`, is not logged in either).
const AHCI: &str =
    "QEMU does not log when an AHCI disk's commands are complete, and 10.0 hangs recording one";
const AHCI_INSTEAD: &str = "use if=virtio, or -M pc for an IDE disk";

/// Devices, named as above, that work in bottom halves that QEMU does not log (`qemu_bh_schedule` in hw/, 7.2 and
/// 10.0): when the work is done depends on the host.
const DOUBTFUL: &[&str] = &[
    "virtio-gpu*",
    "virtio-vga*",
    "virtio-crypto*",
    "qxl*",
    "mptsas1068",
    "pvscsi",
    "usb-ehci",
    "ich9-usb-ehci*",
    "usb-uas",
    "vmbus-bridge",
];

const DOUBT: &str = "when it is done with its work is not logged, so its replay may go astray";

/// Whether a driver is, or begins with (`*`), the pattern.
fn matches(pattern: &str, driver: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => driver.starts_with(start),
        None => driver == pattern,
    }
}

/// Disks that q35 puts on its own AHCI controller, which is the one where its IDE disks go.
pub(super) fn refuse_on_q35(all: &Arguments) -> Result<(), Refusal> {
    let machine =
        all.all(&["machine", "M"]).filter_map(|item| item.fields().get("type").map(str::to_owned)).last();
    if !machine.is_some_and(|name| name == "q35" || name.starts_with("pc-q35")) {
        return Ok(());
    }
    let is_disk = |item: &&Item| {
        let fields = item.fields();
        let driver = fields.get("driver").unwrap_or_default();
        let own = fields.get("bus").is_some_and(|bus| !bus.starts_with("ide."));
        drives::is_ide(item) || item.name == "device" && matches!(driver, "ide-hd" | "ide-cd") && !own
    };
    match all.items.iter().find(is_disk) {
        None => Ok(()),
        Some(item) => Err(Refusal::Unrecorded { option: item.shown(), why: AHCI, instead: AHCI_INSTEAD }),
    }
}

/// Devices whose replay is in doubt, in words.
pub(super) fn warnings(all: &Arguments) -> impl Iterator<Item = String> {
    all.items.iter().filter_map(|item| {
        let fields = item.fields();
        let is_doubtful = match item.name.as_str() {
            "device" => {
                let driver = fields.get("driver").unwrap_or_default();
                DOUBTFUL.iter().any(|pattern| matches(pattern, driver))
            }
            "vga" => matches!(item.value(), "virtio" | "qxl"),
            _ => false,
        };
        is_doubtful.then(|| format!("`{}`: {DOUBT}", item.shown()))
    })
}

pub(super) fn refuse(item: &Item) -> Result<(), Refusal> {
    let refused = |why, instead| Err(Refusal::Unrecorded { option: item.shown(), why, instead });
    let fields = item.fields();
    match item.name.as_str() {
        "device" => {
            let driver = fields.get("driver").unwrap_or_default();
            if let Some((_, why, instead)) = UNRECORDED.iter().find(|(pattern, ..)| matches(pattern, driver))
            {
                return refused(why, instead);
            }
            if fields.has("iothread") || fields.has("iothread-vq-mapping") {
                return refused("an I/O thread runs beside the guest at its own pace", "remove iothread=");
            }
        }
        "virtfs" | "fsdev" => {
            return refused(
                "what the host's folder holds is not logged",
                "put the files into a disk image or an initramfs",
            );
        }
        "tpmdev" => return refused("what a TPM answers is not logged", "remove it and its device"),
        "object" => {
            let is_file = fields.get("qom-type") == Some("memory-backend-file");
            if is_file && fields.is_on("share") && !fields.is_on("readonly") {
                return refused("the guest would write to the file", "use share=off");
            }
            if fields.get("qom-type") == Some("rng-egd") {
                return refused("random bytes from outside are not logged", "use -object rng-builtin");
            }
        }
        _ => {}
    }
    Ok(())
}

/// Random bytes of the host's are not logged, those of QEMU's own generator are (backends/rng-builtin.c).
pub(super) fn instead(all: &Arguments, place: usize, _: Mode) -> Option<Instead> {
    let item = &all.items[place];
    let fields = item.fields();
    if item.name != "object" || fields.get("qom-type") != Some("rng-random") {
        return None;
    }
    let id = super::fields::escaped(fields.get("id")?);
    let words = vec!["-object".to_owned(), format!("rng-builtin,id={id}")];
    Some(Instead::new(words, "random bytes from the host's device are not logged, those of rng-builtin are"))
}

#[cfg(test)]
mod tests {
    use crate::arguments::Time;
    use crate::arguments::tests::{parse, recorded, refusal};

    #[test]
    fn devices_that_qemu_does_not_log_are_refused() {
        for line in [
            "-device vfio-pci,host=01:00.0",
            "-device usb-host,hostbus=1",
            "-device vhost-vsock-pci,guest-cid=3",
            "-device vhost-user-fs-pci,chardev=c",
            "-device virtio-9p-pci,fsdev=f",
            "-device virtio-gpu-gl",
            "-device virtio-blk-pci,drive=d,iothread=t",
            "-device nvme,serial=1,drive=d",
            "-device ahci,id=a",
            r#"-device {"driver":"nvme","serial":"1"}"#,
            "-virtfs local,path=/tmp,mount_tag=t,security_model=none",
            "-tpmdev emulator,id=t,chardev=c",
            "-object memory-backend-file,id=m,size=1M,mem-path=x,share=on",
        ] {
            assert!(refusal(line).contains(&format!("`{line}`: ")), "{line}");
        }
    }

    #[test]
    fn the_hosts_random_bytes_become_qemus_own() {
        for line in
            ["-object rng-random,id=r,filename=/dev/urandom", r#"-object {"qom-type":"rng-random","id":"r"}"#]
        {
            assert_eq!(recorded(line), "-object rng-builtin,id=r");
        }
    }

    #[test]
    fn disks_of_q35_are_refused_and_those_of_other_controllers_are_not() {
        for disk in
            ["-hda x", "-cdrom x.iso", "-drive file=x", "-drive file=x,if=ide", "-device ide-hd,drive=d"]
        {
            let refusal = refusal(&format!("-M q35 {disk}"));
            assert!(refusal.contains(&format!("`{disk}`")) && refusal.contains("-M pc"), "{refusal}");
            recorded(&format!("-M pc {disk}"));
        }
        for disk in [
            "-drive file=x,if=virtio",
            "-drive file=x,if=none,id=d -device virtio-blk-pci,drive=d",
            "-device piix3-ide,id=i -device ide-hd,drive=d,bus=i.0",
            "-drive if=pflash,file=x",
        ] {
            recorded(&format!("-machine pc-q35-7.2 {disk}"));
        }
    }

    #[test]
    fn a_device_that_works_unlogged_is_a_warning() {
        for line in ["-device virtio-gpu-pci", "-vga qxl", "-device pvscsi"] {
            let warnings = parse(line).recorded(Time::Host, "log").unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(line), "{warnings:?}");
        }
    }
}
