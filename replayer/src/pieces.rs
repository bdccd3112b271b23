//! Proves a recording in pieces, several QEMUs at once: one begins where the recording does, each other one at a
//! checkpoint, and each has to come to the digest at which the next one has begun. What is proven is the same as by one
//! QEMU, the digest of every chunk of the whole stream.
//!
//! A checkpoint was proven up to the next one, and what QEMU forgot may show later than that. So only that all is identical
//! is taken from the pieces, and what the first one finds, which stands on no checkpoint; whatever else one of them finds,
//! the recording is replayed from the beginning, and that counts.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::available_parallelism;
use std::time::Duration;

use recorder::account::{Stamps, grouped};
use recorder::checkpoint::Checkpoint;
use recorder::reader::Reader;
use trace::message::{CHUNK, Point};

use crate::image::restored;
use crate::machine::{STATE, Setting};
use crate::source::{self, State};
use crate::verify::{self, Error, Restored, Stretch, Verdict, other_console, prove};

/// What was proven, and by how many QEMUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    pub verdict: Verdict,
    pub pieces: usize,
}

/// Who is told of a proof while it is under way.
pub struct Listener<'a> {
    /// Gets what the guest writes, in its order.
    pub console: &'a mut dyn FnMut(&[u8]),
    /// Gets how many instructions have been replayed.
    pub progress: &'a mut dyn FnMut(u64),
    /// Gets why the pieces are no proof, and the recording is replayed from the beginning.
    pub doubt: &'a mut dyn FnMut(&str),
}

/// The least number of instructions that it pays to begin a QEMU for.
const WORTH: u64 = 200_000_000;

/// What a QEMU takes of memory beside its guest's, bytes.
const OWN: u64 = 128 << 20;

/// Where a piece begins.
struct Begin {
    /// `None`: before the first instruction.
    checkpoint: Option<Checkpoint>,
    /// How many bytes of the console come before.
    console: u64,
}

impl Begin {
    fn point(&self) -> Point {
        self.checkpoint.as_ref().map_or(Point::START, |checkpoint| checkpoint.point)
    }
}

/// What a piece says.
enum Said {
    Console(Vec<u8>),
    /// So many instructions of the stream are done.
    Progress(u64),
    Done(Result<Verdict, Error>),
}

/// Replays `recording` in at most `jobs` pieces at once, where given, and compares it with its witness.
///
/// # Errors
/// Where the replay came to no verdict.
pub fn verify(
    recording: &mut Reader,
    setting: Setting,
    jobs: Option<NonZeroUsize>,
    on: &mut Listener,
) -> Result<Proof, Error> {
    let begins = begins(recording, setting, jobs)?;
    let mut shown = 0;
    if begins.len() > 1 {
        let mut console = Console::of(&begins)?;
        let why = match at_once(recording.path(), setting, &begins, &mut console, on)? {
            Outcome::Identical if console.is_recorded(recording)? => {
                let instructions = recording.ending.proof.unwrap_or(Point::START).position;
                let chunks = instructions.div_ceil(CHUNK);
                return Ok(Proof {
                    verdict: Verdict::Identical { instructions, chunks },
                    pieces: begins.len(),
                });
            }
            Outcome::Identical => "they wrote another console".to_owned(),
            Outcome::Found(verdict) => return Ok(Proof { verdict, pieces: 1 }),
            Outcome::Doubt(why) => why,
        };
        (on.doubt)(&why);
        shown = console.shown;
    }
    // What was shown is not shown again.
    let mut console = |bytes: &[u8]| {
        let before = usize::try_from(shown).unwrap_or(usize::MAX).min(bytes.len());
        shown -= before as u64;
        (on.console)(&bytes[before..]);
    };
    let verdict = verify::verify(recording, setting, &mut console, on.progress)?;
    Ok(Proof { verdict, pieces: 1 })
}

/// Where the pieces begin, of about one length; only one where there can be no more.
fn begins(recording: &mut Reader, setting: Setting, jobs: Option<NonZeroUsize>) -> Result<Vec<Begin>, Error> {
    let end = recording.ending.icount;
    let mut begins = vec![Begin { checkpoint: None, console: 0 }];
    let most = jobs.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let Some(proof) = recording.ending.proof else { return Ok(begins) };
    let icounts = recording.checkpoints();
    if most == 1 || icounts.is_empty() {
        return Ok(begins);
    }
    let mut usable = Vec::new();
    for icount in icounts {
        let Some(checkpoint) = recording.checkpoint(icount)? else { continue };
        let between = (1..proof.position).contains(&checkpoint.point.position);
        if between && checkpoint.build == setting.build.sha256 && !checkpoint.images.is_empty() {
            usable.push(checkpoint);
        }
    }
    // Else nobody knows what of the console belongs to which piece.
    let Some(stamps) = Stamps::of(recording)? else { return Ok(begins) };
    let most = match jobs {
        Some(_) => most,
        None => most.min(usize::try_from(end / WORTH).unwrap_or(usize::MAX)).min(room(&usable)),
    };
    let length = end / most.max(1) as u64;
    for ideal in (1..most as u64).map(|number| number * length) {
        let nearest = (0..usable.len()).min_by_key(|&at| usable[at].icount.abs_diff(ideal));
        let Some(nearest) = nearest else { break };
        let checkpoint = usable.remove(nearest);
        let Some(console) = stamps.written(checkpoint.icount) else { break };
        // One behind that is not in order, because none was left.
        if begins.last().is_some_and(|before| before.point().position < checkpoint.point.position) {
            begins.push(Begin { checkpoint: Some(checkpoint), console });
        }
    }
    Ok(begins)
}

/// How many QEMUs have room in memory, each with a state like the largest of these, once in a file and once as its
/// guest's memory.
fn room(usable: &[Checkpoint]) -> usize {
    let each = usable.iter().map(Checkpoint::held).max().unwrap_or(0) * 2 + OWN;
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    usize::try_from(available(&told).unwrap_or(0) / each).unwrap_or(usize::MAX)
}

/// The bytes of memory that can be had, as the kernel tells it.
fn available(told: &str) -> Option<u64> {
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// What came of all pieces.
enum Outcome {
    /// Each is identical.
    Identical,
    /// The first one found this by itself.
    Found(Verdict),
    /// They are no proof, and why.
    Doubt(String),
}

/// Replays all pieces, each on a thread of its own.
fn at_once(
    path: &Path,
    setting: Setting,
    begins: &[Begin],
    console: &mut Console,
    on: &mut Listener,
) -> Result<Outcome, Error> {
    let stop = AtomicU32::new(0);
    let (tell, come) = channel();
    std::thread::scope(|scope| {
        for number in 0..begins.len() {
            let (tell, setting) = (tell.clone(), Setting { interrupts: &stop, ..setting });
            // A QEMU dies with the thread that starts it: this one ends when its QEMU has.
            scope.spawn(move || {
                let proven = piece(path, setting, begins, number, &tell);
                drop(tell.send((number, Said::Done(proven))));
            });
        }
        drop(tell);
        let outcome = listen(setting.interrupts, begins, &come, console, on);
        stop.store(1, Ordering::Relaxed);
        outcome
    })
}

/// Proves the piece with this number.
fn piece(
    path: &Path,
    setting: Setting,
    begins: &[Begin],
    number: usize,
    tell: &Sender<(usize, Said)>,
) -> Result<Verdict, Error> {
    let mut recording = Reader::open(path)?;
    let say = |said| drop(tell.send((number, said)));
    let mut console = |bytes: &[u8]| {
        say(Said::Console(bytes.to_vec()));
        Ok(())
    };
    let mut progress = |position| say(Said::Progress(position));
    let Begin { checkpoint, .. } = &begins[number];
    let files =
        checkpoint.as_ref().map(|checkpoint| restored::<Error>(&mut recording, checkpoint)).transpose()?;
    let images = files.as_ref().and_then(|files| files.split_first());
    let from = checkpoint.as_ref().zip(images).map(|(checkpoint, (machine, drives))| Restored {
        state: State { machine, drives, restored: Some(STATE) },
        point: checkpoint.point,
        rearms: checkpoint.rearms,
    });
    let stretch = Stretch { from, to: begins.get(number + 1).map(Begin::point) };
    prove(&mut recording, setting, stretch, &mut console, &mut progress)
}

/// Takes what the pieces say until it is clear what comes of them.
fn listen(
    interrupts: &AtomicU32,
    begins: &[Begin],
    come: &Receiver<(usize, Said)>,
    console: &mut Console,
    on: &mut Listener,
) -> Result<Outcome, Error> {
    let mut done: Vec<u64> = begins.iter().map(|begin| begin.point().position).collect();
    let mut identical = 0;
    while identical < begins.len() {
        if interrupts.load(Ordering::Relaxed) > 0 {
            let joints = begins[1..].iter().map(|begin| begin.point().position);
            let whole = done.iter().zip(joints).take_while(|&(&done, joint)| done == joint).count();
            return Err(Error::Interrupted(done[whole]));
        }
        let (number, said) = match come.recv_timeout(Duration::from_millis(100)) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Outcome::Doubt("one gave no answer".to_owned()));
            }
        };
        let joint = begins.get(number + 1).map(Begin::point);
        match said {
            Said::Console(bytes) => console.take(number, &bytes, on.console)?,
            Said::Progress(position) => {
                done[number] = done[number].max(position);
                let each = done.iter().zip(begins).map(|(done, begin)| done - begin.point().position);
                (on.progress)(each.sum());
            }
            Said::Done(Ok(Verdict::Identical { instructions, .. })) => {
                identical += 1;
                done[number] = instructions;
            }
            // What differs at a joint may be the checkpoint.
            Said::Done(Ok(verdict))
                if number == 0
                    && !matches!((verdict, joint), (Verdict::Different { to, .. }, Some(joint)) if to == joint.position) =>
            {
                return Ok(Outcome::Found(verdict));
            }
            Said::Done(Err(error)) if number == 0 => return Err(error),
            Said::Done(found) => {
                let why = match found {
                    Ok(_) => "is another run".to_owned(),
                    Err(error) => {
                        let error = error.to_string();
                        format!("came to nothing ({})", error.lines().next().unwrap_or_default())
                    }
                };
                let icount = begins[number].checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.icount);
                return Ok(Outcome::Doubt(format!("the one from icount {} on {why}", grouped(icount))));
            }
        }
    }
    Ok(Outcome::Identical)
}

/// What the pieces write, in one unnamed file, each where it belongs.
struct Console {
    file: File,
    /// Where each begins, and where it is at its end; what it writes behind that belongs to the next one.
    pieces: Vec<(u64, Option<u64>)>,
    /// How far each is.
    written: Vec<u64>,
    /// Which one is shown while it writes, and up to where all was shown.
    current: usize,
    shown: u64,
}

impl Console {
    fn of(begins: &[Begin]) -> Result<Self, Error> {
        let written: Vec<u64> = begins.iter().map(|begin| begin.console).collect();
        let ends = written[1..].iter().copied().map(Some).chain([None]);
        let pieces = written.iter().copied().zip(ends).collect();
        let file = tempfile::tempfile().map_err(source::Error::from)?;
        Ok(Console { file, pieces, written, current: 0, shown: 0 })
    }

    fn take(&mut self, number: usize, bytes: &[u8], show: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let at = self.written[number];
        let room = self.pieces[number].1.map_or(u64::MAX, |end| end - at);
        let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        self.file.write_all_at(bytes, at)?;
        self.written[number] += bytes.len() as u64;
        self.show(show)
    }

    /// Whether it is what the recording has; each piece has come to its end.
    fn is_recorded(&mut self, recording: &mut Reader) -> Result<bool, Error> {
        let whole =
            self.pieces.iter().zip(&self.written).all(|(&(_, end), &at)| end.is_none_or(|end| at == end));
        self.file.rewind()?;
        Ok(whole && other_console(recording, BufReader::new(&self.file))?.is_none())
    }

    /// Shows what all before have written, and the current one so far.
    fn show(&mut self, show: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        while let Some(&written) = self.written.get(self.current) {
            let mut bytes = vec![0; usize::try_from(written - self.shown).unwrap_or(0)];
            self.file.read_exact_at(&mut bytes, self.shown)?;
            if !bytes.is_empty() {
                show(&bytes);
            }
            self.shown = written;
            if self.pieces[self.current].1 != Some(written) {
                break;
            }
            self.current += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Begin, Console, available};

    #[test]
    fn memory_is_read_as_the_kernel_tells_it() {
        let told = "MemTotal:       24684000 kB\nMemFree:         100 kB\nMemAvailable:   24070000 kB\n";
        assert_eq!(available(told), Some(24_070_000 << 10));
        assert_eq!(available("MemAvailable: much\n"), None);
    }

    #[test]
    fn a_console_in_pieces_is_shown_in_order_and_cut_where_the_next_one_begins() {
        let begins = [0, 3, 3, 5].map(|console| Begin { checkpoint: None, console });
        let mut console = Console::of(&begins).unwrap();
        let mut shown = Vec::new();
        for (number, bytes, seen) in [
            (3, "fg", ""),
            (0, "ab", "ab"),
            (2, "dexx", "ab"),
            (1, "d", "ab"),
            (0, "cdef", "abcdefg"),
            (3, "h", "abcdefgh"),
        ] {
            console.take(number, bytes.as_bytes(), &mut |bytes| shown.extend_from_slice(bytes)).unwrap();
            assert_eq!(String::from_utf8_lossy(&shown), seen);
        }
    }
}
