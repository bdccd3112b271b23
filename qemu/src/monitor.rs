//! A QEMU's monitor, spoken to in QMP over a socket pair (docs/interop/qmp-spec.rst).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("QEMU's monitor does not answer within {limit} s", limit = LIMIT.as_secs())]
    Mute,
    #[error("the connection to QEMU's monitor is lost: {0}")]
    Lost(io::Error),
    #[error("QEMU's monitor refuses `{command}`: {why}")]
    Refused { command: String, why: String },
    #[error("QEMU's monitor said what no monitor says: {0}")]
    Strange(String),
}

/// How long QEMU may take to answer. Its main loop waits while the vCPU runs to its next event.
const LIMIT: Duration = Duration::from_secs(60);

/// What lies beyond this in one answer is no monitor's, bytes.
const LONGEST: u64 = 16 << 20;

/// A monitor that takes commands.
#[derive(Debug)]
pub struct Monitor {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Mute,
            _ => Error::Lost(error),
        }
    }
}

impl Monitor {
    /// Waits for the monitor's greeting, and leaves it ready for commands.
    ///
    /// # Errors
    /// Where no monitor speaks on `socket`.
    pub fn greet(socket: UnixStream) -> Result<Self, Error> {
        socket.set_read_timeout(Some(LIMIT))?;
        let from = BufReader::new(socket.try_clone()?);
        let mut monitor = Monitor { to: socket, from };
        let greeting = monitor.line()?;
        if greeting.get("QMP").is_none() {
            return Err(Error::Strange(greeting.to_string()));
        }
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value, Error> {
        let mut line = Vec::new();
        io::Read::take(&mut self.from, LONGEST).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let strange = |_| Error::Strange(String::from_utf8_lossy(&line).trim().to_owned());
        serde_json::from_slice(&line).map_err(strange)
    }

    /// Has `command` executed; gives back what it returns.
    ///
    /// # Errors
    /// Where QEMU refuses it or is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let said = json!({ "execute": command, "arguments": arguments });
        self.to.write_all(format!("{said}\n").as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if answer.get("event").is_some() {
                continue;
            }
            if let Some(error) = answer.get("error") {
                let why =
                    error.get("desc").and_then(Value::as_str).unwrap_or("it does not say why").to_owned();
                return Err(Error::Refused { command: command.to_owned(), why });
            } else if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            } else {
                return Err(Error::Strange(answer.to_string()));
            }
        }
    }

    /// Has a line of QEMU's monitor for people executed; gives back what it prints.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn human(&mut self, line: &str) -> Result<String, Error> {
        let said = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        let text = said.as_str().ok_or_else(|| Error::Strange(said.to_string()))?;
        Ok(text.replace('\r', ""))
    }

    /// How many instructions a replay has retired.
    ///
    /// # Errors
    /// Where QEMU does not replay or is gone.
    pub fn icount(&mut self) -> Result<u64, Error> {
        let said = self.execute("query-replay", &json!({}))?;
        said.get("icount").and_then(Value::as_u64).ok_or_else(|| Error::Strange(said.to_string()))
    }

    /// Has a replay stop when so many instructions are retired.
    ///
    /// # Errors
    /// Where that is in the past, or QEMU is gone.
    pub fn stop_at(&mut self, icount: u64) -> Result<(), Error> {
        self.execute("replay-break", &json!({ "icount": icount })).map(drop)
    }
}

/// How many instructions a replay has retired, asked on its monitor for people, whose answers are a screen's.
///
/// # Errors
/// Where no such monitor answers on `socket`.
pub fn icount(socket: UnixStream) -> Result<u64, Error> {
    shown_within(LIMIT, socket)
}

fn shown_within(limit: Duration, mut socket: UnixStream) -> Result<u64, Error> {
    // hmp_info_replay in replay/replay-debugging.c, 7.2 to 11.1.
    const SAYS: &str = "instruction count = ";
    socket.set_read_timeout(Some(limit))?;
    // A main loop that hangs reads nothing, and what wakes it has filled the socket.
    socket.set_write_timeout(Some(limit))?;
    socket.write_all(b"info replay\n")?;
    let mut said = String::new();
    for line in BufReader::new(io::Read::take(socket, LONGEST)).split(b'\n') {
        said = String::from_utf8_lossy(&line?).into_owned();
        if let Some((_, count)) = said.rsplit_once(SAYS) {
            let end = count.find(|c: char| !c.is_ascii_digit()).unwrap_or(count.len());
            return count[..end].parse().map_err(|_| Error::Strange(said));
        }
    }
    Err(Error::Strange(said))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::{Error, Monitor, icount, shown_within};
    use proptest::prelude::*;

    /// A monitor whose other end has said `said` and is gone.
    fn monitor(said: &[u8]) -> Result<Monitor, Error> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        // Held open for what is said to it.
        std::thread::spawn(move || drop(theirs.read_to_end(&mut Vec::new())));
        Monitor::greet(ours)
    }

    const GREETING: &str = "{\"QMP\": {\"version\": {}}}\n{\"return\": {}}\n";

    #[test]
    fn events_are_no_answers() {
        let said = format!(
            "{GREETING}{{\"event\": \"STOP\"}}\n{{\"return\": {{\"icount\": 7}}}}\n{{\"error\": {{\"desc\": \"no\"}}}}\n"
        );
        let mut monitor = monitor(said.as_bytes()).unwrap();
        assert_eq!(monitor.icount().unwrap(), 7);
        assert_eq!(monitor.stop_at(3).unwrap_err().to_string(), "QEMU's monitor refuses `replay-break`: no");
        assert!(matches!(monitor.human("info registers"), Err(Error::Lost(_))));
    }

    /// What is answered to the question for the icount by a monitor for people that says `said`.
    fn shown(said: &[u8]) -> Result<u64, Error> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        std::thread::spawn(move || drop(theirs.read_to_end(&mut Vec::new())));
        icount(ours)
    }

    #[test]
    fn the_icount_is_read_from_the_screen() {
        let screen = "QEMU 7.2 monitor - type 'help'\r\n(qemu) i\x1b[K\x1b[Din\r\nReplaying execution '/proc/self/fd/9': instruction count = 1234567\r\n(qemu) ";
        assert_eq!(shown(screen.as_bytes()).unwrap(), 1_234_567);
        assert!(matches!(shown(b"instruction count = x\n"), Err(Error::Strange(_))));
    }

    #[test]
    fn a_monitor_that_reads_nothing_holds_nobody_up() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[1]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        assert!(matches!(shown_within(Duration::from_millis(20), ours), Err(Error::Mute)));
    }

    proptest! {
        #[test]
        fn noise_is_no_icount(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(shown(&noise).is_err());
        }

        #[test]
        fn noise_is_an_error(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(monitor(&noise).is_err());
            let mut greeted = GREETING.as_bytes().to_vec();
            greeted.extend(&noise);
            prop_assert!(monitor(&greeted).and_then(|mut monitor| monitor.icount()).is_err());
        }
    }
}
