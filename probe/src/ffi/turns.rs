//! Whose turn it is, where a machine's vCPUs take turns.
//!
//! From QEMU 10.0 on a block's callback names the vCPU that translated the block and not the one that executes it, where they
//! take turns (`gen_cpu_index` in accel/tcg/plugin-gen.c, 10.0 to 11.1), and what is counted inline by vCPU goes to a wrong place
//! or to none. So QEMU's own variable is looked at, `current_cpu`, which builds with loadable modules show to others, and of
//! which the host knows from others' symbols where it is; and marks are counted by calls.

use std::ffi::{c_int, c_uint, c_void};

use super::HOT;
use super::level::symbol;

/// What is said of a build that does not show it.
pub(super) const HIDDEN: &str = "this build does not show which of several vCPUs executes: it needs a QEMU that was not stripped, or one with loadable modules, as distributions build it, or a guest with one vCPU";

/// The vCPUs, each known by the address of its state.
#[derive(Default)]
pub(super) struct Turns {
    vcpus: Vec<(usize, c_uint)>,
}

impl Turns {
    /// Where `current_cpu` is on this thread; `offset`: where in the thread's own memory of the executable, as the host says.
    pub(super) fn current(offset: Option<usize>) -> Option<*const usize> {
        let shown = symbol(c"current_cpu").map(|found| found.cast_const().cast());
        shown.or_else(|| own_memory(offset?))
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

/// The word at `offset` in this thread's own memory of the executable; `None` where it has not so much.
fn own_memory(offset: usize) -> Option<*const usize> {
    extern "C" fn executable(info: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
        // SAFETY: the linker's description of an object that is loaded, and what `own_memory` gives.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<(usize, *const u8)>()) };
        // SAFETY: so many headers are there.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let size =
            headers.iter().find(|header| header.p_type == libc::PT_TLS).map_or(0, |header| header.p_memsz);
        *found = (usize::try_from(size).unwrap_or(0), info.dlpi_tls_data.cast_const().cast());
        // The executable comes first.
        1
    }
    let mut found = (0, std::ptr::null::<u8>());
    // SAFETY: calls that function with what is given, and with nothing once it has come back.
    unsafe { libc::dl_iterate_phdr(Some(executable), (&raw mut found).cast()) };
    let (size, memory) = found;
    let fits =
        !memory.is_null() && offset.is_multiple_of(size_of::<usize>()) && offset + size_of::<usize>() <= size;
    fits.then(|| memory.wrapping_add(offset).cast())
}

/// The mark with this number is passed.
pub(super) extern "C" fn passed(_: c_uint, number: *mut c_void) {
    // SAFETY: one user at a time, and the counter is there before any block: see the module's invariants.
    unsafe { *(*HOT.0.get()).counter = number.addr() as u64 }
}
