//! Goes where another QEMU has died, to see at which icount that was.

use super::{Error, Seeker};
use crate::machine;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It died as well, when QEMU's count was this.
    Died { icount: u64 },
    /// It went on from where the other one was at its end.
    Passed { icount: u64 },
}

/// A fault in the middle of a block may be told as up to so many instructions further on: QEMU's longest block.
const BLOCK: u64 = 512;

/// So many steps behind the place it has gone on.
const BEYOND: u64 = 3;

impl Seeker<'_> {
    /// Goes where another QEMU died when `started` instructions had started, from a block's length before in single
    /// steps.
    ///
    /// # Errors
    /// Where it does not get there.
    pub fn go_where_it_died(&mut self, started: u64) -> Result<Again, Error> {
        self.to_position(started.saturating_sub(BLOCK))?;
        let mut passed = None;
        let mut beyond = 0;
        while beyond < BEYOND {
            let place = self.place()?;
            // QEMU counts an instruction while it executes it, but not one that faults.
            let faults = self.deliveries(place.icount)?.faults(self.faults);
            let next = place.icount + u64::from(!faults && place.position < started);
            if place.position >= started {
                beyond += 1;
                passed.get_or_insert(place.icount);
            }
            match self.step() {
                Err(Error::Machine(machine::Error::Died { .. })) => return Ok(Again::Died { icount: next }),
                stepped => stepped?,
            }
        }
        Ok(Again::Passed { icount: passed.unwrap_or_default() })
    }
}
