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
