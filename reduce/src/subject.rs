//! A build by itself: what cases come to on it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use qemu::build::{Build, Mode};
use qemu::run::{Plan, Run, Typing, describe};

use crate::case::{Case, End};
use crate::image::{Image, Setting, Tells, Where};
use crate::native::Unnamed;
use crate::{elf, rom};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    #[error("a firmware can't be assembled: {0}")]
    Assembler(#[from] iced_x86::IcedError),
    #[error(transparent)]
    Run(#[from] qemu::run::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("`{0}` runs none of our code: {1}")]
    Mute(String, String),
}

/// A build with its options.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub build: &'a Build,
    /// Options for both sides, and for this one only.
    pub options: &'a [String],
    pub own: &'a [String],
    pub interrupts: &'a AtomicU32,
}

/// What a case came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// What it told.
    To(Vec<u8>),
    /// The guest or its QEMU ended in it.
    Died(String),
    /// It does not end.
    Hung,
}

impl Came {
    #[must_use]
    pub fn end(&self) -> Option<End> {
        if let Came::To(bytes) = self { End::from_bytes(bytes) } else { None }
    }
}

/// How long a QEMU may work while its guest tells nothing: a case takes microseconds. And how long it may do nothing at all.
const WORK: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(60);

/// How often is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// A program for `setting`, as a file.
///
/// # Errors
/// Where it can't be made.
pub fn file(image: &Image) -> Result<Vec<u8>, Error> {
    Ok(match image.setting.runs {
        Where::Linux => elf::program(image),
        Where::Machine => rom::firmware(image)?,
    })
}

/// What QEMU is given for the program `file`, as far as it is the same on both sides.
#[must_use]
pub fn line(mode: Mode, options: &[String], file: &Path) -> Vec<String> {
    let has = |names: &[&str]| options.iter().any(|option| names.contains(&option.trim_start_matches('-')));
    let mut line = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(|&word| word.to_owned()));
    if !has(&["cpu"]) {
        add(&["-cpu", "max"]);
    }
    let path = file.display().to_string();
    match mode {
        Mode::User => {
            line.extend_from_slice(options);
            line.push(path);
        }
        Mode::System => {
            if !has(&["M", "machine"]) {
                add(&["-M", "pc"]);
            }
            if !has(&["m"]) {
                add(&["-m", "64"]);
            }
            add(&["-nodefaults", "-display", "none", "-no-reboot", "-bios", &path]);
            line.extend_from_slice(options);
        }
    }
    line
}

/// Where programs for such builds run.
#[must_use]
pub fn runs(mode: Mode) -> Where {
    match mode {
        Mode::User => Where::Linux,
        Mode::System => Where::Machine,
    }
}

impl Subject<'_> {
    /// What each of `cases` comes to. One that dies or hangs ends its QEMU, and the others go on in a new one.
    ///
    /// # Errors
    /// Where a case can't be run at all.
    pub fn run(&self, setting: Setting, cases: &[Case]) -> Result<Vec<Came>, Error> {
        let setting = Setting { runs: runs(self.build.mode), ..setting };
        let size = if setting.tells == Tells::Numbers { 8 } else { end_size() };
        let mut all = Vec::with_capacity(cases.len());
        while all.len() < cases.len() {
            let image = Image::new(setting, &cases[all.len()..])?;
            let (said, ending) = self.told(&file(&image)?)?;
            let told = said.len() / size;
            all.extend(said.chunks_exact(size).map(|bytes| Came::To(bytes.to_vec())));
            if all.len() < cases.len() {
                if told == 0 && all.is_empty() && !self.runs_at_all(setting)? {
                    let ending = ending.unwrap_or_else(|| "it stands still".to_owned());
                    return Err(Error::Mute(self.build.path.display().to_string(), ending));
                }
                all.push(ending.map_or(Came::Hung, Came::Died));
            }
        }
        Ok(all)
    }

    /// Whether it runs a case that does nothing.
    fn runs_at_all(&self, setting: Setting) -> Result<bool, Error> {
        let nothing = Case {
            pieces: Vec::new(),
            start: crate::case::State::default(),
            memory: vec![0; crate::case::REGION_SIZE],
        };
        let image = Image::new(setting, &[nothing])?;
        Ok(!self.told(&file(&image)?)?.0.is_empty())
    }

    /// What a program tells, and how it ended, where it did.
    fn told(&self, program: &[u8]) -> Result<(Vec<u8>, Option<String>), Error> {
        let program = Unnamed::holding(program)?;
        let mut console = tempfile::tempfile()?;
        let mut arguments = line(self.build.mode, self.options, program.path());
        match self.build.mode {
            Mode::User => {
                // Before the program: the last of an option counts.
                let program = arguments.len() - 1;
                drop(arguments.splice(program..program, self.own.iter().cloned()));
            }
            Mode::System => {
                arguments.extend_from_slice(self.own);
                let console =
                    ["-chardev", "stdio,id=told", "-device", "isa-debugcon,iobase=0x402,chardev=told"];
                arguments.extend(console.map(str::to_owned));
            }
        }
        let here = std::env::current_dir()?;
        let plan = Plan {
            build: self.build,
            arguments: &arguments,
            folder: &here,
            probe: None,
            typed: Typing::Nothing,
            passed: &[],
            commanded: false,
            environment: None,
            console: Some(std::os::fd::AsFd::as_fd(&console)),
        };
        let mut run = Run::start(&plan, |_| {})?;
        let (mut moved, mut worked, mut length) = (Instant::now(), Duration::ZERO, 0);
        let ending = loop {
            if let Some(status) = run.ended(PAUSE) {
                break Some(ending(self.build.mode, status) + &run.last_words());
            }
            if self.interrupts.load(Ordering::Relaxed) > 0 {
                return Err(Error::Interrupted);
            }
            let now = length_of(&console)?;
            let works = work_of(run.id());
            if now > length {
                (moved, worked, length) = (Instant::now(), works, now);
            }
            if works.saturating_sub(worked) > WORK || moved.elapsed() > SILENCE {
                break None;
            }
        };
        drop(run);
        let mut said = Vec::new();
        console.rewind()?;
        console.read_to_end(&mut said)?;
        Ok((said, ending))
    }
}

/// How it ended, in words.
fn ending(mode: Mode, status: ExitStatus) -> String {
    match mode {
        Mode::System if status.success() => "the machine is reset, as by an exception".to_owned(),
        _ => describe(status),
    }
}

/// How much a process has worked, and those that it has started.
fn work_of(process: u32) -> Duration {
    // In hundredths of a second, behind the name, which may be anything.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let ticks: u64 = fields.take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    Duration::from_millis(ticks * 10) + children.map(work_of).sum()
}

fn length_of(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

/// What a case tells of its end, bytes.
fn end_size() -> usize {
    let end = End { state: crate::case::State::default(), memory: vec![0; crate::case::REGION_SIZE] };
    end.bytes().len()
}
