//! What QEMU forgets of a RISC-V machine's timers when it restores a state.
//!
//! A state has what a timer is compared with (`timecmp` of the ACLINT's MTIMER in hw/intc/riscv_aclint.c, and `stimecmp` of
//! Sstc in target/riscv/machine.c), and not when QEMU will run it: so no tick comes any more, and the replay stands still.
//! Writing what it is compared with anew, as it is, arms it.
//!
//! That is exact at certain moments only. QEMU reckons in nanoseconds, the guest in ticks of a hundred or so: a timer is run
//! so many whole ticks behind the nanosecond in which it was armed (`riscv_aclint_mtimer_write_timecmp`,
//! `riscv_timer_write_timecmp`), and a processor that waits has its time put forward to that nanosecond. Right behind
//! the instruction that armed a timer it is still the same nanosecond, because virtual time is icount: there, and where no
//! timer runs, a state can be kept. [`crate::index`] looks for such moments.
//!
//! The real-time clock (hw/rtc/goldfish_rtc.c) takes an alarm that was never set for one that is over, and notes an
//! interrupt, which the guest would get as soon as it lets it have any; that is taken back.
//!
//! All of it is the same in 7.2 and 10.0.

use qemu::stub::{from_hex, to_hex};

use crate::debugger::description;
use crate::machine::{Error, Machine};

/// Where a machine has its timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// The first hart's `mtimecmp`, and `mtime`, in physical memory.
    compare: u64,
    time: u64,
    /// Ticks a second.
    frequency: u64,
    /// The real-time clock in physical memory.
    clock: Option<u64>,
    /// The number that the stub has for the first of the CSRs.
    csrs: u64,
}

/// One that can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    Machine,
    /// Sstc's.
    Supervisor,
}

/// What the timers are like at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    frequency: u64,
    now: u64,
    /// What the machine's timer is compared with, and the supervisor's.
    machine: u64,
    /// `None` where it can't be used at the moment: it was never armed then.
    supervisor: Option<u64>,
    /// That of a guest's guest.
    virtual_supervisor: Option<u64>,
    pending: u64,
    /// The real-time clock's alarm, and whether it will come.
    alarm: Option<(u64, bool)>,
}

/// The CSRs' numbers (target/riscv/cpu_bits.h), and the name of one that all processors have.
const STIMECMP: u64 = 0x14d;
const VSTIMECMP: u64 = 0x24d;
const MIP: u64 = 0x344;
const MSTATUS: (&str, u64) = ("mstatus", 0x300);

/// From a CSR to the one with its upper half, where registers have 32 bits.
const UPPER: u64 = 0x10;

/// In `mip`: an interrupt of the timer, or of the supervisor's external source, is pending.
const STIP: u64 = 1 << 5;
const MTIP: u64 = 1 << 7;
const SEIP: u64 = 1 << 9;

/// Registers of the real-time clock.
const ALARM: u64 = 0x08;
const ALARM_STATUS: u64 = 0x18;
const CLEAR_INTERRUPT: u64 = 0x1c;

impl Timers {
    /// The timers of `machine`, where it has any that are known.
    pub fn find(machine: &mut Machine) -> Result<Option<Self>, Error> {
        let tree = machine.human("info qtree")?;
        let document = description::document(machine, "riscv-csr.xml")?.unwrap_or_default();
        let csrs = first_csr(&String::from_utf8_lossy(&document));
        Ok(placed(&tree).zip(csrs).map(|(timers, csrs)| Timers { csrs, ..timers }))
    }

    /// What they are like.
    pub fn state(&self, machine: &mut Machine) -> Result<State, Error> {
        machine.order("Qqemu.PhyMemMode:1")?;
        let now = physical(machine, self.time, 8)?;
        let compare = physical(machine, self.compare, 8)?;
        let mut alarm = None;
        if let Some(clock) = self.clock {
            let next = physical(machine, clock + ALARM, 4)? | physical(machine, clock + ALARM + 4, 4)? << 32;
            alarm = Some((next, physical(machine, clock + ALARM_STATUS, 4)? != 0));
        }
        machine.order("Qqemu.PhyMemMode:0")?;
        Ok(State {
            frequency: self.frequency,
            now,
            machine: compare,
            supervisor: self.csr(machine, STIMECMP)?,
            virtual_supervisor: self.csr(machine, VSTIMECMP)?,
            pending: self.csr(machine, MIP)?.unwrap_or(u64::MAX),
            alarm,
        })
    }

    /// What `timer` is compared with; `None` where it can't be used at the moment.
    pub fn value(&self, machine: &mut Machine, timer: Timer) -> Result<Option<u64>, Error> {
        if timer == Timer::Supervisor {
            return self.csr(machine, STIMECMP);
        }
        machine.order("Qqemu.PhyMemMode:1")?;
        let value = physical(machine, self.compare, 8)?;
        machine.order("Qqemu.PhyMemMode:0")?;
        Ok(Some(value))
    }

    /// A CSR of 64 bits; `None` where it can't be read at the moment.
    fn csr(&self, machine: &mut Machine, number: u64) -> Result<Option<u64>, Error> {
        let Some((lower, length)) = register(machine, self.csrs + number)? else { return Ok(None) };
        if length == 8 || number == MIP {
            return Ok(Some(lower));
        }
        let upper = register(machine, self.csrs + number + UPPER)?;
        Ok(upper.map(|(upper, _)| lower | upper << 32))
    }

    /// Arms what runs anew.
    pub fn rearm(&self, machine: &mut Machine) -> Result<(), Error> {
        let state = self.state(machine)?;
        if let Some(value) = state.supervisor.filter(|&value| value > state.now) {
            let (bytes, number) = (value.to_le_bytes(), self.csrs + STIMECMP);
            let length = register(machine, number)?.map_or(8, |(_, length)| length);
            machine.order(&format!("P{number:x}={}", to_hex(&bytes[..length])))?;
            if length < bytes.len() {
                machine.order(&format!("P{:x}={}", number + UPPER, to_hex(&bytes[length..])))?;
            }
        }
        machine.order("Qqemu.PhyMemMode:1")?;
        if state.machine > state.now {
            machine.order(&format!("M{:x},8:{}", self.compare, to_hex(&state.machine.to_le_bytes())))?;
        }
        if let (Some(clock), Some((0, _))) = (self.clock, state.alarm) {
            machine.order(&format!("M{:x},4:01000000", clock + CLEAR_INTERRUPT))?;
        }
        machine.order("Qqemu.PhyMemMode:0")
    }
}

impl State {
    /// The timer that runs; or why the timers could not be put right if they were kept now, whatever runs.
    pub fn running(&self) -> Result<Option<Timer>, &'static str> {
        if !matches!(self.virtual_supervisor, None | Some(0 | u64::MAX)) {
            return Err("a virtual machine in the guest has a timer");
        }
        if self.pending & SEIP != 0 {
            return Err("an interrupt from outside is pending");
        }
        if self.alarm.is_some_and(|(next, will_come)| next != 0 && !will_come) {
            return Err("the real-time clock's alarm has been used");
        }
        let mut running = Vec::new();
        let timers = [(Timer::Machine, Some(self.machine), MTIP), (Timer::Supervisor, self.supervisor, STIP)];
        for (timer, value, pending) in timers {
            let Some(value) = value else { continue };
            if value > self.now {
                if self.ever_comes(value) {
                    running.push(timer);
                }
            } else if value != 0 && self.pending & pending == 0 {
                // Within the tick in which it will be run.
                return Err("a timer is about to run");
            }
        }
        match *running {
            [] => Ok(None),
            [timer] => Ok(Some(timer)),
            _ => Err("two timers run"),
        }
    }

    /// Whether a timer that is compared with `value` is run before QEMU's time ends, 292 years from the start.
    fn ever_comes(&self, value: u64) -> bool {
        let nanoseconds = u128::from(value - self.now) * 1_000_000_000 / u128::from(self.frequency.max(1));
        nanoseconds < u128::from(i64::MAX.unsigned_abs())
    }
}

/// What physical memory holds, as a number; the stub must be told before that addresses are physical.
fn physical(machine: &mut Machine, address: u64, length: usize) -> Result<u64, Error> {
    let answer = machine.ask(&format!("m{address:x},{length:x}"))?;
    match number(&answer) {
        Some((value, size)) if size == length => Ok(value),
        _ => Err(Error::Timers(String::from_utf8_lossy(&answer).into_owned())),
    }
}

/// A register by the stub's number, and its length in bytes; `None` where the stub does not give it.
fn register(machine: &mut Machine, index: u64) -> Result<Option<(u64, usize)>, Error> {
    let answer = machine.ask(&format!("p{index:x}"))?;
    Ok(number(&answer).filter(|&(_, length)| length >= 4))
}

/// A number of up to 64 bits in little-endian hexadecimal, and its length in bytes.
fn number(digits: &[u8]) -> Option<(u64, usize)> {
    let bytes = from_hex(digits)?;
    let mut value = [0; 8];
    value.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    Some((u64::from_le_bytes(value), bytes.len()))
}

/// Where the timers are by QEMU's tree of devices, without the CSRs.
fn placed(tree: &str) -> Option<Timers> {
    let mut devices = tree.split("\n  dev: ");
    let mtimer = devices.clone().find(|device| device.starts_with("riscv.aclint.mtimer,"))?;
    let base = address(mtimer)?;
    let clock = devices.find(|device| device.starts_with("goldfish_rtc,")).and_then(address);
    Some(Timers {
        compare: base + property(mtimer, "timecmp-base")?,
        time: base + property(mtimer, "time-base")?,
        frequency: property(mtimer, "timebase-freq")?,
        clock,
        csrs: 0,
    })
}

/// Where a device of the tree is in physical memory.
fn address(device: &str) -> Option<u64> {
    let line = device.lines().find_map(|line| line.trim_start().strip_prefix("mmio "))?;
    u64::from_str_radix(line.split('/').next()?, 16).ok()
}

/// A number that a device of the tree has.
fn property(device: &str, name: &str) -> Option<u64> {
    let value = device.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(" = "))?;
    value.split(' ').next()?.parse().ok()
}

/// The number of the first CSR, by the stub's description of those that it shows. Those that it can't use at the start
/// are not in it, but have numbers.
fn first_csr(description: &str) -> Option<u64> {
    let (name, number) = MSTATUS;
    let register = description.split("<reg ").find(|part| part.contains(&format!("name=\"{name}\"")))?;
    let (_, digits) = register.split_once("regnum=\"")?;
    digits.split('"').next()?.parse::<u64>().ok()?.checked_sub(number)
}

#[cfg(test)]
mod tests {
    use super::{State, Timer, Timers, first_csr, number, placed};

    /// As QEMU 7.2 and 10.0 print it.
    const TREE: &str = "bus: main-system-bus
  type System
  dev: goldfish_rtc, id \"\"
    gpio-out \"sysbus-irq\" 1
    big-endian = false
    mmio 0000000000101000/0000000000000024
  dev: serial-mm, id \"\"
    mmio ffffffffffffffff/0000000000000008
  dev: riscv.aclint.mtimer, id \"\"
    gpio-out \"\" 1
    hartid-base = 0 (0x0)
    timecmp-base = 0 (0x0)
    time-base = 32760 (0x7ff8)
    timebase-freq = 10000000 (0x989680)
    mmio 0000000002004000/0000000000008000
";

    #[test]
    fn timers_are_found_in_the_tree_of_devices() {
        let timers = Timers {
            compare: 0x200_4000,
            time: 0x200_bff8,
            frequency: 10_000_000,
            clock: Some(0x10_1000),
            csrs: 0,
        };
        assert_eq!(placed(TREE), Some(timers));
        assert_eq!(placed(TREE.split("  dev: riscv").next().unwrap()), None);
        assert_eq!(placed(""), None);
    }

    #[test]
    fn registers_are_found_in_the_description() {
        let text = r#"<feature><reg name="fflags" bitsize="64" regnum="70"/><reg name="mstatus" bitsize="64" regnum="837"/>"#;
        assert_eq!(first_csr(text), Some(69));
        assert_eq!(first_csr(r#"<reg name="mstatus" bitsize="64" regnum="7"/>"#), None);
        assert_eq!(first_csr(""), None);
        assert_eq!(number(b"0102000000000000"), Some((0x201, 8)));
        assert_eq!(number(b"010200000000000000"), None);
        assert_eq!(number(b"E14"), None);
    }

    #[test]
    fn a_moment_is_good_where_at_most_one_timer_runs() {
        let at = State {
            frequency: 10_000_000,
            now: 1000,
            machine: u64::MAX,
            supervisor: Some(0),
            virtual_supervisor: None,
            pending: 0,
            alarm: Some((0, false)),
        };
        assert_eq!(at.running(), Ok(None));
        assert_eq!(State { machine: 1001, ..at }.running(), Ok(Some(Timer::Machine)));
        assert_eq!(State { supervisor: Some(2000), ..at }.running(), Ok(Some(Timer::Supervisor)));
        // Over, and the interrupt is there; or not yet.
        assert_eq!(State { supervisor: Some(1000), pending: 1 << 5, ..at }.running(), Ok(None));
        for bad in [
            State { supervisor: Some(1000), ..at },
            State { supervisor: Some(2000), machine: 2000, ..at },
            State { virtual_supervisor: Some(5), ..at },
            State { pending: 1 << 9, ..at },
            State { alarm: Some((7, false)), ..at },
        ] {
            assert!(bad.running().is_err(), "{bad:?}");
        }
    }
}
