//! Whose turn it is, where a machine's vCPUs take turns.
//!
//! From QEMU 10.0 on a block's callback names the vCPU that translated the block and not the one that executes it, where they
//! take turns (`gen_cpu_index` in accel/tcg/plugin-gen.c, 10.0 to 11.1), and what is counted inline by vCPU goes to a wrong place
//! or to none. So QEMU's own variable is looked at, `current_cpu`, which builds with loadable modules show to others; and
//! marks are counted by calls.

use std::ffi::{c_uint, c_void};

use super::HOT;
use super::level::symbol;

/// What is said of a build that does not show it.
pub(super) const HIDDEN: &str = "this build does not show plugins which of several vCPUs executes: it needs a QEMU that is built with loadable modules, as distributions build it, or a guest with one vCPU";

/// The vCPUs, each known by the address of its state.
#[derive(Default)]
pub(super) struct Turns {
    vcpus: Vec<(usize, c_uint)>,
}

impl Turns {
    /// Where `current_cpu` is on this thread.
    pub(super) fn current() -> Option<*const usize> {
        symbol(c"current_cpu").map(|found| found.cast_const().cast())
    }

    /// Notes a vCPU; whether it is another one than those before.
    pub(super) fn add(&mut self, state: usize, vcpu: c_uint) -> bool {
        let is_new = state != 0 && self.vcpus.iter().all(|&(known, _)| known != state);
        self.vcpus.push((state, vcpu));
        is_new
    }

    /// Whether there are several.
    pub(super) fn are_taken(&self) -> bool {
        self.vcpus.len() > 1
    }

    /// The number of the one with this state.
    pub(super) fn number(&self, state: usize) -> Option<c_uint> {
        self.vcpus.iter().find(|&&(known, _)| known == state).map(|&(_, vcpu)| vcpu)
    }
}

/// The mark with this number is passed.
pub(super) extern "C" fn passed(_: c_uint, number: *mut c_void) {
    // SAFETY: one user at a time, and the counter is there before any block: see the module's invariants.
    unsafe { *(*HOT.0.get()).counter = number.addr() as u64 }
}
