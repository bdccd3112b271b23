//! The user's repository. It is only read: what has to be written goes into one of our own, which borrows its objects.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu::digest::Digest;
use serde::Serialize;

use crate::git::{self, Git};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is in no git repository; give a checkout or a clone of QEMU's source with --repo")]
    NoRepository(PathBuf),
    #[error("`{rev}` of `{repository}` is no source of QEMU: it has no `{lacks}`")]
    NotQemu { repository: PathBuf, rev: String, lacks: &'static str },
    #[error("`{repository}` has no commit `{rev}`; `git fetch` may bring it")]
    NoCommit { repository: PathBuf, rev: String },
    #[error("--good and --bad are the same commit, {0}")]
    SameCommit(String),
    #[error("--bad ({bad}) comes before --good ({good}): exchange them, or look for a fix with them so")]
    Reversed { good: String, bad: String },
    #[error("--good ({good}) and --bad ({bad}) have no commit in common, so nothing is between them")]
    Unrelated { good: String, bad: String },
    #[error("`{0}` is a bare repository, which has no tree that is checked out; `tandem bisect` takes it")]
    Bare(PathBuf),
    #[error(transparent)]
    Git(#[from] git::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// What each source of QEMU's has.
const HAS: [&str; 3] = ["configure", "accel/tcg", "tcg/tcg.c"];

pub struct Repository {
    git: Git,
    /// Where it lies, and where its objects do.
    pub folder: PathBuf,
    common: PathBuf,
    top: Option<PathBuf>,
}

/// A commit, for a reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    pub id: String,
    pub tree: String,
    pub subject: String,
}

impl Commit {
    /// Its first digits.
    #[must_use]
    pub fn short(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

impl Repository {
    /// The repository that `folder` is in.
    ///
    /// # Errors
    /// Where it is in none.
    pub fn find(folder: &Path) -> Result<Self, Error> {
        let none = || Error::NoRepository(folder.to_owned());
        if !folder.is_dir() {
            return Err(none());
        }
        let git = Git::at(folder);
        let common = git.ask(&["rev-parse", "--path-format=absolute", "--git-common-dir"])?;
        if common.code != Some(0) {
            return Err(none());
        }
        let top = git.ask(&["rev-parse", "--show-toplevel"])?;
        let top = (top.code == Some(0)).then(|| PathBuf::from(top.out.trim_end()));
        let common = fs::canonicalize(common.out.trim_end())?;
        Ok(Repository { git, folder: folder.to_owned(), common, top })
    }

    /// Its name among others'.
    #[must_use]
    pub fn key(&self) -> String {
        let mut digest = Digest::default();
        digest.add(self.common.as_os_str().as_encoded_bytes());
        digest.hex()[..16].to_owned()
    }

    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.common.join("objects")
    }

    /// The list of commits whose parents it has not got, where it is shallow.
    #[must_use]
    pub fn shallow(&self) -> Option<PathBuf> {
        Some(self.common.join("shallow")).filter(|path| path.is_file())
    }

    /// The folder of what is checked out.
    ///
    /// # Errors
    /// Where nothing is.
    pub fn top(&self) -> Result<&Path, Error> {
        self.top.as_deref().ok_or_else(|| Error::Bare(self.folder.clone()))
    }

    /// The commit that `rev` names, which has to be one of QEMU's.
    ///
    /// # Errors
    /// Where there is none.
    pub fn commit(&self, rev: &str) -> Result<Commit, Error> {
        let named = format!("{rev}^{{commit}}");
        let said = self.git.ask(&["rev-parse", "--verify", "--quiet", "--end-of-options", &named])?;
        let none = || Error::NoCommit { repository: self.folder.clone(), rev: rev.to_owned() };
        if said.code != Some(0) {
            return Err(none());
        }
        let commit = self.described(said.out.trim_end())?;
        self.is_qemu(&commit.tree, rev)?;
        Ok(commit)
    }

    /// A commit by its id.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn described(&self, id: &str) -> Result<Commit, Error> {
        let said = self.git.line(&["show", "--no-patch", "--format=%H%n%T%n%s", id])?;
        let mut lines = said.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap_or_default();
        Ok(Commit { id: next(), tree: next(), subject: next() })
    }

    fn is_qemu(&self, tree: &str, rev: &str) -> Result<(), Error> {
        for lacks in HAS {
            let there = self.git.ask(&["cat-file", "-e", &format!("{tree}:{lacks}")])?;
            if there.code != Some(0) {
                let (repository, rev) = (self.folder.clone(), rev.to_owned());
                return Err(Error::NotQemu { repository, rev, lacks });
            }
        }
        Ok(())
    }

    /// Refuses a pair that nothing can be looked for between.
    ///
    /// # Errors
    /// Where that is so.
    pub fn between(&self, good: &Commit, bad: &Commit) -> Result<(), Error> {
        let names = || (good.short().to_owned(), bad.short().to_owned());
        if good.id == bad.id {
            return Err(Error::SameCommit(good.short().to_owned()));
        }
        let is_ancestor = |a: &Commit, b: &Commit| {
            Ok::<_, Error>(self.git.ask(&["merge-base", "--is-ancestor", &a.id, &b.id])?.code == Some(0))
        };
        if is_ancestor(bad, good)? {
            let (good, bad) = names();
            return Err(Error::Reversed { good, bad });
        }
        if !is_ancestor(good, bad)? && self.git.ask(&["merge-base", &good.id, &bad.id])?.code != Some(0) {
            let (good, bad) = names();
            return Err(Error::Unrelated { good, bad });
        }
        Ok(())
    }

    /// The first parent of a commit.
    ///
    /// # Errors
    /// Where it has none.
    pub fn parent(&self, commit: &Commit) -> Result<Commit, Error> {
        let id = self.git.line(&["rev-parse", "--verify", &format!("{}^1", commit.id)])?;
        self.described(&id)
    }

    /// Who made a commit and when, and its whole message.
    ///
    /// # Errors
    /// Where git fails.
    pub fn message(&self, commit: &Commit) -> Result<(String, String, String), Error> {
        let said = self.git.run(&[
            "show",
            "--no-patch",
            "--format=%an <%ae>%n%ad%n%B",
            "--date=iso-strict",
            &commit.id,
        ])?;
        let (author, rest) = said.split_once('\n').unwrap_or((&said, ""));
        let (date, message) = rest.split_once('\n').unwrap_or((rest, ""));
        Ok((author.to_owned(), date.to_owned(), message.trim().to_owned()))
    }

    /// What a commit changes against another.
    ///
    /// # Errors
    /// Where git fails.
    pub fn diff(&self, from: &Commit, to: &Commit) -> Result<String, Error> {
        Ok(self.git.run(&["diff", "--no-color", "--no-ext-diff", "--no-textconv", "-M", &from.id, &to.id])?)
    }

    /// The folder of firmware that a tree has, where there is some in it.
    ///
    /// # Errors
    /// Where git fails.
    pub fn firmware(&self, tree: &str) -> Result<Option<String>, Error> {
        let folder = self.git.ask(&["rev-parse", "--verify", "--quiet", &format!("{tree}:pc-bios")])?;
        if folder.code != Some(0) {
            return Ok(None);
        }
        let id = folder.out.trim_end().to_owned();
        let names = self.git.run(&["ls-tree", "--name-only", &id])?;
        Ok(names.lines().any(|name| name.ends_with(".bin")).then_some(id))
    }

    /// Puts what is in a tree into a folder.
    ///
    /// # Errors
    /// Where that fails.
    pub fn unpack(&self, tree: &str, folder: &Path) -> Result<(), Error> {
        let archive = tempfile::Builder::new().prefix("tandem-archive").tempfile()?;
        let path = archive.path().display().to_string();
        self.git.run(&["archive", "--format=tar", "--output", &path, tree])?;
        let unpacked = Command::new("tar").arg("-xf").arg(archive.path()).arg("-C").arg(folder).status()?;
        if unpacked.success() { Ok(()) } else { Err(std::io::Error::other("tar failed").into()) }
    }

    /// A tree of what is checked out just as it is, with what is changed and new and not ignored. Its objects go to
    /// `objects`, and the user's index stays as it is.
    ///
    /// # Errors
    /// Where git fails.
    pub fn checked_out(&self, objects: &Path) -> Result<String, Error> {
        let top = self.top()?;
        let own = Git::at(top).line(&["rev-parse", "--path-format=absolute", "--git-path", "index"])?;
        let index = tempfile::Builder::new().prefix("tandem-index").tempfile()?;
        if fs::copy(&own, index.path()).is_err() {
            // Git takes no empty file for an index.
            fs::remove_file(index.path())?;
        }
        let git = Git::at(top)
            .with("GIT_INDEX_FILE", index.path())
            .with("GIT_OBJECT_DIRECTORY", objects)
            .with("GIT_ALTERNATE_OBJECT_DIRECTORIES", &self.objects());
        git.run(&["-c", "advice.addEmbeddedRepo=false", "add", "--all", "--", "."])?;
        let tree = git.line(&["write-tree"])?;
        for lacks in HAS {
            if git.ask(&["cat-file", "-e", &format!("{tree}:{lacks}")])?.code != Some(0) {
                let (repository, rev) = (top.to_owned(), "the tree".to_owned());
                return Err(Error::NotQemu { repository, rev, lacks });
            }
        }
        Ok(tree)
    }
}
