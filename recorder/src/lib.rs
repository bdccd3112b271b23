//! QEMU's replay log and the recording file.
//!
//! [`mod@record`] runs a guest and writes its recording; [`log`] understands QEMU's replay log, one decoder a
//! version; [`format`] is the file's layout, [`writer`] and [`reader`] its two ends, [`manifest`] what it says
//! of the run.

pub mod format;
pub mod log;
pub mod manifest;
pub mod reader;
pub mod record;
pub mod writer;
