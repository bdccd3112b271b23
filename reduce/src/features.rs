//! Which of the processor's features code may use: those that both builds have, and the real processor here, because what
//! is found is checked on it.

use std::collections::BTreeSet;

use crate::case::{Case, Piece, REGION_SIZE, State};
use iced_x86::CpuidFeature;

/// A feature, and the bit of `cpuid` that tells it: number of the leaf in [`LEAVES`], register as the processor numbers it, bit.
struct Told {
    name: &'static str,
    feature: CpuidFeature,
    leaf: usize,
    register: usize,
    bit: u32,
}

const LEAVES: [(u32, u32); 3] = [(1, 0), (7, 0), (0x8000_0001, 0)];

const ECX: usize = 1;
const EDX: usize = 2;
const EBX: usize = 3;

const fn told(name: &'static str, feature: CpuidFeature, leaf: usize, register: usize, bit: u32) -> Told {
    Told { name, feature, leaf, register, bit }
}

const TOLD: [Told; 29] = [
    told("cx8", CpuidFeature::CX8, 0, EDX, 8),
    told("cmov", CpuidFeature::CMOV, 0, EDX, 15),
    told("mmx", CpuidFeature::MMX, 0, EDX, 23),
    told("sse", CpuidFeature::SSE, 0, EDX, 25),
    told("sse2", CpuidFeature::SSE2, 0, EDX, 26),
    told("sse3", CpuidFeature::SSE3, 0, ECX, 0),
    told("pclmulqdq", CpuidFeature::PCLMULQDQ, 0, ECX, 1),
    told("ssse3", CpuidFeature::SSSE3, 0, ECX, 9),
    told("fma", CpuidFeature::FMA, 0, ECX, 12),
    told("cx16", CpuidFeature::CMPXCHG16B, 0, ECX, 13),
    told("sse4.1", CpuidFeature::SSE4_1, 0, ECX, 19),
    told("sse4.2", CpuidFeature::SSE4_2, 0, ECX, 20),
    told("movbe", CpuidFeature::MOVBE, 0, ECX, 22),
    told("popcnt", CpuidFeature::POPCNT, 0, ECX, 23),
    told("aes", CpuidFeature::AES, 0, ECX, 25),
    told("avx", CpuidFeature::AVX, 0, ECX, 28),
    told("f16c", CpuidFeature::F16C, 0, ECX, 29),
    told("bmi1", CpuidFeature::BMI1, 1, EBX, 3),
    told("avx2", CpuidFeature::AVX2, 1, EBX, 5),
    told("bmi2", CpuidFeature::BMI2, 1, EBX, 8),
    told("adx", CpuidFeature::ADX, 1, EBX, 19),
    told("sha", CpuidFeature::SHA, 1, EBX, 29),
    told("gfni", CpuidFeature::GFNI, 1, ECX, 8),
    told("vaes", CpuidFeature::VAES, 1, ECX, 9),
    told("vpclmulqdq", CpuidFeature::VPCLMULQDQ, 1, ECX, 10),
    told("lzcnt", CpuidFeature::LZCNT, 2, ECX, 5),
    told("prefetchw", CpuidFeature::PREFETCHW, 2, ECX, 8),
    told("sse4a", CpuidFeature::SSE4A, 2, ECX, 6),
    told("x64", CpuidFeature::X64, 2, EDX, 29),
];

/// What each x86-64 has.
const ALWAYS: [CpuidFeature; 6] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::MULTIBYTENOP,
];

/// Features by their numbers in the table above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features(BTreeSet<usize>);

/// The names of all features that can be asked for.
#[must_use]
pub fn names() -> Vec<&'static str> {
    TOLD.iter().map(|told| told.name).collect()
}

impl Features {
    /// Code that asks the processor, a case for each leaf.
    #[must_use]
    pub fn asking() -> Vec<Case> {
        let ask = |&(leaf, sub): &(u32, u32)| {
            let cpuid = Piece { id: 0, code: vec![0x0f, 0xa2], jump: None };
            let mut start = State::default();
            (start.gpr[0], start.gpr[ECX]) = (leaf.into(), sub.into());
            Case { pieces: vec![cpuid], start, memory: vec![0; REGION_SIZE] }
        };
        LEAVES.iter().map(ask).collect()
    }

    /// Those that the processor has by what it answered.
    #[must_use]
    pub fn told(answers: &[State]) -> Self {
        let has = |told: &Told| {
            answers.get(told.leaf).is_some_and(|answer| answer.gpr[told.register] >> told.bit & 1 == 1)
        };
        Features((0..TOLD.len()).filter(|&number| has(&TOLD[number])).collect())
    }

    /// Those that the others have too.
    pub fn keep(&mut self, others: &Features) {
        self.0.retain(|feature| others.0.contains(feature));
    }

    /// Adds the one of this name; false where there is none.
    pub fn add(&mut self, name: &str) -> bool {
        let number = TOLD.iter().position(|told| told.name == name);
        number.is_some_and(|number| {
            self.0.insert(number);
            true
        })
    }

    #[must_use]
    pub fn has(&self, feature: CpuidFeature) -> bool {
        ALWAYS.contains(&feature) || self.0.iter().any(|&number| TOLD[number].feature == feature)
    }

    #[must_use]
    pub fn avx(&self) -> bool {
        self.has(CpuidFeature::AVX)
    }

    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|&number| TOLD[number].name).collect()
    }

    /// All there are, whoever has them.
    #[must_use]
    pub fn all() -> Self {
        Features((0..TOLD.len()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_what_all_have() {
        let mut answer = vec![State::default(); 3];
        answer[0].gpr[ECX] = 1 << 28;
        let mut first = Features::told(&answer);
        assert_eq!(first.names(), ["avx"]);
        assert!(first.avx() && first.has(CpuidFeature::INTEL386) && !first.has(CpuidFeature::AVX2));
        answer[0].gpr[ECX] = 1 << 29;
        first.keep(&Features::told(&answer));
        assert_eq!(first.names(), Vec::<&str>::new());
        assert!(first.add("bmi1") && !first.add("nothing"));
        assert_eq!(first.names(), ["bmi1"]);
    }
}
