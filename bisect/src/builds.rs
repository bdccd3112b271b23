//! An executable of a tree: built out of tree and kept.
//!
//! For each repository there is one source folder, into which git puts one tree after another and touches only what differs,
//! and one folder of objects for each way to build, in which ninja makes what is stale. Ninja keeps all processors busy, so one tree
//! is built at a time.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use crate::cache::{self, Cache, Entry, key};
use crate::git::{self, Git};
use crate::repository::Repository;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{0}` is no target that Tandem rides: give CPU-softmmu or CPU-linux-user, as QEMU's configure names them"
    )]
    Target(String),
    #[error("the disk that `{0}` is on is full; --cache-size says how much may be kept there")]
    Full(PathBuf),
    #[error("`{0}` can't be started: {1}; it is what builds QEMU")]
    Start(String, io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Git(#[from] git::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

/// What is emulated, as QEMU's configure names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub executable: String,
    pub is_program: bool,
}

impl Target {
    /// # Errors
    /// Where it is none that can be ridden.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let cpu = |kind: &str| {
            let cpu = name.strip_suffix(kind)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            (!cpu.is_empty() && cpu.chars().all(plain)).then(|| cpu.to_owned())
        };
        let of = |executable, is_program| Target { name: name.to_owned(), executable, is_program };
        if let Some(cpu) = cpu("-softmmu") {
            Ok(of(format!("qemu-system-{cpu}"), false))
        } else if let Some(cpu) = cpu("-linux-user") {
            Ok(of(format!("qemu-{cpu}"), true))
        } else {
            Err(Error::Target(name.to_owned()))
        }
    }

    /// The options that QEMU is configured with where the user gives no command: for this target, as fast as a
    /// distribution's, and with nothing else.
    #[must_use]
    pub fn configured(&self) -> Vec<String> {
        let kind: &[&str] = if self.is_program {
            &["--disable-system", "--enable-linux-user"]
        } else {
            &["--enable-system", "--enable-pixman", "--enable-fdt"]
        };
        let common = [
            "--without-default-features",
            "--enable-tcg",
            "--enable-plugins",
            "--disable-tools",
            "--disable-docs",
            "--disable-install-blobs",
            "--disable-werror",
            "--disable-debug-info",
            "-Doptimization=2",
        ];
        // What `-nic user` needs, where this machine has it.
        let slirp = !self.is_program
            && Command::new("pkg-config")
                .args(["--exists", "slirp"])
                .status()
                .is_ok_and(|status| status.success());
        let target = format!("--target-list={}", self.name);
        let words = kind.iter().chain(&common).chain(slirp.then_some(&"--enable-slirp"));
        std::iter::once(target).chain(words.map(|&word| word.to_owned())).collect()
    }
}

/// With less than this nothing is built, bytes.
const ROOM: u64 = 8 << 20;

/// What is built, and how.
pub struct Builder<'a> {
    pub repository: &'a Repository,
    pub cache: &'a Cache,
    pub target: &'a Target,
    /// The user's command, a line for a shell.
    pub command: Option<&'a str>,
    pub interrupts: &'a AtomicU32,
}

/// An executable that is kept, for as long as this is.
#[derive(Debug)]
pub struct Kept {
    pub executable: PathBuf,
    /// How long it took to build, where it was not there.
    pub took: Option<Duration>,
    _entry: Entry,
}

/// A folder of git's objects, for as long as this is.
pub struct Objects {
    pub folder: PathBuf,
    _own: Entry,
}

#[derive(Debug)]
pub enum Outcome {
    Built(Kept),
    /// Why, in a line, and the whole log.
    Unbuildable {
        why: String,
        log: PathBuf,
    },
}

/// How a command ended.
struct Ended {
    is_success: bool,
    /// Whether the compiler or the linker was what failed, and not what finds out what there is to do.
    compiled: bool,
}

impl Builder<'_> {
    /// What is kept of this repository.
    fn own(&self) -> Result<Entry, Error> {
        Ok(self.cache.hold("repositories", &self.repository.key())?)
    }

    /// What makes two executables of one tree different.
    fn how(&self) -> String {
        self.command
            .map_or_else(|| self.target.configured().join(" "), |command| format!("command {command}"))
    }

    /// Where objects of trees may be put that are in no commit.
    ///
    /// # Errors
    /// Where the repository of our own can't be made.
    pub fn objects(&self) -> Result<Objects, Error> {
        let own = self.own()?;
        let source = own.folder.join("source");
        self.prepare(&source)?;
        Ok(Objects { folder: source.join(".git/objects"), _own: own })
    }

    /// Makes the repository of our own, where it is not there.
    fn prepare(&self, source: &Path) -> Result<(), Error> {
        let alternates = source.join(".git/objects/info/alternates");
        let wanted = format!("{}\n", self.repository.objects().display());
        if fs::read_to_string(&alternates).ok().as_ref() == Some(&wanted) {
            return Ok(());
        }
        fs::create_dir_all(source)?;
        Git::at(source).run(&["init", "--quiet"])?;
        fs::create_dir_all(source.join(".git/objects/info"))?;
        fs::write(alternates, wanted)?;
        Ok(())
    }

    /// The executable of `tree`, kept or built. `name` is how its log is called; `says` hears how far it is.
    ///
    /// # Errors
    /// Where it can't even be tried.
    pub fn build(&self, tree: &str, name: &str, says: &mut dyn FnMut(&str)) -> Result<Outcome, Error> {
        let key = key(&[tree, &self.target.name, &self.how()]);
        if let Some(entry) = self.cache.get("builds", &key) {
            return Ok(Outcome::Built(self.kept(entry, None)));
        }
        let own = self.own()?;
        let folder = &own.folder;
        let lock = folder.join("lock");
        let waits = || says("waiting for another tandem that builds");
        let _lock = self.cache.lock(&lock, self.interrupts, waits)?;
        if let Some(entry) = self.cache.get("builds", &key) {
            return Ok(Outcome::Built(self.kept(entry, None)));
        }
        let begun = Instant::now();
        let source = folder.join("source");
        self.prepare(&source)?;
        self.check_out(&source, tree)?;
        let objects = folder.join(format!("objects-{}", cache::key(&[&*self.target.name, &self.how()])));
        fs::create_dir_all(&objects)?;
        let log = self.cache.folder("logs")?.join(format!("{name}-{}.log", self.target.name));
        let executable = objects.join(&self.target.executable);
        let mut ended = self.make(&source, &objects, &log, says)?;
        if !ended.is_success && !ended.compiled && self.command.is_none() {
            // What is left of another commit's may be in the way: once more, from nothing.
            fs::remove_dir_all(&objects)?;
            fs::create_dir_all(&objects)?;
            ended = self.make(&source, &objects, &log, says)?;
        }
        if !ended.is_success || !executable.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            // On a full disk not even the log has room for that.
            let room = statvfs(&objects).map(|disk| disk.blocks_available() * disk.fragment_size());
            if text.contains("No space left on device") || room.is_ok_and(|room| room < ROOM) {
                return Err(Error::Full(objects));
            }
            let why = if ended.is_success {
                format!("no `{}` came of it", self.target.executable)
            } else {
                reason(&text)
            };
            return Ok(Outcome::Unbuildable { why, log });
        }
        let entry = self.cache.put::<Error>("builds", &key, |new| {
            fs::copy(&executable, new.join(&self.target.executable)).map_err(|why| match why.kind() {
                io::ErrorKind::StorageFull => Error::Full(new.to_owned()),
                _ => why.into(),
            })?;
            fs::write(new.join("made-of"), format!("tree {tree}\n{}\n", self.how()))?;
            Ok(())
        })?;
        let _ = fs::remove_file(log);
        Ok(Outcome::Built(self.kept(entry, Some(begun.elapsed()))))
    }

    fn kept(&self, entry: Entry, took: Option<Duration>) -> Kept {
        Kept { executable: entry.folder.join(&self.target.executable), took, _entry: entry }
    }

    /// Makes the source folder be `tree`.
    fn check_out(&self, source: &Path, tree: &str) -> Result<(), Error> {
        // Nobody else works here: it is of one that was killed.
        let _ = fs::remove_file(source.join(".git/index.lock"));
        let git = Git::at(source);
        let checked_out = git.run(&["read-tree", "--reset", "-u", tree]);
        if self.interrupts.load(Ordering::Relaxed) > 0 {
            return Err(cache::Error::Interrupted.into());
        }
        checked_out?;
        git.run(&["clean", "--force", "-d", "--quiet"])?;
        // What meson has downloaded for the user need not be downloaded again.
        let Ok(top) = self.repository.top() else { return Ok(()) };
        for entry in fs::read_dir(top.join("subprojects")).into_iter().flatten().flatten() {
            let here = source.join("subprojects").join(entry.file_name());
            if entry.file_type()?.is_dir() && !here.exists() && source.join("subprojects").is_dir() {
                Command::new("cp").arg("-a").arg(entry.path()).arg(&here).status()?;
            }
        }
        Ok(())
    }

    /// Runs what builds.
    fn make(
        &self,
        source: &Path,
        objects: &Path,
        log: &Path,
        says: &mut dyn FnMut(&str),
    ) -> Result<Ended, Error> {
        let mut written = File::create(log)?;
        if let Some(line) = self.command {
            let mut command = Command::new("sh");
            command
                .args(["-c", line])
                .env("TANDEM_SOURCE", source)
                .env("TANDEM_BUILD", objects)
                .env("TANDEM_TARGET", &self.target.name)
                .env("TANDEM_EXECUTABLE", objects.join(&self.target.executable));
            // What an earlier commit has left is not this one's.
            let _ = fs::remove_file(objects.join(&self.target.executable));
            return self.run("sh", command, objects, &mut written, says);
        }
        let configured = objects.join("configured");
        let wanted = self.how();
        if fs::read_to_string(&configured).ok().as_ref() != Some(&wanted) {
            fs::remove_dir_all(objects)?;
            fs::create_dir_all(objects)?;
            says("configuring");
            let mut command = Command::new(source.join("configure"));
            command.args(self.target.configured());
            let ended = self.run("configure", command, objects, &mut written, says)?;
            if !ended.is_success {
                return Ok(ended);
            }
            fs::write(configured, wanted)?;
        }
        let mut command = Command::new("ninja");
        command.arg(&self.target.executable);
        self.run("ninja", command, objects, &mut written, says)
    }

    fn run(
        &self,
        name: &str,
        mut command: Command,
        folder: &Path,
        log: &mut File,
        says: &mut dyn FnMut(&str),
    ) -> Result<Ended, Error> {
        let from = log.seek(SeekFrom::End(0))?;
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .process_group(0);
        // Ninja then ends all that it has started.
        qemu::run::hand_over(&mut command, Vec::new(), Signal::SIGTERM);
        let mut child = command.spawn().map_err(|why| Error::Start(name.to_owned(), why))?;
        let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let mut told = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if self.interrupts.load(Ordering::Relaxed) > 0 {
                let _ = killpg(group, Signal::SIGTERM);
                let until = Instant::now() + Duration::from_secs(5);
                while child.try_wait()?.is_none() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let _ = killpg(group, Signal::SIGKILL);
                child.wait()?;
                return Err(cache::Error::Interrupted.into());
            }
            if told.elapsed() > Duration::from_millis(500) {
                told = Instant::now();
                if let Some(far) = how_far(&written(log, log.metadata()?.len().saturating_sub(4096))?) {
                    says(&far);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let compiled = written(log, from)?
            .lines()
            .any(|line| line.starts_with("FAILED: ") && !line.contains("build.ninja"));
        Ok(Ended { is_success: status.success(), compiled })
    }
}

/// What was written to a log from here on.
fn written(log: &File, from: u64) -> io::Result<String> {
    // Of its own, so that who writes goes on where it is.
    let mut file = File::open(format!("/proc/self/fd/{}", log.as_raw_fd()))?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Of how many of ninja's steps it has done how many.
fn how_far(text: &str) -> Option<String> {
    let line = text.lines().rev().find(|line| line.starts_with('['))?;
    let (far, _) = line.strip_prefix('[')?.split_once(']')?;
    let (done, all) = far.split_once('/')?;
    let number = |text: &str| text.parse::<u32>().ok();
    Some(format!("building, {} of {}", number(done)?, number(all)?))
}

/// The line of a log that says why it failed.
fn reason(text: &str) -> String {
    let is_one = |line: &&str| {
        line.contains("error: ") || line.contains("ERROR: ") || line.contains("undefined reference")
    };
    let first = text.lines().find(is_one);
    let last = || text.lines().rev().find(|line| !line.trim().is_empty());
    first.or_else(last).unwrap_or("it failed without a word").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_its_executable() {
        let executable = |name| Target::parse(name).unwrap().executable;
        assert_eq!(executable("x86_64-softmmu"), "qemu-system-x86_64");
        assert_eq!(executable("aarch64_be-linux-user"), "qemu-aarch64_be");
        for name in ["x86_64-bsd-user", "x86_64", "-softmmu", "../x-softmmu", ""] {
            assert!(matches!(Target::parse(name), Err(Error::Target(_))), "{name}");
        }
    }

    #[test]
    fn a_log_says_how_far_it_is_and_why_it_failed() {
        let log = "[1/20] Compiling a.c\n[2/20] Compiling b.c\nFAILED: b.c.o\nb.c:3:1: error: expected ';'\nninja: build stopped\n";
        assert_eq!(how_far(log).as_deref(), Some("building, 2 of 20"));
        assert_eq!(reason(log), "b.c:3:1: error: expected ';'");
        assert_eq!((how_far("no"), reason("\n \n")), (None, "it failed without a word".to_owned()));
        assert_eq!(reason("one\nlast words\n\n"), "last words");
    }
}
