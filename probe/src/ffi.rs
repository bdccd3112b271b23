//! QEMU's plugin interface: all of the probe's `unsafe`, and nothing else.
//!
//! QEMU changes the interface between versions: functions come, go, and one changed its signature. So nothing
//! is linked; a constructor asks `dlsym` which functions the process has and sets `qemu_plugin_version`, which
//! QEMU reads after `dlopen`. Sources: include/qemu/qemu-plugin.h (include/plugins/ from 10.2) and
//! plugins/loader.c of QEMU 7.2, 10.0 and 10.2.
//!
//! Invariants, on which every `unsafe` below stands:
//! - **One vCPU.** The host starts guests with one vCPU only, and QEMU runs a single vCPU's callbacks, its
//!   translations and its exit callback one after the other (translation happens on the vCPU's thread; the exit
//!   callback runs when it has stopped or on its own thread). So `PROBE` has one user at a time.
//! - **Blocks live for ever.** The `userdata` given with a block is a leaked `&'static Block`.
//! - **Signatures** are those of the header of the version that has the function: `insn_data` is told
//!   apart by the API level, all others never changed.
//! - **The flushing thread** touches nothing of the probe's and nothing of QEMU's but stdio's own streams.
//! - **The waking thread** reads how many blocks were entered, an atomic, and nothing else.
//! - **The answering thread** looks at the probe, and changes it, only while the host waits for its answer, and the host
//!   asks only while QEMU has the guest stopped: no callback runs then, and none begins before the answer is there.
//! - **No panic leaves**: every function that QEMU calls goes through `guarded`, but for the usual way of
//!   `block_entered`, in which nothing panics.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use trace::block::{Block, Instruction};

use trace::codec;
use trace::message::{API, Asked, Standing};

use crate::session::{Session, Trouble};

type PluginId = u64;
type Handle = *mut c_void;

const CB_NO_REGS: c_int = 0;
const INLINE_ADD_U64: c_int = 0;
const INLINE_STORE_U64: c_int = 1;

/// `qemu_plugin_u64`: an entry of a scoreboard, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct ScoreboardEntry {
    score: Handle,
    offset: usize,
}

/// The head of `qemu_info_t`, up to the members that every version has in the same place.
#[repr(C)]
pub struct Info {
    target_name: *const c_char,
    version_min: c_int,
    version_cur: c_int,
    system_emulation: bool,
}

/// How many instructions started: what this version offers to count them.
#[derive(Clone, Copy)]
enum Counting {
    /// API 1: an inline add to a counter of ours.
    Total { insn_exec_inline: extern "C" fn(Handle, c_int, *mut c_void, u64) },
    /// API 2: an inline add to a scoreboard.
    Scoreboard {
        insn_exec_inline: extern "C" fn(Handle, c_int, ScoreboardEntry, u64),
        find: extern "C" fn(Handle, c_uint) -> *mut c_void,
    },
    /// API 3 and later: an inline store of the instruction's number in its block, cheaper than the add.
    Marker {
        insn_exec_inline: extern "C" fn(Handle, c_int, ScoreboardEntry, u64),
        find: extern "C" fn(Handle, c_uint) -> *mut c_void,
    },
}

#[derive(Clone, Copy)]
enum InsnData {
    /// Up to API 2.
    Pointer(extern "C" fn(Handle) -> *const u8),
    /// From API 3.
    Copy(extern "C" fn(Handle, *mut u8, usize) -> usize),
}

/// How the probe is called.
#[derive(Clone, Copy)]
enum Callbacks {
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

    fn register(self, id: PluginId) {
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
struct Qemu {
    callbacks: Callbacks,
    register_tb_exec: extern "C" fn(Handle, extern "C" fn(c_uint, *mut c_void), c_int, *mut c_void),
    tb_n_insns: extern "C" fn(Handle) -> usize,
    tb_get_insn: extern "C" fn(Handle, usize) -> Handle,
    insn_vaddr: extern "C" fn(Handle) -> u64,
    insn_size: extern "C" fn(Handle) -> usize,
    insn_data: InsnData,
    counting: Counting,
    scoreboard_new: Option<extern "C" fn(usize) -> Handle>,
    register_insn_exec: extern "C" fn(Handle, extern "C" fn(c_uint, *mut c_void), c_int, *mut c_void),
}

/// The probe's state: set up by `qemu_plugin_install`, then used by one callback at a time.
struct Probe {
    qemu: Qemu,
    session: Session,
    /// Where inline code counts, once the vCPU is there: a scoreboard's entry or `total`.
    counter: *mut u64,
    scoreboard: Handle,
    /// Whether the counter is a running total (else it is set anew in each block).
    running_total: bool,
    counted: u64,
    dead: bool,
}

struct Shared<T>(UnsafeCell<T>);
// SAFETY: one vCPU, so one user at a time; see the module's invariants.
unsafe impl<T> Sync for Shared<T> {}

static PROBE: Shared<Option<Probe>> = Shared(UnsafeCell::new(None));
/// How many blocks were entered, for the waking thread.
static ENTERED: AtomicU64 = AtomicU64::new(0);
static TOTAL: Shared<u64> = Shared(UnsafeCell::new(0));

/// Read by QEMU after `dlopen`, written by `choose_version` during it.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut qemu_plugin_version: c_int = 1;

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = choose_version;

/// The newest API level this probe knows how to speak that the process offers.
fn api_level() -> c_int {
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
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `dlsym` with a C string; the result is only used with the signature QEMU's header gives.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The function `name` as type `F`, which has to be its `extern "C" fn` type.
fn function<F: Copy>(name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) }
    let found =
        symbol(name).ok_or_else(|| format!("this QEMU has no function {}", name.to_string_lossy()))?;
    // SAFETY: a non-null address of a function, and `F` is the function's pointer type: see Signatures above.
    Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
}

impl Qemu {
    fn find() -> Result<Self, String> {
        let level = api_level();
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
        })
    }

    fn instruction(&self, insn: Handle) -> Instruction {
        let size = (self.insn_size)(insn);
        let mut bytes = vec![0; size];
        match self.insn_data {
            InsnData::Pointer(data) => {
                let from = data(insn);
                if from.is_null() {
                    bytes.clear();
                } else {
                    // SAFETY: QEMU gives a pointer to `insn_size` bytes that lives as long as this translation.
                    bytes.copy_from_slice(unsafe { std::slice::from_raw_parts(from, size) });
                }
            }
            InsnData::Copy(data) => {
                let copied = data(insn, bytes.as_mut_ptr(), size);
                bytes.truncate(copied);
            }
        }
        Instruction { address: (self.insn_vaddr)(insn), bytes }
    }

    /// Has the `number`th instruction (from 1) of a block counted when it starts.
    fn count(&self, insn: Handle, number: u64, scoreboard: Handle) {
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

impl Probe {
    /// Instructions started since [`started`](Self::started) was called last.
    fn peek(&self) -> u64 {
        if self.counter.is_null() {
            return 0;
        }
        // SAFETY: as in `started`.
        let now = unsafe { *self.counter };
        if self.running_total { now - self.counted } else { now }
    }

    /// Instructions started since this was called last.
    #[inline]
    fn started(&mut self) -> u64 {
        // SAFETY: `counter` is null only before the vCPU's init callback, which precedes every block; afterwards
        // it is `TOTAL` or the scoreboard's entry of the only vCPU, which QEMU keeps as long as the plugin.
        let now = unsafe { *self.counter };
        if self.running_total {
            let started = now - self.counted;
            self.counted = now;
            started
        } else {
            // SAFETY: as above. Cleared, so that a block left before its first instruction counts nothing.
            unsafe { *self.counter = 0 };
            now
        }
    }

    /// Takes back the last start.
    fn take_back(&mut self) {
        if self.running_total {
            self.counted += 1;
        } else {
            // SAFETY: as in `started`; the guest is stopped.
            unsafe { *self.counter -= 1 };
        }
    }

    #[cold]
    fn die(&mut self, trouble: &Trouble) {
        self.dead = true;
        match trouble {
            // Without the host this QEMU has no purpose, and nobody else will end it.
            // SAFETY: `_exit` may be called at any time; nothing of this process is worth an orderly exit.
            Trouble::HostGone => unsafe { libc::_exit(3) },
            Trouble::Unaccounted(unaccounted) => self.session.fail(&unaccounted.to_string()),
            Trouble::Protocol(what) => self.session.fail(what),
        }
    }
}

/// Gives the probe to `work` unless it is dead.
#[inline]
fn with_probe(work: impl FnOnce(&mut Probe)) {
    // SAFETY: one user at a time, and no `work` comes here again while it has the probe: see One vCPU.
    if let Some(probe) = unsafe { &mut *PROBE.0.get() }
        && !probe.dead
    {
        work(probe);
    }
}

/// Runs `work` on the probe unless it is dead; a panic in it kills the probe and is told to the host.
#[inline]
fn guarded(work: impl FnOnce(&mut Probe) -> Result<(), Trouble>) {
    with_probe(|probe| keep_panics(probe, work));
}

#[inline]
fn keep_panics(probe: &mut Probe, work: impl FnOnce(&mut Probe) -> Result<(), Trouble>) {
    match catch_unwind(AssertUnwindSafe(|| work(probe))) {
        Ok(Ok(())) => {}
        Ok(Err(trouble)) => probe.die(&trouble),
        Err(panic) => {
            probe.dead = true;
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            probe.session.fail(&format!("the probe panicked: {}", why.unwrap_or_default()));
        }
    }
}

extern "C" fn vcpu_init(vcpu: c_uint, _: *mut c_void) {
    guarded(|probe| {
        if vcpu != 0 {
            return Err(Trouble::Protocol("more than one vCPU"));
        }
        probe.counter = match probe.qemu.counting {
            Counting::Total { .. } => TOTAL.0.get(),
            Counting::Scoreboard { find, .. } | Counting::Marker { find, .. } => {
                find(probe.scoreboard, vcpu).cast()
            }
        };
        Ok(())
    });
}

extern "C" fn tb_translated(tb: Handle, _: *mut c_void) {
    guarded(|probe| {
        let qemu = probe.qemu;
        let handles: Vec<Handle> = (0..(qemu.tb_n_insns)(tb)).map(|i| (qemu.tb_get_insn)(tb, i)).collect();
        let instructions: Vec<Instruction> = handles.iter().map(|&insn| qemu.instruction(insn)).collect();
        let block: &'static Block = probe.session.translated(&instructions);
        (qemu.register_tb_exec)(tb, block_entered, CB_NO_REGS, std::ptr::from_ref(block).cast_mut().cast());
        for (&insn, number) in handles.iter().zip(1..) {
            qemu.count(insn, number, probe.scoreboard);
        }
        let watch = probe.session.watch();
        for ((&insn, before), instruction) in handles.iter().zip(0_usize..).zip(&instructions) {
            let before = std::ptr::without_provenance_mut(before);
            if watch.addresses.contains(&instruction.address) {
                (qemu.register_insn_exec)(insn, insn_started, CB_NO_REGS, before);
            }
        }
        Ok(())
    });
}

/// `before`: instructions of the block that are before this one.
extern "C" fn insn_started(_: c_uint, before: *mut c_void) {
    guarded(|probe| probe.session.started(before.addr() as u64));
}

extern "C" fn block_entered(_: c_uint, block: *mut c_void) {
    // SAFETY: `block` is the leaked `&'static Block` registered with this block's translation.
    let block: &'static Block = unsafe { &*block.cast::<Block>() };
    // One writer: no need of an atomic addition.
    ENTERED.store(ENTERED.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    with_probe(|probe| {
        let started = probe.started();
        // Nothing on this way calls anything, so that it needs no frame: it is taken for each block of the guest.
        if !probe.session.entered_after_whole(block, started) {
            entered(probe, block, started);
        }
    });
}

#[cold]
#[inline(never)]
fn entered(probe: &mut Probe, block: &'static Block, started: u64) {
    keep_panics(probe, |probe| probe.session.entered(block, started));
}

extern "C" fn exiting(_: *mut c_void) {
    guarded(|probe| {
        let started = if probe.counter.is_null() { 0 } else { probe.started() };
        probe.session.ended(started)?;
        probe.dead = true;
        Ok(())
    });
}

/// Whether something can be read from `socket` at once.
pub(crate) fn readable(socket: &UnixStream) -> std::io::Result<bool> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one initialised `pollfd`, and a timeout of 0.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        -1 => Err(std::io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

/// A socket that the host left open for the probe, from the plugin argument `name` (`fd=N`), where there is one.
fn host_socket(arguments: &[*const c_char], name: &str) -> Result<Option<UnixStream>, String> {
    for &argument in arguments {
        // SAFETY: QEMU passes C strings that live as long as the plugin.
        let argument = unsafe { CStr::from_ptr(argument) }.to_string_lossy();
        if let Some(fd) = argument.strip_prefix(name) {
            let fd: c_int = fd.parse().map_err(|_| format!("{argument}: not a number"))?;
            // SAFETY: `fcntl` on a number; it fails where no such descriptor is open.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
                return Err(format!("{argument}: not open"));
            }
            // SAFETY: open, and left to the probe alone by the host.
            return Ok(Some(unsafe { UnixStream::from_raw_fd(fd) }));
        }
    }
    Ok(None)
}

/// How often QEMU's buffered output is pushed out; at the start more often.
const FLUSH: Duration = Duration::from_millis(200);

/// QEMU writes its replay log through stdio, which keeps up to a page of it: of a guest that does little, minutes,
/// which would die with QEMU. So what it has written is pushed out a few times a second.
fn flush_from_now_on() {
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

/// How long a guest may stand still before QEMU's main loop is woken, and after so many times in vain.
const WAKE: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(10));
const IN_VAIN: u32 = 1000;

/// A byte that QEMU's monitor takes as a key without effect on an empty line: Ctrl-A (util/readline.c).
const KEY: &[u8] = &[1];

/// Wakes QEMU's main loop while the guest stands still: in a replay all that can come is in the log, and what the loop
/// sleeps for has long been.
fn wake_from_now_on(mut waking: UnixStream) {
    // What can't be said at once need not be: the loop has not read what was said before.
    if waking.set_nonblocking(true).is_err() {
        return;
    }
    std::thread::spawn(move || {
        leave_signals();
        let (mut before, mut still) = (0, 0);
        loop {
            std::thread::sleep(if still < IN_VAIN { WAKE.0 } else { WAKE.1 });
            let now = ENTERED.load(Ordering::Relaxed);
            still = if now == before { still + 1 } else { 0 };
            before = now;
            if still > 0 {
                let _ = waking.write(KEY);
            }
        }
    });
}

/// Answers the host's questions while the guest stands still.
fn answer_from_now_on(mut asking: UnixStream) {
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
    // SAFETY: the guest is stopped, so no callback runs: see The answering thread.
    let probe = unsafe { &mut *PROBE.0.get() }.as_mut()?;
    let takes_back = match asked {
        Asked::Where => false,
        Asked::Unmade => true,
        Asked::Twice => probe.session.is_again(),
    };
    if takes_back && probe.peek() > 0 {
        probe.take_back();
    }
    Some(probe.session.standing(probe.peek()))
}

fn install(id: PluginId, info: &Info, arguments: &[*const c_char]) -> Result<(), String> {
    let qemu = Qemu::find()?;
    let host = host_socket(arguments, "fd=")?;
    let host = host.ok_or("no fd=N: the probe is loaded by tandem, not by hand")?;
    let asking = host_socket(arguments, "asking=")?;
    let waking = host_socket(arguments, "waking=")?;
    flush_from_now_on();
    // SAFETY: `target_name` is a C string of QEMU's, alive during the call.
    let target = unsafe { CStr::from_ptr(info.target_name) }.to_string_lossy().into_owned();
    let session = Session::open(host, info.version_cur, target, info.system_emulation)
        .map_err(|trouble| format!("the host does not answer: {trouble:?}"))?;
    let scoreboard = qemu.scoreboard_new.map_or(std::ptr::null_mut(), |new| new(size_of::<u64>()));
    let running_total = !matches!(qemu.counting, Counting::Marker { .. });
    let probe = Probe {
        qemu,
        session,
        counter: std::ptr::null_mut(),
        scoreboard,
        running_total,
        counted: 0,
        dead: false,
    };
    // SAFETY: no callback is registered yet, so nobody else looks at `PROBE`.
    unsafe { *PROBE.0.get() = Some(probe) };
    if let Some(asking) = asking {
        answer_from_now_on(asking);
    }
    if let Some(waking) = waking {
        wake_from_now_on(waking);
    }
    qemu.callbacks.register(id);
    Ok(())
}

/// What QEMU calls when it has loaded the probe. Not 0 where the probe can't work.
///
/// # Safety
/// Called by QEMU, with `info` and `argv` as its header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    static ONCE: OnceLock<()> = OnceLock::new();
    let arguments = match usize::try_from(argc) {
        Ok(count) if count > 0 => {
            // SAFETY: QEMU passes `argc` pointers.
            unsafe { std::slice::from_raw_parts(argv, count) }
        }
        _ => &[],
    };
    let done = catch_unwind(|| {
        if ONCE.set(()).is_err() {
            return Err("loaded twice".to_owned());
        }
        // SAFETY: QEMU passes a valid `qemu_info_t`, of which `Info` is the head.
        install(id, unsafe { &*info }, arguments)
    });
    match done {
        Ok(Ok(())) => 0,
        Ok(Err(why)) => {
            eprintln!("tandem probe: {why}");
            1
        }
        Err(_) => 1,
    }
}
