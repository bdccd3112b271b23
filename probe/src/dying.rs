//! What the probe says last: where the guest is, when a signal ends QEMU.
//!
//! Nothing else knows it: the host hears of chunks only, and QEMU's own count dies with QEMU. So the signals by which a
//! program ends itself, a failed assertion's and a fault's, have a handler: it sends one message and lets the signal do
//! what it would have done. It runs on the vCPU's thread, which then is nowhere else: where the signal meets another
//! thread, that one has the vCPU's say it first. QEMU's own count stands still meanwhile where QEMU's replaying
//! code is what fails: it holds a lock then that the vCPU needs to go on (`replay_mutex_lock`, 7.2 to 11.1).
//!
//! What a handler may do is little: it asks for no memory and takes no lock, since the thread may have been interrupted
//! in the middle of either.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use trace::codec;
use trace::message::{ASKED, FromProbe};

use crate::ffi;

/// The signals that end a program which does not expect them, and by which it may end itself.
const DEADLY: [c_int; 7] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// By which another thread wakes the vCPU's: QEMU blocks all but a few on it (`qemu_thread_create`), and not this one.
const WAKING: c_int = libc::SIGSEGV;

/// How long another thread waits for the vCPU's, in steps of a millisecond.
const PATIENCE: u32 = 500;

/// What was there for each of the deadly signals before.
struct Before(UnsafeCell<MaybeUninit<[libc::sigaction; DEADLY.len()]>>);
// SAFETY: written once, before the first handler is there; only read after.
unsafe impl Sync for Before {}
static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::zeroed()));

/// The vCPU's thread, by pthread's name for it, which is never 0.
static VCPU: AtomicU64 = AtomicU64::new(0);
/// Whether a thread has begun to say it: there is nothing to be said twice.
static BEGUN: AtomicBool = AtomicBool::new(false);
/// Who sent the signal; 0 where QEMU raised it.
static SENDER: AtomicI32 = AtomicI32::new(0);
/// Whether another thread wants it said by the vCPU's, and whether that has.
static WANTED: AtomicBool = AtomicBool::new(false);
static SAID: AtomicBool = AtomicBool::new(false);
/// Whether the host wants to know where the guest is.
static WHERE: AtomicBool = AtomicBool::new(false);
/// The signal that was sent to the vCPU's thread while that worked on the probe, and has to wait until it no more does.
static PUT_OFF: AtomicI32 = AtomicI32::new(0);

/// To be called on the vCPU's thread.
pub(crate) fn on_the_vcpu() {
    if VCPU.load(Ordering::Relaxed) == 0 {
        VCPU.store(here(), Ordering::Relaxed);
    }
}

/// This thread's name.
pub(crate) fn here() -> u64 {
    // SAFETY: may be called anywhere.
    unsafe { libc::pthread_self() }
}

/// Has the host told where the guest is when a signal ends this process.
pub(crate) fn tell_from_now_on() {
    // SAFETY: zeroed is a `sigaction` without flags; the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = deadly as extern "C" fn(_, _, _) as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        let before = (*BEFORE.0.get()).as_mut_ptr().cast::<libc::sigaction>();
        // First all of what was there, so that no handler reads what is being written.
        for (number, &signal) in DEADLY.iter().enumerate() {
            libc::sigaction(signal, std::ptr::null(), before.add(number));
        }
        for signal in DEADLY {
            libc::sigaction(signal, &raw const ours, std::ptr::null_mut());
        }
    }
}

extern "C" fn deadly(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a `siginfo_t`, whose sender is set where the code says that there is one.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    let sent = code <= 0;
    // SAFETY: may be called anywhere.
    let own = sender == unsafe { libc::getpid() };
    let vcpu = VCPU.load(Ordering::Relaxed);
    // SAFETY: may be called anywhere.
    if signal == ASKED && sent && sender == unsafe { libc::getppid() } {
        if vcpu == here() {
            tell();
        } else if vcpu != 0 {
            WHERE.store(true, Ordering::Release);
            // SAFETY: the vCPU's thread is there as long as QEMU is. It fails by what it gives back alone.
            unsafe { libc::pthread_kill(vcpu, WAKING) };
        }
        return;
    }
    if vcpu == here() && signal == WAKING && sent && own && WHERE.swap(false, Ordering::Acquire) {
        return tell();
    }
    if vcpu == here() && signal == WAKING && sent && own && WANTED.load(Ordering::Acquire) {
        if ffi::within() == here() {
            return PUT_OFF.store(signal, Ordering::Relaxed);
        }
        say_and_stay();
    }
    if !BEGUN.swap(true, Ordering::Relaxed) {
        SENDER.store(if sent && !own { sender } else { 0 }, Ordering::Relaxed);
        // Before the vCPU's first block nobody works on what is looked at but within `ffi`, and that is looked at first.
        if vcpu == here() || vcpu == 0 {
            if vcpu != 0 && sent && ffi::within() == vcpu {
                return PUT_OFF.store(signal, Ordering::Relaxed);
            }
            say();
        } else {
            WANTED.store(true, Ordering::Release);
            // SAFETY: the vCPU's thread is there as long as QEMU is; `nanosleep` may be called in a handler.
            unsafe {
                libc::pthread_kill(vcpu, WAKING);
                let step = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                for _ in 0..PATIENCE {
                    if SAID.load(Ordering::Acquire) {
                        break;
                    }
                    libc::nanosleep(&raw const step, std::ptr::null_mut());
                }
            }
        }
    }
    // A fault comes again when this returns; what was sent is sent again, and waits until then.
    restore(signal);
    if sent {
        raise(signal);
    }
}

/// On the vCPU's thread, which works on the probe no more: does what a signal meanwhile has asked for.
#[inline]
pub(crate) fn say_what_is_put_off() {
    if PUT_OFF.load(Ordering::Relaxed) != 0 && VCPU.load(Ordering::Relaxed) == here() {
        go_on_dying(PUT_OFF.swap(0, Ordering::Relaxed));
    }
}

#[cold]
fn go_on_dying(signal: c_int) {
    if WANTED.load(Ordering::Acquire) {
        say_and_stay();
    }
    say();
    restore(signal);
    raise(signal);
}

/// For another thread, which ends the process.
fn say_and_stay() -> ! {
    say();
    SAID.store(true, Ordering::Release);
    loop {
        // SAFETY: may be called in a handler.
        unsafe { libc::pause() };
    }
}

fn raise(signal: c_int) {
    // SAFETY: may be called in a handler.
    unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
}

/// From here on as if there had been no handler.
fn restore(signal: c_int) {
    let Some(number) = DEADLY.iter().position(|&deadly| deadly == signal) else { return };
    // SAFETY: `BEFORE` was filled before the handler was there; may be called in a handler.
    unsafe {
        let before = (*BEFORE.0.get()).as_ptr().cast::<libc::sigaction>();
        libc::sigaction(signal, before.add(number), std::ptr::null_mut());
    }
}

/// Tells the host, on the vCPU's thread, where the guest is and how long that thread has worked. One that works on the probe
/// says nothing: it is on its way, or has no credit.
fn tell() {
    let Some((started, host)) = ffi::started() else { return };
    // SAFETY: this thread's own; it goes on behind this with what it had there.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: zeroed is a `timespec`, and it is the only thing that is written; may be called in a handler.
    let worked = unsafe {
        let mut worked: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut worked);
        worked
    };
    let nanoseconds = |time: libc::timespec| u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec);
    send(host, &FromProbe::At { started, worked: nanoseconds(worked).unwrap_or_default() });
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Tells the host, on the vCPU's thread, that QEMU dies.
fn say() {
    let Some((started, host)) = ffi::started() else { return };
    let sender = SENDER.load(Ordering::Relaxed);
    send(host, &FromProbe::Dying { started, sender: (sender != 0).then_some(sender) });
}

fn send(host: c_int, message: &FromProbe) {
    let mut bytes = [0; 32];
    let Some(length) = codec::put(&mut bytes, message) else { return };
    // SAFETY: the host's socket is open as long as the probe, and `length` bytes are there. What can't be sent at once is not.
    unsafe { libc::send(host, bytes.as_ptr().cast(), length, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
}
