//! How a user program that a signal kills is told of: QEMU 7.2 has no callback for that end.
//!
//! QEMU makes such an end its own: it gives the signal its default action, sends it to its process and waits for it, with
//! all signals blocked until then. So a thread that waits for such signals gets it first. The vCPU's thread is nowhere in
//! the probe then and stays where it is; when the host has heard how far the program came, the signal is sent once more, and
//! does what it would have done.
//!
//! Only signals that a program brings upon itself are waited for: of others a program may want to see that they are pending.
//! (Source: linux-user/signal.c of QEMU 7.2; 10.0 calls back, and the host has heard it by then.)

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::MaybeUninit;

use crate::ffi;

const SIGNALS: [c_int; 7] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// Has the host told how far the program came when a signal kills it. To be called on the vCPU's thread.
pub(crate) fn tell_from_now_on() {
    // SAFETY: may be called anywhere.
    let vcpu = unsafe { libc::gettid() };
    std::thread::spawn(move || {
        ffi::leave_signals();
        while !wait(vcpu) {}
    });
}

/// Waits for one of the signals; gives back whether it ends the program.
fn wait(vcpu: libc::pid_t) -> bool {
    // SAFETY: zeroed sets and actions are filled before they are read, and all pointers are to what is alive here.
    unsafe {
        let mut awaited = MaybeUninit::zeroed();
        libc::sigemptyset(awaited.as_mut_ptr());
        for signal in SIGNALS {
            libc::sigaddset(awaited.as_mut_ptr(), signal);
        }
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let signal = libc::sigwaitinfo(awaited.as_ptr(), &raw mut info);
        if signal <= 0 {
            return false;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action);
        let process = libc::getpid();
        if action.sa_sigaction != libc::SIG_DFL {
            // QEMU only was not ready for it: it is the vCPU's.
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, vcpu, signal, &raw mut info);
            return false;
        }
        ffi::end();
        libc::kill(process, signal);
        true
    }
}
