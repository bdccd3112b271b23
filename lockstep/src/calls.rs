//! System calls of user programs: their names, how many arguments they have, what they do to memory, and where two
//! programs' calls are unlike.
//!
//! With the same registers a program calls the same, so another number or argument is a divergence. Another result is an
//! input: no code that QEMU has generated makes it.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use trace::message::{Call, Does};

use crate::comparator::{Pair, Side};

/// How many arguments calls have, where it is not six. What stands in the other registers is nobody's business.
const ARGUMENTS: [&str; 6] = [
    "fork geteuid getegid getgid getpgrp getpid getppid gettid getuid inotify_init munlockall pause restart_syscall \
     rt_sigreturn sched_yield setsid sigreturn sync vfork vhangup",
    "acct alarm brk chdir chroot close dup epoll_create epoll_create1 eventfd exit exit_group fchdir fdatasync fsync \
     getpgid getsid inotify_init1 io_destroy mlockall personality pipe rmdir sched_get_priority_max \
     sched_get_priority_min sched_getscheduler set_tid_address setfsgid setfsuid setgid setuid swapoff syncfs sysinfo \
     time timer_delete timer_getoverrun times umask uname unlink unshare userfaultfd",
    "access arch_prctl capget capset chmod clock_getres clock_gettime clock_settime creat dup2 eventfd2 fchmod flock \
     fstat fstat64 fstatfs ftruncate getcwd getgroups getitimer getpriority getrlimit getrusage gettimeofday \
     inotify_rm_watch io_setup kill link listen lstat lstat64 memfd_create mkdir mlock munlock munmap nanosleep pipe2 \
     removexattr rename rt_sigpending rt_sigsuspend sched_getparam sched_setparam set_robust_list setgroups sethostname \
     setpgid setregid setreuid setrlimit settimeofday shutdown sigaltstack stat stat64 statfs symlink timer_gettime \
     timerfd_create timerfd_gettime tkill truncate ugetrlimit utime utimes",
    "accept bind chown connect dup3 execve faccessat fchmodat fchown fcntl fcntl64 getcpu getdents getdents64 \
     getpeername getrandom getresgid getresuid getsockname inotify_add_watch io_submit ioctl lchown listxattr lseek \
     madvise membarrier mincore mkdirat mknod mlock2 mprotect msync open poll read readlink readv recvmsg sched_getaffinity \
     sched_rr_get_interval sched_setaffinity sched_setscheduler seccomp sendmsg set_thread_area setitimer setpriority \
     setresgid setresuid signalfd socket symlinkat syslog tgkill timer_create unlinkat write writev",
    "accept4 clock_nanosleep epoll_ctl epoll_wait faccessat2 fadvise64 fallocate fstatat64 futimesat getxattr mknodat \
     newfstatat openat openat2 pread64 prlimit64 ptrace pwrite64 quotactl readlinkat renameat rseq rt_sigaction \
     rt_sigprocmask rt_sigqueueinfo rt_sigtimedwait sendfile sendfile64 signalfd4 socketpair tee timer_settime \
     timerfd_settime utimensat vmsplice wait4",
    "clone execveat fchownat fsetxattr getsockopt linkat mount mremap ppoll prctl preadv pwritev renameat2 \
     rt_tgsigqueueinfo select setsockopt setxattr statx waitid",
];

/// What calls fill, where two runs of one program may find other values there: the argument that is the address, and how many
/// bytes, or `None` where the result says so. Structures are those of 64-bit targets.
const FILLS: &[(&str, u8, Option<u32>)] = &[
    ("read", 1, None),
    ("pread64", 1, None),
    ("recvfrom", 1, None),
    ("getcwd", 0, None),
    ("readlink", 1, None),
    ("readlinkat", 2, None),
    ("getdents", 1, None),
    ("getdents64", 1, None),
    ("sched_getaffinity", 2, None),
    ("clock_gettime", 1, Some(16)),
    ("clock_getres", 1, Some(16)),
    ("gettimeofday", 0, Some(16)),
    ("time", 0, Some(8)),
    ("times", 0, Some(32)),
    ("getitimer", 1, Some(32)),
    ("setitimer", 2, Some(32)),
    ("timer_gettime", 1, Some(32)),
    ("getrusage", 1, Some(144)),
    ("wait4", 1, Some(4)),
    ("wait4", 3, Some(144)),
    ("waitid", 2, Some(128)),
    ("rt_sigtimedwait", 1, Some(128)),
    ("uname", 0, Some(390)),
    ("sysinfo", 0, Some(112)),
    ("getcpu", 0, Some(4)),
    ("getrlimit", 1, Some(16)),
    ("prlimit64", 3, Some(16)),
];

/// After these the program may be gone.
const LEAVING: &[&str] = &["execve", "execveat", "kill", "tkill", "tgkill", "rt_sigqueueinfo"];

/// Targets whose structures are those of [`FILLS`].
const WIDE: &[&str] = &["x86_64", "aarch64", "riscv64", "loongarch64", "s390x", "ppc64", "ppc64le"];

/// The name of the system call `number` of QEMU's target `target`.
#[must_use]
pub fn name(target: &str, number: i64) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    macro_rules! named {
        ($of:ident) => {
            syscalls::$of::Sysno::new(number).map(|call| call.name())
        };
    }
    match target {
        "x86_64" => named!(x86_64),
        "i386" => named!(x86),
        "aarch64" | "aarch64_be" => named!(aarch64),
        "arm" | "armeb" => named!(arm),
        "riscv64" => named!(riscv64),
        "riscv32" => named!(riscv32),
        "loongarch64" => named!(loongarch64),
        "s390x" => named!(s390x),
        "ppc" => named!(powerpc),
        "ppc64" | "ppc64le" => named!(powerpc64),
        _ => None,
    }
}

/// The numbers that calls have on a target.
fn numbers(target: &str) -> HashMap<&'static str, i64> {
    (0..1024).filter_map(|number| Some((name(target, number)?, number))).collect()
}

/// What the calls of a target do, for the probe.
#[must_use]
pub fn does(target: &str) -> Vec<(i64, Does)> {
    let numbers = numbers(target);
    let fills = FILLS.iter().filter(|(_, _, bytes)| bytes.is_none() || WIDE.contains(&target));
    let fills = fills.map(|&(name, argument, bytes)| (name, Does::Fills { argument, bytes }));
    let leaves = LEAVING.iter().map(|&name| (name, Does::Leaves));
    // Linux on S/390 has the other order (kernel/fork.c, CONFIG_CLONE_BACKWARDS2).
    let clones = ("clone", Does::Clones { flags: u8::from(target == "s390x") });
    let plain = ["fork", "vfork"].map(|name| (name, Does::Forks));
    let random = ("getrandom", Does::Randomizes { argument: 0 });
    let all = fills.chain(leaves).chain(plain).chain([clones, random]);
    all.filter_map(|(name, does)| Some((*numbers.get(name)?, does))).collect()
}

/// How two programs' calls in the same place are unlike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlike {
    /// One calls another, or elsewhere, or with other arguments.
    Call(Pair<Call>),
    /// The same call comes to something else.
    Outcome(Pair<Call>),
}

/// The calls of two runs, compared as they come.
#[derive(Debug, Default)]
pub struct Calls {
    arguments: HashMap<i64, usize>,
    waiting: Pair<VecDeque<Call>>,
    /// Where the last call begins that both have made alike.
    pub alike: u64,
    /// The first that came to something else.
    pub outcome: Option<Pair<Call>>,
}

impl Calls {
    /// Of programs for QEMU's target `target`.
    #[must_use]
    pub fn of(target: &str) -> Self {
        let counts = ARGUMENTS
            .iter()
            .enumerate()
            .flat_map(|(count, names)| names.split_whitespace().map(move |name| (name, count)));
        let numbers = numbers(target);
        let arguments = counts.filter_map(|(name, count)| Some((*numbers.get(name)?, count))).collect();
        Calls { arguments, ..Calls::default() }
    }

    /// `side` has made these calls. Gives back the first that the other has not made so.
    pub fn take(&mut self, side: Side, calls: Vec<Call>) -> Option<Pair<Call>> {
        self.waiting.get_mut(side).extend(calls);
        while let (Some(&a), Some(&b)) = (self.waiting.a.front(), self.waiting.b.front()) {
            match self.unlike(a, b) {
                Some(Unlike::Call(pair)) => return Some(pair),
                Some(Unlike::Outcome(pair)) => {
                    self.outcome.get_or_insert(pair);
                }
                None => {}
            }
            self.alike = a.position;
            self.waiting.a.pop_front();
            self.waiting.b.pop_front();
        }
        None
    }

    fn unlike(&self, a: Call, b: Call) -> Option<Unlike> {
        let count = self.arguments.get(&a.number).copied().unwrap_or(6);
        let called = |call: &Call| (call.position, call.number);
        if called(&a) != called(&b) || a.arguments[..count] != b.arguments[..count] {
            Some(Unlike::Call(Pair { a, b }))
        } else if (a.result, a.filled) != (b.result, b.filled) {
            Some(Unlike::Outcome(Pair { a, b }))
        } else {
            None
        }
    }
}

/// A call with its arguments, as text.
#[must_use]
pub fn described(target: &str, call: &Call) -> String {
    let name = name(target, call.number).map_or_else(|| format!("number {}", call.number), str::to_owned);
    let arguments: Vec<_> = call.arguments.iter().map(|argument| format!("{argument:#x}")).collect();
    format!("{name}({})", arguments.join(", "))
}

/// A system call that came to something else on either side, for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Its name, or its number where it has no known one.
    pub call: String,
    /// Instructions up to it, its own included.
    pub icount: u64,
    /// What it gave; `null` where it did not come back.
    pub result: Pair<Option<i64>>,
    /// Whether it is the memory that it filled that differs.
    pub filled: bool,
}

impl Input {
    #[must_use]
    pub fn of(target: &str, calls: &Pair<Call>) -> Self {
        let Pair { a, b } = calls;
        let call = name(target, a.number).map_or_else(|| format!("number {}", a.number), str::to_owned);
        Input {
            call,
            icount: a.position,
            result: Pair { a: a.result, b: b.result },
            filled: a.result == b.result,
        }
    }

    /// What differs, as a part of a sentence.
    #[must_use]
    pub fn described(&self) -> String {
        let of =
            |result: Option<i64>| result.map_or_else(|| "nothing".to_owned(), |result| result.to_string());
        let place =
            format!("the system call `{}` at icount {}", self.call, recorder::account::grouped(self.icount));
        if self.filled {
            format!("what {place} put into memory")
        } else {
            format!("the result of {place}, {} on A and {} on B,", of(self.result.a), of(self.result.b))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(position: u64, number: i64, first: u64, result: i64) -> Call {
        Call { position, number, arguments: [first, 1, 2, 3, 4, 5], result: Some(result), filled: 0 }
    }

    #[test]
    fn the_same_call_has_another_number_elsewhere() {
        for (target, number) in [("x86_64", 39), ("aarch64", 172), ("riscv64", 172), ("i386", 20)] {
            assert_eq!(name(target, number), Some("getpid"), "{target}");
        }
        assert_eq!((name("x86_64", -1), name("hexagon", 1)), (None, None));
        assert!(does("aarch64").contains(&(220, Does::Clones { flags: 0 })));
        assert!(does("x86_64").contains(&(228, Does::Fills { argument: 1, bytes: Some(16) })));
        assert!(does("hexagon").is_empty());
    }

    #[test]
    fn every_name_of_the_tables_is_a_call_somewhere() {
        let all: Vec<_> = ["x86_64", "i386", "aarch64", "arm"].map(numbers).into();
        let listed = ARGUMENTS.iter().flat_map(|names| names.split_whitespace());
        for name in listed.chain(FILLS.iter().map(|(name, ..)| *name)).chain(LEAVING.iter().copied()) {
            assert!(all.iter().any(|numbers| numbers.contains_key(name)), "{name}");
        }
    }

    #[test]
    fn a_result_is_an_input_and_an_argument_is_not() {
        let mut calls = Calls::of("x86_64");
        // getpid, and what stands in registers that it does not look at.
        assert_eq!(calls.take(Side::A, vec![call(10, 39, 7, 100)]), None);
        assert_eq!(calls.take(Side::B, vec![call(10, 39, 8, 101)]), None);
        let outcome = calls.outcome.unwrap();
        assert_eq!((outcome.a.result, outcome.b.result, calls.alike), (Some(100), Some(101), 10));
        let described = Input::of("x86_64", &outcome).described();
        assert_eq!(described, "the result of the system call `getpid` at icount 10, 100 on A and 101 on B,");
        // close
        assert_eq!(calls.take(Side::A, vec![call(20, 3, 7, 0)]), None);
        assert!(calls.take(Side::B, vec![call(20, 3, 8, 0)]).is_some());
    }

    #[test]
    fn calls_elsewhere_are_unlike() {
        let mut calls = Calls::of("x86_64");
        calls.take(Side::B, vec![call(21, 3, 7, 0)]);
        assert!(calls.take(Side::A, vec![call(20, 3, 7, 0)]).is_some());
    }
}
