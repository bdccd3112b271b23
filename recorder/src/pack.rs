//! The guest's files inside its recording, so that it replays on another machine: cut into pieces, each stored once,
//! and a list of which pieces make which file.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use qemu::digest::{Digest, sha256};
use serde::{Deserialize, Serialize};

use crate::format::{Kind, packing};
use crate::manifest::{Changed, GuestFile};
use crate::reader::{self, Reader};
use crate::writer::{self, Writer};

/// Bytes in a piece; the last one of a file has fewer.
const PIECE: usize = 1 << 20;

/// A file and the pieces that make it, by their numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Packed {
    path: PathBuf,
    bytes: u64,
    sha256: String,
    pieces: Vec<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Read(#[from] reader::Error),
    #[error(transparent)]
    Write(#[from] writer::Error),
    #[error(transparent)]
    Changed(#[from] Changed),
    #[error("`{0}` holds its guest's files already")]
    Already(PathBuf),
    #[error("`{0}` does not hold its guest's files; `tandem pack` puts them in, where they are")]
    NotPacked(PathBuf),
    #[error("`{0}` has something in it; name a new folder or an empty one")]
    NotEmpty(PathBuf),
    #[error("the recording has a file `{0}`, whose name leads out of the folder; nothing more is unpacked")]
    Outside(PathBuf),
    #[error("`{0}` does not come out as it went in; the recording is damaged")]
    Wrong(PathBuf),
    #[error("`{0}`: {1}")]
    Io(PathBuf, io::Error),
}

/// Files, bytes in them, and bytes that they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub files: usize,
    pub bytes: u64,
    pub stored: u64,
}

/// Puts the guest's files into the recording at `path`. It stays as it is until that is done.
///
/// # Errors
/// Where a file is not what it was, or something can't be read or written.
pub fn pack(path: &Path) -> Result<Sum, Error> {
    let mut recording = Reader::open(path)?;
    if !recording.places(Kind::Files).is_empty() {
        return Err(Error::Already(path.to_owned()));
    }
    let files = recording.manifest.files.clone();
    let mut writer = Writer::create_beside(path, packing(path))?;
    let packed = copy(&mut recording, |_| true, &mut writer).and_then(|()| {
        let before = writer.written();
        put(&files, &mut writer)?;
        Ok(writer.written() - before)
    });
    match packed {
        Ok(stored) => {
            writer.finish_over()?;
            Ok(Sum { files: files.len(), bytes: files.iter().map(|file| file.bytes).sum(), stored })
        }
        Err(error) => {
            writer.abandon();
            Err(error)
        }
    }
}

/// Copies all frames but the index, as far as they are of kinds that are `wanted`.
pub(crate) fn copy<E: From<reader::Error> + From<writer::Error>>(
    recording: &mut Reader,
    wanted: impl Fn(Kind) -> bool,
    writer: &mut Writer,
) -> Result<(), E> {
    for place in recording.all().into_iter().filter(|place| wanted(place.kind)) {
        let frame = recording.frames().whole(place)?;
        writer.frame(&frame)?;
    }
    Ok(())
}

/// Appends the files in pieces, each once, and their list.
fn put(files: &[GuestFile], writer: &mut Writer) -> Result<(), Error> {
    let mut known: HashMap<String, u64> = HashMap::new();
    let mut list = Vec::new();
    let mut piece = Vec::with_capacity(PIECE);
    for file in files {
        let io = |error| Error::Io(file.path.clone(), error);
        let mut from =
            File::open(&file.path).map_err(|error| Changed::Unreadable(file.path.clone(), error))?;
        let mut whole = Digest::default();
        let mut pieces = Vec::new();
        loop {
            piece.clear();
            (&mut from).take(PIECE as u64).read_to_end(&mut piece).map_err(io)?;
            if piece.is_empty() {
                break;
            }
            whole.add(&piece);
            let mut own = Digest::default();
            own.add(&piece);
            let next = known.len() as u64;
            let number = *known.entry(own.hex()).or_insert(next);
            if number == next {
                writer.append(Kind::Piece, number, &piece)?;
            }
            pieces.push(number);
        }
        let sha256 = whole.hex();
        if sha256 != file.sha256 {
            let then = file.sha256.clone();
            return Err(Changed::Different { path: file.path.clone(), then, now: sha256 }.into());
        }
        list.push(Packed { path: file.path.clone(), bytes: file.bytes, sha256, pieces });
    }
    let list =
        serde_json::to_vec(&list).map_err(|error| Error::Io(writer.incomplete().to_owned(), error.into()))?;
    Ok(writer.append(Kind::Files, 0, &list)?)
}

/// Where the file `path` lies once it is unpacked into `folder`.
#[must_use]
pub fn unpacked(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path.strip_prefix("/").unwrap_or(path))
}

/// Unpacks the guest's files into `folder`, each under the path that it had.
///
/// # Errors
/// Where the recording does not hold them, the folder is not empty, or something can't be read or written.
pub fn unpack(recording: &mut Reader, folder: &Path) -> Result<Sum, Error> {
    let io = |error| Error::Io(folder.to_owned(), error);
    let place = recording.places(Kind::Files).first().copied();
    let place = place.ok_or_else(|| Error::NotPacked(recording.path().to_owned()))?;
    let list: Vec<Packed> = recording.frames().value(place)?;
    let pieces: HashMap<u64, _> =
        recording.places(Kind::Piece).into_iter().map(|place| (place.first, place)).collect();
    // Nobody else's, and empty: so nothing in it leads elsewhere.
    let mut private = DirBuilder::new();
    private.mode(0o700).recursive(true);
    private.create(folder).map_err(io)?;
    if std::fs::read_dir(folder).map_err(io)?.next().is_some() {
        return Err(Error::NotEmpty(folder.to_owned()));
    }
    let mut sum = Sum { files: list.len(), ..Sum::default() };
    for file in &list {
        let plain = |part: Component| matches!(part, Component::RootDir | Component::Normal(_));
        if !file.path.components().all(plain) || file.path.file_name().is_none() {
            return Err(Error::Outside(file.path.clone()));
        }
        let path = unpacked(folder, &file.path);
        let io = |error| Error::Io(path.clone(), error);
        private.create(path.parent().unwrap_or(folder)).map_err(io)?;
        let mut to = OpenOptions::new().write(true).create_new(true).open(&path).map_err(io)?;
        for number in &file.pieces {
            let place = *pieces.get(number).ok_or_else(|| Error::Wrong(file.path.clone()))?;
            let piece = recording.frames().content(place)?;
            sum.bytes += piece.len() as u64;
            sum.stored += recording.frames().header(place.at)?.whole();
            // An image's empty parts take no room.
            let written = if piece.iter().all(|&byte| byte == 0) {
                to.seek_relative(piece.len().try_into().unwrap_or(0))
            } else {
                to.write_all(&piece)
            };
            written.map_err(io)?;
        }
        let length = to.stream_position().map_err(io)?;
        to.set_len(length).map_err(io)?;
        drop(to);
        if sha256(&path).map_err(io)? != file.sha256 {
            return Err(Error::Wrong(file.path.clone()));
        }
    }
    // The folder in which the command line was given may have held none of them.
    let given = unpacked(folder, &recording.manifest.folder);
    if recording.manifest.folder.components().all(|part| part != Component::ParentDir) {
        private.create(&given).map_err(|error| Error::Io(given, error))?;
    }
    Ok(sum)
}

/// The guest's arguments with its files where they were unpacked, in `folder`.
#[must_use]
pub fn moved(arguments: &[String], files: &[GuestFile], folder: &Path) -> Vec<String> {
    // Files, and the folders that hold some, the longest first: one path may be the beginning of another.
    let mut paths: Vec<&Path> = files.iter().flat_map(|file| file.path.ancestors()).collect();
    paths.retain(|path| path.parent().is_some());
    paths.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
    paths.dedup();
    let texts: Vec<(String, String)> = paths
        .iter()
        .filter_map(|path| Some((path.to_str()?.to_owned(), unpacked(folder, path).to_str()?.to_owned())))
        .collect();
    let behind = |rest: &str| rest.is_empty() || rest.starts_with([',', '"', ':', '\'']);
    let one = |argument: &String| {
        let mut moved = String::new();
        let mut rest = argument.as_str();
        while let Some(char) = rest.chars().next() {
            // A path begins where a value does, and ends where one does.
            let begins = moved.is_empty() || moved.ends_with(['=', ',', ':', '"']);
            let found = texts.iter().filter(|_| begins && char == '/').find_map(|(path, to)| {
                let escaped = path.replace(',', ",,");
                let after = rest.strip_prefix(&escaped).or_else(|| rest.strip_prefix(path.as_str()))?;
                behind(after.strip_prefix('/').unwrap_or(after)).then_some((to, after))
            });
            match found {
                Some((to, after)) => {
                    moved.push_str(&to.replace(',', ",,"));
                    rest = after;
                }
                None => {
                    moved.push(char);
                    rest = &rest[char.len_utf8()..];
                }
            }
        }
        moved
    };
    // What is the guest's own names no file here.
    let guests = |at: usize| at > 0 && matches!(arguments[at - 1].trim_start_matches('-'), "append" | "name");
    let mut all = arguments.iter().enumerate();
    std::iter::from_fn(|| {
        let (at, argument) = all.next()?;
        Some(if guests(at) { argument.clone() } else { one(argument) })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::moved;
    use crate::manifest::GuestFile;

    #[test]
    fn paths_in_arguments_follow_their_files() {
        let file = |path: &str| GuestFile { path: path.into(), bytes: 0, sha256: String::new() };
        let files = ["/g/vm", "/g/vmlinuz", "/g/a,b.img", "/fw/bios.bin", "/g/disk.qcow2"].map(file);
        let given = [
            "-kernel",
            "/g/vmlinuz",
            "-L",
            "/fw",
            "-drive",
            "file=/g/a,,b.img,if=virtio",
            "-initrd",
            "/g/vm",
            "-append",
            "root=/dev/vda init=/g,",
            "-L",
            "/fw/",
            "-blockdev",
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"/g/disk.qcow2"}}"#,
            "-name",
            "/g/vmlinuz2",
            "rel.img",
        ];
        let there = [
            "-kernel",
            "/x/g/vmlinuz",
            "-L",
            "/x/fw",
            "-drive",
            "file=/x/g/a,,b.img,if=virtio",
            "-initrd",
            "/x/g/vm",
            "-append",
            "root=/dev/vda init=/g,",
            "-L",
            "/x/fw/",
            "-blockdev",
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"/x/g/disk.qcow2"}}"#,
            "-name",
            "/g/vmlinuz2",
            "rel.img",
        ];
        assert_eq!(moved(&given.map(str::to_owned), &files, Path::new("/x")), there.map(str::to_owned));
    }
}
