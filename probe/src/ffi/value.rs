//! The value of an access, read where QEMU keeps it.
//!
//! QEMU puts the value into the state of the vCPU before it tells of an access, and `qemu_plugin_mem_get_value` copies it from
//! there, in pieces that the processor has to wait for: an eighth of a ride that compares stores (10.0.2). Where in the state it
//! stands is another place in each build. So QEMU's function is asked at first, and the state searched for what it said; the
//! one place that has it each time is read from then on, and QEMU asked again now and then: should it ever say something else
//! the probe fails.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use super::memory::Value;
use super::{HOT, guarded};
use crate::session::Trouble;

/// How much is searched from the beginning of a vCPU's state on, bytes: more than `CPUState` has, at whose end the values stand
/// (include/hw/core/cpu.h of 10.0), so that the right place is among those that are found.
const SEARCHED: usize = 256 << 10;
/// How many values that tell something the place has to have had.
const ROUNDS: u32 = 512;
/// How many values are read between two for which QEMU is asked.
const BETWEEN: u32 = 4095;

/// Where the value of the last access stands.
pub(super) struct Place {
    /// Null where it is not known.
    at: *const u64,
    /// How many more are read before QEMU is asked.
    left: u32,
    search: Search,
}

enum Search {
    Begins,
    /// The places that have had each value up to now.
    Goes {
        places: Vec<*const u64>,
        rounds: u32,
        last: u64,
    },
    Over,
}

impl Place {
    pub(super) const UNKNOWN: Self = Place { at: std::ptr::null(), left: 0, search: Search::Begins };

    /// It is asked for each time from now on.
    pub(super) fn forget(&mut self) {
        *self = Place { search: Search::Over, ..Place::UNKNOWN };
    }

    /// The value of the access that is just told, where its place is known and QEMU need not be asked.
    #[inline]
    pub(super) fn read(&mut self) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        // SAFETY: `left` is set where `at` points into the state of the vCPU that is there as long as QEMU runs.
        Some(unsafe { self.at.read_volatile() })
    }

    /// QEMU has said that the value is this, of which the bits `kept` count; `state` is that of the vCPU that executes, 0 where it is
    /// not known.
    #[inline(never)]
    pub(super) fn told(&mut self, said: u64, kept: u64, state: usize) -> Result<(), Trouble> {
        if !self.at.is_null() {
            // SAFETY: as in `read`.
            if (unsafe { self.at.read_volatile() } ^ said) & kept != 0 {
                return Err(Trouble::Protocol(
                    "QEMU keeps the values of accesses in another place than before",
                ));
            }
            self.left = BETWEEN;
            return Ok(());
        }
        // One that has few digits stands in many places.
        if kept != u64::MAX || said >> 32 == 0 {
            return Ok(());
        }
        match &mut self.search {
            Search::Over => {}
            Search::Begins if state == 0 => self.search = Search::Over,
            Search::Begins => {
                self.search = Search::Goes { places: places(state, said), rounds: 1, last: said };
            }
            Search::Goes { last, .. } if *last == said => {}
            Search::Goes { places, rounds, last } => {
                // SAFETY: these could be read, and are in the state of a vCPU that is still there.
                places.retain(|place| unsafe { place.read_volatile() } == said);
                (*rounds, *last) = (*rounds + 1, said);
                match places[..] {
                    [] => self.search = Search::Over,
                    [place] if *rounds >= ROUNDS => {
                        (self.at, self.left, self.search) = (place, BETWEEN, Search::Over)
                    }
                    _ if *rounds >= 2 * ROUNDS => self.search = Search::Over,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Where in the state of a vCPU this value stands.
fn places(state: usize, value: u64) -> Vec<*const u64> {
    let mut words = vec![MaybeUninit::<u64>::uninit(); SEARCHED / size_of::<u64>()];
    let begin = std::ptr::with_exposed_provenance::<u64>(state);
    let into = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: SEARCHED };
    let from = libc::iovec { iov_base: begin.cast_mut().cast::<c_void>(), iov_len: SEARCHED };
    // SAFETY: the kernel writes to `words` at the most, and says where it may not read.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const into, 1, &raw const from, 1, 0) };
    let read = usize::try_from(read).unwrap_or(0) / size_of::<u64>();
    // SAFETY: so many words were written.
    let has = |&number: &usize| unsafe { words[number].assume_init() } == value;
    (0..read).filter(has).map(|number| begin.wrapping_add(number)).collect()
}

/// What QEMU says of an access of which the bits `kept` count, with the place of its value found out or looked at by that.
#[inline(never)]
pub(super) fn asked(info: u32, kept: u64) -> u64 {
    // SAFETY: one user at a time; see the module's invariants.
    let hot = unsafe { &mut *HOT.0.get() };
    let Value { low, .. } = (hot.telling.value)(info);
    if let Err(trouble) = hot.place.told(low, kept, hot.turn) {
        guarded(|_, _| Err(trouble));
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vCPU's state in which values stand in one place, and what else one has it.
    struct State(Vec<u64>);

    const PLACE: usize = 1234;

    impl State {
        fn new() -> Self {
            State(vec![0; SEARCHED / size_of::<u64>()])
        }

        fn at(&self) -> usize {
            self.0.as_ptr().expose_provenance()
        }

        /// An access with this value, which QEMU is asked for.
        fn told(&mut self, place: &mut Place, value: u64) -> Result<(), Trouble> {
            self.0[PLACE] = value;
            place.told(value, u64::MAX, self.at())
        }
    }

    fn value(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn the_place_that_has_each_value_is_read() {
        let (mut state, mut place) = (State::new(), Place::UNKNOWN);
        // What has them for a while only, as a register that is stored again and again.
        for number in 0..300 {
            state.0[77] = value(number);
            state.told(&mut place, value(number)).unwrap();
        }
        for number in 300..u64::from(ROUNDS) {
            assert_eq!(place.read(), None);
            state.told(&mut place, value(number)).unwrap();
            // Twice the same says nothing, and neither do few digits.
            state.told(&mut place, value(number)).unwrap();
            state.told(&mut place, 5).unwrap();
        }
        assert_eq!(place.at, state.0[PLACE..].as_ptr());
        for number in 0..u64::from(BETWEEN) {
            state.0[PLACE] = number;
            assert_eq!(place.read(), Some(number));
        }
        assert_eq!(place.read(), None, "QEMU is asked now and then");
        state.told(&mut place, 7).unwrap();
        assert_eq!(place.read(), Some(7));
        // Of one byte no more counts.
        place.told(0x107, 0xff, state.at()).unwrap();
        assert!(place.told(8, u64::MAX, state.at()).is_err());
    }

    #[test]
    fn where_two_places_have_each_value_or_none_has_qemu_is_asked() {
        let (mut state, mut place) = (State::new(), Place::UNKNOWN);
        for number in 0..3 * u64::from(ROUNDS) {
            state.0[77] = value(number);
            state.told(&mut place, value(number)).unwrap();
            assert_eq!(place.read(), None);
        }
        assert!(matches!(place.search, Search::Over));
        let mut place = Place::UNKNOWN;
        for number in 0..2 * u64::from(ROUNDS) {
            place.told(value(number), u64::MAX, state.at()).unwrap();
            assert_eq!(place.read(), None);
        }
        assert!(matches!(place.search, Search::Over));
        place = Place::UNKNOWN;
        place.told(value(1), u64::MAX, 0).unwrap();
        assert!(matches!(place.search, Search::Over), "no vCPU's state is known");
    }
}
