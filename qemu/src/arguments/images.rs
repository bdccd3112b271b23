//! The files behind a qcow2 image: those whose bytes a guest can read through it. Read from the image's own header
//! (docs/interop/qcow2.txt, QEMU 7.2 and 10.0), which nobody vouches for.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 4] = b"QFI\xfb";
/// The longest name that QEMU takes.
const LONGEST_NAME: u64 = 1023;
/// The header extension that names a file with the image's data.
const DATA_FILE: u32 = 0x4441_5441;
/// Images behind one another, at most.
const DEEPEST: usize = 256;

/// Adds the files behind `image` to `files`, and those behind them.
pub(super) fn add_chain(image: &Path, files: &mut Vec<PathBuf>) {
    let mut open = vec![image.to_owned()];
    let mut seen = vec![image.to_owned()];
    while let Some(image) = open.pop() {
        for behind in behind(&image).unwrap_or_default() {
            if behind.is_file() && !seen.contains(&behind) && seen.len() < DEEPEST {
                seen.push(behind.clone());
                files.push(behind.clone());
                open.push(behind);
            }
        }
    }
}

/// The files that an image names; none where it is no qcow2.
fn behind(image: &Path) -> io::Result<Vec<PathBuf>> {
    let mut file = File::open(image)?;
    let mut header = [0; 104];
    file.read_exact(&mut header)?;
    if !header.starts_with(MAGIC) {
        return Ok(Vec::new());
    }
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let backing_at = u64::from(word(8)) << 32 | u64::from(word(12));
    let backing_length = u64::from(word(16));
    let mut names = Vec::new();
    if backing_at != 0 {
        names.push(name(&mut file, backing_at, backing_length)?);
    }
    let mut at = if word(4) >= 3 { u64::from(word(100)) } else { 72 };
    // The extensions lie in the first cluster, of 2 MiB at most.
    while at < 2 << 20 {
        let mut extension = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut extension)?;
        let kind = u32::from_be_bytes([extension[0], extension[1], extension[2], extension[3]]);
        let length = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
        if kind == 0 {
            break;
        }
        if kind == DATA_FILE {
            names.push(name(&mut file, at + 8, u64::from(length))?);
        }
        at += 8 + u64::from(length.next_multiple_of(8));
    }
    let folder = image.parent().unwrap_or(Path::new(""));
    Ok(names.iter().map(|name| folder.join(name.strip_prefix("file:").unwrap_or(name))).collect())
}

fn name(file: &mut File, at: u64, length: u64) -> io::Result<String> {
    if length > LONGEST_NAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.seek(SeekFrom::Start(at))?;
    let mut name = String::new();
    file.take(length).read_to_string(&mut name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(backing: &str, data: &str) -> Vec<u8> {
        let mut image = vec![0; 104];
        image[..4].copy_from_slice(MAGIC);
        image[7] = 3;
        image[103] = 104;
        for (kind, text) in [(DATA_FILE, data), (0, "")] {
            if kind == 0 || !text.is_empty() {
                image.extend(kind.to_be_bytes());
                image.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                image.extend(text.as_bytes());
                image.resize(image.len().next_multiple_of(8), 0);
            }
        }
        if !backing.is_empty() {
            let at = u64::try_from(image.len()).unwrap();
            image[8..16].copy_from_slice(&at.to_be_bytes());
            image[16..20].copy_from_slice(&u32::try_from(backing.len()).unwrap().to_be_bytes());
            image.extend(backing.as_bytes());
        }
        image
    }

    fn chain(folder: &Path, image: &str) -> Vec<String> {
        let mut files = Vec::new();
        add_chain(&folder.join(image), &mut files);
        files.iter().map(|path| path.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_chain_is_followed_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        std::fs::create_dir(folder.path().join("base")).unwrap();
        write("top", &qcow2("base/middle", "top.data"));
        write("top.data", b"data");
        write("base/middle", &qcow2("raw", ""));
        write("base/raw", b"no qcow2 at all");
        assert_eq!(chain(folder.path(), "top"), ["base/middle", "top.data", "base/raw"]);
        write("loop", &qcow2("loop", ""));
        assert!(chain(folder.path(), "loop").is_empty());
    }

    #[test]
    fn a_header_that_lies_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let good = qcow2("x", "");
        std::fs::write(folder.path().join("x"), "x").unwrap();
        for (at, byte) in [(8, 0xff), (16, 0xff), (100, 0xff), (104, 0xff), (108, 0xff)] {
            let mut bad = good.clone();
            bad[at] = byte;
            std::fs::write(folder.path().join("bad"), bad).unwrap();
            chain(folder.path(), "bad");
        }
        for length in 0..good.len() {
            std::fs::write(folder.path().join("cut"), &good[..length]).unwrap();
            chain(folder.path(), "cut");
        }
    }
}
