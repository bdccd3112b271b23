//! A state that QEMU has kept (`savevm`) in an image that it still has open, read from outside.
//!
//! From QEMU 11 on no state can be deleted while it replays: `bdrv_snapshot_delete` demands that all is drained, and a
//! replay does not drain. So each state gets a name of its own, is copied into an image where it is the only one, and what
//! no later state has in common with it is taken out of the file beneath QEMU, which never reads or writes it again. So an
//! image in which many states are kept needs the place of two.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};

use super::{CLUSTER, ENTRIES, STATE, with_room, write_but_zeros};

/// Where the header has what is needed here, and how long it is up to there, bytes.
const CLUSTER_BITS: usize = 20;
const SIZE: usize = 24;
const SNAPSHOTS: usize = 60;
const FEATURES: usize = 72;
const HEADER: usize = 80;

/// Of an entry in the table of snapshots what comes before that whose length varies, bytes.
const FIXED: usize = 40;

/// The most that may be said of a state in what varies, bytes.
const MOST_SAID: usize = 1 << 10;

/// The longest table of clusters that a state may have, entries: a state of 32 TiB.
const LONGEST: u32 = 1 << 16;

/// In an entry of a table: where it points.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is compressed; it reads as zeros.
const COMPRESSED: u64 = 1 << 62;
const ZEROS: u64 = 1;

/// A state of a machine, or what a drive of it had then.
#[derive(Debug)]
pub struct Snapshot {
    /// The image's size, bytes.
    size: u64,
    /// What else is said of it: when it was kept, how long the machine's state is, at which icount.
    said: Vec<u8>,
    /// How many entries its first table has.
    entries: u32,
    /// Where each of its clusters lies in the image; nowhere, and it reads as zeros. The machine's state is behind the
    /// drive's.
    clusters: BTreeMap<u64, Option<u64>>,
}

impl Snapshot {
    /// What was kept last in `image`, which has to have the name `name`.
    ///
    /// # Errors
    /// Where it is not there, or the image can't be read.
    pub fn last(image: &File, name: &str) -> io::Result<Self> {
        let header = read(image, 0, HEADER)?;
        if !header.starts_with(b"QFI\xfb\0\0\0\x03")
            || half(&header, CLUSTER_BITS) != CLUSTER.trailing_zeros()
            || whole(&header, FEATURES) != 0
        {
            return Err(strange("is of another kind than expected"));
        }
        let mut at = whole(&header, SNAPSHOTS + 4);
        let mut last = None;
        for _ in 0..half(&header, SNAPSHOTS) {
            let fixed = read(image, at, FIXED)?;
            let (id, named) = (half(&fixed, 12) >> 16, half(&fixed, 12) & 0xffff);
            let (id, named, extra) = (id as usize, named as usize, half(&fixed, 36) as usize);
            if extra > MOST_SAID {
                return Err(strange("says more of a state than any"));
            }
            let rest = read(image, at + FIXED as u64, extra + id + named)?;
            at += ((FIXED + extra + id + named) as u64).next_multiple_of(8);
            last = Some((fixed, rest, extra, id));
        }
        let last = last.filter(|(_, rest, extra, id)| &rest[extra + id..] == name.as_bytes());
        let (mut said, rest, extra, _) = last.ok_or_else(|| strange("has no state of that name"))?;
        let (table, entries) = (whole(&said, 0), half(&said, 8));
        if entries > LONGEST {
            return Err(strange("has a state larger than any"));
        }
        said.extend(&rest[..extra]);

        let mut clusters = BTreeMap::new();
        let numbers = |table: &[u8]| -> Vec<u64> {
            (0..table.len() / 8).map(|entry| whole(table, entry * 8)).collect()
        };
        let first = numbers(&read(image, table, entries as usize * 8)?);
        for (first, entry) in (0..).zip(first).filter(|(_, entry)| entry & PLACE != 0) {
            let second =
                numbers(&read(image, entry & PLACE, (ENTRIES * 8).try_into().unwrap_or(usize::MAX))?);
            for (second, entry) in (0..).zip(second).filter(|(_, entry)| *entry != 0) {
                if entry & COMPRESSED != 0 {
                    return Err(strange("has compressed clusters"));
                }
                let place = (entry & ZEROS == 0).then_some(entry & PLACE);
                clusters.insert(first * ENTRIES + second, place);
            }
        }
        Ok(Snapshot { size: whole(&header, SIZE), said, entries, clusters })
    }

    /// An image with this state and nothing else, under the name that a restored one has.
    ///
    /// # Errors
    /// Where `image`, which it was read from, can't be read, or that one not be written.
    pub fn alone(&self, image: &File) -> io::Result<File> {
        let seconds: HashSet<u64> = self.clusters.keys().map(|cluster| cluster / ENTRIES).collect();
        let data = self.clusters.values().flatten().count() as u64;
        let first_table = u64::from(self.entries).div_ceil(ENTRIES).max(1);
        // The table of snapshots, of one entry, then the tables of clusters, and the clusters.
        let room = 1 + first_table + seconds.len() as u64 + data;
        let (alone, listed) = with_room(self.size, room)?;
        let table = listed + CLUSTER;
        let mut free = table + first_table * CLUSTER;
        let mut take = || {
            free += CLUSTER;
            free - CLUSTER
        };
        let mut bytes = vec![0; 1 << CLUSTER.trailing_zeros()];
        let mut second: Option<(u64, u64)> = None;
        for (&cluster, &place) in &self.clusters {
            let (first, entry) = (cluster / ENTRIES, cluster % ENTRIES);
            let at = match second {
                Some((known, at)) if known == first => at,
                _ => {
                    let at = take();
                    alone.write_all_at(&at.to_be_bytes(), table + first * 8)?;
                    at
                }
            };
            second = Some((first, at));
            let points = match place {
                Some(place) => {
                    let copy = take();
                    read_into(&mut bytes, image, place)?;
                    write_but_zeros(&alone, &bytes, copy)?;
                    copy
                }
                None => ZEROS,
            };
            alone.write_all_at(&points.to_be_bytes(), at + entry * 8)?;
        }

        const ID: &[u8] = b"1";
        let length = |text: &[u8]| u16::try_from(text.len()).map(u16::to_be_bytes).map_err(io::Error::other);
        let mut entry = self.said.clone();
        entry[..8].copy_from_slice(&table.to_be_bytes());
        entry[12..14].copy_from_slice(&length(ID)?);
        entry[14..16].copy_from_slice(&length(STATE.as_bytes())?);
        alone.write_all_at(&[&entry, ID, STATE.as_bytes()].concat(), listed)?;
        alone.write_all_at(&1_u32.to_be_bytes(), SNAPSHOTS as u64)?;
        alone.write_all_at(&listed.to_be_bytes(), SNAPSHOTS as u64 + 4)?;
        Ok(alone)
    }

    /// Gives back the place in `image` of what `newer`, the one that was kept there next, has not in common with it.
    pub fn free(&self, image: &File, newer: &Snapshot) {
        let needed: HashSet<u64> = newer.clusters.values().flatten().copied().collect();
        for place in self.clusters.values().flatten().filter(|place| !needed.contains(place)) {
            let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A file system that can't make holes has to have the place.
            let _ = fallocate(image, how, place.cast_signed(), CLUSTER.cast_signed());
        }
    }
}

/// What lies at a place of a file, with zeros behind its end.
fn read(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    read_into(&mut bytes, file, at)?;
    Ok(bytes)
}

fn read_into(bytes: &mut [u8], file: &File, at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[done..].fill(0);
    Ok(())
}

fn strange(what: &str) -> io::Error {
    io::Error::other(format!("QEMU's image {what}"))
}

/// The four, or eight, bytes at `at` as a number.
fn half(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn whole(bytes: &[u8], at: usize) -> u64 {
    u64::from(half(bytes, at)) << 32 | u64::from(half(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::Command;

    use tempfile::TempDir;

    use super::{STATE, Snapshot};

    fn run(tool: &str, arguments: &[&str]) {
        let ran = Command::new(tool).args(arguments).output().unwrap();
        assert!(ran.status.success(), "{tool} {arguments:?}: {ran:?}");
    }

    /// What the state `name` of `image` is, as a raw image of `folder`.
    fn state(folder: &Path, image: &str, name: &str, to: &str) -> String {
        let raw = folder.join(to).display().to_string();
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "-l", name, image, &raw]);
        raw
    }

    #[test]
    fn a_state_is_the_same_alone_and_what_only_older_ones_need_is_given_back() {
        let folder = TempDir::new().unwrap();
        let image = folder.path().join("image").display().to_string();
        run("qemu-img", &["create", "-q", "-f", "qcow2", &image, "1300M"]);
        let write = |what: &str| run("qemu-io", &["-f", "qcow2", "-c", what, &image]);
        // In three of the tables of clusters; some of it is overwritten, some of it with zeros.
        for what in ["write -P 1 0 9M", "write -P 2 600M 70k", "write -P 3 1299M 1M"] {
            write(what);
        }
        run("qemu-img", &["snapshot", "-c", "first", &image]);
        let first = Snapshot::last(&File::open(&image).unwrap(), "first").unwrap();
        for what in ["write -P 4 1M 7M", "write -z 600M 64k", "write -P 5 300M 3k"] {
            write(what);
        }
        run("qemu-img", &["snapshot", "-c", "second", &image]);
        let expected = state(folder.path(), &image, "second", "expected");
        write("write -P 6 0 10M");

        let open = File::options().read(true).write(true).open(&image).unwrap();
        assert!(Snapshot::last(&open, "first").is_err() && Snapshot::last(&open, "thir").is_err());
        let second = Snapshot::last(&open, "second").unwrap();
        let before = open.metadata().unwrap().blocks();
        first.free(&open, &second);
        let freed = (before - open.metadata().unwrap().blocks()) * 512;
        assert_eq!(freed, (7 << 20) + (64 << 10));
        let mut alone = second.alone(&open).unwrap();
        let copy = folder.path().join("alone").display().to_string();
        std::io::Seek::rewind(&mut alone).unwrap();
        std::io::copy(&mut alone, &mut File::create(&copy).unwrap()).unwrap();

        run("qemu-img", &["check", "-q", "-f", "qcow2", &copy]);
        for (image, name, to) in [(&image, "second", "in place"), (&copy, STATE, "by itself")] {
            let same = state(folder.path(), image, name, to);
            run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &expected, &same]);
        }
        // QEMU can begin with it, and write to it then.
        run("qemu-img", &["snapshot", "-a", STATE, &copy]);
        run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &expected, &copy]);
        run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 30M", &copy]);
        run("qemu-img", &["check", "-q", "-f", "qcow2", &copy]);
    }

    #[test]
    fn what_is_no_image_has_no_state() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(Snapshot::last(&file, "").is_err());
        let mut noise = b"QFI\xfb\0\0\0\x03".to_vec();
        noise.extend([0; 12]);
        noise.extend([0, 0, 0, 16]);
        noise.extend([0; 36]);
        // A thousand states that lie behind the end.
        noise.extend([0, 0, 3, 232]);
        noise.extend([0xff; 8]);
        noise.extend([0; 8]);
        std::io::Write::write_all(&mut file, &noise).unwrap();
        assert!(Snapshot::last(&file, "x").is_err());
    }
}
