//! Reads QEMU's log from the pipe and makes frames of it, on a thread of its own.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Come;
use crate::columns::Builder;
use crate::format::Kind;
use crate::frame::{Frame, LARGE};
use crate::log::Version;
use crate::log::compaction::Compaction;
use crate::log::decoder::{Decoder, Totals};
use crate::log::event::Event;

/// How long events may wait for a frame: what dies loses at most so much, and a little more.
pub(super) const FLUSH: Duration = Duration::from_millis(700);

/// The most of a frame's columns, bytes; the last event may go beyond.
const FRAME: usize = LARGE;

/// The most bytes of frames that may wait to be written: with a slow disk QEMU waits, and memory stays as it is.
const WAITING: usize = 8 << 20;

/// How much of frames has been handed on and not been written.
pub(super) type Waiting = Arc<AtomicUsize>;

/// What of a log has been put into frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    pub totals: Totals,
    /// Events that were left out.
    pub dropped: u64,
}

struct Intake {
    tell: Sender<Come>,
    waiting: Waiting,
    /// Bytes that were handed to the guest before it last ran on.
    typed: Arc<AtomicU64>,
    /// Bytes that were since.
    handed_over: u64,
    decoder: Decoder,
    /// `None`: every event is kept.
    compaction: Option<Compaction>,
    columns: Builder,
    flushed: Instant,
    /// How long events may wait now: at the start less than [`FLUSH`], so that soon there is something.
    pause: Duration,
}

/// Reads until QEMU closes `log`, and tells of each frame and of the end.
pub(super) fn read_log(
    mut log: PipeReader,
    version: Version,
    compact: bool,
    tell: Sender<Come>,
    waiting: Waiting,
    typed: Arc<AtomicU64>,
) {
    let mut intake = Intake {
        tell,
        waiting,
        typed,
        handed_over: 0,
        decoder: Decoder::new(version),
        compaction: compact.then(Compaction::default),
        columns: Builder::new(0),
        flushed: Instant::now(),
        pause: Duration::from_millis(30),
    };
    let mut end = intake.read(&mut log);
    if let Err(error) = intake.flush() {
        end = end.and(Err(error.to_string()));
    }
    let end = end.and_then(|()| match intake.decoder.totals.trailer {
        Some(word) if word != version.word() => Err(format!(
            "this QEMU writes replay logs of version {word:#x}, where {:#x} was expected of its release",
            version.word()
        )),
        _ => Ok(()),
    });
    let _ = intake.tell.send(Come::LogEnd(end));
}

impl Intake {
    fn read(&mut self, log: &mut PipeReader) -> Result<(), String> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let due = self.pause.saturating_sub(self.flushed.elapsed());
            let timeout = PollTimeout::try_from(due).unwrap_or(PollTimeout::ZERO);
            let ready = poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLIN)], timeout);
            if ready.is_ok_and(|ready| ready > 0) {
                match log.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => self.take(&buffer[..n])?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(format!("QEMU's replay log can't be read: {error}")),
                }
            }
            if self.flushed.elapsed() >= self.pause || self.columns.size() >= FRAME {
                self.flush().map_err(|error| error.to_string())?;
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Intake { decoder, compaction, columns, typed, handed_over, .. } = self;
        let taken = decoder.take(bytes, |event| {
            match event {
                Event::CharRead { bytes, .. } => *handed_over += bytes.len() as u64,
                Event::Instructions(_) if *handed_over > 0 => {
                    typed.fetch_add(std::mem::take(handed_over), Ordering::Relaxed);
                }
                _ => {}
            }
            match compaction {
                Some(compaction) => compaction.take(event, |event| columns.push(event)),
                None => columns.push(event),
            }
        });
        taken.map_err(|malformed| {
            format!(
                "QEMU's replay log has {malformed}, after event {}: this QEMU writes a log that this tandem does \
                 not know",
                decoder.totals.events
            )
        })
    }

    /// Hands on what has come as a frame.
    fn flush(&mut self) -> io::Result<()> {
        self.flushed = Instant::now();
        if let Some(compaction) = &mut self.compaction {
            compaction.settle(|event| self.columns.push(event));
        }
        if self.columns.is_empty() {
            return Ok(());
        }
        self.pause = FLUSH.min(2 * self.pause);
        let (first, content) = self.columns.finish();
        let frame = Frame::new(Kind::Events, first, &content)?;
        // Where nobody else holds the count, nobody writes any more.
        while self.waiting.load(Ordering::Relaxed) > WAITING && Arc::strong_count(&self.waiting) > 1 {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.waiting.fetch_add(frame.bytes.len(), Ordering::Relaxed);
        let dropped = self.compaction.as_ref().map_or(0, |compaction| compaction.dropped);
        let _ = self.tell.send(Come::Frame(frame, Taken { totals: self.decoder.totals, dropped }));
        Ok(())
    }
}
