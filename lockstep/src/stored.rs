//! What one run's probe has said, kept in a file: side A of a comparison without a QEMU.
//!
//! The file: eight bytes `TDMSTORE`, a u16 that is its version (little-endian), then one zstd frame with a checksum. In that
//! are values of [`codec`], framed: a [`Head`], one [`Told`] after another, and [`Told::Ended`] last. It is made under
//! another name, and has its own only when it is whole.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trace::access::Memory;
use trace::codec;
use trace::message::{Call, Look, PROTOCOL, Sample};

const MAGIC: &[u8; 8] = b"TDMSTORE";
const VERSION: u16 = 1;

/// How hard zstd tries: there is little, and much of it are digests, which nothing makes smaller.
const LEVEL: i32 = 3;

/// How much memory a stranger's frame may have the reader take, as zstd has it: 2^23 bytes.
const WINDOW: u32 = 23;

/// Whose run it was, and what was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the messages that it consists of.
    pub protocol: u32,
    pub version: String,
    pub sha256: String,
    pub plugin_api: i32,
    pub target: String,
    /// As which process QEMU saw itself, which a user program is told.
    pub pid: u32,
    /// QEMU's arguments but for the probe.
    pub line: Vec<String>,
    pub look: Look,
}

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    Chunk {
        digest: u64,
        memory: Memory,
        samples: Vec<Sample>,
        calls: Vec<Call>,
    },
    End {
        position: u64,
        recorded: u64,
        digest: u64,
        memory: Memory,
        samples: Vec<Sample>,
        calls: Vec<Call>,
        /// The digests at the positions before it, the last at its own, and those of memory where they were still known: another run
        /// may end a few instructions earlier.
        before: Vec<(u64, Option<Memory>)>,
    },
    Ended {
        /// How QEMU ended, in words.
        status: String,
        console: Vec<u8>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is no stored run")]
    Other(PathBuf),
    #[error("`{path}` is a stored run of another release ({theirs}, expected {expected})")]
    Release { path: PathBuf, theirs: u32, expected: u32 },
    #[error("`{path}` is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("`{path}`: {why}")]
    Io { path: PathBuf, why: io::Error },
}

/// A file that is being written.
pub struct Writer {
    path: PathBuf,
    incomplete: PathBuf,
    to: zstd::stream::write::Encoder<'static, BufWriter<File>>,
}

impl Writer {
    /// Begins the file that will have the name `path`.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn create(path: &Path, head: &Head) -> Result<Self, Error> {
        let mut name = path.as_os_str().to_owned();
        name.push(".incomplete");
        let incomplete = PathBuf::from(name);
        let failed = |why| Error::Io { path: incomplete.clone(), why };
        let begin = || {
            let mut file = BufWriter::new(File::create(&incomplete)?);
            file.write_all(MAGIC)?;
            file.write_all(&VERSION.to_le_bytes())?;
            let mut to = zstd::stream::write::Encoder::new(file, LEVEL)?;
            to.include_checksum(true)?;
            Ok(to)
        };
        let to = begin().map_err(failed)?;
        let mut writer = Writer { path: path.to_owned(), incomplete, to };
        writer.put(head)?;
        Ok(writer)
    }

    /// Writes what happened next.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn tell(&mut self, told: &Told) -> Result<(), Error> {
        self.put(told)
    }

    fn put<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        codec::write(&mut self.to, value).map_err(|error| {
            let why = match error {
                codec::Error::Io(why) => why,
                other => io::Error::other(other),
            };
            Error::Io { path: self.incomplete.clone(), why }
        })
    }

    /// Ends the file, and gives it its name.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn finish(self) -> Result<(), Error> {
        let Writer { path, incomplete, to } = self;
        let end = || {
            let file = to.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            std::fs::rename(&incomplete, &path)
        };
        end().map_err(|why| Error::Io { path: path.clone(), why })
    }
}

/// A file that is read.
pub struct Reader {
    path: PathBuf,
    pub head: Head,
    from: Box<dyn Read>,
    ended: bool,
}

impl Reader {
    /// Opens a file, of which all is read once before anything of it counts: its checksum is at the end, and what is
    /// damaged would look like another run.
    ///
    /// # Errors
    /// Where it is none of this release's, or is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || File::open(path).map_err(|why| Error::Io { path: path.to_owned(), why });
        let mut whole = Reader::of(path, open()?)?;
        while whole.next_told()?.is_some() {}
        Reader::of(path, open()?)
    }

    /// The same of bytes from elsewhere, unread; `path` is how they are called.
    ///
    /// # Errors
    /// The same.
    pub fn of(path: &Path, bytes: impl Read + 'static) -> Result<Self, Error> {
        let mut bytes = BufReader::new(bytes);
        let mut magic = [0; 8];
        let mut version = [0; 2];
        bytes
            .read_exact(&mut magic)
            .and_then(|()| bytes.read_exact(&mut version))
            .map_err(|_| Error::Other(path.to_owned()))?;
        if magic != *MAGIC {
            return Err(Error::Other(path.to_owned()));
        }
        let other = |theirs, expected| Error::Release { path: path.to_owned(), theirs, expected };
        let version = u16::from_le_bytes(version);
        if version != VERSION {
            return Err(other(version.into(), VERSION.into()));
        }
        let damaged = |why: String| Error::Damaged { path: path.to_owned(), why };
        let mut from =
            zstd::stream::read::Decoder::with_buffer(bytes).map_err(|why| damaged(why.to_string()))?;
        from.window_log_max(WINDOW).map_err(|why| damaged(why.to_string()))?;
        let mut from = Box::new(from.single_frame());
        let head: Head = match codec::read(&mut from) {
            Ok(Some(head)) => head,
            Ok(None) => return Err(damaged("it ends before it begins".to_owned())),
            Err(why) => return Err(damaged(why.to_string())),
        };
        if head.protocol != PROTOCOL {
            return Err(other(head.protocol, PROTOCOL));
        }
        Ok(Reader { path: path.to_owned(), head, from, ended: false })
    }

    /// What happened next; `None` behind the last.
    ///
    /// # Errors
    /// Where the file is damaged, or ends too early.
    pub fn next_told(&mut self) -> Result<Option<Told>, Error> {
        let damaged = |why: String| Error::Damaged { path: self.path.clone(), why };
        match codec::read::<Told>(&mut self.from) {
            Ok(Some(_)) if self.ended => Err(damaged("it goes on behind its end".to_owned())),
            Ok(Some(told)) => {
                self.ended = matches!(told, Told::Ended { .. });
                Ok(Some(told))
            }
            Ok(None) if self.ended => Ok(None),
            Ok(None) => Err(damaged("it ends too early".to_owned())),
            Err(why) => Err(damaged(why.to_string())),
        }
    }
}

/// Reads `bytes` as a stored run, all of it: what the fuzz target and the tests do with a stranger's.
pub fn survive(bytes: &[u8]) {
    let name = Path::new("stored");
    if let Ok(mut reader) = Reader::of(name, io::Cursor::new(bytes.to_vec())) {
        while let Ok(Some(_)) = reader.next_told() {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            protocol: PROTOCOL,
            version: "10.0.13".to_owned(),
            sha256: "00".to_owned(),
            plugin_api: 4,
            target: "x86_64".to_owned(),
            pid: 2,
            line: vec!["-M".to_owned(), "pc".to_owned()],
            look: Look::default(),
        }
    }

    fn told() -> Vec<Told> {
        let sample = Sample { position: 7, registers: Some(9), memory: Memory::default(), written: 0 };
        let call = Call { position: 5, number: 3, arguments: [1; 6], result: Some(0), filled: 0 };
        vec![
            Told::Chunk { digest: 1, memory: Memory::default(), samples: vec![sample], calls: vec![call] },
            Told::End {
                position: 3,
                recorded: 3,
                digest: 2,
                memory: Memory::default(),
                samples: vec![],
                calls: vec![],
                before: vec![(3, None), (4, None), (2, Some(Memory::default()))],
            },
            Told::Ended { status: "exit status 0".to_owned(), console: b"hello\n".to_vec() },
        ]
    }

    fn written(told: &[Told]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut writer = Writer::create(&path, &head()).unwrap();
        for one in told {
            writer.tell(one).unwrap();
        }
        assert!(!path.exists(), "it has its name when it is whole");
        writer.finish().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::read(path).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Told>, Error> {
        let mut reader = Reader::of(Path::new("run"), io::Cursor::new(bytes.to_vec()))?;
        let mut all = Vec::new();
        while let Some(told) = reader.next_told()? {
            all.push(told);
        }
        assert_eq!(reader.head, head());
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&written(&told())).unwrap(), told());
    }

    #[test]
    fn one_without_its_end_is_damaged_and_not_short() {
        let bytes = written(&told()[..2]);
        assert!(matches!(read(&bytes), Err(Error::Damaged { .. })));
        let whole = written(&told());
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_none_is_said_to_be_none() {
        assert!(matches!(read(b"something else"), Err(Error::Other(_))));
        let mut other = written(&told());
        other[8] = 9;
        assert!(matches!(read(&other), Err(Error::Release { theirs: 9, .. })));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            survive(&bytes);
            let mut headed = MAGIC.to_vec();
            headed.extend(VERSION.to_le_bytes());
            headed.extend(zstd::bulk::compress(&bytes, 1).unwrap());
            survive(&headed);
        }

        #[test]
        fn damage_is_an_error(at in any::<prop::sample::Index>(), with in 1u8..) {
            let mut bytes = written(&told());
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            survive(&bytes);
            if let Ok(read) = read(&bytes) {
                prop_assert_eq!(read, told());
            }
        }
    }
}
