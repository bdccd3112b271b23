//! A user program's QEMU by itself: with process ids of its own, and addresses that are the same each time.
//!
//! A program hears its process id before its `main` (the C library asks for it), so two runs of one program would differ
//! in what they write to memory from the start. In a PID namespace of its own a QEMU has the same id each time. It must
//! not be the namespace's first process, which no signal of its own ends. So the process that was forked becomes the
//! parent of two: one that only holds the namespace, and QEMU, whose end it then passes on. When it is killed the kernel
//! kills both, and when the namespace's first process ends all that the program has started.
//!
//! Where the kernel lets this user make no namespace QEMU runs without, which its process id tells.

#![allow(unsafe_code)]

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::personality::{self, Persona};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, raise, signal, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getgid, getuid, pipe, setpgid};

/// Has `command`, which the kernel already kills with this process, run apart. It gets the descriptors `given` under these
/// numbers: a program sees which are taken, and both sides have to see the same.
pub(crate) fn run_apart(command: &mut Command, given: Vec<(RawFd, RawFd)>) {
    let (user, group) = (getuid(), getgid());
    // The guest keeps its ids in a namespace of users, which those need who may not make one of processes alone.
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{user} {user} 1")),
        ("/proc/self/gid_map", format!("{group} {group} 1")),
    ];
    let prepare = move || {
        for &(from, to) in &given {
            // SAFETY: the parent holds `from` open, and nothing of this process is at so high a number.
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let persona = personality::get()?;
        personality::set(persona | Persona::ADDR_NO_RANDOMIZE)?;
        if unshare(CloneFlags::CLONE_NEWPID).is_ok() {
            return separate();
        }
        if unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).is_err() {
            return Ok(());
        }
        for (path, text) in &maps {
            std::fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())?;
        }
        separate()
    };
    // SAFETY: between fork and exec only system calls are made: paths and texts are there, a file's name is short enough
    // to be terminated on the stack, and nothing locks.
    unsafe { command.pre_exec(prepare) };
}

/// Returns in the process that is to become QEMU, and in no other.
fn separate() -> io::Result<()> {
    let (alive, held) = pipe()?;
    // SAFETY: this process has one thread, the one that forks.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(held);
            end_with_parent(&alive)?;
            close_all_but(None);
            loop {
                nix::unistd::pause();
            }
        }
        ForkResult::Parent { child: first } => {
            // SAFETY: as above.
            match unsafe { fork() }? {
                ForkResult::Child => {
                    drop(held);
                    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                    end_with_parent(&alive)
                }
                ForkResult::Parent { child } => pass_on(child, first, &held),
            }
        }
    }
}

/// The kernel is to kill this process when its parent ends, who holds the other end of `alive`.
fn end_with_parent(alive: &OwnedFd) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut polled = [PollFd::new(alive.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, PollTimeout::ZERO)? {
        0 => Ok(()),
        // It has ended before the line above.
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Closes what this process has open, so that others see when QEMU ends.
fn close_all_but(kept: Option<BorrowedFd>) {
    let kept = kept.map(|kept| kept.as_raw_fd().cast_unsigned());
    // SAFETY: nothing in this process uses a descriptor from here on, but for `kept`.
    unsafe {
        if let Some(before) = kept.and_then(|kept| kept.checked_sub(1)) {
            libc::close_range(0, before, 0);
        }
        libc::close_range(kept.map_or(0, |kept| kept + 1), libc::c_uint::MAX, 0);
    }
}

/// Waits for QEMU, ends the namespace and then as QEMU did.
fn pass_on(qemu: Pid, first: Pid, held: &OwnedFd) -> ! {
    // The others look at the other end.
    close_all_but(Some(held.as_fd()));
    let status = loop {
        match waitpid(qemu, None) {
            Err(Errno::EINTR) => {}
            other => break other,
        }
    };
    let _ = kill(first, Signal::SIGKILL);
    let _ = waitpid(first, None);
    if let Ok(WaitStatus::Signaled(_, how, _)) = status {
        // Its core, where one is wanted, QEMU has left.
        let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
        // SAFETY: the default action is no handler.
        let _ = unsafe { signal(how, SigHandler::SigDfl) };
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::all()), None);
        let _ = raise(how);
    }
    let code = if let Ok(WaitStatus::Exited(_, code)) = status { code } else { 127 };
    // SAFETY: nothing of this process is worth an orderly exit.
    unsafe { libc::_exit(code) }
}
