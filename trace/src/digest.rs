//! The digest of an instruction stream.
//!
//! For addresses p1, p2, ... it is D(n) = D(n-1) * M + mix(p_n) modulo 2^64, with D(0) = 0 and M odd. A run of
//! k instructions with digest H(k) of its own is appended in one step, D * M^k + H(k), so the value is the
//! same however the stream is cut into blocks.

/// An odd multiplier with no short pattern (2^64 divided by the golden ratio).
const M: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads an address over 64 bits, so that neighbouring addresses do not cancel (the finalizer of MurmurHash3).
fn mix(address: u64) -> u64 {
    let mut v = address;
    v ^= v >> 33;
    v = v.wrapping_mul(0xff51_afd7_ed55_8ccd);
    v ^= v >> 33;
    v = v.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    v ^ (v >> 33)
}

/// The digest `digest` of a stream, after one more instruction at `address`.
#[must_use]
pub fn append(digest: u64, address: u64) -> u64 {
    digest.wrapping_mul(M).wrapping_add(mix(address))
}

/// A run of instructions as one step on the digest of whatever stream it is appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    multiplier: u64,
    addend: u64,
}

impl Step {
    /// The step that `addresses`, executed in order, make together.
    #[must_use]
    pub fn over(addresses: &[u64]) -> Self {
        let mut step = Step { multiplier: 1, addend: 0 };
        for &address in addresses {
            step.multiplier = step.multiplier.wrapping_mul(M);
            step.addend = append(step.addend, address);
        }
        step
    }

    /// The digest of a stream with digest `digest`, after this run.
    #[inline]
    #[must_use]
    pub fn after(self, digest: u64) -> u64 {
        digest.wrapping_mul(self.multiplier).wrapping_add(self.addend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one_by_one(addresses: &[u64]) -> u64 {
        addresses.iter().fold(0, |digest, &address| append(digest, address))
    }

    proptest! {
        #[test]
        fn any_cutting_gives_one_digest(addresses in prop::collection::vec(any::<u64>(), 0..200),
                                        cuts in prop::collection::vec(1usize..20, 0..100)) {
            let mut digest = 0;
            let mut rest = &addresses[..];
            for cut in cuts.into_iter().chain(std::iter::repeat(7)) {
                if rest.is_empty() { break; }
                let (run, after) = rest.split_at(cut.min(rest.len()));
                digest = Step::over(run).after(digest);
                rest = after;
            }
            prop_assert_eq!(digest, one_by_one(&addresses));
        }

        #[test]
        fn one_other_address_gives_another_digest(addresses in prop::collection::vec(any::<u64>(), 1..200),
                                                  place in any::<prop::sample::Index>(), other in any::<u64>()) {
            let mut changed = addresses.clone();
            let place = place.index(changed.len());
            prop_assume!(changed[place] != other);
            changed[place] = other;
            prop_assert_ne!(one_by_one(&changed), one_by_one(&addresses));
        }

        #[test]
        fn a_swap_gives_another_digest(mut addresses in prop::collection::vec(any::<u64>(), 2..200),
                                       a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let (a, b) = (a.index(addresses.len()), b.index(addresses.len()));
            prop_assume!(addresses[a] != addresses[b]);
            let before = one_by_one(&addresses);
            addresses.swap(a, b);
            prop_assert_ne!(one_by_one(&addresses), before);
        }
    }
}
