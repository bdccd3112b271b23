//! A stretch of x86-64 code as a program of its own, made as short as it can be.
//!
//! A [`case`] is code in pieces, with the registers and the memory that it starts from. [`image`] puts cases into a program
//! that runs one after another and says what each has come to; [`runtime`] is the code around them. [`elf`] makes a program
//! for Linux of it, [`rom`] a machine's firmware, and [`source`] assembly source. [`shorter`] leaves out what does not matter, by [`delta`],
//! [`flags`] tells where that would make undefined flags count, and [`native`] runs a program on the real processor.
//!
//! A [`subject`] is a build that cases are run on, [`subjects`] are both; [`features`] are what both and this processor have. What they
//! come to is [`judged`], and [`kept`] in files. [`cut`] makes cases of what a guest executed.

pub mod case;
pub mod cut;
pub mod delta;
pub mod elf;
pub mod features;
pub mod flags;
pub mod image;
pub mod judged;
pub mod kept;
pub mod native;
pub mod rom;
mod runtime;
pub mod shorter;
pub mod source;
pub mod subject;
pub mod subjects;
