//! Follows a run that is being recorded: writes what comes, ends the guest when it is time, and closes the
//! recording, however the run ended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use qemu::run::{Happening, Run, describe};
use trace::message::{CHUNK, FromProbe, MOST_DIGESTS, Point, ToProbe};

use super::intake::{FLUSH, Taken, Waiting};
use super::script::Script;
use super::stop::{Limits, Progress, Stop, Watch};
use super::{Come, Error, Recorded, Show};
use crate::format::{Kind, LONGEST};
use crate::log::decoder::{Shutdown, Totals};
use crate::manifest::Ending;
use crate::writer::{self, Writer};
use crate::{console, gather};

/// How long QEMU may take to end its log once the guest has ended or was told to.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How many chunks a guest may run on that was told to end: where its processor never waits and no timer runs, QEMU takes
/// notice after 2^31 instructions (`icount_get_limit` in 7.2 and 10.0), and once more when it is at its end.
const NOTICE: u64 = 2 * (1 << 31) / CHUNK;

/// How many digests at the ends of chunks are at hand, for a log that broke off that long before.
const RECENT: usize = 1 << 16;

pub(super) struct Session {
    writer: Writer,
    run: Run,
    has_witness: bool,
    watch: Watch,
    script: Option<Script>,
    waiting: Waiting,
    /// What of the log is in the file.
    taken: Taken,
    /// Once the log is at its end: what was wrong with it.
    log_end: Option<Result<(), String>>,
    /// What has not been put into a frame yet.
    witness: Vec<u8>,
    console: console::Builder,
    console_bytes: u64,
    flushed: Instant,
    /// How long they may wait now: at the start less than [`FLUSH`].
    pause: Duration,
    /// Chunks so far, and the digests at the ends of the last ones.
    chunks: u64,
    recent: VecDeque<u64>,
    /// Where the stream ended.
    end: Option<u64>,
    /// The digests of the stream's last positions, from which one.
    tail: Option<(u64, Vec<u64>)>,
    /// How often the user has asked for an end.
    interrupted: u32,
    /// Why the guest was told to end, since when it has not moved, and how many chunks it may still run.
    stopped: Option<(Stop, Instant, u64)>,
    /// Why the run was cut off.
    cut: Option<String>,
    /// Nothing more can be written but the ending.
    full: bool,
    failed: Option<writer::Error>,
}

impl Session {
    pub fn new(
        writer: Writer,
        run: Run,
        has_witness: bool,
        limits: Limits,
        script: Option<Script>,
        waiting: Waiting,
    ) -> Self {
        Session {
            writer,
            run,
            has_witness,
            watch: Watch::new(limits),
            script,
            waiting,
            taken: Taken::default(),
            log_end: None,
            witness: Vec::new(),
            console: console::Builder::default(),
            console_bytes: 0,
            flushed: Instant::now(),
            pause: Duration::from_millis(30),
            chunks: 0,
            recent: VecDeque::new(),
            end: None,
            tail: None,
            interrupted: 0,
            stopped: None,
            cut: None,
            full: false,
            failed: None,
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            chunks: self.chunks,
            instructions: (self.chunks * CHUNK).max(self.taken.totals.icount),
            console: self.console_bytes,
        }
    }

    /// Records until the run has ended in order, or can't go on.
    pub fn follow(&mut self, interrupts: &AtomicU32, show: &mut Show, come: &Receiver<Come>) {
        if let Some(script) = &mut self.script {
            self.run.type_in(script.heard(b""));
        }
        let mut asked = None;
        let mut let_go: Option<Instant> = None;
        while self.cut.is_none() && self.failed.is_none() {
            match come.recv_timeout(Duration::from_millis(100)) {
                Ok(come) => self.take(come, show),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.keep_limits(interrupts.load(Ordering::Relaxed));
            if self.flushed.elapsed() >= self.pause {
                self.pause = FLUSH.min(2 * self.pause);
                self.flush();
            }
            (show.progress)(self.progress().instructions, self.writer.written());
            if !self.has_witness {
                if self.log_end.is_some() {
                    return;
                }
                continue;
            }
            // QEMU writes the end of its log after the probe has told of the guest's end, or before, depending on
            // which of the two set up its exit handler first: so the tail is asked for before it is known where
            // in it the run ended.
            if let (Some(end), None) = (self.end, asked) {
                let from = end.saturating_sub(MOST_DIGESTS - 1);
                asked = Some(from);
                self.run.say(&ToProbe::Digests { from, to: end });
            }
            if self.tail.is_some() {
                if let_go.is_none() {
                    let_go = Some(Instant::now());
                    self.run.say(&ToProbe::Finish);
                }
                if self.log_end.is_some() {
                    return;
                }
                if let_go.is_some_and(|since| since.elapsed() > END_LIMIT) {
                    self.cut = Some("QEMU's replay log did not end with the guest".to_owned());
                }
            }
        }
    }

    /// Ends the guest where it is time.
    fn keep_limits(&mut self, interrupts: u32) {
        if interrupts > self.interrupted {
            self.interrupted = interrupts;
            if interrupts > 1 {
                self.cut = Some("interrupted twice".to_owned());
                return;
            }
            self.stop(Stop::Interrupt);
        }
        match &self.stopped {
            Some((stop, since, _)) => {
                if self.end.is_none() && since.elapsed() > END_LIMIT {
                    self.cut = Some(stop.to_string());
                }
            }
            None => {
                let progress = self.progress();
                if let Some(stop) = self.watch.stop(progress) {
                    self.stop(stop);
                }
            }
        }
    }

    fn stop(&mut self, stop: Stop) {
        self.run.ask_to_end();
        self.stopped.get_or_insert((stop, Instant::now(), NOTICE));
    }

    fn take(&mut self, come: Come, show: &mut Show) {
        match come {
            Come::Run(Happening::Console(bytes)) => {
                (show.console)(&bytes);
                self.watch.wrote(&bytes);
                if let Some(script) = &mut self.script {
                    self.run.type_in(script.heard(&bytes));
                }
                self.console.push(self.progress().instructions, &bytes);
                self.console_bytes += bytes.len() as u64;
                if self.console.size() > LONGEST as usize / 4 {
                    self.flush();
                }
            }
            Come::Run(Happening::Probe(FromProbe::Chunk { index, digest, .. })) => {
                if index != self.chunks {
                    self.cut = Some(format!("the probe left out chunk {}", self.chunks));
                    return;
                }
                self.witness.extend(digest.to_le_bytes());
                self.chunks += 1;
                if let Some((_, since, left @ 1..)) = &mut self.stopped {
                    (*since, *left) = (Instant::now(), *left - 1);
                }
                self.recent.push_back(digest);
                if self.recent.len() > RECENT {
                    self.recent.pop_front();
                }
            }
            Come::Run(Happening::Probe(FromProbe::End { position, .. })) => self.end = Some(position),
            Come::Run(Happening::Probe(FromProbe::Digests(Some(digests)))) => {
                let from = self.end.unwrap_or_default().saturating_sub(MOST_DIGESTS - 1);
                self.tail = Some((from, digests));
            }
            Come::Run(Happening::Probe(FromProbe::Failure(why))) => {
                self.cut.get_or_insert(why);
            }
            // Where QEMU's log breaks off the recording knows itself.
            Come::Run(Happening::Probe(FromProbe::Dying { .. })) => {}
            Come::Run(Happening::Probe(message)) => {
                self.cut.get_or_insert(format!("the probe said {message:?} out of turn"));
            }
            // It is let go when it has given the tail; before that, or with a reason, QEMU died.
            Come::Run(Happening::ProbeGone(None)) if self.tail.is_some() => {}
            Come::Run(Happening::ProbeGone(why)) => {
                self.cut.get_or_insert(why.unwrap_or_default());
            }
            Come::Frame(frame, taken) => {
                self.waiting.fetch_sub(frame.bytes.len(), Ordering::Relaxed);
                if !self.full {
                    let written = self.writer.frame(&frame);
                    if self.note(written) {
                        self.taken = taken;
                    }
                }
            }
            Come::LogEnd(end) => self.log_end = Some(end),
            Come::Typed(bytes) => self.run.type_in(bytes),
        }
    }

    /// Notes how writing went; whether it did.
    fn note(&mut self, written: Result<(), writer::Error>) -> bool {
        match written {
            Ok(()) => return true,
            Err(error @ writer::Error::Full(..)) => {
                self.full = true;
                self.cut.get_or_insert(error.to_string());
                self.stopped.get_or_insert((Stop::Full(error.to_string()), Instant::now(), NOTICE));
            }
            Err(error) => self.failed = Some(error),
        }
        false
    }

    /// Puts what has come from probe and console into frames, and all of the file onto the disk.
    fn flush(&mut self) {
        self.flushed = Instant::now();
        if self.full || self.failed.is_some() {
            return;
        }
        if !self.witness.is_empty() {
            let first = self.chunks - self.witness.len() as u64 / 8;
            let written = self.writer.append(Kind::Witness, first, &self.witness);
            self.note(written);
            self.witness.clear();
        }
        if !self.full
            && let Some((first, content)) = self.console.finish()
        {
            let written = self.writer.append(Kind::Console, first, &content);
            self.note(written);
        }
        if self.failed.is_none() {
            let synced = self.writer.sync();
            self.note(synced);
        }
    }

    /// Ends QEMU if it has not ended, writes what came last and how it ended, and gives the recording its name.
    pub fn close(mut self, show: &mut Show, come: &Receiver<Come>) -> Result<Recorded, Error> {
        if self.cut.is_some() || self.failed.is_some() {
            self.run.kill();
        }
        let status = self.run.wait()?;
        // Whatever happened: what has come is put into the file.
        while self.log_end.is_none() {
            let Ok(come) = come.recv() else { break };
            self.take(come, show);
        }
        for last in come.try_iter() {
            self.take(last, show);
        }
        self.flush();
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        let totals = self.taken.totals;
        let left = |why: String, writer: &Writer| Error::Log {
            why,
            icount: totals.icount,
            kept: writer.incomplete().to_owned(),
        };
        if let Some(Err(why)) = self.log_end {
            return Err(left(why, &self.writer));
        }
        // A device that QEMU can't make, say: it ends when the probe is there already.
        let ended_itself = self.cut.is_none() && self.stopped.is_none();
        if ended_itself && totals.icount == 0 && !status.success() {
            self.writer.abandon();
            return Err(self.run.stillborn(status).into());
        }
        let said = self.run.last_words();
        let died = || format!("QEMU died ({}{said})", describe(status));
        let whole = totals.shutdown.filter(|_| totals.ended && !self.full);
        let (proof, shutdown, cut) = match (whole, self.has_witness, self.end, &self.tail) {
            (Some(shutdown), false, ..) => (None, Some(shutdown), false),
            (Some(shutdown), true, Some(last), Some(tail)) => {
                (Some(self.proof(totals, shutdown, last, tail)), Some(shutdown), false)
            }
            (whole, has_witness, ..) => {
                let proof = has_witness.then(|| self.chunk_before(totals.icount));
                (proof, whole, whole.is_none())
            }
        };
        let stop = self.stopped.map(|(stop, ..)| stop);
        let why = self.cut.map(|why| if why.is_empty() { died() } else { why });
        let trouble = match (&stop, why) {
            (Some(stop), _) if stop.is_trouble() => Some(stop.to_string()),
            (_, Some(why)) => Some(why),
            (_, None) if cut => Some(died()),
            (_, None) => None,
        };
        let cause = match (&trouble, &stop, shutdown) {
            (Some(trouble), ..) => trouble.clone(),
            (None, Some(stop), _) => stop.to_string(),
            (None, None, Some(_)) if totals.unrequested() && !status.success() => {
                format!("QEMU itself, with {} (an exit device, or an error{said})", describe(status))
            }
            (None, None, Some(_)) if totals.unrequested() => {
                "QEMU itself (a reset with -no-reboot)".to_owned()
            }
            (None, None, shutdown) => shutdown.map_or_else(died, |shutdown| shutdown.cause.to_string()),
        };
        let ending = Ending {
            proof,
            icount: shutdown.map_or(totals.icount, |shutdown| shutdown.icount),
            events: totals.events,
            dropped: self.taken.dropped,
            cause,
            cut,
            status: status.code(),
        };
        let mut writer = self.writer;
        writer.end(&ending, totals.icount)?;
        let bytes = gather::finish(writer)?;
        Ok(Recorded {
            ending,
            trouble,
            script_waits_at: self.script.and_then(|script| script.waits_at()),
            chunks: self.chunks,
            bytes,
        })
    }

    /// The place that a replay of a whole log reaches for certain, of a stream that went on to `last`: the request to
    /// shut down. What runs behind it varies.
    ///
    /// A position runs ahead of QEMU's icount by the faults before it, of which the log knows only the sum up to the
    /// end; each exception behind the shutdown may have been one, so the place is one that lies at or before it.
    fn proof(&self, totals: Totals, shutdown: Shutdown, last: u64, tail: &(u64, Vec<u64>)) -> Point {
        let ahead = last.saturating_sub(totals.icount);
        let behind = totals.exceptions - shutdown.exceptions;
        let position = (shutdown.icount + ahead.saturating_sub(behind)).min(last);
        let (from, digests) = tail;
        let known = position.checked_sub(*from).and_then(|at| digests.get(usize::try_from(at).ok()?));
        match known {
            Some(&digest) => Point { position, digest },
            // A shutdown so long before the end that the probe has forgotten it.
            None => self.chunk_before(position),
        }
    }

    /// The end of the last chunk at or before `position`.
    fn chunk_before(&self, position: u64) -> Point {
        let full = (position / CHUNK).min(self.chunks);
        let forgotten = self.chunks - self.recent.len() as u64;
        let digest =
            full.checked_sub(forgotten + 1).and_then(|at| self.recent.get(usize::try_from(at).ok()?));
        match digest {
            Some(&digest) => Point { position: full * CHUNK, digest },
            None => Point::START,
        }
    }
}
