//! Where the memory that a stretch of a guest touched lies in a case's.
//!
//! What lies close together stays so, and stays aligned as it was, so that one register can go on pointing into all of it.

use lockstep::excerpt::Moment;

use crate::case::{REGION, REGION_SIZE};

/// Before that are counters of loops, which code cut from a guest has not.
const FIRST: u64 = REGION + 64;
const END: u64 = REGION + REGION_SIZE as u64;
/// How far apart is no more close together, and what all stays aligned to, bytes.
const CLOSE: u64 = 64;

/// A stretch of the guest's memory, and where it begins in the case's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    from: u64,
    to: u64,
    at: u64,
}

/// Where all of it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places(Vec<Stretch>);

impl Places {
    /// For what `moments` touched; `None` where that has no room.
    pub(super) fn of(moments: &[Moment]) -> Option<Self> {
        let mut touched: Vec<_> = moments
            .iter()
            .flat_map(|moment| &moment.accesses)
            .map(|access| (access.address, access.address.saturating_add(access.size.into())))
            .collect();
        touched.sort_unstable();
        let mut stretches: Vec<Stretch> = Vec::new();
        for (from, to) in touched {
            match stretches.last_mut() {
                Some(last) if from <= last.to.saturating_add(CLOSE) => last.to = last.to.max(to),
                _ => stretches.push(Stretch { from, to, at: 0 }),
            }
        }
        let mut at = FIRST;
        for stretch in &mut stretches {
            stretch.at = at + (stretch.from.wrapping_sub(at)) % CLOSE;
            at = stretch.at.checked_add(stretch.to - stretch.from)?;
        }
        (at <= END).then_some(Places(stretches))
    }

    /// What is added to an address in the stretch that `address` is in, or that is the nearest.
    pub(super) fn shift(&self, address: u64) -> Option<u64> {
        let distance = |stretch: &&Stretch| {
            if (stretch.from..stretch.to).contains(&address) {
                0
            } else {
                stretch.from.abs_diff(address).min(stretch.to.abs_diff(address))
            }
        };
        self.0.iter().min_by_key(distance).map(|stretch| stretch.at.wrapping_sub(stretch.from))
    }

    /// What the case's memory begins with: all that `moments` read before they wrote it. Those that are not `taken` along write
    /// nothing.
    pub(super) fn memory(&self, moments: &[Moment], taken: &[bool]) -> Vec<u8> {
        let mut memory = vec![0; REGION_SIZE];
        let mut known = [false; REGION_SIZE];
        let accesses = moments.iter().zip(taken).flat_map(|(moment, taken)| {
            moment.accesses.iter().filter(move |access| *taken || !access.is_store)
        });
        for access in accesses {
            let Some(shift) = self.shift(access.address) else { continue };
            let begins = access.address.wrapping_add(shift).wrapping_sub(REGION);
            let bytes = access.value.to_le_bytes();
            for (number, &byte) in bytes.iter().enumerate().take(access.size.into()) {
                let Ok(at) = usize::try_from(begins + number as u64) else { continue };
                if let (Some(known), Some(place)) = (known.get_mut(at), memory.get_mut(at))
                    && !*known
                {
                    *known = true;
                    if !access.is_store {
                        *place = byte;
                    }
                }
            }
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::message::Accessed;

    fn moment(accesses: &[(u64, u8, bool, u64)]) -> Moment {
        let access =
            |&(address, size, is_store, value)| Accessed { position: 0, address, size, is_store, value };
        Moment {
            position: 0,
            address: 0x1000,
            bytes: vec![0x90],
            begins: true,
            registers: Vec::new(),
            accesses: accesses.iter().map(access).collect(),
        }
    }

    #[test]
    fn what_lies_together_stays_together() {
        let moments = [
            moment(&[(0xffff_ffff_8100_0010, 8, false, 0x1122_3344_5566_7788)]),
            moment(&[(0x7000, 4, true, 5), (0xffff_ffff_8100_0038, 1, false, 9)]),
            moment(&[(0x7002, 4, false, 0xdddd_cccc)]),
        ];
        let places = Places::of(&moments).unwrap();
        let moved = |address: u64| address.wrapping_add(places.shift(address).unwrap());
        assert_eq!(moved(0xffff_ffff_8100_0038) - moved(0xffff_ffff_8100_0010), 0x28);
        assert_eq!((moved(0x7000) % 64, moved(0xffff_ffff_8100_0010) % 64), (0, 0x10));
        let memory = places.memory(&moments, &[true; 3]);
        let at = |address| usize::try_from(moved(address) - REGION).unwrap();
        assert_eq!(memory[at(0xffff_ffff_8100_0010)], 0x88);
        assert_eq!(memory[at(0xffff_ffff_8100_0038)], 9);
        assert_eq!(
            memory[at(0x7000)..][..6],
            [0, 0, 0, 0, 0xdd, 0xdd],
            "what was written is not there before"
        );
        let memory = places.memory(&moments, &[true, false, true]);
        assert_eq!(memory[at(0x7000)..][..6], [0, 0, 0xcc, 0xcc, 0xdd, 0xdd], "and else it is");
    }

    #[test]
    fn too_much_has_no_room() {
        let many: Vec<_> = (0..40).map(|page| moment(&[(page * 4096 + 63, 8, false, 1)])).collect();
        assert!(Places::of(&many[..20]).is_some());
        assert!(Places::of(&many).is_none());
        assert!(Places::of(&[moment(&[(u64::MAX, 8, false, 1)])]).is_some(), "the end of all memory");
        assert!(Places::of(&[]).unwrap().shift(5).is_none());
    }
}
