//! The search itself, which is `git bisect`'s: in a bare repository that borrows the user's objects and is gone with it.

use std::fs::{self, File};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::cache::{self, Cache};
use crate::git::{self, Git, Said};
use crate::repository::{Commit, Repository};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("git bisect: {0}")]
    Refused(String),
    #[error(transparent)]
    Git(#[from] git::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// What was found out of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Good,
    Bad,
    Skip,
}

impl Mark {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mark::Good => "good",
            Mark::Bad => "bad",
            Mark::Skip => "skip",
        }
    }
}

/// What there is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This commit is to be tried; behind it about so many are left.
    Try { commit: String, left: Option<u32> },
    /// The first bad commit.
    Found(String),
    /// It is one of these, and all that are left were skipped.
    Skipped(Vec<String>),
}

pub struct Search {
    git: Git,
    folder: TempDir,
    _used: Flock<File>,
}

impl Search {
    /// Begins between two commits. `options` are `git bisect start`'s own.
    ///
    /// # Errors
    /// Where git does not begin.
    pub fn start(
        repository: &Repository,
        cache: &Cache,
        (good, bad): (&Commit, &Commit),
        first_parent: bool,
        skip: &[Commit],
    ) -> Result<(Self, Next), Error> {
        let folder = TempDir::new_in(cache.folder("new")?)?;
        let used = Flock::lock(File::create(folder.path().join("used"))?, FlockArg::LockShared)
            .map_err(|(_, why)| std::io::Error::from(why))?;
        let git = Git::at(folder.path());
        git.run(&["init", "--bare", "--quiet"])?;
        fs::create_dir_all(folder.path().join("objects/info"))?;
        fs::write(
            folder.path().join("objects/info/alternates"),
            format!("{}\n", repository.objects().display()),
        )?;
        if let Some(shallow) = repository.shallow() {
            fs::copy(shallow, folder.path().join("shallow"))?;
        }
        // Git wants one.
        git.run(&["update-ref", "--no-deref", "HEAD", &bad.id])?;
        let search = Search { git, folder, _used: used };
        let mut start = vec!["bisect", "start", "--no-checkout"];
        if first_parent {
            start.push("--first-parent");
        }
        start.extend([&*bad.id, &*good.id]);
        let mut next = search.ask(&start)?;
        if !skip.is_empty() && matches!(next, Next::Try { .. }) {
            let ids = skip.iter().map(|commit| &*commit.id);
            next = search.ask(&["bisect", "skip"].into_iter().chain(ids).collect::<Vec<_>>())?;
        }
        Ok((search, next))
    }

    /// Marks the commit that was to be tried.
    ///
    /// # Errors
    /// Where git does not go on: of a merge base that is bad, for one.
    pub fn mark(&self, commit: &str, mark: Mark) -> Result<Next, Error> {
        self.ask(&["bisect", mark.name(), commit])
    }

    /// What was done so far, for `git bisect replay`.
    ///
    /// # Errors
    /// Where git fails.
    pub fn log(&self) -> Result<String, Error> {
        Ok(self.git.run(&["bisect", "log"])?)
    }

    /// Where the search lies.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn ask(&self, words: &[&str]) -> Result<Next, Error> {
        let said = self.git.ask(words)?;
        if let Some(next) = understood(&said) {
            return Ok(next);
        }
        if said.code != Some(0) {
            let text = if said.err.trim().is_empty() { said.out } else { said.err };
            let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            return Err(Error::Refused(lines.join(" ")));
        }
        let commit = self.git.line(&["rev-parse", "--verify", "BISECT_HEAD"])?;
        Ok(Next::Try { commit, left: steps(&said.out) })
    }
}

/// What git's words come to, where they say that it is over.
fn understood(said: &Said) -> Option<Next> {
    let is_id = |word: &str| matches!(word.len(), 40 | 64) && word.chars().all(|c| c.is_ascii_hexdigit());
    for line in said.out.lines() {
        if let Some(id) = line.strip_suffix(" is the first bad commit")
            && is_id(id)
        {
            return Some(Next::Found(id.to_owned()));
        }
    }
    if said.out.contains("The first bad commit could be any of:") {
        let ids = said.out.lines().map(str::trim).filter(|line| is_id(line));
        return Some(Next::Skipped(ids.map(str::to_owned).collect()));
    }
    None
}

/// How many steps git expects behind this one.
fn steps(out: &str) -> Option<u32> {
    let (_, behind) = out.split_once("(roughly ")?;
    behind.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(out: &str) -> Said {
        Said { code: Some(0), out: out.to_owned(), err: String::new() }
    }

    #[test]
    fn gits_words_are_understood() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let found = format!(
            "{id} is the first bad commit\ncommit {id}\nAuthor: X\n\n    x is the first bad commit\n"
        );
        assert_eq!(understood(&said(&found)), Some(Next::Found(id.to_owned())));
        let skipped = format!(
            "There are only 'skip'ped commits left to test.\nThe first bad commit could be any of:\n{id}\n{id}\nWe cannot bisect more!\n"
        );
        assert_eq!(understood(&said(&skipped)), Some(Next::Skipped(vec![id.to_owned(); 2])));
        let going = "Bisecting: 11 revisions left to test after this (roughly 4 steps)\n[0123] x\n";
        assert_eq!((understood(&said(going)), steps(going)), (None, Some(4)));
        assert_eq!(steps("Bisecting: a merge base must be tested"), None);
    }
}
