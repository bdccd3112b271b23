//! Two builds side by side, to the first instruction at which they part.
//!
//! [`made`] records a guest that can't run live. [`ride`] runs both, started as [`drive`] says, and feeds [`comparator`], which decides from the digests where they part;
//! [`depth`] is how much of them is compared. [`expansion`] finds the first instruction that is another one in the two windows
//! that the probes then give; [`zoom`] runs both again to find the one whose effect differs first, which [`difference`]
//! tells from what was seen there, and [`blame`] where it can only be reasoned out; [`broken`] is a side that crashes or
//! hangs, [`unseen`] what differs on the console only; [`held`] is the zoom where builds tell no registers, which [`dump`] then
//! has from QEMU's monitor; [`disassembly`] makes text of instructions, with [`texts`] from QEMU; [`explain`] shows what
//! both builds make of the guilty block; [`report`] is the result as data, [`text`] as lines to read and [`html`] as a page to
//! attach to a bug, both of which show what others say only as far as it is [`printable`]. [`inputs`] compares
//! what two recordings took in; [`selfcheck`] rides a build against itself. Where the guests are user programs [`calls`]
//! compares their system calls, and [`programs`] tells an input that differs from what the builds make of it. [`against`] compares
//! one build, run [`alone`], with what another's run has left in a file ([`stored`]): a bisection's step. [`excerpt`] is what was
//! executed around a divergence, for who cuts a program from it.

pub mod against;
mod alone;
mod blame;
mod broken;
pub mod calls;
pub mod comparator;
pub mod depth;
mod difference;
pub mod disassembly;
mod drive;
mod dump;
pub mod excerpt;
pub mod expansion;
pub mod explain;
mod held;
pub mod html;
pub mod inputs;
pub mod made;
pub mod printable;
mod programs;
pub mod report;
pub mod ride;
pub mod selfcheck;
mod standing;
pub mod stored;
pub mod text;
mod texts;
mod unseen;
mod words;
mod zoom;
