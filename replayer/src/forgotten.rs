//! What QEMU forgets of a machine when it restores a state, and how it is put right from outside: through the monitor
//! and the gdb stub of a QEMU that stands still.
//!
//! [`hpet`] is a PC's; [`riscv`] are the timers of a RISC-V machine, which can be put right at certain moments only.

pub mod hpet;
pub mod riscv;

/// Whether timers have to be armed again behind a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rearming {
    Never,
    /// Only a trial shows it, and `first` is the more likely.
    Perhaps {
        first: bool,
    },
    Always,
}
