//! What a probe says, shared by the probe and the host.
//!
//! A guest's run is a stream of instruction addresses. [`digest`] gives the stream a value that does not
//! depend on how QEMU cuts it into translated blocks; [`block`] holds what is known of a block from its
//! translation, with [`quiet`] knowing which instructions need no watching, and [`again`] which start again; [`recent`] takes the block entries and
//! [`access`] what they do to memory, [`look`] what is looked at beside; [`stream`] turns them into the exact stream, chunk by chunk, and remembers the last chunks, and in `tail` what was done last; [`message`] is what probe
//! and host tell each other about it and [`codec`] how that looks as bytes.
//!
//! Nothing here knows QEMU's plugin interface: everything can be tested without QEMU.

pub mod access;
pub mod again;
pub mod block;
pub mod codec;
pub mod digest;
pub mod look;
pub mod message;
pub mod quiet;
pub mod recent;
pub mod stream;
mod tail;
