//! When a recording is to end before the guest ends by itself.

use std::time::{Duration, Instant};

use regex::bytes::Regex;

/// What the user has asked for.
#[derive(Debug, Default)]
pub struct Limits {
    /// Text on the guest's console.
    pub until: Option<Regex>,
    /// Instructions.
    pub until_icount: Option<u64>,
    /// Time on the host's clock.
    pub timeout: Option<Duration>,
    /// How long QEMU may do nothing at all: no instruction and no byte of console.
    pub no_progress: Option<Duration>,
    /// Bytes of the recording.
    pub size: Option<u64>,
}

/// Why the guest was told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The user's signal; QEMU's log says the rest.
    Interrupt,
    Until(String),
    UntilIcount(u64),
    Timeout(Duration),
    NoProgress(Duration),
    Full(String),
}

impl Stop {
    /// Whether the user did not want it to end so.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Stop::Timeout(_) | Stop::NoProgress(_) | Stop::Full(_))
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Interrupt => f.write_str("a signal from the host"),
            Stop::Until(said) => write!(f, "--until: the console said `{said}`"),
            Stop::UntilIcount(icount) => write!(f, "--until-icount {icount}"),
            Stop::Timeout(limit) => write!(f, "--timeout after {} s", limit.as_secs_f64()),
            Stop::NoProgress(limit) => {
                write!(f, "no progress for {} s: no instruction and no byte of console", limit.as_secs_f64())
            }
            Stop::Full(why) => f.write_str(why),
        }
    }
}

/// How far a run is, in all that shows progress of the guest's. Events do not: QEMU logs its own looks at the clock,
/// whatever the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub chunks: u64,
    /// The most that is known: the position or QEMU's icount.
    pub instructions: u64,
    pub console: u64,
}

/// Watches a run for its limits.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    began: Instant,
    before: Progress,
    moved: Instant,
    /// The console's end, in which the pattern is looked for: what it can match, and no more than [`LOOKED_AT`].
    console: Vec<u8>,
    looked: bool,
}

/// How far back a pattern for the console may reach, bytes.
const LOOKED_AT: usize = 64 << 10;

impl Watch {
    pub fn new(limits: Limits) -> Self {
        Watch {
            limits,
            began: Instant::now(),
            before: Progress::default(),
            moved: Instant::now(),
            console: Vec::new(),
            looked: true,
        }
    }

    /// Takes what the guest wrote.
    pub fn wrote(&mut self, bytes: &[u8]) {
        if self.limits.until.is_some() {
            self.console.extend_from_slice(bytes);
            let over = self.console.len().saturating_sub(LOOKED_AT);
            self.console.drain(..over);
            self.looked = false;
        }
    }

    /// Whether it is time.
    pub fn stop(&mut self, now: Progress) -> Option<Stop> {
        if now != self.before {
            (self.before, self.moved) = (now, Instant::now());
        }
        if !std::mem::replace(&mut self.looked, true)
            && let Some(found) = self.limits.until.as_ref().and_then(|until| until.find(&self.console))
        {
            return Some(Stop::Until(String::from_utf8_lossy(found.as_bytes()).trim_end().to_owned()));
        }
        if let Some(icount) = self.limits.until_icount.filter(|&icount| now.instructions >= icount) {
            return Some(Stop::UntilIcount(icount));
        }
        if let Some(limit) = self.limits.timeout.filter(|&limit| self.began.elapsed() >= limit) {
            return Some(Stop::Timeout(limit));
        }
        self.limits.no_progress.filter(|&limit| self.moved.elapsed() >= limit).map(Stop::NoProgress)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LOOKED_AT, Limits, Progress, Regex, Stop, Watch};

    #[test]
    fn a_pattern_is_found_across_pieces_and_once() {
        let mut watch =
            Watch::new(Limits { until: Some(Regex::new("log.n: ").unwrap()), ..Limits::default() });
        let now = Progress::default();
        watch.wrote(&vec![b'x'; 2 * LOOKED_AT]);
        watch.wrote(b"lo");
        assert_eq!(watch.stop(now), None);
        watch.wrote(b"gin: ");
        assert_eq!(watch.stop(now), Some(Stop::Until("login:".to_owned())));
        assert_eq!(watch.stop(now), None, "nothing new was written");
        assert!(watch.console.len() <= LOOKED_AT);
    }

    #[test]
    fn what_stands_still_is_noticed_and_what_moves_is_not() {
        let limits = Limits { no_progress: Some(Duration::from_millis(30)), ..Limits::default() };
        let mut watch = Watch::new(limits);
        for instructions in 0..5 {
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(watch.stop(Progress { instructions, ..Progress::default() }), None);
        }
        std::thread::sleep(Duration::from_millis(31));
        let stop = watch.stop(Progress { instructions: 4, ..Progress::default() });
        assert_eq!(stop, Some(Stop::NoProgress(Duration::from_millis(30))));
    }

    #[test]
    fn an_icount_ends_it_as_soon_as_it_is_reached() {
        let mut watch = Watch::new(Limits { until_icount: Some(100), ..Limits::default() });
        assert_eq!(watch.stop(Progress { instructions: 99, ..Progress::default() }), None);
        let stop = watch.stop(Progress { instructions: 100, ..Progress::default() });
        assert_eq!(stop, Some(Stop::UntilIcount(100)));
    }
}
