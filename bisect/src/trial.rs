//! The guest, and what it does on a build: the good one's run is stored once, and each other build is compared with that.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lockstep::against::{self, Found, Guest, compare, store};
use lockstep::comparator::Pair;
use lockstep::depth::Depth;
use lockstep::report::{Report, Verdict};
use lockstep::ride::{self, Driven, ride};
use lockstep::stored;
use qemu::arguments::{Arguments, Time};
use qemu::build::{self, Build, Mode};
use qemu::digest::{Digest, sha256};
use recorder::reader::{self, Reader};
use recorder::record::stop::Limits;
use recorder::record::{self, Output, Request, Show, record};

use crate::cache::{self, Cache, Entry, key};
use crate::repository::{self, Repository};

/// How often the good build is compared with its own run before anything else is.
const CONTROLS: u32 = 2;

/// How long a guest that does nothing is waited for, while it is recorded.
const NO_PROGRESS: Duration = Duration::from_secs(60);

/// What another shell, and git, have differently in each environment.
const OWN: [&str; 6] = ["_", "SHLVL", "PWD", "OLDPWD", "LINES", "COLUMNS"];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the good build: {0}")]
    Inspect(build::Error),
    #[error("the good build: {0}")]
    Good(against::Error),
    #[error("{0}")]
    Compare(against::Error),
    #[error("the good build can't be recorded: {0}")]
    Record(record::Error),
    #[error(
        "the good build differs from itself: {0}. This guest is not deterministic with these settings, so nothing can be said of a \
         commit; `--compare flow` compares the instructions alone"
    )]
    Undeterministic(String),
    #[error("the good build can't be compared with itself: {0}")]
    NoControl(String),
    #[error(transparent)]
    Ride(#[from] ride::Error),
    #[error(transparent)]
    Read(#[from] reader::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("interrupted")]
    Interrupted,
}

/// A guest, and how it is looked at.
pub struct Trial<'a> {
    pub cache: &'a Cache,
    pub probe: &'a Path,
    pub arguments: Vec<String>,
    /// The user's recording, which drives each build.
    pub recording: Option<PathBuf>,
    pub until: Option<regex::bytes::Regex>,
    pub until_icount: Option<u64>,
    pub depth: Option<Depth>,
    pub loads: bool,
    pub interrupts: &'a AtomicU32,
}

/// The good build, and its run.
pub struct Good {
    pub build: Build,
    entry: Entry,
    /// What drives both sides, where it was recorded.
    recording: Option<PathBuf>,
    /// How many instructions it has, and how often the good build ran for it now: not at all where it was there.
    pub runs: u32,
}

/// How far something is: what, and at which instruction.
pub type Progress<'p> = &'p mut dyn FnMut(&str, u64);

impl Trial<'_> {
    /// Why the guest has to be recorded first.
    fn recorded_because(&self, mode: Mode) -> Option<String> {
        if mode == Mode::User || self.recording.is_some() {
            return None;
        }
        let outside = Arguments::parse(&self.arguments).outside().map(|outside| outside.to_string());
        let until = self.until.is_some() || self.until_icount.is_some();
        outside.or_else(|| until.then(|| "--until says where it ends".to_owned()))
    }

    /// What makes two good runs the same, and so need not be done again.
    fn key(&self, build: &Build, environment: &[(OsString, OsString)]) -> Result<String, Error> {
        let folder = std::env::current_dir()?;
        let mut parts: Vec<Vec<u8>> = vec![
            trace::message::PROTOCOL.to_string().into(),
            sha256(self.probe)?.into(),
            build.sha256.clone().into(),
            folder.as_os_str().as_encoded_bytes().to_vec(),
            format!("{:?} {}", self.depth, self.loads).into(),
            format!("{:?} {:?}", self.until, self.until_icount).into(),
            format!("{environment:?}").into(),
        ];
        parts.extend(self.arguments.iter().map(|word| word.clone().into_bytes()));
        // What the guest can read is a part of it.
        let mut files = if build.mode == Mode::User {
            self.arguments.iter().map(|word| folder.join(word)).filter(|path| path.is_file()).collect()
        } else {
            Arguments::parse(&self.arguments).files(&folder)
        };
        files.extend(self.recording.clone());
        let mut digest = Digest::default();
        for file in files {
            digest.add(sha256(&file)?.as_bytes());
        }
        parts.push(digest.hex().into());
        Ok(key(&parts))
    }

    /// The run of the good build: kept from before, or stored now, and compared with the same build then.
    ///
    /// # Errors
    /// Where it does not run, or differs from itself.
    pub fn good(&self, executable: &Path, progress: Progress) -> Result<Good, Error> {
        let build = Build::inspect_any(executable).map_err(Error::Inspect)?;
        let environment = environment();
        let key = self.key(&build, &environment)?;
        if let Some(entry) = self.cache.get("runs", &key) {
            if stored::Reader::open(&entry.folder.join(RUN)).is_ok() {
                return Ok(self.with(build, entry, 0));
            }
            self.cache.remove(entry);
        }
        let entry = self.cache.put::<Error>("runs", &key, |folder| {
            if let Some(because) = self.recorded_because(build.mode) {
                progress(&format!("recording ({because})"), 0);
                self.record(&build, &folder.join(RECORDING), progress)?;
            }
            let path = folder.join(RUN);
            let driving = self.driving(folder);
            let failed = |error| match error {
                against::Error::Interrupted => Error::Interrupted,
                error => Error::Good(error),
            };
            let mut recording = driving.as_deref().map(Reader::open).transpose()?;
            store(self.guest(&build, &environment, &mut recording), &path, &mut |at| {
                progress("the good build's run", at)
            })
            .map_err(failed)?;
            for control in 1..=CONTROLS {
                let doing = format!("control {control} of {CONTROLS}");
                let found = compare(self.guest(&build, &environment, &mut recording), &path, &mut |at| {
                    progress(&doing, at)
                })
                .map_err(failed)?;
                match found {
                    Found::Same { .. } => {}
                    Found::Different { after, what } => {
                        let after = recorder::account::grouped(after);
                        return Err(Error::Undeterministic(format!("{what}, all the same up to {after}")));
                    }
                    Found::Unknown(why) | Found::Varies(why) => return Err(Error::Undeterministic(why)),
                    Found::NoVerdict(why) => return Err(Error::NoControl(why)),
                }
            }
            Ok(())
        })?;
        Ok(self.with(build, entry, 1 + CONTROLS))
    }

    fn with(&self, build: Build, entry: Entry, runs: u32) -> Good {
        let recording = self.driving(&entry.folder);
        Good { build, entry, recording, runs }
    }

    /// What drives each build, where a recording does.
    fn driving(&self, folder: &Path) -> Option<PathBuf> {
        self.recording.clone().or_else(|| Some(folder.join(RECORDING)).filter(|path| path.is_file()))
    }

    fn record(&self, build: &Build, path: &Path, progress: Progress) -> Result<(), Error> {
        let outside = Arguments::parse(&self.arguments).time() == Time::Host;
        let request = Request {
            build,
            probe: Some(self.probe),
            arguments: &self.arguments,
            time: if outside { Time::Host } else { Time::Virtual },
            output: Output::Named(path),
            compact: true,
            limits: Limits {
                until: self.until.clone(),
                until_icount: self.until_icount,
                no_progress: Some(NO_PROGRESS),
                ..Limits::default()
            },
            script: None,
            typed: None,
            interrupts: self.interrupts,
        };
        let mut show =
            Show { console: &mut |_| {}, progress: &mut |at, _| progress("recording the good build", at) };
        record(request, &mut show).map_err(Error::Record)?;
        if self.interrupts.load(Ordering::Relaxed) > 0 { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn guest<'g>(
        &'g self,
        build: &'g Build,
        environment: &'g [(OsString, OsString)],
        recording: &'g mut Option<Reader>,
    ) -> Guest<'g> {
        Guest {
            build,
            probe: self.probe,
            arguments: &self.arguments,
            driven: recording.as_mut().map_or(Driven::Live, Driven::Recording),
            depth: self.depth,
            loads: self.loads,
            environment: (build.mode == Mode::User).then_some(environment),
            interrupts: self.interrupts,
        }
    }

    /// What the guest does on another build, up to the first difference.
    ///
    /// # Errors
    /// Where nothing can be compared with the good build's run.
    pub fn compare(&self, good: &Good, executable: &Path, progress: Progress) -> Result<Found, Error> {
        let build = match Build::inspect_any(executable) {
            Ok(build) => build,
            Err(why) => return Ok(Found::NoVerdict(why.to_string())),
        };
        let environment = environment();
        let mut recording = good.recording.as_deref().map(Reader::open).transpose()?;
        let guest = self.guest(&build, &environment, &mut recording);
        let path = good.entry.folder.join(RUN);
        let found =
            compare(guest, &path, &mut |at| progress("compared", at)).map_err(|error| match error {
                against::Error::Interrupted => Error::Interrupted,
                error => Error::Compare(error),
            })?;
        let Found::Unknown(why) = found else { return Ok(found) };
        let report = self.ride(Pair { a: &good.build, b: &build }, good, &Telling::default(), progress)?;
        Ok(match report.verdict {
            Verdict::Same => Found::Same { instructions: report.compared.instructions },
            Verdict::Different => {
                Found::Different { after: report.compared.instructions, what: report.summary }
            }
            Verdict::Trouble if self.interrupts.load(Ordering::Relaxed) > 0 => {
                return Err(Error::Interrupted);
            }
            Verdict::Trouble => Found::NoVerdict(format!("{why}; both side by side: {}", report.summary)),
        })
    }

    /// Rides two builds side by side.
    ///
    /// # Errors
    /// Where no ride comes about.
    pub fn ride(
        &self,
        builds: Pair<&Build>,
        good: &Good,
        telling: &Telling,
        progress: Progress,
    ) -> Result<Report, Error> {
        let mut recording = good.recording.as_deref().map(Reader::open).transpose()?;
        let mut driven = recording.as_mut().map_or(Driven::Live, Driven::Recording);
        let request = ride::Request {
            builds,
            probe: self.probe,
            arguments: (!self.arguments.is_empty()).then_some(&self.arguments),
            extra: Pair { a: &[], b: &[] },
            driven: Driven::Live,
            depth: self.depth,
            loads: self.loads,
            explain: telling.explain,
            blocks: telling.blocks,
            symbols: telling.symbols,
            interrupts: self.interrupts,
        };
        let mut report =
            ride(ride::Request { driven: driven.again(), ..request }, &mut |at| progress("in lockstep", at))?;
        if let Some(folder) = telling.reduce {
            reduce::cut::reduce(ride::Request { driven, ..request }, folder, &mut report);
        }
        Ok(report)
    }
}

const RUN: &str = "run";
const RECORDING: &str = "recording.tdm";

/// What a ride is to tell.
#[derive(Default)]
pub struct Telling<'t> {
    pub explain: bool,
    pub blocks: usize,
    pub symbols: Option<&'t replayer::symbols::Symbols>,
    /// Where the program is kept that the divergence comes down to, if that is wanted.
    pub reduce: Option<&'t Path>,
}

/// What a user program finds in its environment: the caller's, without what each shell has differently, and what git adds
/// where it is git that calls.
fn environment() -> Vec<(OsString, OsString)> {
    let git = Command::new("git").arg("--exec-path").output().map(|output| output.stdout).unwrap_or_default();
    let git = String::from_utf8_lossy(&git).trim_end().to_owned();
    let mut all: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            !name.starts_with("GIT_") && !OWN.contains(&&*name)
        })
        .map(|(name, value)| if name == *"PATH" { (name, without(&value, &git)) } else { (name, value) })
        .collect();
    all.sort();
    all
}

/// A list of folders without one.
fn without(list: &OsStr, folder: &str) -> OsString {
    let kept: Vec<_> = std::env::split_paths(list).filter(|path| path.as_os_str() != folder).collect();
    std::env::join_paths(kept).unwrap_or_else(|_| list.to_owned())
}

/// One folder of firmware for all builds: that of a tree, where it has some. Executables that are kept have none beside
/// them, and firmware that differs is not what is looked for.
///
/// # Errors
/// Where it can't be kept.
pub fn firmware(repository: &Repository, cache: &Cache, tree: &str) -> Result<Option<Entry>, Error> {
    let Some(id) = repository.firmware(tree)? else { return Ok(None) };
    if let Some(entry) = cache.get("firmware", &id) {
        return Ok(Some(entry));
    }
    Ok(Some(cache.put::<Error>("firmware", &id, |folder| Ok(repository.unpack(&id, folder)?))?))
}
