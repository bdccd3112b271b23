//! What QEMU's own disassembler makes of instructions that only a sweep has seen: there it would cost time, so where texts are
//! wanted the builds are run once more.

use std::collections::HashMap;

use trace::message::{CHUNK, FromProbe, Look, Window};

use crate::comparator::{Pair, Side};
use crate::ride::Trouble;
use crate::zoom::{Again, start};

/// Texts of instructions, by address and bytes.
type Texts = HashMap<(u64, Vec<u8>), String>;

/// Gives the instructions of both sides' windows, which end in one chunk, their texts, as far as they can be had.
///
/// # Errors
/// Where somebody has interrupted.
pub(crate) fn fill(again: &Again, sides: &mut [&mut Vec<Window>]) -> Result<(), Trouble> {
    let chunk = sides.iter().filter_map(|windows| windows.last()).map(|window| window.first / CHUNK).max();
    let texts = match ask(again, chunk.unwrap_or(0)) {
        Ok(texts) => texts,
        Err(Trouble::Interrupted) => return Err(Trouble::Interrupted),
        Err(_) => return Ok(()),
    };
    for window in sides.iter_mut().flat_map(|windows| windows.iter_mut()) {
        for instruction in window.blocks.iter_mut().flatten() {
            if let Some(text) = texts.get(&(instruction.address, instruction.bytes.clone())) {
                instruction.text.clone_from(text);
            }
        }
    }
    Ok(())
}

/// The texts around chunk `chunk`, from each side that comes so far.
fn ask(again: &Again, chunk: u64) -> Result<Texts, Trouble> {
    let mut ride = start(again)?;
    let look = Look { texts: true, ..again.look.clone() };
    for side in [Side::A, Side::B] {
        ride.go(side, chunk + 1, 2, &look);
    }
    let mut there = Pair { a: false, b: false };
    while !(there.a && there.b) {
        match ride.next(again.request.interrupts) {
            Ok(Some((side, FromProbe::Chunk { index, .. }))) if index >= chunk => *there.get_mut(side) = true,
            Ok(Some((side, FromProbe::End { .. }))) | Err(Trouble::Died { side, .. }) => {
                *there.get_mut(side) = true;
            }
            Ok(_) => {}
            Err(trouble) => return Err(trouble),
        }
    }
    let mut texts = Texts::new();
    for side in [Side::A, Side::B] {
        for index in chunk.saturating_sub(1)..=chunk {
            // Who is gone can't be asked; the other has most of it.
            let Ok(window) = ride.window(side, index) else { continue };
            for instruction in window.blocks.into_iter().flatten() {
                texts.insert((instruction.address, instruction.bytes), instruction.text);
            }
        }
    }
    Ok(texts)
}
