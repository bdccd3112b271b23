//! What QEMU forgets of a PC's HPET when it restores a state.
//!
//! From 9.x on a periodic timer is not armed less than a microsecond behind the time for which it was armed last
//! (`hpet_arm` in hw/timer/hpet.c), and under icount it runs at exactly that time, finds the period not over, and is armed
//! again: so each tick comes twice, a microsecond apart. The time of the last arming is not in the state that is kept, so
//! the first tick behind a restore comes twice at one time, and the replay, whose log has it later, stands still
//! (upstream issue 2634; on 11.1.3 those states of a boot that were tried came through without help, too). Writing a
//! timer's configuration anew, as it is, arms it and sets what was forgotten.

use qemu::stub::{self, Stub, from_hex, to_hex};

/// Where the timers' configurations lie in a PC's physical memory, bytes, and how far apart.
const TIMERS: u64 = 0xfed0_0100;
const APART: u64 = 0x20;

/// The least number of timers that there are; QEMU has three.
const COUNT: u64 = 3;

/// The plugin API's version in the first QEMU that may forget: 9.1's.
pub const FORGETS_FROM: i32 = 3;

/// In a configuration: the timer is periodic.
const PERIODIC: u8 = 1 << 3;

/// Arms the periodic timers anew, with the guest's physical memory written through the gdb stub.
pub fn rearm(stub: &mut Stub) -> Result<(), stub::Error> {
    stub.order("Qqemu.PhyMemMode:1")?;
    for address in (0..COUNT).map(|timer| TIMERS + APART * timer) {
        let configuration = stub.ask(&format!("m{address:x},4"))?;
        if let Some(bytes) = from_hex(&configuration)
            && bytes.first().is_some_and(|byte| byte & PERIODIC != 0)
        {
            stub.order(&format!("M{address:x},4:{}", to_hex(&bytes)))?;
        }
    }
    stub.order("Qqemu.PhyMemMode:0")
}
