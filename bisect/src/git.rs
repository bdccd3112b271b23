//! Git, as a program: its commands in a folder, without what the caller's environment says of another repository.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What names a repository, or a part of one, in the environment (`git rev-parse --local-env-vars`): `git bisect run` sets
/// some. What is configured there stays.
const OTHERS: [&str; 11] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_OBJECT_DIRECTORY",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_COMMON_DIR",
];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("git can't be started: {0}")]
    Start(io::Error),
    #[error("`git {command}`: {said}")]
    Failed { command: String, said: String },
}

/// A folder to run git in, and variables that say more.
#[derive(Debug, Clone)]
pub struct Git {
    folder: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Git {
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Git { folder: folder.to_owned(), variables: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: &Path) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Runs a command, whatever it comes to.
    ///
    /// # Errors
    /// Where git can't be started.
    pub fn ask<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Said, Error> {
        let mut command = Command::new("git");
        for name in OTHERS {
            command.env_remove(name);
        }
        let output = command
            .args([
                "--no-pager",
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "gc.auto=0",
                "-c",
                "core.quotePath=false",
            ])
            .args(arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .map_err(Error::Start)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Runs a command that has to succeed; gives back what it printed.
    ///
    /// # Errors
    /// Where it does not.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String, Error> {
        let said = self.ask(arguments)?;
        if said.code == Some(0) {
            return Ok(said.out);
        }
        let words: Vec<_> =
            arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        let last = said.err.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed");
        Err(Error::Failed { command: words.join(" "), said: last.trim().to_owned() })
    }

    /// The same, of one line.
    ///
    /// # Errors
    /// The same.
    pub fn line<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String, Error> {
        Ok(self.run(arguments)?.trim_end().to_owned())
    }
}
