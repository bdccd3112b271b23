//! Real logs of QEMU, as they are, cut short, damaged, and in pieces.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use recorder::log::{Cause, Decoder, Event, HEADER, Malformed, Totals, Version};

/// SeaBIOS on QEMU 7.2.22 and 10.0.2, until it resets the machine.
const LOGS: [(&[u8], u64, u64); 2] = [
    (include_bytes!("logs/qemu-7.2-seabios.log"), 6_379_395, 523),
    (include_bytes!("logs/qemu-10.0-seabios.log"), 6_398_198, 520),
];

fn read(pieces: impl Iterator<Item = Vec<u8>>) -> Result<(Vec<u8>, Totals), Malformed> {
    let mut decoder = Decoder::new(Version::E0200c);
    let mut all = Vec::new();
    for piece in pieces {
        all.extend(decoder.take(&piece)?);
    }
    Ok((all, decoder.totals))
}

#[test]
fn a_whole_log_is_read_to_its_last_event() {
    for (log, icount, events) in LOGS {
        let word = u32::from_be_bytes(*log.first_chunk().unwrap());
        assert_eq!(Version::of(word), Some(Version::E0200c));
        assert_eq!(log[..HEADER], Version::E0200c.header());
        let (all, totals) = read(std::iter::once(log[HEADER..].to_vec())).unwrap();
        assert_eq!(all, log[HEADER..], "what is kept is what QEMU wrote, byte for byte");
        assert_eq!((totals.icount, totals.events, totals.ended), (icount, events, true));
        assert_eq!(totals.shutdown.unwrap().cause, Cause(4));
        assert!(totals.unrequested());
    }
}

#[test]
fn every_truncation_is_read_up_to_its_last_whole_event() {
    for (log, ..) in LOGS {
        let body = &log[HEADER..];
        let mut ends = vec![0];
        while let Some((_, length)) = Version::E0200c.event(&body[*ends.last().unwrap()..]).unwrap() {
            ends.push(ends.last().unwrap() + length);
        }
        assert_eq!(*ends.last().unwrap(), body.len());
        for cut in 0..body.len() {
            let (all, totals) = read(std::iter::once(body[..cut].to_vec())).unwrap();
            let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
            assert_eq!((all.len(), totals.events), (ends[whole], whole as u64), "cut at {cut}");
            assert!(!totals.ended);
        }
    }
}

#[test]
fn a_log_through_a_pipe_ends_with_its_version() {
    for word in [0x00e0_200c_u32, 0x00e0_200d] {
        let mut piped = LOGS[0].0[HEADER..].to_vec();
        piped.extend(word.to_be_bytes());
        let (all, totals) = read(piped.chunks(7).map(<[u8]>::to_vec)).unwrap();
        assert_eq!(all, LOGS[0].0[HEADER..]);
        assert_eq!(totals.trailer, Some(word));
    }
}

/// One event of every kind, made by hand after QEMU's source.
#[test]
fn every_kind_of_event_has_its_length() {
    let be = |words: &[(u64, usize)]| -> Vec<u8> {
        words.iter().flat_map(|&(value, size)| value.to_be_bytes()[8 - size..].to_vec()).collect()
    };
    let mut kinds: Vec<Vec<u8>> = vec![
        be(&[(0, 1), (77, 4)]),
        be(&[(3, 1), (1, 8)]),
        be(&[(4, 1), (1, 8)]),
        be(&[(5, 1), (0, 4), (0, 4), (30, 8), (1, 1)]),
        be(&[(5, 1), (0, 4), (1, 4), (30, 4), (1, 1)]),
        be(&[(5, 1), (1, 4), (2, 4), (1, 1)]),
        be(&[(5, 1), (2, 4), (0, 4), (5, 8)]),
        be(&[(5, 1), (3, 4), (0, 4), (5, 8)]),
        be(&[(5, 1), (4, 4), (0, 4), (5, 8), (6, 8), (1, 4), (9, 8)]),
        be(&[(7, 1), (0, 1), (3, 4), (0x61_6263, 3)]),
        be(&[(8, 1), (1, 8)]),
        be(&[(9, 1), (0, 1), (0, 4), (2, 4), (0x6162, 2)]),
        be(&[(22, 1), (1, 4), (1, 4)]),
        be(&[(23, 1), (1, 4), (0x61, 1)]),
        be(&[(24, 1), (5, 4)]),
        be(&[(25, 1), (5, 8)]),
        be(&[(26, 1), (1, 8), (4, 8), (7, 8), (8, 8)]),
        be(&[(27, 1), (0, 4), (2, 4), (0x6162, 2)]),
        be(&[(28, 1), (1, 8)]),
        be(&[(29, 1), (1, 8)]),
    ];
    kinds.extend([1, 2, 6].into_iter().chain(10..=21).chain(30..=39).map(|kind| vec![kind]));
    for bytes in kinds {
        let mut followed = bytes.clone();
        followed.extend([39; 40]);
        let (event, length) = Version::E0200c.event(&followed).unwrap().unwrap();
        assert_eq!(length, bytes.len(), "{bytes:?} is {event:?}");
        for cut in 0..bytes.len() {
            assert_eq!(Version::E0200c.event(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
        }
    }
    assert_eq!(Version::E0200c.event(&[16]), Ok(Some((Event::Shutdown(Cause(6)), 1))));
    assert_eq!(Version::E0200c.event(&[40]), Err(Malformed::Kind(40)));
    assert!(matches!(Version::E0200c.event(&[23, 0xff, 0, 0, 0]), Err(Malformed::TooLong(_))));
}

proptest! {
    #[test]
    fn pieces_make_no_difference(sizes in prop::collection::vec(1usize..50, 1..20)) {
        let body = &LOGS[0].0[HEADER..];
        let mut sizes = sizes.into_iter().cycle();
        let mut rest = body;
        let pieces = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at(sizes.next()?.min(rest.len()));
            rest = after;
            (!piece.is_empty()).then(|| piece.to_vec())
        });
        let (all, totals) = read(pieces).unwrap();
        prop_assert_eq!(all, body);
        prop_assert!(totals.ended);
    }

    #[test]
    fn a_damaged_log_never_panics(at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 1..20)) {
        let mut body = LOGS[1].0[HEADER..].to_vec();
        let at = at.index(body.len());
        let end = (at + with.len()).min(body.len());
        body.splice(at..end, with);
        let _ = read(std::iter::once(body));
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(std::iter::once(bytes));
    }
}
