//! A guest's registers, as QEMU tells them to gdb: of the plugin interface from level 2 on.

use std::ffi::{CStr, c_char, c_int, c_uint};

use trace::look::State;

use super::{Handle, function};

/// The head of glib's `GByteArray` and `GArray` (glib/garray.h).
#[repr(C)]
struct GlibArray {
    data: *mut u8,
    len: c_uint,
}

/// The head of `qemu_plugin_reg_descriptor` (include/qemu/qemu-plugin.h of 9.0 and later).
#[repr(C)]
struct Descriptor {
    handle: Handle,
    name: *const c_char,
    feature: *const c_char,
}

/// The features of gdb's descriptions whose registers are the guest's own state and nothing else: others count time, or
/// ask devices (gdb-xml/ of 10.0).
const OWN: [&str; 6] = [".core", ".cpu", ".fpu", ".sse", ".linux", ".segments"];

/// What is the place in the code: QEMU keeps it elsewhere while blocks run, and the stream has it.
const PLACES: [&str; 3] = ["rip", "eip", "pc"];

/// The registers of a vCPU, and QEMU's functions that read them.
pub(super) struct Registers {
    handles: Vec<Handle>,
    pub names: Vec<String>,
    state: State,
    buffer: *mut GlibArray,
    /// Its result was a number and became a truth in level 6; what it has read is in the buffer.
    read: extern "C" fn(Handle, *mut GlibArray) -> c_int,
    set_size: extern "C" fn(*mut GlibArray, c_uint) -> *mut GlibArray,
}

impl Registers {
    /// Those of the vCPU whose init callback calls this.
    pub(super) fn find() -> Result<Self, String> {
        let list: extern "C" fn() -> *mut GlibArray = function(c"qemu_plugin_get_registers")?;
        let free: extern "C" fn(*mut GlibArray, c_int) -> *mut c_char = function(c"g_array_free")?;
        let element_size: extern "C" fn(*mut GlibArray) -> c_uint = function(c"g_array_get_element_size")?;
        let make: extern "C" fn() -> *mut GlibArray = function(c"g_byte_array_new")?;
        let mut registers = Registers {
            handles: Vec::new(),
            names: Vec::new(),
            state: State::default(),
            buffer: make(),
            read: function(c"qemu_plugin_read_register")?,
            set_size: function(c"g_byte_array_set_size")?,
        };
        let array = list();
        if array.is_null() {
            return Err("this QEMU tells no registers".to_owned());
        }
        let size = element_size(array) as usize;
        if size < size_of::<Descriptor>() || !size.is_multiple_of(align_of::<Descriptor>()) {
            return Err("this QEMU describes registers in another way".to_owned());
        }
        // SAFETY: QEMU gives an array of `len` elements, which is ours until it is freed.
        let (data, count) = unsafe { ((*array).data, (*array).len as usize) };
        for number in 0..count {
            // SAFETY: within the array; each element begins with what `Descriptor` names, later versions add to it.
            let descriptor = unsafe { data.add(number * size).cast::<Descriptor>().read() };
            let text = |text: *const c_char| {
                // SAFETY: null, or a C string of QEMU's that lives as long as QEMU.
                (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
            };
            let (Some(name), feature) = (text(descriptor.name), text(descriptor.feature)) else { continue };
            let own = feature.is_none_or(|feature| OWN.iter().any(|own| feature.ends_with(own)));
            if own && !PLACES.contains(&&*name) {
                registers.handles.push(descriptor.handle);
                registers.names.push(name);
            }
        }
        free(array, 1);
        Ok(registers)
    }

    /// All of them now. To be called on the vCPU's thread, from a callback that was registered to read registers.
    pub(super) fn read(&mut self) -> &State {
        let State { bytes, ends } = &mut self.state;
        bytes.clear();
        ends.clear();
        for &handle in &self.handles {
            (self.set_size)(self.buffer, 0);
            (self.read)(handle, self.buffer);
            // SAFETY: glib's array holds `len` bytes. One that can't be read has none, which is no value.
            let read = unsafe {
                match (*self.buffer).len {
                    0 => &[][..],
                    len => std::slice::from_raw_parts((*self.buffer).data, len as usize),
                }
            };
            bytes.extend_from_slice(read);
            ends.push(bytes.len());
        }
        &self.state
    }
}
