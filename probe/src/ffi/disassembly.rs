//! What QEMU's own disassembler makes of an instruction, which can be asked while that is translated.

use std::ffi::{CStr, c_char, c_void};

use super::{Handle, function};

#[derive(Clone, Copy)]
pub(super) struct Disassembler {
    text: extern "C" fn(Handle) -> *mut c_char,
    free: extern "C" fn(*mut c_void),
}

impl Disassembler {
    pub(super) fn find() -> Result<Self, String> {
        Ok(Disassembler { text: function(c"qemu_plugin_insn_disas")?, free: function(c"g_free")? })
    }

    /// Of an instruction of the block that is being translated; nothing where QEMU has no disassembler for the guest.
    pub(super) fn text(self, insn: Handle) -> String {
        let given = (self.text)(insn);
        if given.is_null() {
            return String::new();
        }
        // SAFETY: a C string of glib's, which is ours until it is freed.
        let text = unsafe { CStr::from_ptr(given) }.to_string_lossy().into_owned();
        (self.free)(given.cast());
        text
    }
}
