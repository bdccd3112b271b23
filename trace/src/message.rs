//! What probe and host tell each other over their socket, framed by [`crate::codec`].
//!
//! The probe speaks first, with [`FromProbe::Hello`], and waits for [`ToProbe::Go`] before the guest's first
//! instruction. While the guest runs it sends a [`FromProbe::Chunk`] each time one is full, and answers
//! questions then. It waits at the end of a chunk when its credit is used up, and after [`FromProbe::End`]
//! until it is let go with [`ToProbe::Finish`]. Where a signal ends QEMU, [`FromProbe::Dying`] is the last that it says.
//!
//! While QEMU has the guest stopped the probe's own thread does not run. Then, and only then, the host may say
//! [`Asked`] on a second socket, and gets a [`Standing`].

use serde::{Deserialize, Serialize};

use crate::access::Memory;
use crate::block::Instruction;

/// Changes with every change of these messages: a probe and a host of two releases must not talk.
pub const PROTOCOL: u32 = 10;

/// The environment variable in which the host names the level of QEMU's plugin interface, where only QEMU's version
/// tells it.
pub const API: &str = "TANDEM_PLUGIN_API";

/// What the dynamic linker has loaded before a QEMU for user programs: the probe, by a descriptor of this number.
pub const PRELOADED: &str = "/proc/self/fd/1001";
pub const PRELOADED_FD: i32 = 1001;

/// The signal by which the host asks a probe that says nothing where the guest is: 5, SIGTRAP on Linux. QEMU has no use for it.
pub const ASKED: i32 = 5;

/// Instructions in a chunk: 2^20.
pub const CHUNK: u64 = 1 << 20;

/// The most digests that one [`ToProbe::Digests`] may ask for.
pub const MOST_DIGESTS: u64 = 1 << 18;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromProbe {
    /// The probe is loaded.
    Hello {
        protocol: u32,
        /// The version of QEMU's plugin interface that the build speaks at the most.
        plugin_api: i32,
        /// QEMU's name of the guest's architecture, `x86_64` or the like.
        target: String,
        /// System emulation, or one user program.
        system: bool,
        /// QEMU's process id as it sees it itself, which a user program gets to know as its own.
        pid: u32,
    },
    /// Chunk `index` (from 0) is full; `digest` and `memory` are those of the whole stream up to its end. `samples` and `calls`
    /// are those since the last message.
    Chunk { index: u64, digest: u64, memory: Memory, samples: Vec<Sample>, calls: Vec<Call> },
    /// The run has ended after `position` instructions with these digests of the whole stream. `vcpus`: how many of them each vCPU
    /// has executed; `recorded`: how many of a recording's these are, which has some twice.
    End {
        position: u64,
        recorded: u64,
        digest: u64,
        memory: Memory,
        samples: Vec<Sample>,
        calls: Vec<Call>,
        vcpus: Vec<u64>,
    },
    /// A user program may be gone behind its next system call, of which nobody hears then; the same of the stream up to it.
    Leaving { position: u64, digest: u64, memory: Memory, calls: Vec<Call> },
    /// The names of the registers that are read, in order; before the first steps.
    Registers(Vec<String>),
    /// What the guest did in the stretch that is looked at closely, in order.
    Steps(Vec<Step>),
    /// The answer to [`ToProbe::Digests`]; `None` where the probe no longer or not yet knows.
    Digests(Option<Vec<u64>>),
    /// The answer to [`ToProbe::UpTo`]: the digests of the whole stream up to each, that of memory where it is still known. `None`
    /// where the probe no longer knows, or has ended before.
    UpTo(Option<Vec<(u64, Option<Memory>)>>),
    /// The answer to [`ToProbe::Window`]; `None` where the probe no longer or not yet knows.
    Window(Option<Window>),
    /// The last instruction that is wanted of those watched for starts now; so many were before it.
    Found { position: u64 },
    /// The running block begins at `position`, and waits for [`ToProbe::On`]: nothing of it has run.
    Waiting { position: u64 },
    /// A signal ends QEMU, and so many instructions have started, of the running block at least those that can be left.
    /// `sender`: the process that sent the signal, where QEMU did not raise it itself.
    Dying { started: u64, sender: Option<i32> },
    /// The host has sent [`ASKED`]: so many instructions have started, and the vCPU's thread has worked for so many nanoseconds.
    At { started: u64, worked: u64 },
    /// The probe can't go on: whatever it said after the last chunk is void.
    Failure(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProbe {
    /// Run, up to the end of `credit` chunks counted from the start. What QEMU runs begins at `from`, and `watch` says
    /// what to look out for. `keeps`: how many whole chunks are remembered beside the one that it is in, to be asked for; the
    /// memory for them is not for nothing. `look`: at what else than the instructions.
    Go { credit: u64, from: Point, watch: Watch, keeps: u32, look: Look },
    /// Run on, up to the end of `credit` chunks counted from the start.
    Credit(u64),
    /// The digests at each position from `from` to `to`, both included.
    Digests { from: u64, to: u64 },
    /// The digests at each position from `from` to `to`, both included, that of memory among them. Where it is one position they come as
    /// soon as the run has come there, and there is no answer where it ends before.
    UpTo { from: u64, to: u64 },
    /// The instructions of chunk `0`.
    Window(u64),
    /// Run on, from where it said [`FromProbe::Waiting`].
    On,
    /// Nothing more will be asked.
    Finish,
}

/// A point of the stream: how many instructions are before it, and their digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub position: u64,
    pub digest: u64,
}

impl Point {
    /// Before the first instruction.
    pub const START: Point = Point { position: 0, digest: 0 };
}

/// What a probe shall look out for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Watch {
    /// Instructions at these addresses, when they start.
    pub addresses: Vec<u64>,
    /// Which of them is wanted, counted from 1: the probe tells when it starts.
    pub until: u64,
}

/// What is looked at beside the instructions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Look {
    pub stores: bool,
    pub loads: bool,
    /// Whether accesses count with their values; else with their addresses and sizes.
    pub values: bool,
    /// Whether what an instruction stores says if it has started again ([`crate::again`]), where stores don't count too; what
    /// a recording has counted knows nothing of that.
    pub again: bool,
    /// Behind the first so many instructions of a recording what is done to memory does not count, nor do samples.
    pub until: Option<u64>,
    /// Whether each instruction's start is counted: where QEMU dies in a block, or stands still, that tells of which one.
    pub each: bool,
    /// Whether samples tell of registers.
    pub registers: bool,
    /// A sample is taken at the first block that begins at a multiple of so many instructions, or behind it; 0: none is.
    pub spacing: u64,
    /// In this stretch each block's beginning is a [`Step`].
    pub closely: Option<Stretch>,
    /// In blocks that begin at these addresses each instruction is one, there.
    pub inside: Vec<u64>,
    /// Before that stretch all blocks are translated anew, and in the new ones each instruction is a step.
    pub anew: bool,
    /// Whether QEMU's disassembler is asked for each instruction that is translated.
    pub texts: bool,
    /// In this stretch the probe waits at each sample and [`Step`], and before it takes none.
    pub waits: Option<Stretch>,
    /// What system calls do, by their numbers, as far as it has to be known.
    pub calls: Vec<(i64, Does)>,
}

/// What a user program's system call does beside giving a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Does {
    /// Where it succeeds it fills memory at the address that is its argument number `argument` (from 0): so many bytes, or as
    /// many as its result says.
    Fills { argument: u8, bytes: Option<u32> },
    /// It fills memory so with random bytes, as many as its result says. The probe puts others there, the same each time.
    Randomizes { argument: u8 },
    /// It starts a process.
    Forks,
    /// It starts a process, or a thread where argument number `flags` says so.
    Clones { flags: u8 },
    /// It may end the program, or put another in its place.
    Leaves,
}

/// A system call that a user program has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// How many instructions had started, its own included.
    pub position: u64,
    pub number: i64,
    pub arguments: [u64; 6],
    /// `None` where it has not come back.
    pub result: Option<i64>,
    /// A digest of the memory that it filled; 0 where it filled none that is known.
    pub filled: u64,
}

/// Positions from `from` up to, and without, `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    pub from: u64,
    pub to: u64,
}

/// What all was like at the beginning of a block. Builds cut blocks each in their own way, so one of them may have no
/// sample where the other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub position: u64,
    /// A digest of all registers; `None` where they are not read.
    pub registers: Option<u64>,
    pub memory: Memory,
    /// How many bytes QEMU has written to its standard output, where that is a file.
    pub written: u64,
}

/// A place in the stretch that is looked at closely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub position: u64,
    /// Where the instruction lies that comes next.
    pub address: u64,
    /// Whose instruction, and whose registers these are.
    pub vcpu: u32,
    /// Whether the run has ended here: the registers and the instruction that would come next are not known then.
    pub ends: bool,
    /// The registers that have another value than at the step before, by their number, with their bytes as QEMU tells
    /// them to gdb.
    pub registers: Vec<(u16, Vec<u8>)>,
    /// How many bytes QEMU has written to its standard output, where that is a file.
    pub written: u64,
    /// The accesses since the step before.
    pub accesses: Vec<Accessed>,
}

/// An access to memory, of at most eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accessed {
    /// Of the instruction that makes it.
    pub position: u64,
    pub address: u64,
    pub size: u8,
    pub is_store: bool,
    /// 0 where the build does not tell it.
    pub value: u64,
}

/// What is said while the guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// Where it does.
    Where,
    /// The instruction that has started last has not been executed: it will start again.
    Unmade,
    /// It was executed, and had started twice.
    Twice,
}

/// Where a guest stands that QEMU has stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Behind the last instruction that has started.
    pub point: Point,
    /// Where that one is not its block's last: it. Either it has faulted, or it will start again at once; then
    /// it is not in the stream yet.
    pub unfinished: Option<Instruction>,
    /// How many instructions were seen of those that are watched for, each start counted.
    pub seen: u64,
}

/// A stretch of the stream, as block entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Window {
    /// Position of the first instruction: how many ran before it.
    pub first: u64,
    pub visits: Vec<Visit>,
    /// The blocks that `visits` name by their index here.
    pub blocks: Vec<Vec<Instruction>>,
}

/// One entry into a block: instructions `skip..skip + ran` of it belong to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    pub vcpu: u32,
    pub block: u32,
    pub skip: u32,
    pub ran: u32,
}
