//! A guest's registers as QEMU tells them to gdb, by their names there (gdb-xml/i386-64bit*.xml of QEMU 10.0).

use iced_x86::Register;
use lockstep::excerpt::Moment;

use crate::case::{GPR_NAMES, MXCSR, State};

/// The registers before a moment.
#[derive(Clone, Copy)]
pub(super) struct Registers<'e> {
    pub names: &'e [String],
    /// What the code is: 16, 32 or 64 bit.
    pub bits: u32,
    pub moment: &'e Moment,
}

impl Registers<'_> {
    fn bytes(&self, name: &str) -> &[u8] {
        let number = self.names.iter().position(|known| known == name);
        number.and_then(|number| self.moment.registers.get(number)).map_or(&[], |bytes| &**bytes)
    }

    fn number(&self, name: &str) -> u64 {
        self.bytes(name).iter().take(8).rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    /// A general register, by its number.
    pub(super) fn general(&self, number: usize) -> u64 {
        self.number(GPR_NAMES[number])
    }

    /// What an address is made of; of segments their bases.
    pub(super) fn of(&self, register: Register) -> Option<u64> {
        match register {
            Register::FS => Some(self.number("fs_base")),
            Register::GS => Some(self.number("gs_base")),
            // Of 16-bit code, which is in real mode more often than not.
            Register::ES | Register::CS | Register::SS | Register::DS if self.bits == 16 => {
                Some(self.number(&format!("{register:?}").to_lowercase()) << 4)
            }
            Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
            _ => {
                let whole = self.general(general(register)?);
                Some(match register.size() {
                    2 => whole & u64::from(u16::MAX),
                    4 => whole & u64::from(u32::MAX),
                    _ => whole,
                })
            }
        }
    }

    /// As a case's start. Flags are not told; and of vectors the lower halves only.
    pub(super) fn state(&self, rflags: u64) -> State {
        let mut state = State { rflags, ..State::default() };
        for (number, value) in state.gpr.iter_mut().enumerate() {
            *value = self.general(number);
        }
        for (number, vector) in state.vectors.iter_mut().enumerate() {
            let bytes = self.bytes(&format!("xmm{number}"));
            if let Some(lower) = bytes.get(..16) {
                vector[..16].copy_from_slice(lower);
            }
        }
        // Where the stack of the floating-point registers begins: bits 11 to 13 of its status.
        let top = self.number("fstat") >> 11 & 7;
        for (number, value) in state.mmx.iter_mut().enumerate() {
            *value = self.number(&format!("st{}", (number as u64).wrapping_sub(top) & 7));
        }
        state.mxcsr = u32::try_from(self.number("mxcsr")).unwrap_or(MXCSR);
        state
    }
}

/// The number of the general register that `register` is, or is a part of.
pub(super) fn general(register: Register) -> Option<usize> {
    let full = register.full_register();
    let number = (full as usize).checked_sub(Register::RAX as usize)?;
    (full.is_gpr64() && number < 16).then_some(number)
}
