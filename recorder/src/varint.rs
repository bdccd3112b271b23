//! Numbers of few bytes: seven bits a byte, the lowest first, the high bit set on all but the last (LEB128); a
//! signed number folded so that small ones of either sign stay small (zigzag).

#[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
pub(crate) fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// A signed number folded.
pub(crate) fn fold(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

pub(crate) fn unfold(folded: u64) -> i64 {
    (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed()
}

pub(crate) fn put_signed(to: &mut Vec<u8>, number: i64) {
    put(to, fold(number));
}

/// Takes a number off the front of `from`; `None` where there is no whole one, or one of more than 64 bits.
pub(crate) fn get(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        if shift == 63 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

pub(crate) fn get_signed(from: &mut &[u8]) -> Option<i64> {
    get(from).map(unfold)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{get, get_signed, put, put_signed};

    proptest! {
        #[test]
        fn what_was_put_is_got(number in any::<u64>(), shift in 0u32..64, signed in any::<i64>()) {
            let mut bytes = Vec::new();
            put(&mut bytes, number >> shift);
            put_signed(&mut bytes, signed >> shift);
            let mut rest = &bytes[..];
            prop_assert_eq!(get(&mut rest), Some(number >> shift));
            prop_assert_eq!(get_signed(&mut rest), Some(signed >> shift));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn ends_and_overflows_are_noticed() {
        assert_eq!(get(&mut &[][..]), None);
        assert_eq!(get(&mut &[0x80][..]), None);
        assert_eq!(get(&mut &[0xff; 9][..]), None);
        assert_eq!(get(&mut &[&[0xff; 9][..], &[1]].concat()[..]), Some(u64::MAX));
        assert_eq!(get(&mut &[&[0xff; 9][..], &[2]].concat()[..]), None);
    }
}
