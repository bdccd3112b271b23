//! Makes the checkpoints of a recording: replays it, and at even distances has QEMU keep its state (`savevm`).
//!
//! QEMU's own state is not to be trusted (see [`crate::forgotten`]), so each checkpoint is proven before it is kept: another
//! QEMU is restored from it and runs on to the next one, where registers and digest must be those of the replay that came
//! there from the beginning. That is done beside, while the replay goes on.

mod arming;

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use recorder::checkpoint::{self, Checkpoint, Store};
use recorder::reader::{self, Reader};
use trace::message::{Point, Watch};

use self::arming::{Armings, Way};
use crate::forgotten::{Rearming, riscv};
use crate::image::{self, Snapshot, copied};
use crate::machine::{self, Machine, Setting, Start, Stop};
use crate::seek::{self, check};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Recording(#[from] reader::Error),
    #[error(transparent)]
    Store(#[from] checkpoint::Error),
    #[error(transparent)]
    Machine(#[from] machine::Error),
    #[error(transparent)]
    Seek(#[from] seek::Error),
    #[error("a checkpoint can't be written to the folder for temporary files: {0}; TMPDIR names another")]
    Temporary(#[from] io::Error),
}

/// What has been made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Made {
    pub kept: usize,
    /// Why those that could not be kept were not: at which icount, and what went wrong.
    pub failed: Vec<(u64, String)>,
}

/// How many instructions apart checkpoints are where nobody says: so that a seek takes a small part of a whole replay.
#[must_use]
pub fn usual(instructions: u64) -> u64 {
    (instructions / 64).max(100_000_000)
}

/// After how many checkpoints of which none is good no more are tried.
const HOPELESS: usize = 2;

/// How long the proof of a checkpoint may go without a full chunk.
const PATIENCE: Duration = Duration::from_secs(10);

/// The least number of instructions that no event should come before a checkpoint: behind a tick of the HPET there are
/// states that can't be kept ([`crate::forgotten::hpet`]).
const QUIET: u64 = 5000;

/// How often, and how many instructions later each time, it is tried again to keep a state.
const TRIES: u32 = 20;
const LATER: u64 = 100_000;

/// A state that QEMU kept, or, without one, the end.
struct Kept {
    icount: u64,
    point: Point,
    registers: String,
    /// The machine's, then one for each drive that can be written to; none at the end.
    images: Vec<File>,
    rearming: Rearming,
    /// What the timers are like that QEMU forgets.
    timers: Option<riscv::State>,
}

/// Makes checkpoints of `recording`, `every` so many instructions, in place of those that it has. `recording` has to be
/// opened anew to see them.
///
/// # Errors
/// Where the replay is not the recorded run, or the recording can't be written.
pub fn index(
    recording: &mut Reader,
    setting: Setting,
    every: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Made, Error> {
    let mut store = Store::create(recording)?;
    let (send, come) = sync_channel(1);
    let (kept, proven) = std::thread::scope(|scope| {
        // A QEMU dies with the thread that starts it: this one ends when its last has.
        let prover = scope.spawn(|| prove_all(&mut store, setting, come));
        let kept = keep_all(recording, setting, every, &send, progress);
        drop(send);
        (kept, prover.join().unwrap_or_else(|_| Err(io::Error::other("its proof panicked").into())))
    });
    // The proof's error first: who is waited for is gone because of it.
    let made = proven.and_then(|mut made| {
        made.failed.extend(kept?);
        made.failed.sort();
        Ok(made)
    });
    if made.as_ref().is_ok_and(|made| made.kept > 0) {
        store.finish()?;
    } else {
        store.abandon();
    }
    made
}

/// Replays the recording and has QEMU keep its state now and then; gives back where it could not.
fn keep_all(
    recording: &mut Reader,
    setting: Setting,
    every: u64,
    send: &SyncSender<Kept>,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<(u64, String)>, Error> {
    let mut failed = Vec::new();
    let image = image::empty(image::STATE_ONLY)?;
    let mut machine = Machine::start(setting, Start::Keeping(&image), Watch::default())?;
    // Nothing is made of what comes with the guest's end: the last proof ends before.
    let end = recording.ending.icount.saturating_sub(1);
    let mut before = Vec::new();
    let mut target = every;
    let mut tries = 0;
    let mut armings = Armings::default();
    while target < end {
        let icount = quiet(recording, target, target.saturating_add(every / 2).min(end))?;
        let Some(icount) = icount else { break };
        let stop = machine.run_to(icount, &mut |told| check(recording, progress, told))?;
        if stop == Stop::Ended {
            break;
        }
        let limit = icount.saturating_add(every / 2).min(end);
        let mut way = Way { machine: &mut machine, recording, progress };
        if let Err(why) = armings.settle(&mut way, limit)? {
            failed.push((icount, why.to_owned()));
            target = icount.saturating_add(every);
            continue;
        }
        let icount = machine.icount();
        match keep(&mut machine, &image, &mut before) {
            Ok(kept) => {
                if send.send(kept).is_err() {
                    return Ok(failed);
                }
            }
            // While requests to a drive are under way there is no state: a little later, then.
            Err(machine::Error::NotKept(_)) if tries < TRIES => {
                tries += 1;
                target = icount + LATER;
                continue;
            }
            Err(machine::Error::NotKept(why)) => failed.push((icount, why)),
            Err(error) => return Err(error.into()),
        }
        tries = 0;
        target = icount.saturating_add(every);
    }
    if let Some(icount) = quiet(recording, machine.icount() + 1, end)?
        && machine.run_to(icount, &mut |told| check(recording, progress, told))? == Stop::Reached
    {
        let (point, registers) = (machine.standing()?.point, machine.registers()?);
        let (rearming, timers) = (machine.rearming(), machine.timers_state()?);
        let _ = send.send(Kept { icount, point, registers, images: Vec::new(), rearming, timers });
    }
    Ok(failed)
}

/// Has QEMU keep the state of `machine` in `image`, and copies it. `before` is what was kept last in each image, and
/// needed no more.
fn keep(machine: &mut Machine, image: &File, before: &mut Vec<Snapshot>) -> Result<Kept, machine::Error> {
    let standing = machine.standing()?;
    if standing.unfinished.is_some() {
        return Err(machine::Error::NotKept("it stands in the middle of a block".to_owned()));
    }
    let name = machine.keep()?;
    let drives = machine.drives()?;
    let files = || [image].into_iter().chain(&drives);
    let kept: io::Result<Vec<_>> = files().map(|file| Snapshot::last(file, &name)).collect();
    let not = |error: io::Error| machine::Error::NotKept(error.to_string());
    let kept = kept.map_err(not)?;
    for ((file, older), newer) in files().zip(&*before).zip(&kept) {
        older.free(file, newer);
    }
    let images: io::Result<_> = files().zip(&kept).map(|(file, kept)| kept.alone(file)).collect();
    *before = kept;
    Ok(Kept {
        icount: machine.icount(),
        point: standing.point,
        registers: machine.registers()?,
        rearming: machine.rearming(),
        timers: machine.timers_state()?,
        images: images.map_err(not)?,
    })
}

/// The first icount from `from` up to `to` at which nothing happens and before which nothing has for a while; where
/// there is none, the one before which it is the longest.
fn quiet(recording: &mut Reader, from: u64, to: u64) -> Result<Option<u64>, reader::Error> {
    let mut last = from.saturating_sub(QUIET);
    let mut best: Option<(u64, u64)> = None;
    recording.events(last, |at, _| {
        // What is between two events is free, the second's own icount is not.
        let candidate = from.max((last + QUIET).min(at.saturating_sub(1)));
        if candidate > last && candidate < at && candidate <= to {
            let distance = candidate - last;
            if best.is_none_or(|(longest, _)| distance > longest) {
                best = Some((distance, candidate));
            }
        }
        last = at;
        let found = best.is_some_and(|(distance, _)| distance >= QUIET);
        if found || at > to { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(best.map(|(_, icount)| icount))
}

/// Proves each state by the next one, and stores those that are good.
fn prove_all(store: &mut Store, setting: Setting, come: Receiver<Kept>) -> Result<Made, Error> {
    let mut made = Made::default();
    let mut before: Option<Kept> = None;
    // What was needed last is tried first.
    let mut last: Option<bool> = None;
    for kept in come {
        let mut rearms = match kept.rearming {
            Rearming::Never => false,
            Rearming::Perhaps { first } => last.unwrap_or(first),
            Rearming::Always => true,
        };
        if let Some(before) = &before {
            let mut proof = prove(setting, before, rearms, &kept);
            if let Err(error) = &proof {
                if let machine::Error::Interrupted(_) = error {
                    return Err(proof.err().map_or_else(|| unreachable!(), Error::from));
                }
                let first = error.to_string();
                if let Rearming::Perhaps { .. } = kept.rearming {
                    rearms = !rearms;
                    proof = prove(setting, before, rearms, &kept);
                }
                if proof.is_err() {
                    made.failed.push((before.icount, first));
                }
            }
            if made.kept == 0 && made.failed.len() == HOPELESS {
                break;
            }
            if proof.is_ok() {
                let images: Result<_, _> = before.images.iter().map(|image| store.keep(image)).collect();
                let images = images?;
                let build = setting.build.sha256.clone();
                let Kept { icount, point, .. } = *before;
                store.add(&Checkpoint { icount, point, build, rearms, images })?;
                made.kept += 1;
                last = Some(rearms);
            }
        }
        before = Some(kept);
    }
    Ok(made)
}

/// Restores a state and runs on to the next one.
fn prove(setting: Setting, kept: &Kept, rearms: bool, next: &Kept) -> Result<(), machine::Error> {
    let differs = |what: &str| Err(machine::Error::NotKept(format!("restored, {what}")));
    // What QEMU does to it must not be stored.
    let images: io::Result<Vec<_>> = kept.images.iter().map(copied).collect();
    let images = images.map_err(|error| machine::Error::NotKept(error.to_string()))?;
    let Some((machine, drives)) = images.split_first() else { return differs("there is nothing") };
    let setting = Setting { patience: PATIENCE, ..setting };
    let mut machine = Machine::start(
        setting,
        Start::Kept { machine, drives, point: kept.point, rearms },
        Watch::default(),
    )?;
    if machine.registers()? != kept.registers {
        return differs("it has other registers");
    }
    if machine.timers_state()? != kept.timers {
        return differs("it has other timers");
    }
    if machine.run_to::<machine::Error>(next.icount, &mut |_| Ok(true))? != Stop::Reached {
        return differs("the guest ended");
    }
    if machine.standing()?.point != next.point {
        return differs("the guest went another way");
    }
    if machine.registers()? != next.registers {
        return differs("the guest came to other registers");
    }
    if machine.timers_state()? != next.timers {
        return differs("the guest came to other timers");
    }
    Ok(())
}
