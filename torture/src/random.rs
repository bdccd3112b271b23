//! Random numbers that are the same for one seed, whatever the release of any library: a seed names a sequence for good.
//! (xoshiro256**, seeded by splitmix64; D. Blackman and S. Vigna, public domain.)

#[derive(Debug, Clone)]
pub struct Random([u64; 4]);

fn split(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl Random {
    /// The stream number `number` of `seed`.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        let mut state = seed;
        let mut state = split(&mut state) ^ number.wrapping_mul(0xd134_2543_de82_ef95);
        Random(std::array::from_fn(|_| split(&mut state)))
    }

    pub fn word(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    pub fn byte(&mut self) -> u8 {
        self.word().to_le_bytes()[7]
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from((u128::from(self.word()) * end as u128) >> 64).unwrap_or_default()
    }

    /// From `from` to `to`, both included.
    pub fn between(&mut self, from: i64, to: i64) -> i64 {
        let span = usize::try_from(to - from + 1).unwrap_or(1);
        from + i64::try_from(self.below(span)).unwrap_or_default()
    }

    /// True so many times of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_stream_for_good() {
        let first = |seed, number| Random::new(seed, number).word();
        assert_eq!(first(1, 0), 17_154_914_556_750_032_435);
        assert_ne!(first(1, 0), first(1, 1));
        assert_ne!(first(1, 0), first(2, 0));
    }

    #[test]
    fn all_numbers_of_a_range_come() {
        let mut random = Random::new(7, 7);
        let mut seen = [0; 6];
        for _ in 0..600 {
            seen[random.below(6)] += 1;
            assert!((-3..=3).contains(&random.between(-3, 3)));
        }
        assert!(seen.iter().all(|&times| times > 50), "{seen:?}");
    }
}
