//! Two builds side by side, to the first instruction at which they part.
//!
//! [`ride`] runs both and feeds [`comparator`], which decides from the digests where they part; [`expansion`]
//! finds the instruction in the two windows that the probes then give; [`disassembly`] makes text of
//! instructions; [`explain`] shows what both builds make of the guilty block; [`report`] is the result as data and
//! [`text`] as a page to read. [`inputs`] compares what two recordings took in; [`selfcheck`] rides a build against
//! itself.

pub mod comparator;
pub mod disassembly;
pub mod expansion;
pub mod explain;
pub mod inputs;
pub mod report;
pub mod ride;
pub mod selfcheck;
pub mod text;
