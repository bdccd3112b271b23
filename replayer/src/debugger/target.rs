//! The guest as the crate `gdbstub` wants one.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use gdbstub::arch::{Arch, RegId, Registers};
use gdbstub::common::Signal;
use gdbstub::outputln;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::reverse_exec::{ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use qemu::stub::from_hex;
use recorder::account::grouped;

use super::description;
use crate::breaks::{Break, Kind};
use crate::machine::Setting;
use crate::moment::Moment;
use crate::seek::travel::Arrival;
use crate::seek::{Error, Seeker};

/// What errors gdb is told by their number (errno.h): the guest has no such memory; a recording can't be changed.
const FAULT: u8 = 14;
const NOT_PERMITTED: u8 = 1;

/// How much memory QEMU is asked for at a time, bytes: its answer has to fit into a packet of its own.
const PIECE: usize = 1024;

/// Any guest: what its registers are only QEMU and gdb know.
pub enum Any {}

impl Arch for Any {
    type Usize = u64;
    type Registers = Told;
    type BreakpointKind = usize;
    type RegId = Number;
}

/// Registers as QEMU tells them, bytes; `None` where it has no value.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Told(Vec<Option<u8>>);

impl Registers for Told {
    type ProgramCounter = u64;

    /// Which of the bytes are the address of the next instruction is not known here, and nobody asks.
    fn pc(&self) -> u64 {
        0
    }

    fn gdb_serialize(&self, write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().copied().for_each(write_byte);
    }

    fn gdb_deserialize(&mut self, _: &[u8]) -> Result<(), ()> {
        Err(())
    }
}

/// A register's number.
#[derive(Debug)]
pub struct Number(usize);

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Some((Number(id), None))
    }
}

/// How gdb has the guest go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    ForwardStep,
    Backward,
    BackwardStep,
}

pub struct Guest<'s, 'a> {
    seeker: &'s mut Seeker<'a>,
    breaks: Vec<Break>,
    description: BTreeMap<String, Vec<u8>>,
    way: Way,
}

impl<'s, 'a> Guest<'s, 'a> {
    pub fn new(seeker: &'s mut Seeker<'a>) -> Result<Self, Error> {
        let description = description::read(seeker.machine()?)?;
        Ok(Guest { seeker, breaks: Vec::new(), description, way: Way::Forward })
    }

    pub fn setting(&self) -> Setting<'a> {
        self.seeker.setting()
    }

    /// Goes as gdb has said. Where that fails it stays where it was, and `complain` is told why.
    pub fn travel(&mut self, complain: &mut dyn FnMut(&Error)) -> Result<Arrival, Error> {
        let start = self.seeker.machine()?.position()?;
        self.way().or_else(|error| {
            complain(&error);
            self.seeker.again_to(start)?;
            Ok(Arrival::Interrupted)
        })
    }

    fn way(&mut self) -> Result<Arrival, Error> {
        match self.way {
            Way::Forward => self.seeker.forward(&self.breaks),
            Way::ForwardStep => self.seeker.forward_step(&self.breaks),
            Way::Backward => self.seeker.backward(&self.breaks),
            Way::BackwardStep => self.seeker.backward_step(&self.breaks),
        }
    }

    fn ask(&mut self, packet: &str) -> TargetResult<Vec<u8>, Self> {
        let machine = self.seeker.machine().map_err(TargetError::Fatal)?;
        machine.ask(packet).map_err(|error| TargetError::Fatal(error.into()))
    }

    /// Adds a break where QEMU can have it.
    fn add(&mut self, stop: Break) -> TargetResult<bool, Self> {
        let machine = self.seeker.machine().map_err(TargetError::Fatal)?;
        let can = machine.set(&[stop], true).and_then(|()| machine.set(&[stop], false)).is_ok();
        if can {
            self.breaks.push(stop);
        }
        Ok(can)
    }

    fn remove(&mut self, stop: Break) -> bool {
        let found = self.breaks.iter().position(|&other| other == stop);
        found.map(|index| self.breaks.remove(index)).is_some()
    }

    /// Where the guest stands, in words.
    fn here(&mut self) -> Result<String, Error> {
        let machine = self.seeker.machine()?;
        Ok(format!("icount {}, instruction:{}", grouped(machine.icount()), grouped(machine.position()?)))
    }

    /// Goes to a moment; where there is none stays.
    fn go(&mut self, moment: &str) -> Result<String, Error> {
        // gdb keeps a word with blanks together by quotes, and passes them on.
        let quoted = ['\'', '"'].iter().find_map(|&quote| moment.strip_prefix(quote)?.strip_suffix(quote));
        let moment = quoted.unwrap_or(moment);
        let moment: Moment = match moment.parse() {
            Ok(moment) => moment,
            Err(why) => return Ok(why),
        };
        let start = self.seeker.machine()?.position()?;
        match moment.reach(self.seeker) {
            Ok(()) => self.here(),
            Err(error) => {
                self.seeker.again_to(start)?;
                Ok(error.to_string())
            }
        }
    }
}

impl Target for Guest<'_, '_> {
    type Arch = Any;
    type Error = Error;

    fn base_ops(&mut self) -> BaseOps<'_, Any, Error> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Guest<'_, '_> {
    fn read_registers(&mut self, registers: &mut Told) -> TargetResult<(), Self> {
        let answer = self.ask("g")?;
        let (pairs, _) = answer.as_chunks::<2>();
        registers.0 = pairs.iter().map(|pair| from_hex(pair).map(|byte| byte[0])).collect();
        Ok(())
    }

    fn write_registers(&mut self, _: &Told) -> TargetResult<(), Self> {
        Err(TargetError::Errno(NOT_PERMITTED))
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, (), Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        let mut read = 0;
        for piece in data.chunks_mut(PIECE) {
            let answer = self.ask(&format!("m{:x},{:x}", start.wrapping_add(read as u64), piece.len()))?;
            match from_hex(&answer) {
                Some(bytes) if bytes.len() == piece.len() => piece.copy_from_slice(&bytes),
                _ if read == 0 => return Err(TargetError::Errno(FAULT)),
                _ => break,
            }
            read += piece.len();
        }
        Ok(read)
    }

    fn write_addrs(&mut self, _: u64, _: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::Errno(NOT_PERMITTED))
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<()> for Guest<'_, '_> {
    fn read_register(
        &mut self,
        (): (),
        Number(number): Number,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let answer = self.ask(&format!("p{number:x}"))?;
        match from_hex(&answer) {
            Some(bytes) if !bytes.is_empty() && bytes.len() <= buffer.len() => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            _ => Err(TargetError::Errno(FAULT)),
        }
    }

    fn write_register(&mut self, (): (), _: Number, _: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::Errno(NOT_PERMITTED))
    }
}

impl SingleThreadResume for Guest<'_, '_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), Error> {
        self.way = Way::Forward;
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, (), Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, (), Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Guest<'_, '_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), Error> {
        self.way = Way::ForwardStep;
        Ok(())
    }
}

impl ReverseStep<()> for Guest<'_, '_> {
    fn reverse_step(&mut self, (): ()) -> Result<(), Error> {
        self.way = Way::BackwardStep;
        Ok(())
    }
}

impl ReverseCont<()> for Guest<'_, '_> {
    fn reverse_cont(&mut self) -> Result<(), Error> {
        self.way = Way::Backward;
        Ok(())
    }
}

impl Breakpoints for Guest<'_, '_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

fn instruction(address: u64, length: usize) -> Break {
    Break { kind: Kind::Instruction, address, length: length as u64 }
}

fn watch(address: u64, length: u64, kind: WatchKind) -> Break {
    let kind = match kind {
        WatchKind::Write => Kind::Write,
        WatchKind::Read => Kind::Read,
        WatchKind::ReadWrite => Kind::Access,
    };
    Break { kind, address, length }
}

impl SwBreakpoint for Guest<'_, '_> {
    fn add_sw_breakpoint(&mut self, address: u64, length: usize) -> TargetResult<bool, Self> {
        self.add(instruction(address, length))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, length: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(instruction(address, length)))
    }
}

impl HwBreakpoint for Guest<'_, '_> {
    fn add_hw_breakpoint(&mut self, address: u64, length: usize) -> TargetResult<bool, Self> {
        self.add(instruction(address, length))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, length: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(instruction(address, length)))
    }
}

impl HwWatchpoint for Guest<'_, '_> {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        self.add(watch(address, length, kind))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(self.remove(watch(address, length, kind)))
    }
}

impl MonitorCmd for Guest<'_, '_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Error> {
        let command = String::from_utf8_lossy(command);
        let (word, rest) = command.trim().split_once(char::is_whitespace).unwrap_or((command.trim(), ""));
        let told = match word {
            "when" => self.here()?,
            "seek" => self.go(rest.trim())?,
            _ => "monitor when: the moment at which the guest stands\n\
                  monitor seek MOMENT: goes there, as `tandem replay --at`; then say `maintenance flush register-cache`"
                .to_owned(),
        };
        outputln!(out, "{told}");
        Ok(())
    }
}

impl TargetDescriptionXmlOverride for Guest<'_, '_> {
    fn target_description_xml(
        &self,
        name: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let name = std::str::from_utf8(name).map_err(|_| TargetError::Errno(FAULT))?;
        let text = self.description.get(name).ok_or(TargetError::Errno(FAULT))?;
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
        let length = rest.len().min(length).min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}
