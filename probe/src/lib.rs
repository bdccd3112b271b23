//! The probe: the TCG plugin that Tandem loads into a QEMU build.
//!
//! It follows the guest's instruction stream ([`trace::stream`]), tells the host each chunk's digest over the
//! socket that it was given, never runs further ahead than its credit, and answers questions about the last
//! chunks. [`ffi`] is everything that touches QEMU: one file serves every version of the plugin interface.
//! [`session`] is what the probe does, in safe code, [`calls`] a user program's system calls, and [`dying`] what it says last,
//! when a signal ends QEMU; where that is a user program's own end, [`killed`].

mod calls;
mod dying;
mod ffi;
mod killed;
mod session;
