//! What a recording says of its run: how it was started, and how it ended.

use std::path::{Path, PathBuf};

use qemu::arguments::{Arguments, Time};
use qemu::build::Build;
use qemu::digest::sha256;
use serde::{Deserialize, Serialize};
use trace::message::Point;

/// How a recording was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of Tandem that recorded.
    pub tandem: String,
    pub build: Build,
    /// QEMU's name of the guest's architecture.
    pub target: String,
    /// The guest's arguments as the user gave them, and the folder in which they were given.
    pub arguments: Vec<String>,
    pub folder: PathBuf,
    /// The whole command line that QEMU was started with.
    pub line: Vec<String>,
    pub time: Time,
    /// The version word of QEMU's log.
    pub log: u32,
    /// The guest's files.
    pub files: Vec<GuestFile>,
    /// When it began, seconds since 1970 UTC.
    pub began: u64,
    /// Instructions in a chunk of the witness; `None` where there is none.
    pub witness: Option<u64>,
    /// Whether events that no replay needs were left out.
    pub compacted: bool,
}

/// A file that the command line names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    pub path: PathBuf,
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// How a recording ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The last point at which the stream of instructions is known; `None` without a witness. Of a guest that was not cut
    /// off it is where it asked to shut down: what runs behind that is not the same from run to run.
    pub proof: Option<Point>,
    /// QEMU's icount at the end.
    pub icount: u64,
    /// Events that QEMU logged, and those of them that were left out.
    pub events: u64,
    pub dropped: u64,
    /// In words: who or what ended it.
    pub cause: String,
    /// The guest was cut off: QEMU's log broke off, and its last events were added so that it can be replayed.
    pub cut: bool,
    /// QEMU's exit status; `None` where a signal killed it, or nobody saw it.
    pub status: Option<i32>,
}

impl Ending {
    /// Instructions that a replay runs at least.
    #[must_use]
    pub fn instructions(&self) -> u64 {
        self.proof.map_or(0, |proof| proof.position).max(self.icount)
    }
}

/// A guest's file that is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum Changed {
    #[error(
        "`{0}`, which the recording was made with, can't be read ({1}); put it back where it was, or say in --files where `tandem unpack` has put it"
    )]
    Unreadable(PathBuf, std::io::Error),
    #[error("`{path}` has changed since the recording was made (SHA-256 {now}, it was {then}); put the old file back, or record again", now = &now[..12], then = &then[..12])]
    Different { path: PathBuf, then: String, now: String },
}

impl GuestFile {
    fn of(path: &Path) -> std::io::Result<Self> {
        Ok(GuestFile { bytes: std::fs::metadata(path)?.len(), sha256: sha256(path)?, path: path.to_owned() })
    }

    /// Every file that `arguments`, given in `folder`, name.
    ///
    /// # Errors
    /// Where one can't be read; its path comes with the error.
    pub fn all(arguments: &Arguments, folder: &Path) -> Result<Vec<Self>, (PathBuf, std::io::Error)> {
        let one = |path: PathBuf| GuestFile::of(&path).map_err(|error| (path, error));
        arguments.files(folder).into_iter().map(one).collect()
    }

    /// Whether the file is still what it was.
    ///
    /// # Errors
    /// Where it isn't.
    pub fn check(&self) -> Result<(), Changed> {
        self.check_at(&self.path)
    }

    /// Whether the file at `path` is what this one was.
    ///
    /// # Errors
    /// Where it isn't.
    pub fn check_at(&self, path: &Path) -> Result<(), Changed> {
        let now = sha256(path).map_err(|error| Changed::Unreadable(path.to_owned(), error))?;
        if now == self.sha256 {
            Ok(())
        } else {
            Err(Changed::Different { path: path.to_owned(), then: self.sha256.clone(), now })
        }
    }
}
