//! How a user program that a signal kills is told of: QEMU 7.2 has no callback for that end.
//!
//! QEMU makes such an end its own: it gives the signal its default action, sends it to its process and waits for it, with
//! all signals blocked until then. So a thread that waits for such signals gets it first. The vCPU's thread is nowhere in
//! the probe then and stays where it is; when the host has heard how far the program came, the signal is sent once more, and
//! does what it would have done.
//!
//! QEMU's own threads leave some of these signals open, and would be taken to die of it: so they are made to block them, by a
//! handler that they run once.
//!
//! Only signals that a program brings upon itself are waited for: of others a program may want to see that they are pending.
//! (Source: linux-user/signal.c of QEMU 7.2; 10.0 calls back, and the host has heard it by then.)

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::ffi;

const SIGNALS: [c_int; 7] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// With which QEMU's threads are reached: they leave it open, and nothing else sends it before the program begins.
const REACHING: c_int = libc::SIGSEGV;

/// How many threads were reached.
static REACHED: AtomicUsize = AtomicUsize::new(0);

/// How long is waited for them, in steps of a millisecond.
const PATIENCE: u32 = 500;

/// Has the host told how far the program came when a signal kills it. To be called on the vCPU's thread, before the program
/// begins.
pub(crate) fn tell_from_now_on() {
    // SAFETY: may be called anywhere.
    let vcpu = unsafe { libc::gettid() };
    quieten_all_but(vcpu);
    std::thread::spawn(move || {
        ffi::leave_signals();
        while !wait(vcpu) {}
    });
}

/// Has all threads that there are block the signals, but for the one that calls this.
fn quieten_all_but(vcpu: libc::pid_t) {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
    // Of the ids that a thread has in each namespace the last is the one by which it is known here.
    let id_here = |task: std::fs::DirEntry| -> Option<libc::pid_t> {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        ids.split_whitespace().last()?.parse().ok()
    };
    let threads = tasks.flatten().filter_map(id_here);
    // SAFETY: zeroed is a `sigaction` without flags; the handler has the signature that SA_SIGINFO asks for; what was there
    // before is put back when nothing more can call it.
    unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = quieten as extern "C" fn(_, _, _) as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO;
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(REACHING, &raw const ours, &raw mut before);
        let mut asked = 0;
        for thread in threads.filter(|&thread| thread != vcpu) {
            asked += usize::from(libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, REACHING) == 0);
        }
        for _ in 0..PATIENCE {
            if REACHED.load(Ordering::Acquire) >= asked {
                libc::sigaction(REACHING, &raw const before, std::ptr::null_mut());
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // One blocks it. QEMU puts a handler of its own in the place of this one when it starts the program.
}

/// On the thread that is to block the signals.
extern "C" fn quieten(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a `ucontext_t`, whose mask is the thread's when this returns.
    let mask = unsafe { &raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask };
    for signal in SIGNALS {
        // SAFETY: as above; may be called in a handler.
        unsafe { libc::sigaddset(mask, signal) };
    }
    REACHED.fetch_add(1, Ordering::Release);
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
