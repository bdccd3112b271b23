//! Images without a name that a machine's state is kept in: an empty qcow2 one for QEMU to write to
//! (docs/interop/qcow2.txt), and a checkpoint's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use recorder::checkpoint::{self, Checkpoint};
use recorder::reader::Reader;

/// A cluster, bytes.
const CLUSTER: u64 = 1 << 16;

/// What each entry of the first table stands for, bytes: a cluster of 8-byte entries, each a cluster.
const PER_ENTRY: u64 = CLUSTER / 8 * CLUSTER;

/// The size of an image that only a machine's state is kept in, bytes.
pub const STATE_ONLY: u64 = 1 << 20;

/// Makes an image of `size` bytes with nothing in it, in the folder for temporary files.
///
/// # Errors
/// Where it can't be written.
pub fn empty(size: u64) -> io::Result<File> {
    let entries = size.div_ceil(PER_ENTRY);
    let table = (entries * 8).div_ceil(CLUSTER).max(1);
    // Header, table of reference counts, one block of them, first table.
    let clusters = 3 + table;
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
    header.extend((3 * CLUSTER).to_be_bytes());
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
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    let counted = vec![[0, 1]; usize::try_from(clusters).map_err(io::Error::other)?];
    file.write_all_at(&counted.concat(), 2 * CLUSTER)?;
    Ok(file)
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
