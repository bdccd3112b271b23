//! Random code on two builds, compared at full depth.
//!
//! [`generator`] makes sequences of the [`forms`] of instructions that both builds and this processor have, from
//! a [`random`] stream and [`values`] that arithmetic is known to go wrong with. [`hunt`] runs them, many in one start of a
//! QEMU: in lockstep, and by themselves on each build where something differs. [`finding`] is what is made of a difference: as short
//! as it can be, with the instruction that is guilty and what the real processor comes to.

pub mod finding;
pub mod forms;
pub mod generator;
pub mod hunt;
pub mod random;
mod values;
