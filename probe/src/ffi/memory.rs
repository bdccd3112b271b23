//! The guest's accesses to memory, as QEMU tells them to plugins.

use std::ffi::{c_int, c_uint, c_void};

use trace::access::{Access, Tag};

use super::value::asked;
use super::{CB_NO_REGS, HOT, Handle, function, guarded, settled};

/// `enum qemu_plugin_mem_rw`.
const READS: c_int = 1;
const WRITES: c_int = 2;

/// `qemu_plugin_mem_value` (include/qemu/qemu-plugin.h of 10.0): log2 of its size, and the value in as many bytes of the union.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Value {
    pub(super) shift: c_int,
    pub(super) low: u64,
    high: u64,
}

type Callback = extern "C" fn(c_uint, u32, u64, *mut c_void);

/// How accesses are watched.
#[derive(Clone, Copy)]
pub(super) struct Watching {
    register: extern "C" fn(Handle, Callback, c_int, c_int, *mut c_void),
    callback: Callback,
    /// The same for what counts only where the guest is looked at closely.
    closely: Callback,
    /// The same where no more is asked than whether there was one.
    stored: Callback,
    /// For what has to be asked to be told of reads.
    reads: c_int,
}

/// QEMU's functions that tell of an access, for the callbacks.
#[derive(Clone, Copy)]
pub(super) struct Telling {
    pub(super) value: extern "C" fn(u32) -> Value,
    shift: extern "C" fn(u32) -> c_uint,
    is_store: extern "C" fn(u32) -> bool,
}

impl Telling {
    /// Before the probe is installed nothing is told.
    pub(super) const NOTHING: Self = Telling { value: no_value, shift: no_shift, is_store: no_store };
}

extern "C" fn no_value(_: u32) -> Value {
    Value { shift: 0, low: 0, high: 0 }
}
extern "C" fn no_shift(_: u32) -> c_uint {
    0
}
extern "C" fn no_store(_: u32) -> bool {
    false
}

impl Watching {
    /// With values, which QEMU tells from level 4 on, or with sizes alone.
    pub(super) fn find(values: bool) -> Result<(Self, Telling), String> {
        let register = function(c"qemu_plugin_register_vcpu_mem_cb")?;
        let mut telling = Telling::NOTHING;
        telling.shift = function(c"qemu_plugin_mem_size_shift")?;
        if values {
            telling.value = function(c"qemu_plugin_mem_get_value")?;
        } else {
            telling.is_store = function(c"qemu_plugin_mem_is_store")?;
        }
        // 7.2 tells those who ask for loads of stores alone, and those who ask for stores of both (`op_rw` in
        // accel/tcg/plugin-gen.c).
        let watching = if values {
            Watching { register, callback: accessed, closely: accessed_closely, stored, reads: READS }
        } else {
            let reads = READS | WRITES;
            Watching { register, callback: touched, closely: touched_closely, stored: touched_storing, reads }
        };
        Ok((watching, telling))
    }

    /// Those of which no more is asked than whether there was one, where nothing keeps the number of the running block.
    pub(super) fn stored(self) -> Self {
        Watching { callback: self.stored, ..self }
    }

    /// Those that count only where the guest is looked at closely.
    pub(super) fn closely(self) -> Self {
        Watching { callback: self.closely, ..self }
    }

    /// Has the accesses told of an instruction, the `number`th of a block.
    pub(super) fn watch(self, insn: Handle, block: u32, number: u16, is_store: bool) {
        let tag = usize::try_from(Tag::of(block, number, is_store).packed()).expect("a 64-bit host");
        let which = if is_store { WRITES } else { self.reads };
        (self.register)(insn, self.callback, CB_NO_REGS, which, std::ptr::without_provenance_mut(tag));
    }
}

/// An instruction has read or written memory.
extern "C" fn accessed(_: c_uint, info: u32, address: u64, tag: *mut c_void) {
    // Of the union no more is set than the value has.
    const KEPT: [u64; 4] = [0xff, 0xffff, 0xffff_ffff, u64::MAX];
    // SAFETY: one user at a time; see the module's invariants.
    let hot = unsafe { &mut *HOT.0.get() };
    let tag = Tag::unpacked(tag.addr() as u64);
    let shift = (hot.telling.shift)(info);
    if let Some(kept) = KEPT.get(shift as usize) {
        let value = hot.place.read().unwrap_or_else(|| asked(info, *kept));
        note(tag, address, shift, value & kept);
    } else {
        let Value { low, high, .. } = (hot.telling.value)(info);
        note_both(tag, address, low, high);
    }
}

/// The same far from where the guest is looked at closely: most of a run.
extern "C" fn accessed_closely(vcpu: c_uint, info: u32, address: u64, tag: *mut c_void) {
    if is_close() {
        accessed(vcpu, info, address, tag);
    }
}

extern "C" fn touched_closely(vcpu: c_uint, info: u32, address: u64, tag: *mut c_void) {
    if is_close() {
        touched(vcpu, info, address, tag);
    }
}

/// An instruction has written to memory, and no more is asked.
extern "C" fn stored(_: c_uint, _: u32, _: u64, tag: *mut c_void) {
    // SAFETY: as in `accessed`.
    let hot = unsafe { &mut *HOT.0.get() };
    let tag = Tag::unpacked(tag.addr() as u64);
    let access = Access::new(tag, hot.recent.filled(), 0, 0, 0);
    let runs = hot.recent.entries().last().is_some_and(|entry| entry.block() == tag.block());
    if !runs || !hot.accesses.push(access) {
        note_again(tag, 0, 0, 0);
    }
}

extern "C" fn touched_storing(vcpu: c_uint, info: u32, address: u64, tag: *mut c_void) {
    // SAFETY: as in `accessed`.
    if (unsafe { &*HOT.0.get() }.telling.is_store)(info) {
        stored(vcpu, info, address, tag);
    }
}

#[inline]
fn is_close() -> bool {
    // SAFETY: as in `accessed`.
    unsafe { (*HOT.0.get()).is_close }
}

#[inline]
fn note(tag: Tag, address: u64, shift: u32, value: u64) {
    // SAFETY: as in `accessed`.
    let hot = unsafe { &mut *HOT.0.get() };
    let entry = hot.recent.filled();
    if tag.block() != hot.running {
        note_again(tag, address, shift, value);
    } else if !hot.accesses.push(Access::new(tag, entry, address, shift, value)) {
        make_room(tag, address, shift, value);
    }
}

/// The same where its value is not told.
extern "C" fn touched(_: c_uint, info: u32, address: u64, tag: *mut c_void) {
    // SAFETY: as in `accessed`.
    let hot = unsafe { &mut *HOT.0.get() };
    let tag = Tag::unpacked(tag.addr() as u64);
    // Of both is told: see `Watching::find`.
    if (hot.telling.is_store)(info) != tag.is_store() {
        return;
    }
    let shift = (hot.telling.shift)(info);
    if shift > 3 {
        note_both(tag, address, 0, 0);
        return;
    }
    note(tag, address, shift, 0);
}

/// Sixteen bytes.
fn note_both(tag: Tag, address: u64, low: u64, high: u64) {
    note(tag, address, 3, low);
    note(tag, address.wrapping_add(8), 3, high);
}

/// Where all before the running block is not taken in yet, or another block's instruction makes an access: one
/// that was left for its input or output is executed alone, in a block that nothing is told of but its
/// accesses (`CF_MEMI_ONLY` in accel/tcg/translate-all.c, 7.2 and 10.0): it is the last that started in the running one.
#[cold]
#[inline(never)]
fn note_again(tag: Tag, address: u64, shift: u32, value: u64) {
    guarded(|probe, hot| {
        probe.session.settle(&mut hot.recent, &mut hot.accesses)?;
        let running = probe.session.running();
        let access = Access::new(tag, 0, address, shift, value);
        let access = if running.is_some_and(|running| running.id() == tag.block()) {
            access
        } else {
            let started = hot.started(running);
            access.made_by(u16::try_from(started.saturating_sub(1)).unwrap_or(u16::MAX))
        };
        hot.accesses.grow();
        hot.accesses.push(access);
        Ok(())
    });
}

/// Takes in what is noted, and notes this.
#[cold]
#[inline(never)]
fn make_room(tag: Tag, address: u64, shift: u32, value: u64) {
    settled();
    guarded(|probe, hot| {
        probe.session.settle(&mut hot.recent, &mut hot.accesses)?;
        hot.accesses.grow();
        hot.accesses.push(Access::new(tag, 0, address, shift, value));
        Ok(())
    });
}
