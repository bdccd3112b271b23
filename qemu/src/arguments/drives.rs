//! Drives: `-drive` and its short forms. Each image gets a snapshot, so that nothing is ever written to it, and a
//! `blkreplay` between the image and the device, which logs when a request is complete (block/blkreplay.c).
//!
//! One `-drive` becomes two: the image with all that says how it is read, and a `blkreplay` of it with all that says
//! where the guest finds it. So QEMU itself makes the device that it would have made (blockdev.c, `drive_new`).
//!
//! Devices that wait for their requests within an instruction (floppy, flash, SD card) need the snapshot only: their
//! requests are complete before the guest goes on, and behind `blkreplay` they would wait for ever.

use super::fields::{Fields, escaped};
use super::item::Item;
use super::{Arguments, Instead, Mode, Refusal};

/// The options whose value is an image and nothing else, and what they stand for (system/vl.c).
const SHORT: &[(&str, &str)] = &[
    ("", "index=0,media=disk"),
    ("hda", "index=0,media=disk"),
    ("hdb", "index=1,media=disk"),
    ("hdc", "index=2,media=disk"),
    ("hdd", "index=3,media=disk"),
    ("cdrom", "index=2,media=cdrom"),
    ("fda", "if=floppy,index=0"),
    ("fdb", "if=floppy,index=1"),
    ("sd", "if=sd"),
    ("mtdblock", "if=mtd"),
    ("pflash", "if=pflash"),
];

/// Devices and interfaces that wait for each request.
const WAITING: &[&str] = &["floppy", "sd-card", "sd-card-spi", "emmc", "cfi.pflash01", "cfi.pflash02"];
const WAITING_INTERFACES: &[&str] = &["floppy", "pflash", "sd", "mtd"];

/// Image drivers whose data does not lie in a plain file.
const REMOTE: &[&str] = &[
    "nbd",
    "ssh",
    "http",
    "https",
    "ftp",
    "ftps",
    "iscsi",
    "rbd",
    "nfs",
    "gluster",
    "sheepdog",
    "vvfat",
    "fat",
    "nvme",
    "host_device",
    "host_cdrom",
    "blkio",
    "io_uring",
    "nvme-io_uring",
    "virtio-blk-vfio-pci",
    "virtio-blk-vhost-user",
    "virtio-blk-vhost-vdpa",
];

const WHY: &str = "writes go to a temporary file, and blkreplay logs when requests are complete";
const WHY_SNAPSHOT: &str = "writes go to a temporary file";
const WHY_READ_ONLY: &str = "blkreplay logs when requests are complete";

/// The option as the `-drive` that it stands for.
fn drive(item: &Item) -> Option<Fields> {
    if item.name == "drive" {
        return Some(item.fields());
    }
    let (_, rest) = SHORT.iter().find(|(name, _)| *name == item.name)?;
    Some(Fields::parse(&format!("file={},{rest}", escaped(item.value())), "file"))
}

/// Whether there is an image at all: a drive may be empty.
fn has_image(fields: &Fields) -> bool {
    fields.get("file").is_some_and(|file| !file.is_empty())
        || fields.has("driver")
        || fields.keys().any(|key| key.starts_with("file."))
}

/// Whether it is the user's own `blkreplay`, or the image behind it.
fn is_by_hand(all: &Arguments, fields: &Fields) -> bool {
    let is_replay = |fields: &Fields| fields.get("driver") == Some("blkreplay");
    let images = || all.all(&["drive"]).map(Item::fields).filter(is_replay);
    is_replay(fields)
        || fields.get("id").is_some_and(|id| images().any(|replay| replay.get("image") == Some(id)))
}

/// Whether whoever uses the drive waits for its requests.
fn is_waited_for(all: &Arguments, fields: &Fields) -> bool {
    let interface = fields.get("if").unwrap_or_default();
    WAITING_INTERFACES.contains(&interface) || fields.get("id").is_some_and(|id| all.waits_for(id))
}

impl Arguments {
    /// Whether the device that has the drive or node `id` waits for each request.
    pub(super) fn waits_for(&self, id: &str) -> bool {
        let device = |fields: Fields| {
            fields.get("drive") == Some(id)
                && fields.get("driver").is_some_and(|driver| WAITING.contains(&driver))
        };
        let machine = |fields: Fields| ["pflash0", "pflash1"].iter().any(|key| fields.get(key) == Some(id));
        self.all(&["device"]).map(Item::fields).any(device)
            || self.all(&["machine", "M"]).map(Item::fields).any(machine)
    }
}

/// Whether the option is a drive whose requests are complete only later, in host time. Floppies are counted too:
/// QEMU hangs in virtual time when a guest probes one.
pub(super) fn completes_later(all: &Arguments, item: &Item) -> bool {
    if item.name == "blockdev" {
        let fields = item.fields();
        return !fields.get("node-name").is_some_and(|node| all.waits_for(node) && !all.is_floppy(node));
    }
    let Some(fields) = drive(item) else { return false };
    let is_floppy =
        fields.get("if") == Some("floppy") || fields.get("id").is_some_and(|id| all.is_floppy(id));
    has_image(&fields) && (is_floppy || !is_waited_for(all, &fields))
}

impl Arguments {
    fn is_floppy(&self, id: &str) -> bool {
        let devices = self.all(&["device"]).map(Item::fields);
        devices
            .into_iter()
            .any(|fields| fields.get("drive") == Some(id) && fields.get("driver") == Some("floppy"))
    }
}

/// Whether the option puts an image where the machine has its IDE disks.
pub(super) fn is_ide(item: &Item) -> bool {
    drive(item).is_some_and(|fields| has_image(&fields) && matches!(fields.get("if"), None | Some("ide")))
}

/// Whether nothing can be written to it.
fn is_read_only(fields: &Fields) -> bool {
    fields.is_on("readonly") || fields.is_on("read-only") || fields.get("media") == Some("cdrom")
}

/// Limits of speed: they wait in host time, and nobody logs it.
fn is_limit(key: &str) -> bool {
    key.starts_with("throttling.") || key.starts_with("iops") || key.starts_with("bps") || key == "group"
}

/// What says where the guest finds the drive, and not how its image is read.
pub(super) fn is_of_the_device(key: &str) -> bool {
    const KEYS: &[&str] = &[
        "if",
        "bus",
        "unit",
        "index",
        "media",
        "id",
        "node-name",
        "werror",
        "rerror",
        "readonly",
        "read-only",
        "cache.writeback",
    ];
    KEYS.contains(&key)
}

pub(super) fn instead(all: &Arguments, place: usize, mode: Mode) -> Option<Instead> {
    let item = &all.items[place];
    let fields = drive(item)?;
    if !has_image(&fields) || is_by_hand(all, &fields) {
        return None;
    }
    let read_only = is_read_only(&fields);
    if is_waited_for(all, &fields) {
        if read_only || fields.is_on("snapshot") {
            return None;
        }
        let mut fields = fields;
        fields.set("snapshot", "on");
        return Some(Instead::new(vec!["-drive".to_owned(), fields.to_string()], WHY_SNAPSHOT));
    }
    if mode == Mode::Live {
        return None;
    }
    let writethrough = matches!(fields.get("cache"), Some("writethrough" | "directsync"));
    let discard = fields.get("discard").map(str::to_owned);
    let (limits, fields) = fields.split(is_limit);
    let (mut device, mut image) = fields.split(is_of_the_device);
    let id = format!("tandem-image-{place}");
    image.remove("snapshot");
    image.set("if", "none");
    image.set("id", &id);
    image.set(if read_only { "readonly" } else { "snapshot" }, "on");
    device.set("driver", "blkreplay");
    device.set("image", &id);
    if writethrough && !device.has("cache.writeback") {
        device.set("cache.writeback", "off");
    }
    if let Some(discard) = discard {
        device.set("discard", &discard);
    }
    let words = ["-drive".to_owned(), image.to_string(), "-drive".to_owned(), device.to_string()];
    let mut instead = Instead::new(words.to_vec(), if read_only { WHY_READ_ONLY } else { WHY });
    if limits.keys().next().is_some() {
        instead.warning =
            Some(format!("`{}`: limits of speed are left out, they wait in host time", item.shown()));
    }
    Some(instead)
}

/// Refuses images whose bytes nobody can hold on to.
pub(super) fn refuse(item: &Item) -> Result<(), Refusal> {
    let fields = match drive(item) {
        Some(fields) => fields,
        None if item.name == "blockdev" => item.fields(),
        None => return Ok(()),
    };
    let parts: Vec<(&str, &str)> = fields.keys().zip(fields.values()).collect();
    let remote_driver = parts.iter().any(|(key, value)| {
        (*key == "driver" || *key == "format" || key.ends_with(".driver")) && REMOTE.contains(value)
    });
    let names =
        parts.iter().filter(|(key, _)| *key == "file" || *key == "filename" || key.ends_with(".filename"));
    let elsewhere = names.map(|(_, name)| name).any(|name| {
        let protocol = name.split_once(':').map(|(protocol, _)| protocol).filter(|p| !p.contains('/'));
        let device = name.strip_prefix("/dev/").is_some_and(|rest| !rest.starts_with("shm/"));
        device || protocol.is_some_and(|protocol| protocol != "file")
    });
    if remote_driver || elsewhere {
        return Err(Refusal::Unrecorded {
            option: item.shown(),
            why: "the image is no plain file here, so nobody can say that a replay reads the same",
            instead: "copy it into a file (qemu-img convert) and name that",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::arguments::tests::{live, recorded, refusal, replayed};

    #[test]
    fn every_form_of_a_drive_becomes_an_image_and_a_blkreplay() {
        for (line, becomes) in [
            (
                "-drive file=d.img,if=virtio,format=raw",
                "-drive file=d.img,format=raw,if=none,id=tandem-image-0,snapshot=on \
                 -drive if=virtio,driver=blkreplay,image=tandem-image-0",
            ),
            (
                "-hdb d,1.img",
                "-drive file=d,,1.img,if=none,id=tandem-image-0,snapshot=on \
                 -drive index=1,media=disk,driver=blkreplay,image=tandem-image-0",
            ),
            (
                "d.img",
                "-drive file=d.img,if=none,id=tandem-image-0,snapshot=on \
                 -drive index=0,media=disk,driver=blkreplay,image=tandem-image-0",
            ),
            (
                "-cdrom c.iso",
                "-drive file=c.iso,if=none,id=tandem-image-0,readonly=on \
                 -drive index=2,media=cdrom,driver=blkreplay,image=tandem-image-0",
            ),
            (
                "-drive d.img,if=scsi,bus=1,unit=2,readonly=on,cache=writethrough,werror=report",
                "-drive d.img,cache=writethrough,if=none,id=tandem-image-0,readonly=on \
                 -drive if=scsi,bus=1,unit=2,readonly=on,werror=report,driver=blkreplay,\
                 image=tandem-image-0,cache.writeback=off",
            ),
            (
                "-drive file=d,if=none,id=hd,snapshot=on,discard=unmap -device virtio-blk-pci,drive=hd,serial=7",
                "-drive file=d,discard=unmap,if=none,id=tandem-image-0,snapshot=on \
                 -drive if=none,id=hd,driver=blkreplay,image=tandem-image-0,discard=unmap \
                 -device virtio-blk-pci,drive=hd,serial=7",
            ),
            (
                "-drive driver=qcow2,file.driver=file,file.filename=d,if=virtio",
                "-drive driver=qcow2,file.driver=file,file.filename=d,if=none,id=tandem-image-0,snapshot=on \
                 -drive if=virtio,driver=blkreplay,image=tandem-image-0",
            ),
            ("-drive if=ide,media=cdrom", "-drive if=ide,media=cdrom"),
        ] {
            assert_eq!(recorded(line), becomes, "{line}");
            assert_eq!(replayed(line), becomes, "a replay has the same drives: {line}");
        }
    }

    #[test]
    fn devices_that_wait_get_the_snapshot_only() {
        for (line, becomes) in [
            ("-pflash vars.fd", "-drive file=vars.fd,if=pflash,snapshot=on"),
            ("-drive if=pflash,file=code.fd,readonly=on", "-drive if=pflash,file=code.fd,readonly=on"),
            ("-fda a.img", "-drive file=a.img,if=floppy,index=0,snapshot=on"),
            (
                "-drive file=a,if=none,id=f -device floppy,drive=f",
                "-drive file=a,if=none,id=f,snapshot=on -device floppy,drive=f",
            ),
            (
                "-drive file=a,if=none,id=f -machine q35,pflash0=f",
                "-drive file=a,if=none,id=f,snapshot=on -machine q35,pflash0=f",
            ),
        ] {
            assert_eq!(recorded(line), becomes, "{line}");
        }
        assert_eq!(live("-pflash vars.fd"), "-drive file=vars.fd,if=pflash,snapshot=on");
    }

    #[test]
    fn the_users_own_blkreplay_stays() {
        let line = "-drive file=d,if=none,snapshot=on,id=a -drive driver=blkreplay,if=none,image=a,id=b \
                    -device ide-hd,drive=b";
        assert_eq!(recorded(line), line);
    }

    #[test]
    fn images_that_are_no_files_are_refused() {
        for line in [
            "-drive file=nbd://host/x,if=virtio",
            "-hda fat:rw:/tmp",
            "-cdrom /dev/cdrom",
            "-drive file.driver=ssh,file.host=x,if=virtio",
            "-blockdev driver=host_device,filename=/dev/sdb,node-name=n",
            "-blockdev driver=raw,node-name=n,file.driver=nbd,file.host=x",
        ] {
            assert!(refusal(line).contains(&format!("`{line}`")), "{line}");
        }
        assert!(recorded("-hda file:d.img").contains("file=file:d.img"));
        assert!(
            recorded("-hda ./a:b").contains("./a:b") && recorded("-hda /dev/shm/d").contains("/dev/shm/d")
        );
    }
}
