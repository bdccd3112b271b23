//! What is run: code in pieces, and the registers and the memory that it starts from and ends with.
//!
//! Addresses are the same in a program for Linux and on a bare machine, so that code needs no change to be run on either.

/// Where a case's memory begins: counters of loops, a stack, and the arena that its code loads from and stores to.
pub const REGION: u64 = 0x0200_0a00;
pub const REGION_SIZE: usize = 0x800;
/// Counters of loops, eight bytes each: no other code comes to them.
pub const COUNTERS: u64 = REGION;
pub const COUNTER_COUNT: usize = 8;
/// What the stack pointer starts with.
pub const STACK: u64 = 0x0200_0c00;
/// The middle of the arena, where a page ends; it reaches so many bytes to either side.
pub const ARENA: u64 = 0x0200_1000;
pub const REACH: i64 = 512;

/// Numbers of registers in [`State::gpr`], as the processor encodes them.
pub const RSP: usize = 4;
pub const R15: usize = 15;
pub const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// The arithmetic flags, and the direction of string instructions.
pub const CF: u64 = 1;
pub const PF: u64 = 1 << 2;
pub const AF: u64 = 1 << 4;
pub const ZF: u64 = 1 << 6;
pub const SF: u64 = 1 << 7;
pub const DF: u64 = 1 << 10;
pub const OF: u64 = 1 << 11;
/// All that a case starts from and ends with.
pub const FLAGS: u64 = CF | PF | AF | ZF | SF | DF | OF;

/// `MXCSR` with all exceptions masked and nothing else.
pub const MXCSR: u32 = 0x1f80;
/// Its flags of exceptions that have come.
pub const MXCSR_FLAGS: u32 = 0x3f;

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub mxcsr: u32,
    /// `ymm0` and so on, of which `xmm0` is the lower half.
    pub vectors: [[u8; 32]; 16],
    pub mmx: [u64; 8],
}

pub(crate) const AT_RFLAGS: usize = 128;
pub(crate) const AT_MXCSR: usize = 136;
pub(crate) const AT_VECTORS: usize = 160;
pub(crate) const AT_MMX: usize = 672;
pub(crate) const STATE_SIZE: usize = 736;

impl Default for State {
    fn default() -> Self {
        let mut gpr = [0; 16];
        (gpr[RSP], gpr[R15]) = (STACK, ARENA);
        State { gpr, rflags: 0, mxcsr: MXCSR, vectors: [[0; 32]; 16], mmx: [0; 8] }
    }
}

impl State {
    /// As it lies in memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STATE_SIZE);
        for value in self.gpr {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(self.rflags.to_le_bytes());
        bytes.extend(self.mxcsr.to_le_bytes());
        bytes.resize(AT_VECTORS, 0);
        for vector in &self.vectors {
            bytes.extend(vector);
        }
        for value in self.mmx {
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    /// The same back; `None` where it is too short.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let mut state = State {
            rflags: number(AT_RFLAGS)?,
            mxcsr: u32::from_le_bytes(bytes.get(AT_MXCSR..AT_MXCSR + 4)?.try_into().ok()?),
            ..State::default()
        };
        for (at, value) in state.gpr.iter_mut().enumerate() {
            *value = number(at * 8)?;
        }
        for (at, vector) in state.vectors.iter_mut().enumerate() {
            *vector = bytes.get(AT_VECTORS + at * 32..AT_VECTORS + at * 32 + 32)?.try_into().ok()?;
        }
        for (at, value) in state.mmx.iter_mut().enumerate() {
            *value = number(AT_MMX + at * 8)?;
        }
        Some(state)
    }
}

/// Instructions that are left out together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which piece of the whole it was: what jumps name.
    pub id: usize,
    /// What is executed; a jump at its end has no displacement yet (`0f 8x` or `e9`).
    pub code: Vec<u8>,
    /// The piece to which that jumps: the first that is left from this one on, or the end.
    pub jump: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub pieces: Vec<Piece>,
    pub start: State,
    /// What lies at [`REGION`].
    pub memory: Vec<u8>,
}

/// What a case has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub state: State,
    pub memory: Vec<u8>,
}

/// As a program tells it.
pub(crate) const END_SIZE: usize = REGION_SIZE + STATE_SIZE;

impl End {
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (memory, state) = bytes.split_at_checked(REGION_SIZE)?;
        Some(End { state: State::from_bytes(state)?, memory: memory.to_vec() })
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [&*self.memory, &*self.state.bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_told_back_as_they_were() {
        let mut state = State { rflags: 0x8d5, mxcsr: 0x9f80, ..State::default() };
        for (at, value) in state.gpr.iter_mut().enumerate() {
            *value = 0x0101_0101_0101_0101 * at as u64;
        }
        state.vectors[15][31] = 7;
        state.mmx[7] = 9;
        let end = End { state, memory: (0..REGION_SIZE).map(|at| at.to_le_bytes()[0]).collect() };
        assert_eq!(end.bytes().len(), END_SIZE);
        assert_eq!(End::from_bytes(&end.bytes()), Some(end));
        assert_eq!(End::from_bytes(&[0; END_SIZE - 1]), None);
    }
}
