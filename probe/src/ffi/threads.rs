//! The probe's own threads: one pushes out what QEMU's stdio holds back, one wakes QEMU while a replay's guest stands still,
//! one answers the host while the guest is stopped.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::catch_unwind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use trace::codec;
use trace::message::{Asked, Standing};

use super::{HOT, PROBE, SETTLED, Within};

/// How often QEMU's buffered output is pushed out; at the start more often.
const FLUSH: Duration = Duration::from_millis(200);

/// QEMU writes its replay log through stdio, which keeps up to a page of it: of a guest that does little, minutes,
/// which would die with QEMU. So what it has written is pushed out a few times a second.
pub(super) fn flush_from_now_on() {
    std::thread::spawn(|| {
        leave_signals();
        let mut pause = Duration::from_millis(20);
        loop {
            std::thread::sleep(pause);
            pause = FLUSH.min(2 * pause);
            // SAFETY: flushes all output streams, each under its own lock; may be called from any thread.
            unsafe { libc::fflush(std::ptr::null_mut()) };
        }
    });
}

/// Signals are for QEMU's own threads, not for this one.
fn leave_signals() {
    // SAFETY: a zeroed set is filled before it is used; the mask is this thread's own.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// How often is looked whether the guest stands still: seldom, often once it has stood still of late, and in between
/// where waking was in vain for long.
const LOOK: Duration = Duration::from_millis(2);
const LOOK_AGAIN: Duration = Duration::from_micros(500);
const LOOK_ON: Duration = Duration::from_millis(10);

/// So many looks are of late, and so many wakes are for long.
const LATE: u32 = 50;
const LONG: u32 = 1000;

/// A byte that QEMU's monitor for people takes as a key without effect on an empty line: Ctrl-A (util/readline.c).
const NOTHING: &[u8] = &[1];

/// Wakes QEMU's main loop while the guest stands still: in a replay all that can come is in the log, and what the loop
/// sleeps for has long been. `waking` is the host's end of a monitor of it.
pub(super) fn wake_from_now_on(waking: UnixStream) {
    std::thread::spawn(move || {
        leave_signals();
        let (mut before, mut still, mut moving) = (0, 0, LATE);
        loop {
            std::thread::sleep(match (still, moving) {
                (0, LATE..) => LOOK,
                (LONG.., _) => LOOK_ON,
                _ => LOOK_AGAIN,
            });
            let now = SETTLED.load(Ordering::Relaxed);
            if now == before {
                (still, moving) = (still.saturating_add(1), 0);
                // What can't be said at once need not be: the loop has not read what was said before. The host uses the
                // socket too, so it stays as it is.
                // SAFETY: a descriptor that `waking` holds open, and the length of what is sent.
                unsafe {
                    libc::send(
                        waking.as_raw_fd(),
                        NOTHING.as_ptr().cast(),
                        NOTHING.len(),
                        libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                    )
                };
            } else {
                (still, moving) = (0, moving.saturating_add(1));
            }
            before = now;
        }
    });
}

/// Answers the host's questions while the guest stands still.
pub(super) fn answer_from_now_on(mut asking: UnixStream) {
    std::thread::spawn(move || {
        leave_signals();
        while let Ok(Some(asked)) = codec::read(&mut asking) {
            let Some(standing) = catch_unwind(|| standing(asked)).ok().flatten() else { return };
            if codec::write(&mut asking, &standing).is_err() {
                return;
            }
        }
    });
}

fn standing(asked: Asked) -> Option<Standing> {
    let _within = Within::begin();
    // SAFETY: the guest is stopped, so no callback runs: see The answering thread.
    let (probe, hot) = unsafe { (&mut *PROBE.0.get(), &mut *HOT.0.get()) };
    let probe = probe.as_mut()?;
    let session = &mut probe.session;
    if !probe.dead {
        // No credit is waited for here: the host gives what it asks about all that there is.
        session.settle(&mut hot.recent, &mut hot.accesses).ok()?;
    }
    let takes_back = match asked {
        Asked::Where => false,
        Asked::Unmade => true,
        Asked::Twice => session.is_again(),
    };
    let running = session.running();
    if takes_back && hot.started(running) > 0 {
        hot.take_back();
    }
    Some(session.standing(hot.started(running)))
}
