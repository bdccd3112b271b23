//! Replays a recording. [`source`] makes of a recording what QEMU needs to replay it; [`verify`] replays it and
//! compares every chunk with the witness, and [`pieces`] has several QEMUs do so at once, by the
//! [`course`] of the recording; [`standstill`] says what the log has where it does not go on, and [`death`] where
//! QEMU has died. A [`machine`]
//! is a replay that is commanded; [`seek`] takes one to a [`moment`] or to [`breaks`], and [`registers`] reads what it
//! shows there, with the names of [`symbols`]. [`debugger`] has gdb command one.

pub mod breaks;
mod course;
pub mod death;
pub mod debugger;
mod forgotten;
mod image;
pub mod index;
pub mod machine;
pub mod moment;
pub mod pieces;
pub mod registers;
pub mod seek;
pub mod source;
pub mod standstill;
pub mod symbols;
pub mod verify;
