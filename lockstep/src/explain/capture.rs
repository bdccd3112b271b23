//! Runs both builds once more, without the probe, and catches what they log of one block.
//!
//! The log goes through a pipe: nothing is kept but the block, and QEMU waits where it is not read. A plain run can't be
//! stopped at an instruction, so each goes on for as long as the ride took to come to the divergence, which a run without
//! a probe comes to sooner. Then it is killed.

use std::io::{self, BufReader, PipeReader};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use qemu::arguments::Arguments;
use qemu::run::{Plan, Run, Typing};
use trace::block::Instruction;

use super::log::{Entry, GuestLine, Translation, in_memory, read};
use super::{Error, Guilty, Request, stages};
use crate::comparator::{Pair, Side};

/// How often is looked whether there is enough.
const LOOK: Duration = Duration::from_millis(10);
/// How long a block is waited for, beyond thrice the time that the ride took.
const PATIENCE: Duration = Duration::from_secs(10);
/// Different translations of the block that are kept.
const KEPT: usize = 8;

/// How a translation goes with the block that was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It has the same instructions.
    Whole,
    /// It ends earlier or later, and has the guilty one.
    Cut,
}

/// A translation that was caught, and how often it came.
#[derive(Debug, Clone)]
pub struct Variant {
    pub translation: Translation,
    pub fit: Fit,
    pub times: u64,
}

/// What one side logged.
#[derive(Debug, Clone, Default)]
pub struct Catch {
    /// Translations of the block that differ, in the order in which they came first.
    pub variants: Vec<Variant>,
    /// Others of them that were not kept.
    pub dropped: u64,
    /// Translations of other code at its address.
    pub other: u64,
    /// Why a translation could not be read.
    pub unreadable: Option<String>,
    /// What QEMU had mapped.
    pub mapped: Vec<Range<u64>>,
}

impl Catch {
    /// Takes a translation in, with the bytes of its guest code as they lie in memory; `mapped` says what QEMU has mapped.
    pub fn take(
        &mut self,
        mut translation: Translation,
        wanted: &Guilty,
        big_endian: bool,
        mapped: impl FnOnce() -> Vec<Range<u64>>,
    ) {
        let Some(fit) = fit(&translation, wanted, big_endian) else {
            self.other += 1;
            return;
        };
        for line in &mut translation.guest {
            line.units = in_memory(&line.units, big_endian).into_iter().map(|byte| vec![byte]).collect();
        }
        part(&mut translation, wanted);
        if self.variants.is_empty() {
            self.mapped = mapped();
        }
        let known = self.variants.iter().position(|known| {
            known.fit == fit && known.translation.guest == translation.guest && {
                let sides = Pair { a: &known.translation, b: &translation };
                let same = stages(sides, Pair { a: &self.mapped, b: &self.mapped }, false);
                [&same.ops, &same.optimised, &same.host].iter().all(|rows| rows.iter().all(|row| row.same))
            }
        });
        match known {
            Some(known) => self.variants[known].times += 1,
            None if self.variants.len() < KEPT => self.variants.push(Variant { translation, fit, times: 1 }),
            None => self.dropped += 1,
        }
    }
}

/// How `translation` goes with the block; `None` where it is other code.
fn fit(translation: &Translation, wanted: &Guilty, big_endian: bool) -> Option<Fit> {
    if translation.address()? != wanted.block.first()?.address {
        return None;
    }
    let have = translation.bytes(big_endian);
    let bytes: Vec<u8> =
        wanted.block.iter().flat_map(|instruction| instruction.bytes.iter().copied()).collect();
    if have == bytes {
        return Some(Fit::Whole);
    }
    let through: usize =
        wanted.block.iter().take(wanted.number + 1).map(|instruction| instruction.bytes.len()).sum();
    let common = have.iter().zip(&bytes).take_while(|(have, wanted)| have == wanted).count();
    let ends = |length: usize| {
        let mut end = 0;
        wanted.block.iter().any(|Instruction { bytes, .. }| {
            end += bytes.len();
            end == length
        })
    };
    let shorter = common == have.len() && ends(common);
    (common >= through && (shorter || common == bytes.len())).then_some(Fit::Cut)
}

/// Parts the bytes of a build without a disassembler into the instructions that the probe saw.
fn part(translation: &mut Translation, wanted: &Guilty) {
    if translation.guest.iter().any(|line| !line.text.is_empty()) {
        return;
    }
    let mut rest = translation.bytes(true);
    let mut lines = Vec::new();
    for Instruction { address, bytes, .. } in &wanted.block {
        if rest.len() < bytes.len() || rest.is_empty() {
            break;
        }
        let units = rest.drain(..bytes.len()).map(|byte| vec![byte]).collect();
        lines.push(GuestLine { address: *address, units, text: String::new() });
    }
    if let (false, Some(last)) = (rest.is_empty(), wanted.block.last()) {
        let address = last.address.wrapping_add(last.bytes.len() as u64);
        lines.push(GuestLine {
            address,
            units: rest.into_iter().map(|byte| vec![byte]).collect(),
            text: String::new(),
        });
    }
    translation.guest = lines;
}

/// A side while it runs.
struct Running {
    run: Run,
    caught: Arc<Mutex<Catch>>,
    ended: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

impl Running {
    fn start(request: &Request, side: Side) -> Result<Self, Error> {
        let drive = request.drives.get(side);
        let wanted = request.guilty.get(side).clone();
        let first = wanted.block.first().map_or(0, |instruction| instruction.address);
        let (log, end) = io::pipe()?;
        let mut line = drive.line.to_vec();
        // QEMU takes the last -d, and one may be what the two sides are compared with (nochain).
        let before = Arguments::parse(&line).value("d").map(|items| format!("{items},")).unwrap_or_default();
        line.extend(["-d".to_owned(), format!("{before}in_asm,op,op_opt,out_asm")]);
        line.extend(["-dfilter".to_owned(), format!("{first:#x}+1")]);
        // A guest that ends at once would take with it what tells addresses from numbers.
        line.push("-no-shutdown".to_owned());
        line.extend(["-D".to_owned(), format!("/proc/self/fd/{}", end.as_raw_fd())]);
        let passed: Vec<BorrowedFd> = drive.passed.iter().copied().chain([end.as_fd()]).collect();
        let plan = Plan {
            build: request.builds.get(side),
            arguments: &line,
            folder: drive.folder,
            probe: None,
            typed: Typing::Nothing,
            passed: &passed,
            commanded: false,
            environment: None,
            console: None,
        };
        let run = Run::start(&plan, |_| {}).map_err(|error| Error::Run(side, error))?;
        drop(end);
        let (caught, ended) = (Arc::new(Mutex::new(Catch::default())), Arc::new(AtomicBool::new(false)));
        let reader = {
            let (caught, ended, process) = (Arc::clone(&caught), Arc::clone(&ended), run.id());
            let big_endian = is_big_endian(&request.builds.get(side).target());
            std::thread::spawn(move || {
                follow(log, &caught, &wanted, big_endian, process);
                ended.store(true, Ordering::Release);
            })
        };
        Ok(Running { run, caught, ended, reader })
    }

    /// Whether it will bring nothing more, or has brought the block and run for `settled`.
    fn is_done(&self, settled: bool) -> bool {
        let found = || self.caught.lock().is_ok_and(|caught| !caught.variants.is_empty());
        self.ended.load(Ordering::Acquire) || settled && found()
    }

    /// What it caught, and the last that QEMU said.
    fn end(mut self) -> (Catch, String) {
        self.run.kill();
        let _ = self.run.wait();
        let _ = self.reader.join();
        let caught = self.caught.lock().map(|caught| caught.clone()).unwrap_or_default();
        (caught, self.run.last_words())
    }
}

fn follow(log: PipeReader, caught: &Mutex<Catch>, wanted: &Guilty, big_endian: bool, process: u32) {
    // A log that can't be read any further is one that ended.
    let _ = read(&mut BufReader::new(log), |entry| {
        let Ok(mut caught) = caught.lock() else { return false };
        match entry {
            Entry::Translation(translation) => {
                caught.take(*translation, wanted, big_endian, || mapped(process))
            }
            Entry::Unreadable(why) => {
                caught.unreadable.get_or_insert(why);
            }
        }
        true
    });
}

/// What a process has mapped, as ranges of addresses.
fn mapped(process: u32) -> Vec<Range<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let range = |line: &str| {
        let (begin, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(u64::from_str_radix(begin, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
    };
    maps.lines().filter_map(range).collect()
}

/// Whether the target's instructions lie in memory with their first byte first.
fn is_big_endian(target: &str) -> bool {
    const BIG: [&str; 12] = [
        "hppa",
        "m68k",
        "microblaze",
        "mips",
        "mips64",
        "or1k",
        "ppc",
        "ppc64",
        "s390x",
        "sparc",
        "sparc64",
        "xtensaeb",
    ];
    BIG.contains(&target)
}

/// Runs both, and gives what each logged of the block.
///
/// # Errors
/// Where a side does not run, or does not come to the block.
pub fn both(request: &Request) -> Result<Pair<Catch>, Error> {
    let began = Instant::now();
    let running = Pair { a: Running::start(request, Side::A)?, b: Running::start(request, Side::B)? };
    let limit = request.reached * 3 + PATIENCE;
    loop {
        let settled = began.elapsed() >= request.reached;
        let done = [&running.a, &running.b].iter().all(|side| side.is_done(settled));
        if done || began.elapsed() > limit {
            break;
        }
        if request.interrupts.load(Ordering::Relaxed) > 0 {
            return Err(Error::Interrupted);
        }
        std::thread::sleep(LOOK);
    }
    let Pair { a, b } = running;
    let mut caught = Pair::default();
    for (side, (catch, said)) in [(Side::A, a.end()), (Side::B, b.end())] {
        if catch.variants.is_empty() {
            let pc = request.guilty.get(side).block.first().map_or(0, |instruction| instruction.address);
            let why = match catch.unreadable {
                Some(why) => format!("; {why}"),
                None if catch.other > 0 => format!(", but {} times other code there", catch.other),
                None => said,
            };
            return Err(Error::NotTranslated { side, pc, why });
        }
        if catch.mapped.is_empty() {
            return Err(Error::Gone(side));
        }
        *caught.get_mut(side) = catch;
    }
    Ok(caught)
}
