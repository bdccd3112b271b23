//! The functions of QEMU that the probe calls, by what the build's version offers.

use std::ffi::{c_int, c_uint, c_void};

use trace::block::Code;

use super::level::function;
use super::{Handle, PluginId, TOTAL, exiting, syscalls, tb_translated, vcpu_init};

const INLINE_ADD_U64: c_int = 0;
const INLINE_STORE_U64: c_int = 1;

/// `qemu_plugin_u64`: an entry of a scoreboard, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ScoreboardEntry {
    score: Handle,
    offset: usize,
}

/// How many marks of a block were passed: what this version offers to count them.
#[derive(Clone, Copy)]
pub(super) enum Counting {
    /// API 1: an inline add to a counter of ours.
    Total { insn_exec_inline: extern "C" fn(Handle, c_int, *mut c_void, u64) },
    /// API 2: an inline add to a scoreboard.
    Scoreboard {
        insn_exec_inline: extern "C" fn(Handle, c_int, ScoreboardEntry, u64),
        find: extern "C" fn(Handle, c_uint) -> *mut c_void,
    },
    /// API 3 and later: an inline store of the mark's number in its block, cheaper than the add.
    Marker {
        insn_exec_inline: extern "C" fn(Handle, c_int, ScoreboardEntry, u64),
        find: extern "C" fn(Handle, c_uint) -> *mut c_void,
    },
}

#[derive(Clone, Copy)]
pub(super) enum InsnData {
    /// Up to API 2.
    Pointer(extern "C" fn(Handle) -> *const u8),
    /// From API 3.
    Copy(extern "C" fn(Handle, *mut u8, usize) -> usize),
}

/// How the probe is called.
#[derive(Clone, Copy)]
pub(super) enum Callbacks {
    /// Up to API 6: with the plugin's id first.
    ById {
        vcpu_init: extern "C" fn(PluginId, extern "C" fn(PluginId, c_uint)),
        tb_trans: extern "C" fn(PluginId, extern "C" fn(PluginId, Handle)),
        atexit: extern "C" fn(PluginId, extern "C" fn(PluginId, *mut c_void), *mut c_void),
    },
    /// From API 7: with data of its own last.
    ByData {
        vcpu_init: extern "C" fn(PluginId, extern "C" fn(c_uint, *mut c_void), *mut c_void),
        tb_trans: extern "C" fn(PluginId, extern "C" fn(Handle, *mut c_void), *mut c_void),
        atexit: extern "C" fn(PluginId, extern "C" fn(*mut c_void), *mut c_void),
    },
}

impl Callbacks {
    fn find(level: c_int) -> Result<Self, String> {
        let (on_init, on_trans) =
            (c"qemu_plugin_register_vcpu_init_cb", c"qemu_plugin_register_vcpu_tb_trans_cb");
        let on_exit = c"qemu_plugin_register_atexit_cb";
        Ok(if level < 7 {
            Callbacks::ById {
                vcpu_init: function(on_init)?,
                tb_trans: function(on_trans)?,
                atexit: function(on_exit)?,
            }
        } else {
            Callbacks::ByData {
                vcpu_init: function(on_init)?,
                tb_trans: function(on_trans)?,
                atexit: function(on_exit)?,
            }
        })
    }

    pub(super) fn register(self, id: PluginId) {
        let nothing = std::ptr::null_mut();
        match self {
            Callbacks::ById { vcpu_init: on_init, tb_trans, atexit } => {
                on_init(id, vcpu_init_by_id);
                tb_trans(id, tb_translated_by_id);
                atexit(id, exiting_by_id, nothing);
            }
            Callbacks::ByData { vcpu_init: on_init, tb_trans, atexit } => {
                on_init(id, vcpu_init, nothing);
                tb_trans(id, tb_translated, nothing);
                atexit(id, exiting, nothing);
            }
        }
    }
}

extern "C" fn vcpu_init_by_id(_: PluginId, vcpu: c_uint) {
    vcpu_init(vcpu, std::ptr::null_mut());
}

extern "C" fn tb_translated_by_id(_: PluginId, tb: Handle) {
    tb_translated(tb, std::ptr::null_mut());
}

extern "C" fn exiting_by_id(_: PluginId, _: *mut c_void) {
    exiting(std::ptr::null_mut());
}

/// The functions of QEMU that the probe calls.
#[derive(Clone, Copy)]
pub(super) struct Qemu {
    pub(super) callbacks: Callbacks,
    pub(super) register_tb_exec:
        extern "C" fn(Handle, extern "C" fn(c_uint, *mut c_void), c_int, *mut c_void),
    pub(super) tb_n_insns: extern "C" fn(Handle) -> usize,
    pub(super) tb_get_insn: extern "C" fn(Handle, usize) -> Handle,
    pub(super) insn_vaddr: extern "C" fn(Handle) -> u64,
    pub(super) insn_size: extern "C" fn(Handle) -> usize,
    pub(super) insn_data: InsnData,
    pub(super) counting: Counting,
    pub(super) scoreboard_new: Option<extern "C" fn(usize) -> Handle>,
    pub(super) register_insn_exec:
        extern "C" fn(Handle, extern "C" fn(c_uint, *mut c_void), c_int, *mut c_void),
    /// Of a user program's instructions.
    pub(super) lies: Option<syscalls::Lies>,
    /// Up to API 6.
    pub(super) reset: Option<extern "C" fn(PluginId, extern "C" fn(PluginId))>,
}

impl Qemu {
    pub(super) fn find(level: c_int, system: bool) -> Result<Self, String> {
        let counting = match level {
            1 => {
                Counting::Total { insn_exec_inline: function(c"qemu_plugin_register_vcpu_insn_exec_inline")? }
            }
            2 => Counting::Scoreboard {
                insn_exec_inline: function(c"qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu")?,
                find: function(c"qemu_plugin_scoreboard_find")?,
            },
            _ => Counting::Marker {
                insn_exec_inline: function(c"qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu")?,
                find: function(c"qemu_plugin_scoreboard_find")?,
            },
        };
        Ok(Qemu {
            callbacks: Callbacks::find(level)?,
            register_tb_exec: function(c"qemu_plugin_register_vcpu_tb_exec_cb")?,
            tb_n_insns: function(c"qemu_plugin_tb_n_insns")?,
            tb_get_insn: function(c"qemu_plugin_tb_get_insn")?,
            insn_vaddr: function(c"qemu_plugin_insn_vaddr")?,
            insn_size: function(c"qemu_plugin_insn_size")?,
            insn_data: if level < 3 {
                InsnData::Pointer(function(c"qemu_plugin_insn_data")?)
            } else {
                InsnData::Copy(function(c"qemu_plugin_insn_data")?)
            },
            counting,
            scoreboard_new: if level < 2 { None } else { Some(function(c"qemu_plugin_scoreboard_new")?) },
            register_insn_exec: function(c"qemu_plugin_register_vcpu_insn_exec_cb")?,
            lies: if system { None } else { Some(syscalls::lies()?) },
            reset: if level < 7 { Some(function(c"qemu_plugin_reset")?) } else { None },
        })
    }

    /// Appends an instruction.
    pub(super) fn read(&self, insn: Handle, code: &mut Code) {
        let size = (self.insn_size)(insn);
        code.push((self.insn_vaddr)(insn), size, |place| match self.insn_data {
            InsnData::Pointer(data) => {
                let from = data(insn);
                if from.is_null() {
                    return 0;
                }
                // SAFETY: QEMU gives a pointer to `insn_size` bytes that lives as long as this translation.
                place.copy_from_slice(unsafe { std::slice::from_raw_parts(from, size) });
                size
            }
            InsnData::Copy(data) => data(insn, place.as_mut_ptr(), size),
        });
    }

    /// Has it counted that the `number`th mark (from 1) of a block is passed, when this instruction starts.
    pub(super) fn count(&self, insn: Handle, number: u64, scoreboard: Handle) {
        let entry = ScoreboardEntry { score: scoreboard, offset: 0 };
        match self.counting {
            Counting::Total { insn_exec_inline } => {
                insn_exec_inline(insn, INLINE_ADD_U64, TOTAL.0.get().cast(), 1)
            }
            Counting::Scoreboard { insn_exec_inline, .. } => insn_exec_inline(insn, INLINE_ADD_U64, entry, 1),
            Counting::Marker { insn_exec_inline, .. } => {
                insn_exec_inline(insn, INLINE_STORE_U64, entry, number)
            }
        }
    }
}
