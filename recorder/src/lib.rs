//! QEMU's replay log and the recording file.
//!
//! [`mod@record`] runs a guest and writes its recording; [`log`] understands QEMU's replay log, one table a version;
//! [`format`](mod@format) is the file's layout and FORMAT.md the same to the byte: frames ([`frame`]) of events in
//! columns ([`columns`]), of the witness, of the console, and an index. [`writer`] and [`reader`] are the file's two
//! ends, [`repair`] makes a recording of what a dead recorder left, [`manifest`] is what a recording says of the run,
//! [`account`] what it comes to, [`pack`] puts the guest's files in, [`checkpoint`]
//! states of the guest, [`survive`] what a stranger's bytes go through under the fuzzer.

pub mod account;
pub mod checkpoint;
pub mod columns;
mod console;
pub mod format;
pub mod frame;
pub mod gather;
mod host_clock;
mod index;
pub mod log;
pub mod manifest;
pub mod pack;
pub mod reader;
pub mod record;
pub mod repair;
#[doc(hidden)]
pub mod survive;
mod varint;
pub mod writer;
