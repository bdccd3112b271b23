//! Cases in a program, one behind another, as they lie in memory.

use crate::case::{Case, END_SIZE, End, FLAGS};
use crate::flags::{Unfit, undefined};
use crate::runtime::{ENTRY, assemble};
use std::collections::HashMap;

/// Where a program begins, and where a case goes on at its end.
pub const CODE: u64 = 0x0040_0000;
pub(crate) const FINISH: u64 = CODE + 16;
/// Where the first case's code is.
const CASES: u64 = CODE + 0x1_0000;

/// What a program runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    Linux,
    Machine,
}

/// What a program tells of its cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// Nothing: who looks at it from outside sees what it does.
    Nothing,
    /// Of each eight bytes, made of all that it has come to.
    Numbers,
    /// All that each has come to.
    Ends,
    /// Of one case, by its exit status, whether it has come to what is expected.
    Whether,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub runs: Where,
    pub tells: Tells,
    /// Whether the processor has AVX.
    pub avx: bool,
    /// Which bits of `MXCSR` count.
    pub mxcsr_mask: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("case {0}: {1}")]
    Unfit(usize, Unfit),
    #[error("the code around cases can't be assembled: {0}")]
    Assembler(#[from] iced_x86::IcedError),
    #[error("so many cases have no room: {0} bytes")]
    TooLarge(usize),
}

/// A program as it lies in memory from [`CODE`] on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub setting: Setting,
    pub bytes: Vec<u8>,
    /// Where each case's code begins, and where the last one's ends.
    pub places: Vec<u64>,
    /// Of one that tells nothing: how many instructions are executed, at least, where all cases have run; where one has ended
    /// the run there are fewer.
    pub least: u64,
}

/// What a program may have, bytes: on a machine it lies below where its devices are, twice.
const ROOM: usize = 14 << 20;

/// The code of `case` with its jumps, to lie at `address`. It ends with one to where it is taken down.
fn laid(case: &Case, address: u64) -> Vec<u8> {
    let mut code = Vec::new();
    let (mut begins, mut jumps) = (Vec::new(), Vec::new());
    for piece in &case.pieces {
        begins.push(code.len());
        code.extend(&piece.code);
        if let Some(target) = piece.jump {
            jumps.push((code.len(), target));
            code.extend([0; 4]);
        }
    }
    let end = code.len();
    for (from, target) in jumps {
        let piece = case.pieces.iter().position(|piece| piece.id >= target);
        let to = piece.map_or(end, |piece| begins[piece]);
        let by = i32::try_from(to).unwrap_or_default() - i32::try_from(from + 4).unwrap_or_default();
        code[from..from + 4].copy_from_slice(&by.to_le_bytes());
    }
    code.push(0xe9);
    let next = address + code.len() as u64 + 4;
    let back = FINISH.wrapping_sub(next);
    code.extend(&back.to_le_bytes()[..4]);
    code
}

/// How long the code of `case` is, without the jump at its end.
pub(crate) fn code_length(case: &Case) -> usize {
    case.pieces.iter().map(|piece| piece.code.len() + if piece.jump.is_some() { 4 } else { 0 }).sum()
}

/// Which flags count at the end of `case`.
///
/// # Errors
/// Where it reads undefined ones.
pub fn flags_that_count(case: &Case) -> Result<u64, Unfit> {
    Ok(FLAGS & !undefined(&case.pieces)?)
}

impl Image {
    /// Puts `cases` into a program.
    ///
    /// # Errors
    /// Where one of them is unfit, or there are too many.
    pub fn new(setting: Setting, cases: &[Case]) -> Result<Self, Error> {
        Image::with(setting, cases, None)
    }

    /// A program of one case, that ends with status 0 where it comes to `expected`, and with 1 elsewhere.
    ///
    /// # Errors
    /// As [`Image::new`].
    pub fn checking(setting: Setting, case: &Case, expected: &End) -> Result<Self, Error> {
        let setting = Setting { tells: Tells::Whether, runs: Where::Linux, ..setting };
        Image::with(setting, std::slice::from_ref(case), Some(expected))
    }

    fn with(setting: Setting, cases: &[Case], expected: Option<&End>) -> Result<Self, Error> {
        let head = usize::try_from(CASES - CODE).unwrap_or_default();
        let mut bytes = vec![0; head];
        let mut places = Vec::with_capacity(cases.len() + 1);
        for case in cases {
            let address = CODE + bytes.len() as u64;
            places.push(address);
            bytes.extend(laid(case, address));
        }
        places.push(CODE + bytes.len() as u64);
        bytes.resize(bytes.len().next_multiple_of(4096), 0xcc);
        let table = CODE + bytes.len() as u64;
        let mut entries = Vec::with_capacity(cases.len() * ENTRY);
        let mut data = Vec::new();
        let base = table + (cases.len() * ENTRY) as u64;
        // Many cases begin with the same memory.
        let mut known: HashMap<&[u8], u64> = HashMap::new();
        for (number, case) in cases.iter().enumerate() {
            let mask = flags_that_count(case).map_err(|why| Error::Unfit(number, why))?;
            let state = base + data.len() as u64;
            data.extend(case.start.bytes());
            let memory = *known.entry(&case.memory).or_insert_with(|| {
                let place = base + data.len() as u64;
                data.extend(&case.memory);
                place
            });
            for word in [places[number], state, memory, mask] {
                entries.extend(word.to_le_bytes());
            }
        }
        let expected_at = base + data.len() as u64;
        let expected = expected.map(|end| {
            data.extend(end.bytes());
            debug_assert_eq!(end.bytes().len(), END_SIZE);
            expected_at
        });
        bytes.extend(entries);
        bytes.extend(data);
        if bytes.len() > ROOM {
            return Err(Error::TooLarge(bytes.len()));
        }
        let runtime = assemble(&setting, table, cases.len(), expected)?;
        if runtime.bytes.len() > head {
            return Err(Error::TooLarge(runtime.bytes.len()));
        }
        bytes[..runtime.bytes.len()].copy_from_slice(&runtime.bytes);
        Ok(Image { setting, bytes, places, least: runtime.least })
    }

    /// The case that the code at `address` is of.
    #[must_use]
    pub fn case_at(&self, address: u64) -> Option<usize> {
        let after = self.places.partition_point(|&place| place <= address);
        after.checked_sub(1).filter(|_| after < self.places.len())
    }
}
