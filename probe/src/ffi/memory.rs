//! The guest's accesses to memory, as QEMU tells them to plugins.

use std::ffi::{c_int, c_uint, c_void};

use trace::access::{Access, Tag};

use super::{CB_NO_REGS, HOT, Handle, function, guarded, settled};

/// `enum qemu_plugin_mem_rw`.
const READS: c_int = 1;
const WRITES: c_int = 2;

/// `qemu_plugin_mem_value` (include/qemu/qemu-plugin.h of 10.0): log2 of its size, and the value in as many bytes of the union.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Value {
    shift: c_int,
    low: u64,
    high: u64,
}

type Callback = extern "C" fn(c_uint, u32, u64, *mut c_void);

/// QEMU's functions, told once when the probe is installed.
#[derive(Clone, Copy)]
pub(super) struct Watching {
    register: extern "C" fn(Handle, Callback, c_int, c_int, *mut c_void),
}

/// What QEMU tells of an access: from level 4 on the value with its size, before the size alone.
#[derive(Clone, Copy)]
pub(super) enum Telling {
    Nothing,
    /// Its size, and whether it is a store: 7.2 tells those who ask for stores of loads too (`op_rw` in
    /// accel/tcg/plugin-gen.c).
    Size(extern "C" fn(u32) -> c_uint, extern "C" fn(u32) -> bool),
    Value(extern "C" fn(u32) -> Value),
}

impl Telling {
    pub(super) fn find(values: bool) -> Result<Self, String> {
        Ok(if values {
            Telling::Value(function(c"qemu_plugin_mem_get_value")?)
        } else {
            Telling::Size(function(c"qemu_plugin_mem_size_shift")?, function(c"qemu_plugin_mem_is_store")?)
        })
    }
}

impl Watching {
    pub(super) fn find() -> Result<Self, String> {
        Ok(Watching { register: function(c"qemu_plugin_register_vcpu_mem_cb")? })
    }

    /// Has the accesses told of an instruction, the `number`th of its block.
    pub(super) fn watch(self, insn: Handle, number: u16, is_store: bool) {
        let tag = usize::try_from(Tag::of(number, is_store).packed()).expect("a 64-bit host");
        let which = if is_store { WRITES } else { READS };
        (self.register)(insn, accessed, CB_NO_REGS, which, std::ptr::without_provenance_mut(tag));
    }
}

/// An instruction has read or written memory.
extern "C" fn accessed(_: c_uint, info: u32, address: u64, tag: *mut c_void) {
    // SAFETY: one user at a time; see the module's invariants.
    let hot = unsafe { &mut *HOT.0.get() };
    let tag = Tag::unpacked(tag.addr() as u64);
    let (shift, low, high) = match hot.telling {
        Telling::Value(get) => {
            let value = get(info);
            (value.shift.cast_unsigned(), value.low, value.high)
        }
        Telling::Size(shift, is_store) if is_store(info) == tag.is_store() => (shift(info), 0, 0),
        Telling::Size(..) | Telling::Nothing => return,
    };
    let entry = hot.recent.entries().len();
    if shift < 3 {
        // Of the union no more than that is set.
        let kept = low & ((1 << (8 << shift)) - 1);
        note(Access::new(tag, entry, address, shift, kept));
    } else {
        note(Access::new(tag, entry, address, 3, low));
        if shift > 3 {
            note_second(tag, address, high);
        }
    }
}

#[inline]
fn note(access: Access) {
    // SAFETY: as in `accessed`.
    let hot = unsafe { &mut *HOT.0.get() };
    if !hot.accesses.push(access) {
        make_room(access);
    }
}

#[cold]
fn note_second(tag: Tag, address: u64, high: u64) {
    // SAFETY: as in `accessed`. What is noted may have been taken in since the first half.
    let entry = unsafe { &*HOT.0.get() }.recent.entries().len();
    note(Access::new(tag, entry, address.wrapping_add(8), 3, high));
}

/// Takes in what is noted, and notes this.
#[cold]
#[inline(never)]
fn make_room(access: Access) {
    settled();
    guarded(|probe, hot| {
        probe.session.settle(&mut hot.recent, &mut hot.accesses)?;
        hot.accesses.grow();
        hot.accesses.push(access.of_running());
        Ok(())
    });
}
