//! Records a guest: runs it with QEMU's log on a pipe and the probe on a socket, and writes both as they come.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use qemu::arguments::{Arguments, Refusal, Time};
use qemu::build::Build;
use qemu::run::{self, Happening, Plan, Run, describe};
use trace::codec;
use trace::message::{CHUNK, FromProbe, MOST_DIGESTS, ToProbe};

use crate::format::Kind;
use crate::log::{Decoder, Shutdown, Totals, Version};
use crate::manifest::{Ending, GuestFile, Manifest};
use crate::writer::{self, Frame, Writer};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Run(#[from] run::Error),
    #[error(transparent)]
    Write(#[from] writer::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("`{0}`, which the command line names, can't be read: {1}")]
    GuestFile(PathBuf, io::Error),
    #[error("{why}; what was recorded up to icount {icount} is kept in `{kept}`")]
    Broken { why: String, icount: u64, kept: PathBuf },
}

/// What to record.
pub struct Request<'a> {
    pub build: &'a Build,
    pub probe: &'a Path,
    /// The guest's arguments as the user gave them.
    pub arguments: &'a [String],
    pub time: Time,
    pub output: &'a Path,
    /// How often the user has asked for an end: once, and the guest is ended in order; again, and at once.
    pub interrupts: &'a AtomicU32,
}

/// What the caller shows while it records.
pub struct Show<'a> {
    /// Bytes from the guest's console.
    pub console: &'a mut dyn FnMut(&[u8]),
    /// Instructions so far, and bytes of the recording.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// What was recorded.
#[derive(Debug)]
pub struct Recorded {
    pub ending: Ending,
    pub chunks: usize,
    pub bytes: u64,
}

/// How often what has come is put into frames: what dies loses at most so much.
const FLUSH: Duration = Duration::from_secs(1);
/// The most of QEMU's log in one frame, bytes.
const EVENTS: usize = 1 << 20;

/// How long QEMU may take to end its log after the guest's end.
const END_LIMIT: Duration = Duration::from_secs(20);

enum Come {
    Run(Happening),
    Frame(Frame, Totals),
    LogEnd(Result<Totals, String>),
}

/// Records until the guest ends.
///
/// # Errors
/// Where it can't be recorded, or was cut off: what was recorded is kept then.
pub fn record(request: &Request, show: &mut Show) -> Result<Recorded, Error> {
    let parsed = Arguments::parse(request.arguments);
    let (log, log_end) = io::pipe()?;
    // Fewer stalls of QEMU while a frame is compressed; the kernel may grant less.
    let _ = nix::fcntl::fcntl(&log, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
    let line = parsed.replayed(request.time, "record", &format!("/proc/self/fd/{}", log_end.as_raw_fd()))?;
    let folder = std::env::current_dir()?;
    let files = GuestFile::all(&parsed, &folder).map_err(|(path, error)| Error::GuestFile(path, error))?;
    let mut writer = Writer::create(request.output)?;
    let (tell, come) = channel();
    let told = tell.clone();
    let plan = Plan {
        build: request.build,
        arguments: &line,
        folder: &folder,
        probe: request.probe,
        passed: &[log_end.as_fd()],
    };
    let mut run = match Run::start(&plan, move |happening| drop(told.send(Come::Run(happening)))) {
        Ok(run) => run,
        Err(error) => {
            writer.abandon();
            return Err(error.into());
        }
    };
    drop(log_end);
    let version = Version::E0200c;
    let manifest = Manifest {
        tandem: env!("CARGO_PKG_VERSION").to_owned(),
        build: request.build.clone(),
        target: run.target.clone(),
        arguments: request.arguments.to_vec(),
        folder,
        line,
        time: request.time,
        log: version.word(),
        files,
        began: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        chunk: CHUNK,
    };
    writer.append(Kind::Manifest, &codec::encode(&manifest).map_err(io::Error::other)?)?;
    let reader = std::thread::spawn(move || read_log(log, version, &tell));
    run.say(&ToProbe::Go { credit: u64::MAX });

    let mut session = Session {
        writer,
        run,
        log: Log::Open(Totals::default()),
        witness: Vec::new(),
        console: Vec::new(),
        flushed: Instant::now(),
        chunk_ends: Vec::new(),
        end: None,
        tail: None,
        interrupted: 0,
    };
    let outcome = session.follow(request.interrupts, show, &come);
    // Whatever happened: no QEMU stays, and what has come is in the file.
    if outcome.is_err() {
        session.run.kill();
    }
    let status = session.run.wait()?;
    let _ = reader.join();
    for last in come.try_iter() {
        if let Err(Stop::Failed(error)) = session.take(last, show) {
            return Err(error);
        }
    }
    session.flush()?;
    let proof = match outcome {
        Ok(proof) => proof,
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Broken(why)) => {
            let said = session.run.last_words();
            return Err(Error::Broken {
                why: why.unwrap_or_else(|| format!("QEMU died ({}{said})", describe(status))),
                icount: session.log.totals().icount,
                kept: session.writer.incomplete().to_owned(),
            });
        }
    };
    let chunks = session.chunk_ends.len();
    let mut writer = session.writer;
    let ending = Ending { status: status.code(), ..proof };
    writer.append(Kind::Ending, &codec::encode(&ending).map_err(io::Error::other)?)?;
    let bytes = writer.written();
    writer.finish()?;
    Ok(Recorded { ending, chunks, bytes })
}

/// Reads QEMU's log from the pipe and makes frames of it, on a thread of its own.
fn read_log(mut log: PipeReader, version: Version, tell: &Sender<Come>) {
    let mut decoder = Decoder::new(version);
    let mut buffer = vec![0; 64 << 10];
    let mut events = Vec::new();
    let mut flushed = Instant::now();
    let end = loop {
        let (bytes, end) = match log.read(&mut buffer) {
            Ok(0) => (&[][..], Some(Ok(()))),
            Ok(n) => (&buffer[..n], None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => (&[][..], Some(Err(error.to_string()))),
        };
        let end = match decoder.take(bytes) {
            Ok(complete) => {
                events.extend(complete);
                end
            }
            Err(malformed) => Some(Err(format!(
                "QEMU's replay log has {malformed}, after event {}: this QEMU writes a log that this tandem does \
                 not know",
                decoder.totals.events
            ))),
        };
        if !events.is_empty() && (end.is_some() || events.len() >= EVENTS || flushed.elapsed() > FLUSH) {
            for part in events.chunks(EVENTS) {
                match Frame::new(Kind::Events, part) {
                    Ok(frame) => drop(tell.send(Come::Frame(frame, decoder.totals))),
                    Err(error) => return drop(tell.send(Come::LogEnd(Err(error.to_string())))),
                }
            }
            events.clear();
            flushed = Instant::now();
        }
        if let Some(end) = end {
            break end;
        }
    };
    drop(tell.send(Come::LogEnd(end.map(|()| decoder.totals))));
}

enum Log {
    Open(Totals),
    Ended(Totals),
}

impl Log {
    fn totals(&self) -> Totals {
        match self {
            Log::Open(totals) | Log::Ended(totals) => *totals,
        }
    }
}

/// Why recording stopped before the guest's proper end.
enum Stop {
    Failed(Error),
    /// With the reason, or QEMU's death.
    Broken(Option<String>),
}

impl From<writer::Error> for Stop {
    fn from(error: writer::Error) -> Self {
        Stop::Failed(error.into())
    }
}

struct Session {
    writer: Writer,
    run: Run,
    log: Log,
    /// What has not been put into a frame yet.
    witness: Vec<u8>,
    console: Vec<u8>,
    flushed: Instant,
    /// The digests at the ends of the chunks.
    chunk_ends: Vec<u64>,
    /// Where the stream ended.
    end: Option<u64>,
    /// The digests of the stream's last positions.
    tail: Option<Vec<u64>>,
    /// How often the user has asked for an end.
    interrupted: u32,
}

impl Session {
    /// Records until the guest's end is known.
    fn follow(
        &mut self,
        interrupts: &AtomicU32,
        show: &mut Show,
        come: &Receiver<Come>,
    ) -> Result<Ending, Stop> {
        let mut asked = None;
        let mut finished: Option<Instant> = None;
        loop {
            match come.recv_timeout(Duration::from_millis(100)) {
                Ok(come) => self.take(come, show)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stop::Broken(None)),
            }
            let now = interrupts.load(Ordering::Relaxed);
            if now > self.interrupted {
                if now == 1 {
                    self.run.ask_to_end()
                } else {
                    self.run.kill()
                }
                self.interrupted = now;
            }
            if self.flushed.elapsed() > FLUSH {
                self.flush()?;
            }
            (show.progress)(self.chunk_ends.len() as u64 * CHUNK, self.writer.written());
            // QEMU writes the end of its log after the probe has told of the guest's end, or before, depending on
            // which of the two set up its exit handler first: so the tail is asked for before it is known where
            // in it the run ended.
            if let (Some(end), None) = (self.end, asked) {
                let from = end.saturating_sub(MOST_DIGESTS - 1);
                asked = Some(from);
                self.run.say(&ToProbe::Digests { from, to: end });
            }
            if self.tail.is_some() && finished.is_none() {
                finished = Some(Instant::now());
                self.run.say(&ToProbe::Finish);
            }
            if finished.is_some_and(|since| since.elapsed() > END_LIMIT) {
                return Err(Stop::Broken(Some("QEMU's replay log did not end with the guest".to_owned())));
            }
            if let (Some(from), Some(end), Some(tail), Log::Ended(totals)) =
                (asked, self.end, &self.tail, &self.log)
            {
                return self.ending(totals, end, from, tail).map_err(|why| Stop::Broken(Some(why)));
            }
        }
    }

    /// How the run ended, given that the stream went on to `last` and `tail` are the digests from `from` to there.
    fn ending(&self, totals: &Totals, last: u64, from: u64, tail: &[u64]) -> Result<Ending, String> {
        let (place, shutdown) = run_end(totals, last)?;
        let (position, digest) =
            match place.checked_sub(from).and_then(|at| tail.get(usize::try_from(at).ok()?)) {
                Some(&digest) => (place, digest),
                // A shutdown so long before the end that the probe has forgotten it: the last chunk before it will do.
                None => match usize::try_from(place / CHUNK).ok().filter(|&full| full > 0) {
                    Some(full) => (
                        place - place % CHUNK,
                        self.chunk_ends.get(full - 1).copied().ok_or("a chunk is missing")?,
                    ),
                    None => (0, 0),
                },
            };
        Ok(Ending {
            position,
            digest,
            icount: shutdown.icount,
            events: totals.events,
            cause: if totals.unrequested() && self.interrupted == 0 {
                "QEMU itself (a reset with -no-reboot, or an exit device)".to_owned()
            } else {
                shutdown.cause.to_string()
            },
            status: None,
        })
    }

    fn take(&mut self, come: Come, show: &mut Show) -> Result<(), Stop> {
        match come {
            Come::Run(Happening::Console(bytes)) => {
                (show.console)(&bytes);
                self.console.extend(bytes);
            }
            Come::Run(Happening::Probe(FromProbe::Chunk { index, digest })) => {
                if index != self.chunk_ends.len() as u64 {
                    return Err(Stop::Broken(Some(format!(
                        "the probe left out chunk {}",
                        self.chunk_ends.len()
                    ))));
                }
                self.witness.extend(digest.to_le_bytes());
                self.chunk_ends.push(digest);
            }
            Come::Run(Happening::Probe(FromProbe::End { position, .. })) => {
                self.end = Some(position);
            }
            Come::Run(Happening::Probe(FromProbe::Digests(Some(digests)))) => self.tail = Some(digests),
            Come::Run(Happening::Probe(FromProbe::Failure(why))) => return Err(Stop::Broken(Some(why))),
            Come::Run(Happening::Probe(message)) => {
                return Err(Stop::Broken(Some(format!("the probe said {message:?} out of turn"))));
            }
            // It is let go when it has given the tail; before that, or with a reason, QEMU died.
            Come::Run(Happening::ProbeGone(None)) if self.tail.is_some() => {}
            Come::Run(Happening::ProbeGone(why)) => return Err(Stop::Broken(why)),
            Come::Frame(frame, totals) => {
                self.writer.frame(&frame)?;
                self.log = Log::Open(totals);
            }
            Come::LogEnd(Ok(totals)) => self.log = Log::Ended(totals),
            Come::LogEnd(Err(why)) => return Err(Stop::Broken(Some(why))),
        }
        Ok(())
    }

    /// Puts what has come from probe and console into frames.
    fn flush(&mut self) -> Result<(), writer::Error> {
        for (kind, bytes) in [(Kind::Witness, &mut self.witness), (Kind::Console, &mut self.console)] {
            if !bytes.is_empty() {
                self.writer.append(kind, bytes)?;
                bytes.clear();
            }
        }
        self.flushed = Instant::now();
        Ok(())
    }
}

/// Where the run ended, as a position, given that the stream went on to `last`: at the request to shut down. A
/// replay reaches that for certain; what runs behind it varies.
///
/// A position runs ahead of QEMU's icount by the faults before it, of which the log knows only the sum up to the
/// end; each exception behind the shutdown may have been one, so the place is one that lies at or before it.
fn run_end(totals: &Totals, last: u64) -> Result<(u64, Shutdown), String> {
    let Some(shutdown) = totals.shutdown.filter(|_| totals.ended) else {
        return Err("QEMU's replay log broke off".to_owned());
    };
    if let Some(word) = totals.trailer.filter(|&word| Version::of(word).is_none()) {
        return Err(format!(
            "this QEMU writes replay logs of version {word:#x}, which this tandem does not know"
        ));
    }
    let ahead = last.saturating_sub(totals.icount);
    let behind = totals.exceptions - shutdown.exceptions;
    Ok(((shutdown.icount + ahead.saturating_sub(behind)).min(last), shutdown))
}
