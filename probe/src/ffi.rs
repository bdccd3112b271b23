//! QEMU's plugin interface: all of the probe's `unsafe` but for its signal handler's, and nothing else.
//!
//! QEMU changes the interface between versions: functions come, go, and one changed its signature. So nothing
//! is linked; a constructor asks `dlsym` which functions the process has and sets `qemu_plugin_version`, which
//! QEMU reads after `dlopen`. Sources: include/qemu/qemu-plugin.h (include/plugins/ from 10.2) and
//! plugins/loader.c of QEMU 7.2, 10.0 and 10.2.
//!
//! Invariants, on which every `unsafe` below stands:
//! - **One thread.** A machine's vCPUs take turns on one thread, as QEMU has them do where time is counted in instructions
//!   (`vcpu_init` looks), and of a user program the probe ends before a second one is there
//!   (`Trouble::Thread`, `vcpu_init`). QEMU runs their callbacks, their
//!   translations and its exit callback one after the other (translation happens on the vCPUs' thread; the exit
//!   callback runs when it has stopped or on its own thread). So `PROBE` and `HOT` have one user at a time.
//! - **Signatures** are those of the header of the version that has the function: `insn_data` is told
//!   apart by the API level, as are those of callbacks (`Callbacks`, `syscalls`); all others never changed.
//! - **A vCPU's state** is there, and where it is, as long as its callbacks come (`value`).
//! - **The flushing thread** touches nothing of the probe's and nothing of QEMU's but stdio's own streams.
//! - **The waking thread** reads how far the guest is, an atomic, and nothing else.
//! - **The answering thread** looks at the probe, and changes it, only while the host waits for its answer, and the host
//!   asks only while QEMU has the guest stopped: no callback runs then, and none begins before the answer is there.
//! - **A dying QEMU's signal handler** looks at the probe on the vCPU's thread only, and only where that was in none of
//!   these functions (`WITHIN`), and changes nothing. `block_entered` says nothing of itself, so a signal that comes from
//!   outside may meet a block that is half noted: what is read is then one block off, and nothing worse.
//! - **No panic leaves**: every function that QEMU calls goes through `guarded`, but for the usual way of
//!   `block_entered`, in which nothing panics.

#![allow(unsafe_code)]

mod disassembly;
mod hot;
mod level;
mod memory;
mod qemu;
mod registers;
mod syscalls;
mod threads;
mod turns;
mod value;

pub(crate) use self::syscalls::{read, write};

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};

use trace::access::Accesses;
use trace::again::Successor;
use trace::block::{Block, Code, Entry};
use trace::look::State;
use trace::recent::Recent;

use self::disassembly::Disassembler;
use self::hot::Hot;
use self::level::{api_level, function};
use self::memory::{Telling, Watching};
use self::qemu::{Counting, Qemu};
use self::registers::Registers;
use self::threads::{answer_from_now_on, flush_from_now_on, wake_from_now_on};
use self::turns::Turns;
use self::value::Place;
use crate::dying;
use crate::session::{Session, Trouble};

type PluginId = u64;
type Handle = *mut c_void;

const CB_NO_REGS: c_int = 0;
const CB_R_REGS: c_int = 1;

/// The head of `qemu_info_t`, up to the members that every version has in the same place.
#[repr(C)]
pub struct Info {
    target_name: *const c_char,
    version_min: c_int,
    version_cur: c_int,
    system_emulation: bool,
}

/// The probe's state: set up by `qemu_plugin_install`, then used by one callback at a time.
struct Probe {
    id: PluginId,
    qemu: Qemu,
    /// Whether the guest is a whole machine.
    system: bool,
    session: Session,
    scoreboard: Handle,
    /// The instructions of the block that is being translated.
    code: Code,
    handles: Vec<Handle>,
    watching: Watching,
    /// Where it is asked.
    disassembler: Option<Disassembler>,
    /// Where they are read.
    registers: Option<Registers>,
    /// Whether each instruction of what is translated is looked at.
    is_anew: bool,
    /// The vCPUs' thread, and they.
    thread: u64,
    turns: Turns,
    /// Where in their own memory it is which vCPU executes, where the host knows.
    current: Option<usize>,
    /// Whether anything was translated, and so without a look at whose turn it is where there was one vCPU.
    translated: bool,
    dead: bool,
}

struct Shared<T>(UnsafeCell<T>);
// SAFETY: one thread, so one user at a time; see the module's invariants.
unsafe impl<T> Sync for Shared<T> {}

static PROBE: Shared<Option<Probe>> = Shared(UnsafeCell::new(None));
static HOT: Shared<Hot> = Shared(UnsafeCell::new(Hot {
    counter: std::ptr::null_mut(),
    whole: 0,
    taken: 0,
    recent: Recent::CLOSED,
    accesses: Accesses::NONE,
    running: 0,
    current: std::ptr::null(),
    turn: 0,
    telling: Telling::NOTHING,
    place: Place::UNKNOWN,
    aside: None,
    room: 0,
    is_close: false,
    running_total: false,
}));
/// How often what the guest entered was taken in, for the waking thread.
static SETTLED: AtomicU64 = AtomicU64::new(0);
/// Whether the probe works: a second vCPU must not come then.
static FOLLOWED: AtomicBool = AtomicBool::new(true);
static TOTAL: Shared<u64> = Shared(UnsafeCell::new(0));

impl Probe {
    #[cold]
    fn die(&mut self, trouble: &Trouble) {
        self.dead = true;
        match trouble {
            // Without the host this QEMU has no purpose, and nobody else will end it.
            // SAFETY: `_exit` may be called at any time; nothing of this process is worth an orderly exit.
            Trouble::HostGone => unsafe { libc::_exit(3) },
            Trouble::Unaccounted(unaccounted) => self.session.fail(&unaccounted.to_string()),
            Trouble::Protocol(what) => self.session.fail(what),
            Trouble::Blind(why) => self.session.fail(why),
            Trouble::Thread => self.session.fail(THREADS),
        }
    }
}

/// What is said of a program with threads.
const THREADS: &str = "the program starts a thread, and threads run in another order each time: only programs with one can be compared";

/// The thread that works on the probe, so that a signal's handler must not look at it; 0 where none does.
static WITHIN: AtomicU64 = AtomicU64::new(0);

/// Sets [`WITHIN`] as long as it is there.
struct Within;

impl Within {
    fn begin() -> Self {
        WITHIN.store(dying::here(), Ordering::Relaxed);
        // The handler runs on this thread: it is enough that the compiler keeps the order.
        compiler_fence(Ordering::SeqCst);
        Within
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        WITHIN.store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        dying::say_what_is_put_off();
    }
}

/// Which thread works on the probe; 0 where none does.
pub(crate) fn within() -> u64 {
    WITHIN.load(Ordering::Relaxed)
}

/// How many instructions have started, and the socket to the host. For a signal's handler, on the vCPU's thread; `None`
/// where nothing can be said.
pub(crate) fn started() -> Option<(u64, c_int)> {
    if within() != 0 {
        return None;
    }
    // SAFETY: no one else has them: see A dying QEMU's signal handler.
    let (probe, hot) = unsafe { (&*PROBE.0.get(), &*HOT.0.get()) };
    let probe = probe.as_ref().filter(|probe| !probe.dead)?;
    let (position, running) = probe.session.ahead(&hot.recent);
    // More than the block has where it is half noted.
    let most = running.map_or(0, |block| u64::from(block.count()));
    Some((position + hot.started(running).min(most), probe.session.host().as_raw_fd()))
}

/// Runs `work` on the probe unless it is dead; a panic in it kills the probe and is told to the host.
fn guarded(work: impl FnOnce(&mut Probe, &mut Hot) -> Result<(), Trouble>) {
    let _within = Within::begin();
    // SAFETY: one user at a time, and no `work` comes here again while it has them: see One thread.
    let (probe, hot) = unsafe { (&mut *PROBE.0.get(), &mut *HOT.0.get()) };
    let Some(probe) = probe.as_mut().filter(|probe| !probe.dead) else { return };
    match catch_unwind(AssertUnwindSafe(|| work(probe, hot))) {
        Ok(Ok(())) => {}
        Ok(Err(trouble)) => probe.die(&trouble),
        Err(panic) => {
            probe.dead = true;
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            probe.session.fail(&format!("the probe panicked: {}", why.unwrap_or_default()));
        }
    }
    if probe.dead {
        FOLLOWED.store(false, Ordering::Relaxed);
        hot.recent.close();
    }
}

extern "C" fn vcpu_init(vcpu: c_uint, _: *mut c_void) {
    // SAFETY: no `guarded` runs: on another thread it may, and then nothing but this number is read, and the process ends.
    let takes_turns = unsafe { (*PROBE.0.get()).as_ref() }
        .is_some_and(|probe| probe.system && !probe.translated && probe.thread == dying::here());
    if vcpu != 0 && !takes_turns {
        if !FOLLOWED.load(Ordering::Relaxed) {
            return;
        }
        // Another thread may work on the probe now, so nothing more may be said, and nothing more be run.
        eprintln!("tandem probe: more than one vCPU");
        // SAFETY: `_exit` may be called at any time.
        unsafe { libc::_exit(3) };
    }
    guarded(|probe, hot| {
        let current = Turns::current(probe.current);
        // SAFETY: a variable of this thread's.
        let state = current.map_or(0, |current| unsafe { *current });
        let is_new = probe.turns.add(state, vcpu);
        if vcpu != 0 {
            let hidden = || Trouble::Blind(turns::HIDDEN.to_owned());
            hot.current = current.filter(|_| is_new).ok_or_else(hidden)?;
            (hot.counter, hot.running_total) = (TOTAL.0.get(), false);
            hot.place.forget();
            return Ok(());
        }
        probe.thread = dying::here();
        hot.turn = state;
        hot.counter = match probe.qemu.counting {
            Counting::Total { .. } => TOTAL.0.get(),
            Counting::Scoreboard { find, .. } | Counting::Marker { find, .. } => {
                find(probe.scoreboard, vcpu).cast()
            }
        };
        if probe.session.looking().look().registers {
            let registers = Registers::find().map_err(Trouble::Blind)?;
            probe.session.names(registers.names.clone())?;
            probe.registers = Some(registers);
        }
        Ok(())
    });
}

extern "C" fn tb_translated(tb: Handle, _: *mut c_void) {
    guarded(|probe, hot| {
        let Probe {
            qemu, watching, session, code, handles, disassembler, is_anew, turns, translated, ..
        } = probe;
        let taken = turns.are_taken();
        *translated = true;
        hot.look_at_next();
        handles.clear();
        handles.extend((0..(qemu.tb_n_insns)(tb)).map(|i| (qemu.tb_get_insn)(tb, i)));
        code.clear();
        for &insn in handles.iter() {
            qemu.read(insn, code);
        }
        if let (Some(lies), Some(calls), Some(&insn)) = (qemu.lies, session.calls(), handles.first())
            && !calls.knows_where()
        {
            let host = lies(insn);
            if !host.is_null() {
                calls.lies((qemu.insn_vaddr)(insn), host.addr() as u64);
            }
        }
        let block = session.translated(code);
        if let Some(disassembler) = disassembler
            && session.wants_texts(block)
        {
            session.keep_texts(block, handles.iter().map(|&insn| disassembler.text(insn)));
        }
        let entry = usize::try_from(block.entry().packed()).expect("a 64-bit host");
        let look = session.looking().look();
        let samples = look.spacing > 0 || look.closely.is_some();
        let entered = match (hot.running_total, samples, taken) {
            _ if session.is_counted_apart(block) => block_entered_apart,
            (true, true, false) => block_entered::<true, true, false>,
            (true, false, false) => block_entered::<true, false, false>,
            (false, true, false) => block_entered::<false, true, false>,
            (false, false, false) => block_entered::<false, false, false>,
            (_, true, true) => block_entered::<false, true, true>,
            (_, false, true) => block_entered::<false, false, true>,
        };
        // Where a block begins, its registers are in memory in any case.
        let flags = if look.registers { CB_R_REGS } else { CB_NO_REGS };
        (qemu.register_tb_exec)(tb, entered, flags, std::ptr::without_provenance_mut(entry));
        let (stores, loads) = (look.stores, look.loads);
        let closely = look.closely.is_some() && look.spacing == 0;
        let again = look.again && block.successor() == Successor::ItselfHavingStored;
        for ((&insn, (_, bytes)), number) in handles.iter().zip(code.pieces()).zip(0..) {
            let tells_again = again && usize::from(number) + 1 == handles.len();
            if !(stores || loads || tells_again) || !session.may_access(bytes) {
                continue;
            }
            // Whether an instruction starts again is told by what it has stored, everywhere.
            let everywhere = *watching;
            let watching = match (samples, closely && !tells_again) {
                // With samples it is known at each access which block runs.
                (false, _) => everywhere.stored(),
                (_, true) => everywhere.closely(),
                (_, false) => everywhere,
            };
            if stores || tells_again {
                watching.watch(insn, block.id(), number, true);
            }
            if loads {
                watching.watch(insn, block.id(), number, false);
            }
        }
        if *is_anew || look.inside.contains(&block.begin()) {
            for (&insn, number) in handles.iter().zip(0_usize..).skip(1) {
                let number = std::ptr::without_provenance_mut(number);
                (qemu.register_insn_exec)(insn, insn_inside, flags, number);
            }
        }
        for (&mark, number) in block.marks().iter().zip(1_usize..) {
            let insn = handles[usize::from(mark) - 1];
            if taken {
                let number = std::ptr::without_provenance_mut(number);
                (qemu.register_insn_exec)(insn, turns::passed, CB_NO_REGS, number);
            } else {
                qemu.count(insn, number as u64, probe.scoreboard);
            }
        }
        let watched = &session.watch().addresses;
        for ((&insn, before), address) in handles.iter().zip(0_usize..).zip(code.addresses()) {
            let before = std::ptr::without_provenance_mut(before);
            if watched.contains(address) {
                (qemu.register_insn_exec)(insn, insn_started, CB_NO_REGS, before);
            }
        }
        Ok(())
    });
}

/// How many bytes QEMU has written to its standard output; 0 where that is no file.
fn written() -> u64 {
    // SAFETY: asks where a descriptor stands.
    u64::try_from(unsafe { libc::lseek(libc::STDOUT_FILENO, 0, libc::SEEK_CUR) }).unwrap_or_default()
}

/// `number`: of the instruction in its block, from 0, which is looked at closely.
extern "C" fn insn_inside(_: c_uint, number: *mut c_void) {
    guarded(|probe, hot| {
        let Probe { session, registers, .. } = probe;
        // Closely, each block is taken in when it is entered.
        if !session.looking().is_close() || !hot.recent.entries().is_empty() {
            return Ok(());
        }
        let number = number.addr();
        let instructions = session.running().map(Block::instructions).unwrap_or_default();
        let address = instructions.get(number).map_or(0, |instruction| instruction.address);
        let nothing = State::default();
        let state = registers.as_mut().map_or(&nothing, Registers::read);
        session.look_inside(number as u64, address, &hot.accesses, state, written())
    });
}

/// `before`: instructions of the block that are before this one.
extern "C" fn insn_started(_: c_uint, before: *mut c_void) {
    guarded(|probe, hot| {
        probe.session.settle(&mut hot.recent, &mut hot.accesses)?;
        probe.session.started(before.addr() as u64)
    });
}

/// `TOTAL`: whether the counter is a running total; `SAMPLED`: whether blocks' beginnings are looked at; `TURNS`: whether there
/// are several vCPUs. Nothing on the
/// usual way calls anything, so that it needs no frame: it is taken for each block of the guest.
extern "C" fn block_entered<const TOTAL: bool, const SAMPLED: bool, const TURNS: bool>(
    _: c_uint,
    entry: *mut c_void,
) {
    let entry = Entry::unpacked(entry.addr() as u64);
    // SAFETY: one user at a time; see the module's invariants.
    let hot = unsafe { &mut *HOT.0.get() };
    // SAFETY: `counter` is null only before the vCPU's init callback, which precedes every block; afterwards it is
    // `TOTAL` or the scoreboard's entry of the only vCPU, which QEMU keeps as long as the plugin.
    let counter = unsafe { &mut *hot.counter };
    // SAFETY: where there are several vCPUs their init callbacks have set it, to a variable of this thread's.
    let goes_on = !TURNS || unsafe { *hot.current } == hot.turn;
    if goes_on && *counter == hot.whole && (!SAMPLED || hot.room > 0) && hot.recent.push(entry) {
        if SAMPLED {
            hot.room = hot.room.saturating_sub(entry.count());
            hot.running = entry.block();
        }
        if TOTAL {
            hot.whole += entry.marks();
        } else {
            *counter = 0;
            hot.whole = entry.marks();
        }
    } else {
        entered(entry.packed());
    }
}

/// The same for a block whose end only the next one tells.
extern "C" fn block_entered_apart(_: c_uint, entry: *mut c_void) {
    entered(entry.addr() as u64);
    // SAFETY: one user at a time; see the module's invariants.
    unsafe { &mut *HOT.0.get() }.look_at_next();
}

/// What is noted is taken in, for the waking thread.
fn settled() {
    // One writer: no need of an atomic addition.
    SETTLED.store(SETTLED.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// A block is entered where there is more to do than to note it.
#[cold]
#[inline(never)]
extern "C" fn entered(entry: u64) {
    let entry = Entry::unpacked(entry);
    dying::on_the_vcpu();
    settled();
    guarded(|probe, hot| {
        // SAFETY: as in `block_entered`.
        if let Some(&state) = unsafe { hot.current.as_ref() }
            && state != hot.turn
        {
            let vcpu = probe.turns.number(state).ok_or(Trouble::Protocol("a vCPU that nobody told of"))?;
            probe.session.settle(&mut hot.recent, &mut hot.accesses)?;
            let started = hot.started(probe.session.running());
            probe.session.turns(vcpu, started, &mut hot.accesses)?;
            hot.turn = state;
        }
        let Probe { id, qemu, session, registers, .. } = probe;
        session.settle(&mut hot.recent, &mut hot.accesses)?;
        let started = hot.started(session.running());
        session.entered(entry.block(), started, &mut hot.accesses)?;
        hot.begin(entry.marks());
        hot.running = entry.block();
        let position = session.position();
        if session.looking().is_due(position) && !session.is_between_turns() {
            let nothing = State::default();
            let state = registers.as_mut().map_or(&nothing, Registers::read);
            session.look(state, written())?;
            hot.is_close = session.looking().is_close();
            if session.begins_anew()
                && let Some(reset) = qemu.reset
            {
                reset(*id, anew);
            }
        }
        hot.room = session.looking().room(position).saturating_sub(entry.count());
        Ok(())
    });
}

/// QEMU has forgotten all that it has translated, and all callbacks. The vCPU's thread is in no block.
extern "C" fn anew(id: PluginId) {
    guarded(|probe, hot| {
        probe.is_anew = true;
        hot.look_at_next();
        probe.qemu.callbacks.register(id);
        Ok(())
    });
}

extern "C" fn exiting(_: *mut c_void) {
    end();
}

/// The guest runs no more. To be called where the vCPU's thread is in none of these functions.
pub(crate) fn end() {
    guarded(|probe, hot| {
        probe.session.settle(&mut hot.recent, &mut hot.accesses)?;
        let started = hot.started(probe.session.running());
        probe.session.ended(started, &mut hot.accesses, written())?;
        probe.dead = true;
        Ok(())
    });
}

/// This is a process that a user program has started, and whom the host does not follow: leaves it alone, and the host's
/// socket to its parent.
fn forget() {
    FOLLOWED.store(false, Ordering::Relaxed);
    // SAFETY: one user at a time, and no reference to them is held here; see the module's invariants.
    unsafe {
        (*HOT.0.get()).recent.close();
        *PROBE.0.get() = None;
    }
}

/// The number in the plugin argument `name`, where there is one.
fn number(arguments: &[*const c_char], name: &str) -> Option<usize> {
    arguments.iter().find_map(|&argument| {
        // SAFETY: QEMU passes C strings that live as long as the plugin.
        unsafe { CStr::from_ptr(argument) }.to_str().ok()?.strip_prefix(name)?.parse().ok()
    })
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

fn install(id: PluginId, info: &Info, arguments: &[*const c_char]) -> Result<(), String> {
    let (level, system) = (api_level(), info.system_emulation);
    let qemu = Qemu::find(level, system)?;
    let host = host_socket(arguments, "fd=")?;
    let host = host.ok_or("no fd=N: the probe is loaded by tandem, not by hand")?;
    let asking = host_socket(arguments, "asking=")?;
    let waking = host_socket(arguments, "waking=")?;
    if system {
        // Before the host is told that it may ask.
        dying::tell_from_now_on();
        flush_from_now_on();
    }
    // SAFETY: `target_name` is a C string of QEMU's, alive during the call.
    let target = unsafe { CStr::from_ptr(info.target_name) }.to_string_lossy().into_owned();
    let session = Session::open(host, info.version_cur, target, system)
        .map_err(|trouble| format!("the host does not answer: {trouble:?}"))?;
    let scoreboard = qemu.scoreboard_new.map_or(std::ptr::null_mut(), |new| new(size_of::<u64>()));
    let running_total = !matches!(qemu.counting, Counting::Marker { .. });
    let look = session.looking().look();
    let (watching, telling) = Watching::find(look.values)?;
    let disassembler = if look.texts { Some(Disassembler::find()?) } else { None };
    let accesses =
        if look.stores || look.loads || look.again { Accesses::with_room() } else { Accesses::NONE };
    let probe = Probe {
        id,
        qemu,
        system,
        session,
        scoreboard,
        code: Code::default(),
        handles: Vec::new(),
        watching,
        disassembler,
        registers: None,
        is_anew: false,
        thread: 0,
        turns: Turns::default(),
        current: number(arguments, "current="),
        translated: false,
        dead: false,
    };
    // SAFETY: no callback is registered yet, so nobody else looks at `PROBE` and `HOT`.
    unsafe {
        *PROBE.0.get() = Some(probe);
        let hot = &mut *HOT.0.get();
        (hot.running_total, hot.accesses, hot.telling) = (running_total, accesses, telling);
    }
    if let Some(asking) = asking {
        answer_from_now_on(asking);
    }
    if let Some(waking) = waking {
        wake_from_now_on(waking);
    }
    qemu.callbacks.register(id);
    if !system {
        // Where a signal would end QEMU, it is QEMU that handles it here.
        syscalls::tell_from_now_on(id, level)?;
    }
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
