//! A QEMU's gdb stub, spoken to over a socket pair in gdb's remote protocol ("Remote Protocol" in gdb's manual).
//!
//! QEMU stands still when it is first spoken to, and after each answer of [`Stub::stopped`].

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("QEMU's gdb stub does not answer within {limit} s", limit = LIMIT.as_secs())]
    Mute,
    #[error("the connection to QEMU's gdb stub is lost: {0}")]
    Lost(io::Error),
    #[error("QEMU's gdb stub refuses `{packet}`: {answer}")]
    Refused { packet: String, answer: String },
    #[error("QEMU's gdb stub said what no stub says: {0}")]
    Strange(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Mute,
            _ => Error::Lost(error),
        }
    }
}

/// How long QEMU may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// The longest packet that is taken, bytes; QEMU's own limit is 4096 (gdbstub.c, `MAX_PACKET_LENGTH`).
const LONGEST: usize = 1 << 20;

#[derive(Debug)]
pub struct Stub {
    socket: UnixStream,
    /// What has come and is not taken yet.
    come: Vec<u8>,
}

impl Stub {
    /// Speaks to the stub on `socket`: it counts as attached from then on.
    ///
    /// # Errors
    /// Where no stub answers.
    pub fn attach(socket: UnixStream) -> Result<Self, Error> {
        let mut stub = Stub { socket, come: Vec::new() };
        let answer = stub.ask("?")?;
        if !is_stop(&answer) {
            return Err(Error::Strange(shown(&answer)));
        }
        Ok(stub)
    }

    fn send(&mut self, packet: &str) -> Result<(), Error> {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        Ok(self.socket.write_all(format!("${packet}#{sum:02x}").as_bytes())?)
    }

    /// The next packet, waited for up to `limit`; `None` where none has come by then.
    fn packet(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, Error> {
        let end = Instant::now() + limit;
        loop {
            if let Some(packet) = self.taken()? {
                self.socket.write_all(b"+")?;
                return Ok(Some(packet));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut piece = [0; 4096];
            match self.socket.read(&mut piece) {
                Ok(0) => return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.come.extend(&piece[..length]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(Error::Lost(error)),
                },
            }
        }
    }

    /// A whole packet out of what has come.
    fn taken(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(start) = self.come.iter().position(|&byte| byte == b'$') else {
            // Acknowledgements.
            self.come.clear();
            return Ok(None);
        };
        if self.come.len() > LONGEST {
            return Err(Error::Strange(format!("a packet of more than {LONGEST} bytes")));
        }
        let Some(length) = self.come[start..].iter().position(|&byte| byte == b'#') else { return Ok(None) };
        let end = start + length;
        if self.come.len() < end + 3 {
            return Ok(None);
        }
        let packet = self.come[start + 1..end].to_vec();
        self.come.drain(..end + 3);
        Ok(Some(packet))
    }

    /// The answer to `packet`.
    ///
    /// # Errors
    /// Where none comes.
    pub fn ask(&mut self, packet: &str) -> Result<Vec<u8>, Error> {
        self.send(packet)?;
        let answer = self.packet(LIMIT)?.ok_or(Error::Mute)?;
        Ok(unescaped(&answer))
    }

    /// Has `packet` done, which is answered with `OK`.
    ///
    /// # Errors
    /// Where it isn't.
    pub fn order(&mut self, packet: &str) -> Result<(), Error> {
        let answer = self.ask(packet)?;
        if answer == b"OK" {
            return Ok(());
        }
        Err(Error::Refused { packet: packet.to_owned(), answer: shown(&answer) })
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn go(&mut self) -> Result<(), Error> {
        self.send("c")
    }

    /// Lets the guest execute one instruction, or take one interrupt or exception.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn step(&mut self) -> Result<(), Error> {
        self.send("s")
    }

    /// Has a guest that runs stand still; [`stopped`](Self::stopped) tells when it does.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn halt(&mut self) -> Result<(), Error> {
        Ok(self.socket.write_all(&[3])?)
    }

    /// Waits up to `limit` until the guest stands still again; gives back the stop as QEMU tells it.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn stopped(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, Error> {
        match self.packet(limit)? {
            None => Ok(None),
            Some(packet) if is_stop(&packet) => Ok(Some(packet)),
            Some(packet) => Err(Error::Strange(shown(&packet))),
        }
    }
}

fn is_stop(packet: &[u8]) -> bool {
    matches!(packet.first(), Some(b'T' | b'S' | b'W' | b'X'))
}

fn shown(packet: &[u8]) -> String {
    let start = &packet[..packet.len().min(80)];
    if start.is_empty() { "nothing".to_owned() } else { String::from_utf8_lossy(start).into_owned() }
}

/// A packet's content without its escapes: `}` stands before a byte that is XORed with 0x20.
fn unescaped(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.iter();
    std::iter::from_fn(|| match bytes.next()? {
        b'}' => bytes.next().map(|byte| byte ^ 0x20),
        &byte => Some(byte),
    })
    .collect()
}

/// The bytes that hexadecimal digits stand for.
#[must_use]
pub fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::{Error, Stub, from_hex, to_hex};
    use proptest::prelude::*;

    /// A stub whose other end has said `said` and is gone.
    fn stub(said: &[u8]) -> Result<Stub, Error> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        std::thread::spawn(move || drop(theirs.read_to_end(&mut Vec::new())));
        Stub::attach(ours)
    }

    #[test]
    fn packets_are_taken_apart() {
        let mut stub = stub(b"+$T05thread:01;#07+$OK#9a+$6869#d5+$E14#aa+$a}\x03b#00").unwrap();
        stub.order("Z0,1,1").unwrap();
        assert_eq!(from_hex(&stub.ask("m1000,2").unwrap()).unwrap(), b"hi");
        assert_eq!(stub.order("M0,1:00").unwrap_err().to_string(), "QEMU's gdb stub refuses `M0,1:00`: E14");
        assert_eq!(stub.ask("x").unwrap(), b"a#b");
        assert!(matches!(stub.ask("x"), Err(Error::Lost(_))));
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(from_hex(to_hex(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut said = b"$T05#b9".to_vec();
            said.extend(&noise);
            let mut stub = stub(&said).unwrap();
            let _ = (stub.ask("m0,8"), stub.order("k"), from_hex(&noise));
        }
    }
}
