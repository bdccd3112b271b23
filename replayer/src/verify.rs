//! Replays a recording, or a stretch of it, and proves that it is the same run, or says where it is not.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qemu::arguments::Refusal;
use qemu::monitor;
use qemu::run::{self, Happening, Plan, Run, Typing};
use qemu::stub::{self, Stub};
use recorder::account::grouped;
use recorder::checkpoint;
use recorder::reader::{self, Reader};
use trace::message::{CHUNK, FromProbe, Look, Point, ToProbe, Watch};

use crate::death::{Death, LastWords};
use crate::forgotten::hpet;
use crate::machine::Setting;
use crate::source::{self, State};
use crate::standstill::Standstill;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error(transparent)]
    Recording(#[from] reader::Error),
    #[error(transparent)]
    Run(#[from] run::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Stub(#[from] stub::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Died(Box<Death>),
    #[error("the replay stands still at icount {}: QEMU waits for an event that does not come; {}{place}", grouped(*.icount), so_far(*.identical, *.other))]
    Stalled { icount: u64, identical: u64, other: bool, place: Standstill },
    #[error("the replay stands still after instruction {position} of the stream, {limit} s without a full chunk, and QEMU does not say where ({why}); up to there it was the same run", limit = limit.as_secs())]
    Mute { position: u64, limit: Duration, why: monitor::Error },
    #[error("the probe can't go on: {0}")]
    Probe(String),
    #[error("interrupted at icount {0}, so far the same run")]
    Interrupted(u64),
}

/// How far a replay was the recorded run.
pub(crate) fn so_far(identical: u64, other: bool) -> String {
    let chunks = grouped(identical);
    if other {
        format!(
            "identical up to instruction {chunks} of the stream: this build and the one that recorded part behind that"
        )
    } else {
        format!("identical up to instruction {chunks} of the stream")
    }
}

/// How long a replay may go without a full chunk.
pub const STALL: Duration = Duration::from_secs(30);

/// Chunks that the probe remembers: the one with the place of the proof, and one more.
const KEPT: u32 = 2;

/// What a replay has proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same run, up to the last place that the recording's witness knows, and then on to its end.
    Identical { instructions: u64, chunks: u64 },
    /// It came to its end, but was recorded without a witness.
    Unproven { instructions: u64 },
    /// The first chunk that differs, its instructions from `from` up to `to`.
    Different { chunk: u64, from: u64, to: u64 },
    /// The same run, but it ended before the recording did.
    EndedEarly { at: u64, instructions: u64 },
    /// The same instructions, but the guest wrote something else, in this line of its console (from 1).
    OtherConsole { line: usize },
}

/// What one QEMU replays of a recording.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stretch<'f> {
    /// Where it begins, if not before the first instruction.
    pub from: Option<Restored<'f>>,
    /// Where it is at its end, if not where the recording is.
    pub goal: Option<&'f Goal>,
}

/// Where a stretch is at its end, which may come nearer while it is replayed.
pub(crate) struct Goal(Mutex<Reach>);

struct Reach {
    /// Where the next one begins; `None`: at the recording's end.
    joint: Option<Point>,
    /// How many chunks may have been run, counted from the recording's start.
    granted: u64,
}

/// How many chunks a probe may run ahead where its goal may come nearer.
const AHEAD: u64 = 64;

impl Goal {
    pub fn new(from: Point, joint: Option<Point>) -> Self {
        Goal(Mutex::new(Reach { joint, granted: from.position / CHUNK }))
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn joint(&self) -> Option<Point> {
        self.reach().joint
    }

    /// Has the stretch end at `joint`, before where it would; gives back whether it is not too late for that.
    pub fn end_at(&self, joint: Point) -> bool {
        let mut reach = self.reach();
        let early = reach.granted.checked_mul(CHUNK).is_some_and(|run| run <= joint.position);
        if early {
            reach.joint = Some(joint);
        }
        early
    }

    /// Lets the probe run on from the end of `chunks`, in a recording that is proven at `end`; gives back how far, and where
    /// the stretch ends.
    fn grant(&self, chunks: u64, end: Point) -> (u64, Option<Point>) {
        let mut reach = self.reach();
        let last = reach.joint.unwrap_or(end).position / CHUNK + u64::from(KEPT) - 1;
        reach.granted = last.min(chunks + AHEAD);
        (reach.granted, reach.joint)
    }
}

/// A checkpoint, unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Restored<'f> {
    pub state: State<'f>,
    pub point: Point,
    pub rearms: bool,
}

/// Replays `recording` and compares it with its witness. `console` gets what the guest writes; `progress` the
/// instructions so far.
///
/// # Errors
/// Where the replay came to no verdict.
pub fn verify(
    recording: &mut Reader,
    setting: Setting,
    console: &mut dyn FnMut(&[u8]),
    progress: &mut dyn FnMut(u64),
) -> Result<Verdict, Error> {
    let mut replayed = BufWriter::new(tempfile::tempfile().map_err(source::Error::from)?);
    let mut take = |bytes: &[u8]| {
        console(bytes);
        replayed.write_all(bytes)
    };
    let verdict = prove(recording, setting, Stretch::default(), &mut take, progress)?;
    let mut replayed = replayed.into_inner().map_err(io::IntoInnerError::into_error)?;
    replayed.rewind()?;
    match (verdict, other_console(recording, BufReader::new(replayed))?) {
        (Verdict::Identical { .. } | Verdict::Unproven { .. }, Some(line)) => {
            Ok(Verdict::OtherConsole { line })
        }
        _ => Ok(verdict),
    }
}

/// Starts QEMU where `stretch` begins. What commands it there has to be kept as long as it runs.
fn start(
    setting: Setting,
    stretch: Stretch,
    tell: impl Fn(Happening) + Clone + Send + 'static,
) -> Result<(Run, Option<UnixStream>), Error> {
    let mut passed = vec![setting.source.log()];
    let mut line = setting.source.line.clone();
    let mut ends = None;
    if let Some(Restored { state, rearms, .. }) = stretch.from {
        line = setting.source.restored(&state)?;
        passed.push(state.machine.as_fd());
        passed.extend(state.drives.iter().map(AsFd::as_fd));
        ends = rearms.then(UnixStream::pair).transpose()?;
    }
    if let Some((_, theirs)) = &ends {
        // A monitor for programs would slow it down (see `Run::start`), and is not needed.
        let fd = theirs.as_raw_fd();
        line.extend(["-S", "-gdb", "chardev:tandem-stub", "-chardev"].map(str::to_owned));
        line.push(format!("socket,id=tandem-stub,fd={fd}"));
        passed.push(theirs.as_fd());
    }
    let plan = Plan {
        build: setting.build,
        arguments: &line,
        folder: &setting.source.folder,
        probe: Some(setting.probe),
        typed: Typing::Nothing,
        passed: &passed,
        commanded: false,
        environment: None,
        console: None,
    };
    let run = Run::start(&plan, tell)?;
    Ok((run, ends.map(|(ours, _)| ours)))
}

/// Replays a stretch of `recording` and compares it with the witness.
pub(crate) fn prove(
    recording: &mut Reader,
    setting: Setting,
    stretch: Stretch,
    console: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<Verdict, Error> {
    let proof = recording.ending.proof;
    let end = proof.unwrap_or(Point::START);
    let instructions = recording.ending.instructions();
    let from = stretch.from.map_or(Point::START, |restored| restored.point);
    let mut chunks = from.position / CHUNK;
    // It must not run so far behind the place of the proof that it forgets the digest there before it is asked.
    let (mut credit, mut joint) = match stretch.goal {
        Some(goal) => goal.grant(chunks, end),
        None => (end.position / CHUNK + u64::from(KEPT) - 1, None),
    };
    let (tell, come) = channel();
    let (mut run, stub) = start(setting, stretch, move |happening| drop(tell.send(happening)))?;
    run.say(&ToProbe::Go { credit, from, watch: Watch::default(), keeps: KEPT, look: Look::default() });
    let _stub = stub.map(let_go).transpose()?;
    let mut moved = Instant::now();
    let mut asked = false;
    let mut same = end == Point::START;
    let mut ended = None;
    let mut last = None;
    let verdict = loop {
        let proven = joint.unwrap_or(end);
        let least = joint.map_or(instructions, |joint| joint.position);
        progress((chunks * CHUNK).min(least));
        if setting.interrupts.load(Ordering::Relaxed) > 0 {
            return Err(Error::Interrupted(chunks * CHUNK));
        }
        // Behind a joint goes on who begins there.
        if let (true, Some(position)) = (same, ended.or(joint.map(|joint| joint.position))) {
            break match proof {
                _ if position < least => Verdict::EndedEarly { at: position, instructions },
                Some(_) => Verdict::Identical {
                    instructions: proven.position,
                    chunks: proven.position.div_ceil(CHUNK),
                },
                None => Verdict::Unproven { instructions: position },
            };
        }
        let happening = match come.recv_timeout(Duration::from_millis(100)) {
            Ok(happening) => happening,
            Err(RecvTimeoutError::Timeout) => {
                if moved.elapsed() > setting.patience {
                    return Err(stalled(recording, setting, run, chunks * CHUNK));
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => Happening::ProbeGone(None),
        };
        match happening {
            Happening::Console(bytes) => {
                console(&bytes)?;
            }
            Happening::Probe(FromProbe::Chunk { index, digest, .. }) => {
                moved = Instant::now();
                let from = index * CHUNK;
                // Chunks behind the proof have no witness, or one of what ran after the shutdown. A chunk whose
                // witness was lost is proven by those behind it.
                let inside = from + CHUNK <= proven.position;
                let differs = |expected: u64| expected != digest;
                if inside && (index != chunks || recording.digest(index)?.is_some_and(differs)) {
                    break Verdict::Different { chunk: index, from, to: from + CHUNK };
                }
                chunks = index + 1;
                if !inside && !same && !asked {
                    asked = true;
                    run.say(&ToProbe::Digests { from: proven.position, to: proven.position });
                }
                if from + CHUNK == proven.position {
                    if digest != proven.digest {
                        break Verdict::Different { chunk: index, from, to: proven.position };
                    }
                    same = true;
                }
                if same {
                    run.say(&ToProbe::Credit(u64::MAX));
                } else if let Some(goal) = stretch.goal {
                    let before = credit;
                    (credit, joint) = goal.grant(chunks, end);
                    if credit > before {
                        run.say(&ToProbe::Credit(credit));
                    }
                }
            }
            Happening::Probe(FromProbe::End { position, .. }) => {
                ended = Some(position);
                if position < proven.position {
                    break Verdict::EndedEarly { at: position, instructions };
                }
                if !same && !asked {
                    asked = true;
                    run.say(&ToProbe::Digests { from: proven.position, to: proven.position });
                }
            }
            Happening::Probe(FromProbe::Digests(Some(digests))) => {
                if digests != [proven.digest] {
                    let chunk = proven.position / CHUNK;
                    break Verdict::Different { chunk, from: chunk * CHUNK, to: proven.position };
                }
                same = true;
                run.say(&ToProbe::Credit(u64::MAX));
            }
            Happening::Probe(FromProbe::Dying { started, sender }) => {
                last = Some(LastWords { started, sender })
            }
            Happening::Probe(FromProbe::Failure(why)) => return Err(Error::Probe(why)),
            Happening::Probe(message) => {
                return Err(Error::Probe(format!("it said {message:?} out of turn")));
            }
            Happening::ProbeGone(Some(why)) => return Err(Error::Probe(why)),
            Happening::ProbeGone(None) => {
                let status = run.wait()?;
                let other = other(recording, setting);
                return Err(Error::Died(Box::new(Death::of(&run, status, last, chunks * CHUNK, other))));
            }
        }
    };
    // What the guest wrote up to its end is told; what it does behind it is of no interest.
    if ended.is_some() {
        run.say(&ToProbe::Finish);
    } else {
        run.kill();
    }
    let status = run.wait()?;
    if let Verdict::EndedEarly { at, .. } = verdict
        && Death::is_one(&run, status)
    {
        let last = LastWords { started: at, sender: None };
        let other = other(recording, setting);
        return Err(Error::Died(Box::new(Death::of(&run, status, Some(last), chunks * CHUNK, other))));
    }
    for happening in come.try_iter() {
        if let Happening::Console(bytes) = happening {
            console(&bytes)?;
        }
    }
    Ok(verdict)
}

/// Lets a restored guest run, once the HPET is armed.
fn let_go(stub: UnixStream) -> Result<Stub, Error> {
    let mut stub = Stub::attach(stub)?;
    hpet::rearm(&mut stub)?;
    stub.go()?;
    Ok(stub)
}

/// Whether another build replays than the one that recorded.
fn other(recording: &Reader, setting: Setting) -> bool {
    setting.build.sha256 != recording.manifest.build.sha256
}

/// Why and where a replay stands still whose first `identical` instructions are the recorded ones.
fn stalled(recording: &mut Reader, setting: Setting, mut run: Run, identical: u64) -> Error {
    match run.asked().map_or(Err(monitor::Error::Mute), monitor::icount) {
        Ok(icount) => match Standstill::at(recording, icount) {
            Ok(place) => {
                let other = other(recording, setting);
                Error::Stalled { icount, identical, other, place }
            }
            Err(error) => error.into(),
        },
        Err(why) => Error::Mute { position: identical, limit: setting.patience, why },
    }
}

/// The first line, from 1, in which the recorded console and the one in `replayed` differ.
pub(crate) fn other_console(recording: &mut Reader, mut replayed: impl Read) -> Result<Option<usize>, Error> {
    let mut line = 1;
    let mut outcome = Ok(None);
    recording.console(|_, recorded| {
        let mut now = Vec::with_capacity(recorded.len());
        match replayed.by_ref().take(recorded.len() as u64).read_to_end(&mut now) {
            Err(error) => outcome = Err(error.into()),
            Ok(_) => match console_difference(recorded, &now) {
                Some(more) => outcome = Ok(Some(line + more - 1)),
                None if now.len() < recorded.len() => {}
                None => {
                    line += recorded.iter().filter(|&&byte| byte == b'\n').count();
                    return ControlFlow::Continue(());
                }
            },
        }
        ControlFlow::Break(())
    })?;
    outcome
}

/// The first line, from 1, in which two consoles differ. What one of them has behind the other's end may have been
/// written after the run's end.
#[must_use]
pub fn console_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let place = a.iter().zip(b).position(|(a, b)| a != b)?;
    Some(a[..place].iter().filter(|&&byte| byte == b'\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::console_difference;

    #[test]
    fn consoles_differ_in_a_line_and_not_in_what_one_has_more() {
        assert_eq!(console_difference(b"a\nb\nc", b"a\nX\nc"), Some(2));
        assert_eq!(console_difference(b"a\nb\n", b"a\nb\nmore"), None);
        assert_eq!(console_difference(b"", b"x"), None);
    }
}
