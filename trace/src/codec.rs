//! How a value looks as bytes: bincode 2.0.1 through serde, its `standard` configuration. This is the only
//! place that names bincode (3.0.0 on the registry is an empty farewell release; see `deny.toml`).
//!
//! On a stream a value is framed: u32 little-endian length, then that many bytes.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// The longest framed value, bytes. A whole chunk of one-instruction blocks is the longest there is (about 12 MiB).
pub const LONGEST: usize = 64 << 20;

/// Why bytes are not a value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a value of {0} bytes, and {LONGEST} is the most")]
    TooLong(usize),
    #[error("not a value of the kind expected: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    #[error("{0} bytes too many after a value")]
    Trailing(usize),
    #[error("not a value that can be written: {0}")]
    Unwritable(#[from] bincode::error::EncodeError),
}

/// The bytes of `value`.
///
/// # Errors
/// Where `value` has no bincode form.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    Ok(bincode::serde::encode_to_vec(value, bincode::config::standard())?)
}

/// The value whose bytes are `bytes`, all of them.
///
/// # Errors
/// Where they are not such a value, or more than one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let config = bincode::config::standard().with_limit::<LONGEST>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config)?;
    if used == bytes.len() { Ok(value) } else { Err(Error::Trailing(bytes.len() - used)) }
}

/// Writes `value` framed.
///
/// # Errors
/// Where it is too long or the stream fails.
pub fn write<T: Serialize>(stream: &mut impl Write, value: &T) -> Result<(), Error> {
    let mut framed = vec![0; 4];
    framed.extend(encode(value)?);
    let length = framed.len() - 4;
    if length > LONGEST {
        return Err(Error::TooLong(length));
    }
    let length = u32::try_from(length).map_err(|_| Error::TooLong(length))?;
    framed[..4].copy_from_slice(&length.to_le_bytes());
    Ok(stream.write_all(&framed)?)
}

/// Puts `value` framed at the beginning of `to`, without any memory of its own; gives back how long it is, or `None` where
/// it does not fit.
#[must_use]
pub fn put<T: Serialize>(to: &mut [u8], value: &T) -> Option<usize> {
    let (head, rest) = to.split_first_chunk_mut::<4>()?;
    let length = bincode::serde::encode_into_slice(value, rest, bincode::config::standard()).ok()?;
    *head = u32::try_from(length).ok()?.to_le_bytes();
    Some(4 + length)
}

/// Reads one framed value; `None` where the stream ends before one begins.
///
/// # Errors
/// Where the stream fails, ends inside a value, or holds something else.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, Error> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < 4 {
        match stream.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(Error::TooLong(length));
    }
    // Grown as bytes arrive, so that a length that lies costs nothing.
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    decode(&bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Instruction;
    use crate::message::{FromProbe, ToProbe, Visit, Window};
    use proptest::prelude::*;

    fn window() -> FromProbe {
        FromProbe::Window(Some(Window {
            first: 7,
            visits: vec![
                Visit { vcpu: 0, block: 0, skip: 0, ran: 1 },
                Visit { vcpu: 1, block: 0, skip: 1, ran: 1 },
            ],
            blocks: vec![vec![Instruction::new(1, vec![0x90, 0xc3])]],
        }))
    }

    #[test]
    fn what_is_put_is_what_is_written() {
        let dying = FromProbe::Dying { started: u64::MAX, sender: Some(i32::MAX) };
        let (mut written, mut place) = (Vec::new(), [0; 32]);
        write(&mut written, &dying).unwrap();
        let length = put(&mut place, &dying).unwrap();
        assert_eq!(place[..length], written);
        assert!((0..length).all(|shorter| put(&mut place[..shorter], &dying).is_none()));
    }

    #[test]
    fn values_come_back_in_order_and_then_the_end() {
        let mut stream = Vec::new();
        write(&mut stream, &window()).unwrap();
        write(&mut stream, &FromProbe::Failure("why".to_owned())).unwrap();
        let mut stream = &stream[..];
        assert_eq!(read(&mut stream).unwrap(), Some(window()));
        assert_eq!(read(&mut stream).unwrap(), Some(FromProbe::Failure("why".to_owned())));
        assert_eq!(read::<FromProbe>(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_value_cut_short_is_an_error_and_not_the_end() {
        let mut stream = Vec::new();
        write(&mut stream, &window()).unwrap();
        for cut in 1..stream.len() {
            assert!(read::<FromProbe>(&mut &stream[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_that_lies_costs_nothing() {
        assert!(matches!(read::<FromProbe>(&mut &[0xff; 4][..]), Err(Error::TooLong(_))));
        assert!(read::<FromProbe>(&mut &[0, 0, 0, 2, 1][..]).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode::<FromProbe>(&bytes), decode::<ToProbe>(&bytes), read::<FromProbe>(&mut &bytes[..]));
        }

        #[test]
        fn a_damaged_message_never_panics(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = encode(&window()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = decode::<FromProbe>(&bytes);
        }
    }
}
