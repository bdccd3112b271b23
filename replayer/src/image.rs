//! Qcow2 images without a name (docs/interop/qcow2.txt): empty, for QEMU to keep states of a machine in; with one state
//! only, which [`Snapshot`] takes out of such an image; and a checkpoint's.

mod snapshot;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use recorder::checkpoint::{self, Checkpoint};
use recorder::reader::Reader;

pub use self::snapshot::Snapshot;

/// A cluster, bytes.
const CLUSTER: u64 = 1 << 16;

/// How many entries a table of a cluster has, 8 bytes each.
const ENTRIES: u64 = CLUSTER / 8;

/// How many reference counts a block of them has, 2 bytes each.
const COUNTS: u64 = CLUSTER / 2;

/// The size of an image that only a machine's state is kept in, bytes.
pub const STATE_ONLY: u64 = 1 << 20;

/// The name of the state in an image that has one only.
pub const STATE: &str = "tandem";

/// Makes an image of `size` bytes with nothing in it, in the folder for temporary files.
///
/// # Errors
/// Where it can't be written.
pub fn empty(size: u64) -> io::Result<File> {
    with_room(size, 0).map(|(file, _)| file)
}

/// The same with so many clusters more that are taken and hold nothing yet; gives back where the first lies.
fn with_room(size: u64, room: u64) -> io::Result<(File, u64)> {
    let entries = size.div_ceil(ENTRIES * CLUSTER);
    let first_table = entries.div_ceil(ENTRIES).max(1);
    // Header, table of blocks of reference counts, those, first table, room.
    let mut blocks = 1;
    let clusters = loop {
        let clusters = 2 + blocks + first_table + room;
        if clusters <= blocks * COUNTS {
            break clusters;
        }
        blocks = clusters.div_ceil(COUNTS);
    };
    if blocks > ENTRIES {
        return Err(io::Error::other("it is larger than any"));
    }
    let mut header = Vec::new();
    header.extend(*b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    // No backing file.
    header.extend([0; 12]);
    header.extend(16_u32.to_be_bytes());
    header.extend(size.to_be_bytes());
    // Not encrypted.
    header.extend(0_u32.to_be_bytes());
    header.extend(u32::try_from(entries).map_err(io::Error::other)?.to_be_bytes());
    header.extend(((2 + blocks) * CLUSTER).to_be_bytes());
    header.extend(CLUSTER.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    // No snapshots yet, no features.
    header.extend([0; 4 + 8 + 3 * 8]);
    // Reference counts have 16 bits.
    header.extend(4_u32.to_be_bytes());
    header.extend(104_u32.to_be_bytes());

    let file = tempfile::tempfile()?;
    file.set_len(clusters * CLUSTER)?;
    file.write_all_at(&header, 0)?;
    let table: Vec<_> = (2..2 + blocks).flat_map(|block| (block * CLUSTER).to_be_bytes()).collect();
    file.write_all_at(&table, CLUSTER)?;
    let counted = vec![[0, 1]; usize::try_from(clusters).map_err(io::Error::other)?];
    file.write_all_at(&counted.concat(), 2 * CLUSTER)?;
    Ok((file, (2 + blocks + first_table) * CLUSTER))
}

/// A copy of a file that will be written to again. Zeros stay holes.
pub fn copied(file: &File) -> io::Result<File> {
    let copy = tempfile::tempfile()?;
    let length = file.metadata()?.len();
    copy.set_len(length)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let piece = usize::try_from(length - at).unwrap_or(buffer.len()).min(buffer.len());
        file.read_exact_at(&mut buffer[..piece], at)?;
        write_but_zeros(&copy, &buffer[..piece], at)?;
        at += piece as u64;
    }
    Ok(copy)
}

/// Writes `bytes` at a place of a file that has nothing there. Zeros stay holes.
fn write_but_zeros(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    for (page, place) in bytes.chunks(4096).zip((at..).step_by(4096)) {
        if page.iter().any(|&byte| byte != 0) {
            file.write_all_at(page, place)?;
        }
    }
    Ok(())
}

/// The images of a checkpoint of `recording`: the machine's, then those of its drives.
///
/// # Errors
/// Where they can't be read or written.
pub fn restored<E: From<checkpoint::Error> + From<io::Error>>(
    recording: &mut Reader,
    checkpoint: &Checkpoint,
) -> Result<Vec<File>, E> {
    let mut files = Vec::new();
    for image in &checkpoint.images {
        let file = tempfile::tempfile()?;
        recording.restore(checkpoint.icount, image, &file)?;
        files.push(file);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::process::Command;

    use super::{STATE_ONLY, empty};

    #[test]
    fn qemu_finds_nothing_wrong_with_it() {
        for size in [STATE_ONLY, 16 << 30, (8 << 40) + 512] {
            let mut file = empty(size).unwrap();
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            let named = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(named.path(), bytes).unwrap();
            let run = |arguments: &[&str]| {
                Command::new("qemu-img").args(arguments).arg(named.path()).output().unwrap()
            };
            let checked = run(&["check", "-f", "qcow2"]);
            assert!(checked.status.success(), "{checked:?}");
            let told = run(&["info", "--output=json"]);
            let told = String::from_utf8(told.stdout).unwrap();
            assert!(told.contains(&format!("\"virtual-size\": {size}")), "{told}");
        }
    }
}
