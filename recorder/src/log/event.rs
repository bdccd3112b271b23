//! The events of QEMU's replay log, typed, whatever the log's version. Payloads are borrowed from the bytes that
//! they were read from.

/// Shutdown causes that a log can have: qapi/run-state.json, `ShutdownCause`, and QEMU's count of them.
pub const CAUSES: u8 = 12;

/// One event. Sources: replay/replay-internal.h and the file named with each, QEMU 7.2 and 10.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many instructions were retired.
    Instructions(u32),
    /// The vCPU takes an interrupt.
    Interrupt,
    /// The vCPU raises an exception.
    Exception,
    /// A bottom half runs; it is known by the icount at which it was scheduled (replay-events.c).
    BottomHalf(u64),
    BottomHalfOnce(u64),
    Input(Input),
    /// The end of one input event's parts.
    InputSync,
    /// A character device takes bytes in; devices are numbered as they were set up (replay-char.c).
    CharRead {
        device: u8,
        bytes: &'a [u8],
    },
    /// A block request completes; requests are numbered as they were made, over all drives (block/blkreplay.c).
    Block(u64),
    /// A packet passes a filter; filters are numbered as they were set up (replay-net.c).
    Packet {
        filter: u8,
        flags: u32,
        bytes: &'a [u8],
    },
    /// The guest's end was requested.
    Shutdown(Cause),
    /// A character device wrote: what the call returned, and how many bytes went out.
    CharWrite {
        result: i32,
        offset: i32,
    },
    /// A device waited for bytes from a character device, and got these, or an error.
    CharReadAll(&'a [u8]),
    CharReadAllError(i32),
    /// Samples played (replay-audio.c).
    AudioOut(u64),
    /// Samples taken in: how many, where the buffer then stood, and 16 bytes for each, left and right.
    AudioIn {
        recorded: u64,
        position: u64,
        samples: &'a [u8],
    },
    /// Random bytes: what the call returned, and the bytes (replay-random.c).
    Random {
        result: i32,
        bytes: &'a [u8],
    },
    /// A clock was read, ns (replay-time.c).
    Clock(Clock, u64),
    Checkpoint(Checkpoint),
    /// The last event.
    End,
}

/// A key, a pointer or a touch (replay-input.c). The numbers are those of qapi/ui.json; QEMU's booleans are kept as
/// the byte that stands for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A scan code of a PC's keyboard; from log version 0xe0200e on Linux's number of the key.
    KeyNumber {
        number: u64,
        down: u8,
    },
    KeyCode {
        code: u32,
        down: u8,
    },
    Button {
        button: u32,
        down: u8,
    },
    Relative {
        axis: u32,
        value: u64,
    },
    Absolute {
        axis: u32,
        value: u64,
    },
    Touch {
        kind: u32,
        slot: u64,
        tracking: u64,
        axis: u32,
        value: u64,
    },
}

/// The clocks that are logged (include/system/replay.h, `ReplayClockKind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Host,
    /// The host's clock while the guest runs.
    VirtualRealTime,
}

/// Places that record and replay pass in the same order (include/system/replay.h, `ReplayCheckpoint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    WarpStart,
    WarpAccount,
    ResetRequested,
    SuspendRequested,
    ClockVirtual,
    ClockHost,
    ClockVirtualRealTime,
    Init,
    Reset,
}

impl Checkpoint {
    /// In QEMU's order.
    pub const ALL: [Checkpoint; 9] = [
        Checkpoint::WarpStart,
        Checkpoint::WarpAccount,
        Checkpoint::ResetRequested,
        Checkpoint::SuspendRequested,
        Checkpoint::ClockVirtual,
        Checkpoint::ClockHost,
        Checkpoint::ClockVirtualRealTime,
        Checkpoint::Init,
        Checkpoint::Reset,
    ];

    fn name(self) -> &'static str {
        match self {
            Checkpoint::WarpStart => "checkpoint-warp-start",
            Checkpoint::WarpAccount => "checkpoint-warp-account",
            Checkpoint::ResetRequested => "checkpoint-reset-requested",
            Checkpoint::SuspendRequested => "checkpoint-suspend-requested",
            Checkpoint::ClockVirtual => "checkpoint-clock-virtual",
            Checkpoint::ClockHost => "checkpoint-clock-host",
            Checkpoint::ClockVirtualRealTime => "checkpoint-clock-virtual-rt",
            Checkpoint::Init => "checkpoint-init",
            Checkpoint::Reset => "checkpoint-reset",
        }
    }
}

/// Who ended the guest (qapi/run-state.json, `ShutdownCause`), less than [`CAUSES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause(pub u8);

impl Cause {
    /// What QEMU puts last into a log whose guest did not end by itself.
    pub const HOST_SIGNAL: Cause = Cause(4);
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            1 => "QEMU met an error on the host",
            2 => "QMP quit",
            3 => "QMP system_reset",
            4 => "a signal from the host",
            5 => "QEMU's window was closed",
            6 => "the guest shut down",
            7 => "the guest reset itself",
            8 => "the guest panicked",
            9 => "a subsystem was reset",
            10 => "a snapshot was loaded",
            _ => "an unknown cause",
        })
    }
}

impl Event<'_> {
    /// Whether QEMU asks the log for this event in the middle of what it does. Where the log is over by then a replay
    /// dies (replay/replay-char.c, replay-random.c, replay-audio.c), or goes on with an older time (replay-time.c); for
    /// all others it waits.
    #[must_use]
    pub fn is_demanded(&self) -> bool {
        matches!(
            self,
            Event::CharWrite { .. }
                | Event::CharReadAll(_)
                | Event::CharReadAllError(_)
                | Event::AudioOut(_)
                | Event::AudioIn { .. }
                | Event::Random { .. }
                | Event::Clock(..)
        )
    }

    /// The event's kind in one word, as `tandem show` lists it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Event::Instructions(_) => "instructions",
            Event::Interrupt => "interrupt",
            Event::Exception => "exception",
            Event::BottomHalf(_) => "bottom-half",
            Event::BottomHalfOnce(_) => "bottom-half-once",
            Event::Input(Input::KeyNumber { .. } | Input::KeyCode { .. }) => "key",
            Event::Input(Input::Button { .. }) => "button",
            Event::Input(Input::Relative { .. }) => "relative-motion",
            Event::Input(Input::Absolute { .. }) => "absolute-motion",
            Event::Input(Input::Touch { .. }) => "touch",
            Event::InputSync => "input-sync",
            Event::CharRead { .. } => "char-read",
            Event::Block(_) => "block",
            Event::Packet { .. } => "packet",
            Event::Shutdown(_) => "shutdown",
            Event::CharWrite { .. } => "char-write",
            Event::CharReadAll(_) => "char-read-all",
            Event::CharReadAllError(_) => "char-read-all-error",
            Event::AudioOut(_) => "audio-out",
            Event::AudioIn { .. } => "audio-in",
            Event::Random { .. } => "random",
            Event::Clock(Clock::Host, _) => "clock-host",
            Event::Clock(Clock::VirtualRealTime, _) => "clock-virtual-rt",
            Event::Checkpoint(checkpoint) => checkpoint.name(),
            Event::End => "end",
        }
    }
}
