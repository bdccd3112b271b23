//! A user program's system calls, as QEMU tells them to plugins.

use std::ffi::{c_int, c_uint, c_void};

use super::{Handle, PluginId, function, guarded};
use crate::session::Trouble;

type Begun = extern "C" fn(c_uint, i64, u64, u64, u64, u64, u64, u64, u64, u64, *mut c_void);
type Ended = extern "C" fn(c_uint, i64, i64, *mut c_void);
type BegunById = extern "C" fn(PluginId, c_uint, i64, u64, u64, u64, u64, u64, u64, u64, u64);
type EndedById = extern "C" fn(PluginId, c_uint, i64, i64);

/// QEMU's functions, told once when the probe is installed.
#[derive(Clone, Copy)]
enum Telling {
    /// Up to API 6: with the plugin's id first.
    ById { begun: extern "C" fn(PluginId, BegunById), ended: extern "C" fn(PluginId, EndedById) },
    /// From API 7: with data of its own last.
    ByData {
        begun: extern "C" fn(PluginId, Begun, *mut c_void),
        ended: extern "C" fn(PluginId, Ended, *mut c_void),
    },
}

/// Where an instruction that is being translated lies in this process.
pub(super) type Lies = extern "C" fn(Handle) -> *mut c_void;

pub(super) fn lies() -> Result<Lies, String> {
    function(c"qemu_plugin_insn_haddr")
}

/// Has the program's system calls told.
pub(super) fn tell_from_now_on(id: PluginId, level: c_int) -> Result<(), String> {
    let (on_begin, on_end) =
        (c"qemu_plugin_register_vcpu_syscall_cb", c"qemu_plugin_register_vcpu_syscall_ret_cb");
    let telling = if level < 7 {
        Telling::ById { begun: function(on_begin)?, ended: function(on_end)? }
    } else {
        Telling::ByData { begun: function(on_begin)?, ended: function(on_end)? }
    };
    let nothing = std::ptr::null_mut();
    match telling {
        Telling::ById { begun, ended } => {
            begun(id, call_begins_by_id);
            ended(id, call_ends_by_id);
        }
        Telling::ByData { begun, ended } => {
            begun(id, call_begins, nothing);
            ended(id, call_ends, nothing);
        }
    }
    Ok(())
}

extern "C" fn call_begins_by_id(
    _: PluginId,
    vcpu: c_uint,
    number: i64,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
    f: u64,
    _: u64,
    _: u64,
) {
    begins(vcpu, number, [a, b, c, d, e, f]);
}

extern "C" fn call_begins(
    vcpu: c_uint,
    number: i64,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
    f: u64,
    _: u64,
    _: u64,
    _: *mut c_void,
) {
    begins(vcpu, number, [a, b, c, d, e, f]);
}

extern "C" fn call_ends_by_id(_: PluginId, vcpu: c_uint, number: i64, result: i64) {
    ends(vcpu, number, result);
}

extern "C" fn call_ends(vcpu: c_uint, number: i64, result: i64, _: *mut c_void) {
    ends(vcpu, number, result);
}

/// A system call begins: its instruction is the last that has started.
fn begins(vcpu: c_uint, number: i64, arguments: [u64; 6]) {
    if vcpu != 0 {
        return;
    }
    guarded(|probe, hot| {
        probe.session.settle(&mut hot.recent, &mut hot.accesses)?;
        let started = hot.started(probe.session.running());
        probe.session.call_begins(started, &hot.accesses, number, arguments)
    });
}

/// It has come back.
fn ends(vcpu: c_uint, number: i64, result: i64) {
    if vcpu != 0 {
        return;
    }
    let mut is_same = true;
    guarded(|probe, _| {
        is_same = probe.session.call_ends(number, result);
        Ok::<_, Trouble>(())
    });
    if !is_same {
        super::forget();
    }
}

/// Reads what lies at the address `place` of this process; gives back whether all of it could be read.
pub(crate) fn read(place: u64, bytes: &mut [u8]) -> bool {
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let there = libc::iovec { iov_base: pointer(place), iov_len: bytes.len() };
    // SAFETY: the kernel looks whether `there` can be read, and `here` is ours to write.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(read) == Ok(bytes.len())
}

/// Writes `bytes` at the address `place` of this process, where a system call of the program's has just written as many.
pub(crate) fn write(place: u64, bytes: &[u8]) {
    let here = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let there = libc::iovec { iov_base: pointer(place), iov_len: bytes.len() };
    // SAFETY: the kernel looks whether `there` can be written; it is the program's own memory, which nothing here refers to.
    unsafe { libc::process_vm_writev(libc::getpid(), &raw const here, 1, &raw const there, 1, 0) };
}

fn pointer(place: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(usize::try_from(place).unwrap_or_default())
}
