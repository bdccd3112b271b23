//! The digest of an instruction stream.
//!
//! For instructions i1, i2, ... it is D(n) = D(n-1) * M + mix(i_n) modulo 2^64, with D(0) = 0 and M odd. A run of
//! k instructions with digest H(k) of its own is appended in one step, D * M^k + H(k), so the value is the
//! same however the stream is cut into blocks.
//!
//! What stands for an instruction is [`identity`]: where in its page it lies, and its bytes. Its whole address would not
//! do. From QEMU 8.0 on a translated block holds for all virtual addresses of its physical page (`CF_PCREL`), and what a
//! plugin is told is the address through which the page was executed when the block was translated: another one in a run
//! that translates at other times, as a replay does that begins in the middle.

/// An odd multiplier with no short pattern (2^64 divided by the golden ratio).
const M: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads a value over 64 bits, so that neighbouring ones do not cancel (the finalizer of MurmurHash3).
fn mix(value: u64) -> u64 {
    let mut v = value;
    v ^= v >> 33;
    v = v.wrapping_mul(0xff51_afd7_ed55_8ccd);
    v ^= v >> 33;
    v = v.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    v ^ (v >> 33)
}

/// The bits of an address that are the same through all mappings of its page: pages have 1 KiB at the least.
const WITHIN: u64 = (1 << 10) - 1;

/// The pages that instructions are fetched from have 4 KiB on most targets: QEMU 7.2 is in doubt about the bytes behind
/// a page's end.
pub(crate) const PAGE: u64 = 1 << 12;

/// What stands for the instruction at `address` with these bytes.
#[must_use]
pub fn identity(address: u64, bytes: &[u8]) -> u64 {
    let in_page = usize::try_from(PAGE - address % PAGE).unwrap_or(usize::MAX);
    let bytes = &bytes[..bytes.len().min(in_page)];
    let begin = address & WITHIN | (bytes.len() as u64) << 10;
    bytes.chunks(8).fold(begin, |identity, piece| {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        mix(identity ^ u64::from_le_bytes(word).rotate_left(12))
    })
}

/// The digest `digest` of a stream, after one more instruction.
#[must_use]
pub fn append(digest: u64, identity: u64) -> u64 {
    digest.wrapping_mul(M).wrapping_add(mix(identity))
}

/// A run of instructions as one step on the digest of whatever stream it is appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    multiplier: u64,
    addend: u64,
}

impl Step {
    /// The step that instructions, executed in order, make together.
    #[must_use]
    pub fn over(identities: &[u64]) -> Self {
        let mut step = Step { multiplier: 1, addend: 0 };
        for &identity in identities {
            step.multiplier = step.multiplier.wrapping_mul(M);
            step.addend = append(step.addend, identity);
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

/// Powers of M up to four of QEMU's largest blocks, of 512 instructions.
const MOST: usize = 4 * 512;
static POWERS: [u64; MOST + 1] = {
    let mut powers = [1; MOST + 1];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = M.wrapping_mul(powers[exponent - 1]);
        exponent += 1;
    }
    powers
};

/// M to the power of `count`.
#[inline]
fn power(count: u64) -> u64 {
    let known = usize::try_from(count).ok().and_then(|count| POWERS.get(count));
    known.copied().unwrap_or_else(|| high_power(count))
}

#[cold]
fn high_power(count: u64) -> u64 {
    (0..count).fold(1, |power: u64, _| power.wrapping_mul(M))
}

/// The digest of a stream with digest `digest`, after a run with digest `run` by itself and so many instructions.
#[inline]
#[must_use]
pub(crate) fn after_one(digest: u64, run: u64, count: u64) -> u64 {
    digest.wrapping_mul(power(count)).wrapping_add(run)
}

/// The same after four runs: no product waits for that of the run before, as it would one by one.
#[inline]
#[must_use]
pub(crate) fn after_four(digest: u64, runs: [u64; 4], counts: [u64; 4]) -> u64 {
    let behind_b = counts[2] + counts[3];
    let behind_a = counts[1] + behind_b;
    let before = digest.wrapping_mul(power(counts[0] + behind_a));
    let a = runs[0].wrapping_mul(power(behind_a));
    let b = runs[1].wrapping_mul(power(behind_b));
    let c = runs[2].wrapping_mul(power(counts[3]));
    before.wrapping_add(a.wrapping_add(b)).wrapping_add(c.wrapping_add(runs[3]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one_by_one(addresses: &[u64]) -> u64 {
        addresses.iter().fold(0, |digest, &address| append(digest, address))
    }

    #[test]
    fn an_instruction_is_itself_through_every_mapping_of_its_page() {
        let here = identity(0xffff_ffff_a700_1ef0, &[0xc3]);
        assert_eq!(here, identity(0x0aa0_1ef0, &[0xc3]));
        for other in [
            identity(0xffff_ffff_a700_1ef1, &[0xc3]),
            identity(0xffff_ffff_a700_1ef0, &[0xc2]),
            identity(0xffff_ffff_a700_1ef0, &[0xc3, 0]),
            identity(0xffff_ffff_a700_1ef0, &[0xc3, 1]),
        ] {
            assert_ne!(here, other);
        }
        let long = |last| identity(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, last]);
        assert_ne!(long(10), long(11));
    }

    #[test]
    fn bytes_behind_the_end_of_a_page_do_not_count() {
        assert_eq!(identity(0x1ffe, &[1, 2, 3]), identity(0x1ffe, &[1, 2, 9, 9]));
        assert_ne!(identity(0x1ffd, &[1, 2, 3]), identity(0x1ffd, &[1, 2, 9]));
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
        fn four_runs_at_once_are_as_one_by_one(runs in prop::array::uniform4(prop::collection::vec(any::<u64>(), 0..600)),
                                               digest in any::<u64>()) {
            let known = runs.each_ref().map(|run| Step::over(run).after(0));
            let counts = runs.each_ref().map(|run| run.len() as u64);
            let one_by_one = runs.iter().fold(digest, |digest, run| Step::over(run).after(digest));
            prop_assert_eq!(after_four(digest, known, counts), one_by_one);
            let chained = known.iter().zip(counts).fold(digest, |digest, (&run, count)| after_one(digest, run, count));
            prop_assert_eq!(chained, one_by_one);
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
