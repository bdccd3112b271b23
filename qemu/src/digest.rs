//! The content of a file as SHA-256: how a recording names the build and the guest's files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::Sha256;

/// A SHA-256 that is being made.
#[derive(Debug, Default)]
pub struct Digest(Sha256);

impl Digest {
    pub fn add(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> String {
        sha2::Digest::finalize(self.0).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// SHA-256 of the file at `path`, 64 hexadecimal digits.
///
/// # Errors
/// Where the file can't be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Digest::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.hex()),
            n => digest.add(&buffer[..n]),
        }
    }
}
