//! Drives given as `-blockdev` nodes. The user's nodes are opened for reading only. On the one that a device has, a
//! temporary snapshot and a `blkreplay` are put with `-drive`, and the device gets that.
//!
//! `-blockdev` knows no temporary snapshot, and `-drive` takes another node only as the child of a driver that calls
//! it `image`: `blkdebug`, which does nothing when nothing is asked of it (block/blkdebug.c).

use super::fields::{Fields, escaped};
use super::item::Item;
use super::{Arguments, Instead, Mode};

const READ_ONLY: &str = "nothing is written to the image";
const ROOT: &str = "nothing is written to the image: writes go to a temporary file, and blkreplay logs when requests are complete";
const USER: &str = "has its drive through the recording's blkreplay or snapshot";

/// Where a device or the machine names a drive.
const DRIVE_KEYS: &[&str] = &["drive", "pflash0", "pflash1"];

impl Arguments {
    fn has_own_nodes(&self) -> bool {
        self.all(&["blockdev"]).any(|item| item.fields().values().any(|value| value == "blkreplay"))
    }

    /// The place of the `-blockdev` with this name.
    fn node(&self, name: &str) -> Option<usize> {
        self.items
            .iter()
            .position(|item| item.name == "blockdev" && item.fields().get("node-name") == Some(name))
    }

    /// Whether a device or the machine has the node itself.
    fn is_used(&self, node: &str) -> bool {
        let users = self.all(&["device", "machine", "M"]).map(Item::fields);
        users.into_iter().any(|user| DRIVE_KEYS.iter().any(|key| user.get(key) == Some(node)))
    }
}

pub(super) fn instead(all: &Arguments, place: usize, mode: Mode) -> Option<Instead> {
    let item = &all.items[place];
    if !item.is(&["blockdev", "device", "machine", "M"]) || all.has_own_nodes() {
        return None;
    }
    let fields = item.fields();
    if item.name == "blockdev" { node(all, place, fields, mode) } else { user(all, item, fields) }
}

fn node(all: &Arguments, place: usize, mut fields: Fields, mode: Mode) -> Option<Instead> {
    let name = fields.get("node-name")?.to_owned();
    let is_waited_for = all.waits_for(&name);
    if mode == Mode::Live && !is_waited_for {
        return None;
    }
    let was_read_only = fields.is_on("read-only");
    fields.switch("read-only", true);
    let mut words = vec!["-blockdev".to_owned(), fields.to_string()];
    if !all.is_used(&name) {
        return (!was_read_only).then(|| Instead::new(words, READ_ONLY));
    }
    let (image, drive) = (format!("tandem-image-{place}"), format!("tandem-drive-{place}"));
    let mut add = |value: String| words.extend(["-drive".to_owned(), value]);
    let node = escaped(&name);
    if was_read_only {
        let driver = if is_waited_for { "blkdebug" } else { "blkreplay" };
        add(format!("driver={driver},image={node},if=none,id={drive},readonly=on"));
    } else if is_waited_for {
        add(format!("driver=blkdebug,image={node},if=none,id={drive},snapshot=on"));
    } else {
        add(format!("driver=blkdebug,image={node},if=none,id={image},snapshot=on"));
        add(format!("driver=blkreplay,image={image},if=none,id={drive}"));
    }
    Some(Instead::new(words, ROOT))
}

fn user(all: &Arguments, item: &Item, mut fields: Fields) -> Option<Instead> {
    let mut changed = false;
    for key in DRIVE_KEYS {
        if let Some(place) = fields.get(key).and_then(|name| all.node(name)) {
            fields.set(key, &format!("tandem-drive-{place}"));
            changed = true;
        }
    }
    changed.then(|| Instead::new(vec![format!("-{}", item.name), fields.to_string()], USER))
}

#[cfg(test)]
mod tests {
    use crate::arguments::tests::{recorded, replayed};

    #[test]
    fn a_chain_of_nodes_is_read_only_under_a_snapshot() {
        let line = "-blockdev driver=file,node-name=f,filename=d -blockdev driver=qcow2,node-name=q,file=f \
                    -device virtio-blk-pci,drive=q";
        let becomes = "-blockdev driver=file,node-name=f,filename=d,read-only=on \
                       -blockdev driver=qcow2,node-name=q,file=f,read-only=on \
                       -drive driver=blkdebug,image=q,if=none,id=tandem-image-1,snapshot=on \
                       -drive driver=blkreplay,image=tandem-image-1,if=none,id=tandem-drive-1 \
                       -device virtio-blk-pci,drive=tandem-drive-1";
        assert_eq!(recorded(line), becomes);
        assert_eq!(replayed(line), becomes);
    }

    #[test]
    fn json_nodes_and_devices_are_taken_too() {
        let line = r#"-blockdev {"driver":"raw","node-name":"q","file":{"driver":"file","filename":"d"}} -device {"driver":"ide-hd","drive":"q"}"#;
        let becomes = recorded(line);
        assert!(becomes.contains(r#""read-only":true"#), "{becomes}");
        assert!(becomes.contains("-drive driver=blkreplay,image=tandem-image-0"), "{becomes}");
        assert!(becomes.contains(r#""drive":"tandem-drive-0""#), "{becomes}");
    }

    #[test]
    fn a_read_only_node_needs_no_snapshot_and_a_flash_no_blkreplay() {
        assert_eq!(
            recorded("-blockdev driver=file,node-name=c,filename=d,read-only=on -device ide-cd,drive=c"),
            "-blockdev driver=file,node-name=c,filename=d,read-only=on \
             -drive driver=blkreplay,image=c,if=none,id=tandem-drive-0,readonly=on \
             -device ide-cd,drive=tandem-drive-0"
        );
        assert_eq!(
            recorded("-machine q35,pflash0=v -blockdev driver=file,node-name=v,filename=d"),
            "-machine q35,pflash0=tandem-drive-1 -blockdev driver=file,node-name=v,filename=d,read-only=on \
             -drive driver=blkdebug,image=v,if=none,id=tandem-drive-1,snapshot=on"
        );
    }

    #[test]
    fn the_users_own_nodes_of_blkreplay_stay() {
        let line = "-blockdev driver=file,node-name=f,filename=d -blockdev driver=blkreplay,node-name=r,image=f \
                    -device ide-hd,drive=r";
        assert_eq!(recorded(line), line);
    }
}
