//! Replays a recording. [`source`] makes of a recording what QEMU needs to replay it; [`verify`] replays it and
//! compares every chunk with the witness.

pub mod source;
pub mod verify;
