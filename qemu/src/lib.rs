//! A QEMU build and how to drive it: [`build`] says what an executable is, [`arguments`] takes a command line
//! as users write it and makes it one that can be recorded or ridden, [`program`] that of a QEMU for one Linux program, [`run`]
//! starts it with the probe inside and tells what happens to it, [`monitor`] and [`stub`] command one that is running, [`digest`] names files by
//! their content.

mod apart;
pub mod arguments;
pub mod build;
pub mod digest;
pub mod monitor;
pub mod program;
pub mod run;
pub mod stub;
