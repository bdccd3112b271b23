//! Where `--reduce` keeps the program that a divergence comes down to.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Failure;

#[derive(clap::Args)]
pub struct Arguments {
    /// Cut the code that shows the difference out of an x86-64 guest, and keep it here: a program of at most 64 instructions, with the
    /// registers and the memory that it needs, on which the builds still part, as assembly source and to be run. The
    /// folder is made, or is empty
    #[arg(long, value_name = "FOLDER")]
    reduce: Option<PathBuf>,
}

/// A folder that is there, and empty.
pub struct Folder<'a>(&'a Path);

impl Arguments {
    /// The folder. It is found out before the ride whether it can be written to: a ride may take minutes.
    pub fn folder(&self) -> Result<Option<Folder<'_>>, Failure> {
        self.reduce.as_deref().map(Folder::prepare).transpose()
    }
}

impl<'a> Folder<'a> {
    fn prepare(path: &'a Path) -> Result<Self, Failure> {
        let cannot = |why: &dyn std::fmt::Display| {
            Failure(format!("nothing can be kept in `{}`: {why}", path.display()))
        };
        fs::create_dir_all(path).map_err(|error| cannot(&error))?;
        let mut there = fs::read_dir(path).map_err(|error| cannot(&error))?;
        if there.next().is_some() {
            return Err(cannot(&"there is something in it already; name another folder"));
        }
        let folder = Folder(path);
        // On a file system that is only to be read nothing else tells.
        tempfile::tempfile_in(path).map_err(|error| cannot(&error))?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        self.0
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        // It stays only with something in it.
        let _ = fs::remove_dir(self.0);
    }
}
