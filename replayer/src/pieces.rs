//! Proves a recording in pieces, several QEMUs at once: one begins where the recording does, each other one at a
//! checkpoint, and each has to come to the digest at which the next one has begun. What is proven is the same as by one
//! QEMU, the digest of every chunk of the whole stream.
//!
//! How fast a guest's instructions are replayed differs by ten and more from one part of a recording to another. So a QEMU
//! that is done takes over half of what the one with the most before it has left.
//!
//! A checkpoint was proven up to the next one, and what QEMU forgot may show later than that. So only that all is identical
//! is taken from the pieces, and what the first one finds, which stands on no checkpoint; whatever else one of them finds,
//! the recording is replayed from the beginning, and that counts.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::available_parallelism;
use std::time::Duration;

use recorder::account::{Stamps, grouped};
use recorder::checkpoint::Checkpoint;
use recorder::reader::Reader;
use trace::message::{CHUNK, Point};

use crate::course::Course;
use crate::image::{STATE, restored};
use crate::machine::Setting;
use crate::source::{self, State};
use crate::verify::{self, Error, Goal, Restored, Stretch, Verdict, other_console, prove};

/// What was proven, and by how many QEMUs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    pub verdict: Verdict,
    pub jobs: usize,
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

/// The least that it pays to make two pieces of, nanoseconds: to begin one takes about half a second.
const WORTH: u64 = 1_200_000_000;

/// What a QEMU takes of memory beside its guest's, bytes.
const OWN: u64 = 128 << 20;

/// Where a piece can begin.
struct Begin {
    checkpoint: Checkpoint,
    /// How many bytes of the console come before.
    console: u64,
}

/// What a piece says.
enum Said {
    Console(Vec<u8>),
    /// So many instructions of the stream are done.
    Progress(u64),
    Done(Result<Verdict, Error>),
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

/// Replays `recording` with at most `jobs` QEMUs at once, where given, and compares it with its witness.
///
/// # Errors
/// Where the replay came to no verdict.
pub fn verify(
    recording: &mut Reader,
    setting: Setting,
    jobs: Option<NonZeroUsize>,
    on: &mut Listener,
) -> Result<Proof, Error> {
    let most = jobs.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let begins = if most > 1 { begins(recording, setting)? } else { Vec::new() };
    // Who says how many gets them.
    let (most, worth) = if jobs.is_some() { (most, 0) } else { (most.min(room(&begins)), WORTH) };
    let proven = recording.ending.proof.unwrap_or(Point::START).position;
    let mut shown = 0;
    if most > 1 && !begins.is_empty() {
        let mut pieces = Pieces::of(Course::of(recording)?, proven)?;
        while pieces.all.len() < most && pieces.split(&begins, worth).is_some() {}
        let jobs = pieces.all.len();
        let why = match at_once(recording.path(), setting, &begins, &mut pieces, on)? {
            Outcome::Identical if pieces.console_is_recorded(recording)? => {
                let verdict = Verdict::Identical { instructions: proven, chunks: proven.div_ceil(CHUNK) };
                return Ok(Proof { verdict, jobs });
            }
            Outcome::Identical => "they wrote another console".to_owned(),
            Outcome::Found(verdict) => return Ok(Proof { verdict, jobs: 1 }),
            Outcome::Doubt(why) => why,
        };
        (on.doubt)(&why);
        shown = pieces.shown;
    }
    // What was shown is not shown again.
    let mut console = |bytes: &[u8]| {
        let before = usize::try_from(shown).unwrap_or(usize::MAX).min(bytes.len());
        shown -= before as u64;
        (on.console)(&bytes[before..]);
    };
    let verdict = verify::verify(recording, setting, &mut console, on.progress)?;
    Ok(Proof { verdict, jobs: 1 })
}

/// Where pieces can begin on this build, in order.
fn begins(recording: &mut Reader, setting: Setting) -> Result<Vec<Begin>, Error> {
    let mut begins = Vec::new();
    let icounts = recording.checkpoints();
    let Some(proof) = recording.ending.proof else { return Ok(begins) };
    if icounts.is_empty() {
        return Ok(begins);
    }
    // A RISC-V machine's timers can be armed only by one that is commanded.
    if recording.manifest.target.starts_with("riscv") {
        return Ok(begins);
    }
    // Else nobody knows what of the console belongs to which piece.
    let Some(stamps) = Stamps::of(recording)? else { return Ok(begins) };
    for icount in icounts {
        let Some(checkpoint) = recording.checkpoint(icount)? else { continue };
        let Some(console) = stamps.written(icount) else { break };
        let last = begins.last().map_or(0, |before: &Begin| before.checkpoint.point.position);
        let inside = (last + 1..proof.position).contains(&checkpoint.point.position);
        if inside && checkpoint.build == setting.build.sha256 && !checkpoint.images.is_empty() {
            begins.push(Begin { checkpoint, console });
        }
    }
    Ok(begins)
}

/// How many QEMUs have room in memory, each with a state like the largest of these, once in a file and once as its
/// guest's memory.
fn room(begins: &[Begin]) -> usize {
    let each = begins.iter().map(|begin| begin.checkpoint.held()).max().unwrap_or(0) * 2 + OWN;
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    usize::try_from(available(&told).unwrap_or(0) / each).unwrap_or(usize::MAX)
}

/// The bytes of memory that can be had, as the kernel tells it.
fn available(told: &str) -> Option<u64> {
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Replays all pieces, each on a thread of its own.
fn at_once(
    path: &Path,
    setting: Setting,
    begins: &[Begin],
    pieces: &mut Pieces,
    on: &mut Listener,
) -> Result<Outcome, Error> {
    let stop = AtomicU32::new(0);
    let (tell, come) = channel();
    std::thread::scope(|scope| {
        let stop = &stop;
        let start = |piece: &Piece| {
            let (begin, goal) = (piece.begin.map(|begin| &begins[begin]), Arc::clone(&piece.goal));
            let (tell, from) = (tell.clone(), piece.from);
            let setting = Setting { interrupts: stop, ..setting };
            // A QEMU dies with the thread that starts it: this one ends when its QEMU has.
            scope.spawn(move || {
                let say = |said| drop(tell.send((from, said)));
                say(Said::Done(replay(path, setting, begin, &goal, &say)));
            });
        };
        pieces.all.iter().for_each(start);
        let outcome = listen(setting.interrupts, begins, &come, pieces, &start, on);
        stop.store(1, Ordering::Relaxed);
        outcome
    })
}

/// Replays the piece from `begin` up to `goal`.
fn replay(
    path: &Path,
    setting: Setting,
    begin: Option<&Begin>,
    goal: &Goal,
    say: &dyn Fn(Said),
) -> Result<Verdict, Error> {
    let mut recording = Reader::open(path)?;
    let mut console = |bytes: &[u8]| {
        say(Said::Console(bytes.to_vec()));
        Ok(())
    };
    let mut progress = |position| say(Said::Progress(position));
    let checkpoint = begin.map(|begin| &begin.checkpoint);
    let files = checkpoint.map(|checkpoint| restored::<Error>(&mut recording, checkpoint)).transpose()?;
    let images = files.as_ref().and_then(|files| files.split_first());
    let from = checkpoint.zip(images).map(|(checkpoint, (machine, drives))| Restored {
        state: State { machine, drives, restored: Some(STATE) },
        point: checkpoint.point,
        rearms: checkpoint.rearms,
    });
    let stretch = Stretch { from, goal: Some(goal) };
    prove(&mut recording, setting, stretch, &mut console, &mut progress)
}

/// Takes what the pieces say until it is clear what comes of them, and begins new ones.
fn listen(
    interrupts: &AtomicU32,
    begins: &[Begin],
    come: &Receiver<(u64, Said)>,
    pieces: &mut Pieces,
    start: &dyn Fn(&Piece),
    on: &mut Listener,
) -> Result<Outcome, Error> {
    let mut identical = 0;
    while identical < pieces.all.len() {
        if interrupts.load(Ordering::Relaxed) > 0 {
            return Err(Error::Interrupted(pieces.proven()));
        }
        let (from, said) = match come.recv_timeout(Duration::from_millis(100)) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Outcome::Doubt("one gave no answer".to_owned()));
            }
        };
        let number = pieces.all.partition_point(|piece| piece.from < from);
        match said {
            Said::Console(bytes) => {
                pieces.write(number, &bytes)?;
                pieces.show(on.console)?;
            }
            Said::Progress(position) => {
                let piece = &mut pieces.all[number];
                piece.done = piece.done.max(position);
                (on.progress)(pieces.all.iter().map(|piece| piece.done - piece.from).sum());
            }
            Said::Done(Ok(Verdict::Identical { instructions, .. })) => {
                identical += 1;
                pieces.all[number].done = instructions;
                if let Some(new) = pieces.split(begins, WORTH) {
                    start(&pieces.all[new]);
                }
            }
            // What differs at a joint may be the checkpoint.
            Said::Done(Ok(verdict)) if number == 0 && !pieces.is_at_joint(&verdict) => {
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
                let begin = pieces.all[number].begin;
                let icount = begin.map_or(0, |begin| begins[begin].checkpoint.icount);
                return Ok(Outcome::Doubt(format!("the one from icount {} on {why}", grouped(icount))));
            }
        }
    }
    Ok(Outcome::Identical)
}

/// A piece that is or was replayed.
struct Piece {
    /// Where it begins, the number of [`Begin`]; `None`: before the first instruction.
    begin: Option<usize>,
    from: u64,
    goal: Arc<Goal>,
    /// How far it is in the stream.
    done: u64,
    /// Where in the console it begins, and how far it is there.
    console: u64,
    written: u64,
}

/// All pieces, in order, and what they have written, each where it belongs.
struct Pieces {
    course: Course,
    /// How many instructions there are to prove.
    end: u64,
    all: Vec<Piece>,
    console: File,
    /// Up to where the console was shown.
    shown: u64,
}

impl Pieces {
    /// The whole recording as one.
    fn of(course: Course, end: u64) -> Result<Self, Error> {
        let goal = Arc::new(Goal::new(Point::START, None));
        let whole = Piece { begin: None, from: 0, goal, done: 0, console: 0, written: 0 };
        let console = tempfile::tempfile().map_err(source::Error::from)?;
        Ok(Pieces { course, end, all: vec![whole], console, shown: 0 })
    }

    /// Makes two of the one that has the most left of those in which another can begin, at least `least` nanoseconds; gives
    /// back the second's number.
    fn split(&mut self, begins: &[Begin], least: u64) -> Option<usize> {
        let end = |number: usize| self.all.get(number + 1).map_or(self.end, |next| next.from);
        let took = |position: u64| self.course.at(position);
        let left = |number: usize| took(end(number)).saturating_sub(took(self.all[number].done));
        let position = |at: usize| begins[at].checkpoint.point.position;
        let inside = |number: usize| {
            let ahead = self.all[number].done.max(self.all[number].from + 1)..end(number);
            (0..begins.len()).filter(move |&at| ahead.contains(&position(at)))
        };
        let can = |&number: &usize| inside(number).next().is_some();
        let number = (0..self.all.len()).filter(can).max_by_key(|&number| left(number))?;
        let middle = took(self.all[number].done) + left(number) / 2;
        let at = inside(number).min_by_key(|&at| took(position(at)).abs_diff(middle))?;
        let Begin { checkpoint, console } = &begins[at];
        let joint = self.all[number].goal.joint();
        if left(number) < least || !self.all[number].goal.end_at(checkpoint.point) {
            return None;
        }
        let from = checkpoint.point.position;
        let goal = Arc::new(Goal::new(checkpoint.point, joint));
        let new = Piece { begin: Some(at), from, goal, done: from, console: *console, written: *console };
        self.all.insert(number + 1, new);
        Some(number + 1)
    }

    /// How many instructions from the beginning on are proven.
    fn proven(&self) -> u64 {
        let joined = self.all.windows(2).take_while(|pair| pair[0].done == pair[1].from).count();
        self.all[joined].done
    }

    /// Whether the first one differs where the second one begins.
    fn is_at_joint(&self, verdict: &Verdict) -> bool {
        let second = self.all.get(1).map(|piece| piece.from);
        matches!(verdict, Verdict::Different { to, .. } if Some(*to) == second)
    }

    /// Where in the console the piece with this number is at its end.
    fn console_end(&self, number: usize) -> u64 {
        self.all.get(number + 1).map_or(u64::MAX, |next| next.console)
    }

    /// Takes what a piece has written. What it writes behind its end belongs to the next one.
    fn write(&mut self, number: usize, bytes: &[u8]) -> io::Result<()> {
        let end = self.console_end(number);
        let piece = &mut self.all[number];
        let room = usize::try_from(end.saturating_sub(piece.written)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        self.console.write_all_at(bytes, piece.written)?;
        piece.written += bytes.len() as u64;
        Ok(())
    }

    /// Shows what is there up to the first gap.
    fn show(&mut self, show: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        for number in 0..self.all.len() {
            let written = self.all[number].written;
            let mut bytes = vec![0; usize::try_from(written.saturating_sub(self.shown)).unwrap_or(0)];
            if !bytes.is_empty() {
                self.console.read_exact_at(&mut bytes, self.shown)?;
                show(&bytes);
                self.shown = written;
            }
            if written < self.console_end(number) {
                break;
            }
        }
        Ok(())
    }

    /// Whether the console is what the recording has; each piece has come to its end.
    fn console_is_recorded(&mut self, recording: &mut Reader) -> Result<bool, Error> {
        let whole = self.all.windows(2).all(|pair| pair[0].written == pair[1].console);
        self.console.rewind()?;
        Ok(whole && other_console(recording, BufReader::new(&self.console))?.is_none())
    }
}

#[cfg(test)]
mod tests {
    use recorder::checkpoint::Checkpoint;
    use trace::message::{CHUNK, Point};

    use super::{Begin, Course, Pieces, available};

    #[test]
    fn memory_is_read_as_the_kernel_tells_it() {
        let told = "MemTotal:       24684000 kB\nMemFree:         100 kB\nMemAvailable:   24070000 kB\n";
        assert_eq!(available(told), Some(24_070_000 << 10));
        assert_eq!(available("MemAvailable: much\n"), None);
    }

    fn begin(chunk: u64, console: u64) -> Begin {
        let point = Point { position: chunk * CHUNK, digest: chunk };
        let (build, images) = (String::new(), Vec::new());
        Begin { checkpoint: Checkpoint { icount: chunk, point, build, rearms: false, images }, console }
    }

    #[test]
    fn the_longest_is_split_where_it_is_not_yet() {
        let begins: Vec<Begin> = (1..=8).map(|chunk| begin(chunk * 100, chunk)).collect();
        let mut pieces = Pieces::of(Course::usual(), 880 * CHUNK).unwrap();
        let froms = |pieces: &Pieces| pieces.all.iter().map(|piece| piece.from / CHUNK).collect::<Vec<_>>();
        assert_eq!(pieces.split(&begins, 0), Some(1));
        assert_eq!(froms(&pieces), [0, 400]);
        assert_eq!(pieces.all[0].goal.joint(), Some(begins[3].checkpoint.point));
        assert_eq!(pieces.all[1].goal.joint(), None);
        pieces.all[1].done = 800 * CHUNK;
        pieces.all[0].done = 250 * CHUNK;
        assert_eq!(pieces.split(&begins, 160 * CHUNK * 5), None);
        assert_eq!(pieces.split(&begins, 0), Some(1));
        assert_eq!(froms(&pieces), [0, 300, 400]);
        assert_eq!(pieces.all[1].goal.joint(), Some(begins[3].checkpoint.point));
        assert_eq!(pieces.proven(), 250 * CHUNK);
        pieces.all[0].done = 300 * CHUNK;
        assert_eq!(pieces.proven(), 300 * CHUNK);
    }

    #[test]
    fn a_console_in_pieces_is_shown_in_order_and_cut_where_the_next_one_begins() {
        let begins = [begin(100, 3), begin(200, 3), begin(300, 5)];
        let mut pieces = Pieces::of(Course::usual(), 900 * CHUNK).unwrap();
        while pieces.split(&begins, 0).is_some() {}
        assert_eq!(pieces.all.len(), 4);
        let mut shown = Vec::new();
        for (number, bytes, seen) in [
            (3, "fg", ""),
            (0, "ab", "ab"),
            (2, "dexx", "ab"),
            (1, "d", "ab"),
            (0, "cdef", "abcdefg"),
            (3, "h", "abcdefgh"),
        ] {
            pieces.write(number, bytes.as_bytes()).unwrap();
            pieces.show(&mut |bytes| shown.extend_from_slice(bytes)).unwrap();
            assert_eq!(String::from_utf8_lossy(&shown), seen);
        }
    }
}
