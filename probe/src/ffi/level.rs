//! Which level of the plugin interface the probe speaks, and QEMU's functions by their names.

use std::ffi::{CStr, c_int, c_void};

use trace::message::{API, PRELOADED};

/// Read by QEMU after `dlopen`, written by `choose_version` during it.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut qemu_plugin_version: c_int = 1;

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = choose_version;

/// The newest API level this probe knows how to speak that the process offers.
pub(super) fn api_level() -> c_int {
    // From QEMU 11.0 on a plugin has to name the one level that there is, and no function tells which: the host does,
    // by QEMU's version.
    if let Some(level) = std::env::var(API).ok().and_then(|level| level.parse().ok()) {
        return level;
    }
    // The first function that came with each level (plugins/qemu-plugins.symbols of 9.0, 9.1 and 10.0).
    if symbol(c"qemu_plugin_read_memory_vaddr").is_some() {
        4
    } else if symbol(c"qemu_plugin_register_vcpu_tb_exec_cond_cb").is_some() {
        3
    } else if symbol(c"qemu_plugin_scoreboard_new").is_some() {
        2
    } else {
        1
    }
}

extern "C" fn choose_version() {
    // SAFETY: runs inside `dlopen`, before QEMU or anyone else can read the variable.
    unsafe { qemu_plugin_version = api_level() }
    if std::env::var_os("LD_PRELOAD").is_some_and(|preloaded| preloaded == PRELOADED) {
        keep_the_map_still();
    }
}

/// Where a user program's memory is mapped follows from what of QEMU's own is, and that from when its other thread allocates
/// and frees: nothing that QEMU allocates is mapped by itself, and its threads have no heaps of their own.
fn keep_the_map_still() {
    // SAFETY: nothing but numbers; the C library takes them at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

pub(super) fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `dlsym` with a C string; the result is only used with the signature QEMU's header gives.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The function `name` as type `F`, which has to be its `extern "C" fn` type.
pub(super) fn function<F: Copy>(name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) }
    let found =
        symbol(name).ok_or_else(|| format!("this QEMU has no function {}", name.to_string_lossy()))?;
    // SAFETY: a non-null address of a function, and `F` is the function's pointer type: see Signatures above.
    Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
}
