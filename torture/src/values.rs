//! Values that code begins with: many at which arithmetic has an edge.

use crate::random::Random;

const EDGES: [u64; 24] = [
    0,
    1,
    2,
    3,
    7,
    8,
    0x0f,
    0x10,
    0x1f,
    0x20,
    0x3f,
    0x40,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

const SINGLES: [u32; 20] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0000,
    0x7f80_0001,
    0xff81_2345,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x4f00_0000,
    0xcf00_0000,
    0x4effffff,
    0x3f00_0000,
    0x5f00_0000,
];

const DOUBLES: [u64; 20] = [
    0,
    0x8000_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0xfff8_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0xfff0_1234_5678_9abc,
    0x0000_0000_0000_0001,
    0x8000_0000_0000_0001,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x41e0_0000_0000_0000,
    0xc1e0_0000_0000_0000,
    0x43e0_0000_0000_0000,
    0x3fe0_0000_0000_0000,
    0x47ef_ffff_f000_0000,
];

/// An integer.
pub fn integer(random: &mut Random) -> u64 {
    match random.below(8) {
        0 | 1 => random.word(),
        2 => random.word() >> random.below(64),
        3 => (random.word() >> random.below(64)).wrapping_neg(),
        4 => random.pick(&EDGES).wrapping_neg(),
        5 => 1 << random.below(64),
        _ => random.pick(&EDGES),
    }
}

fn single(random: &mut Random) -> u32 {
    let bits = |random: &mut Random| u32::try_from(random.word() >> 32).unwrap_or_default();
    match random.below(4) {
        0 => random.pick(&SINGLES),
        1 => bits(random),
        // Near one, where results are neither lost nor infinite.
        2 => bits(random) & 0x81ff_ffff | 0x3e00_0000,
        _ => f32::from(i16::from_le_bytes([random.byte(), random.byte()])).to_bits(),
    }
}

fn double(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.pick(&DOUBLES),
        1 => random.word(),
        2 => random.word() & 0x801f_ffff_ffff_ffff | 0x3fe0_0000_0000_0000,
        _ => f64::from(i16::from_le_bytes([random.byte(), random.byte()])).to_bits(),
    }
}

/// So many bytes, a multiple of eight: numbers of one kind or another.
pub fn bytes(random: &mut Random, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    let mut kind = 0;
    while bytes.len() < length {
        // Neighbours are mostly of one kind.
        if bytes.len() % 32 == 0 {
            kind = random.below(4);
        }
        let word = match kind {
            0 => integer(random),
            1 => u64::from(single(random)) << 32 | u64::from(single(random)),
            2 => double(random),
            _ => random.word(),
        };
        bytes.extend(word.to_le_bytes());
    }
    bytes
}
