//! How a user program that a signal kills is told of: QEMU 7.2 has no callback for that end.
//!
//! QEMU makes such an end its own: it gives the signal its default action and sends it to its process by `kill`, which it
//! uses for nothing else. So this library has a `kill` of its own, which the host has the dynamic linker prefer
//! (`LD_PRELOAD`): on the vCPU's thread, which is nowhere in the probe then, it tells the host how far the program came. In a
//! QEMU for whole machines nobody calls it. (Source: linux-user/signal.c of QEMU 7.2; 10.0 calls back, and the host
//! has heard it by then.)

#![allow(unsafe_code)]

use std::ffi::c_int;

use crate::ffi;

/// Sends `signal` to `process`.
///
/// # Safety
/// As kill(2), of which this is the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kill(process: libc::pid_t, signal: c_int) -> c_int {
    // SAFETY: may be called anywhere; a zeroed `sigaction` is filled, or stays without a handler.
    let is_own = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        process == libc::getpid()
            && libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_DFL
    };
    if is_own && ffi::within() == 0 {
        ffi::end();
    }
    // SAFETY: a system call without memory; it sets `errno` as its function does.
    let done = unsafe { libc::syscall(libc::SYS_kill, process, signal) };
    c_int::try_from(done).unwrap_or(-1)
}
