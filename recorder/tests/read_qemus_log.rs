//! Real logs of QEMU, as they are, cut short, damaged, and in pieces; and events of every kind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use recorder::columns::{Builder, Events};
use recorder::log::compaction::Compaction;
use recorder::log::decoder::{Decoder, Totals};
use recorder::log::event::{Cause, Event, Input};
use recorder::log::{HEADER, Malformed, Version};

const VERSION: Version = Version::E0200c;

/// SeaBIOS on QEMU 7.2.22 and 10.0.2, until it resets the machine.
const LOGS: [(&[u8], u64, u64); 2] = [
    (include_bytes!("logs/qemu-7.2-seabios.log"), 6_379_395, 523),
    (include_bytes!("logs/qemu-10.0-seabios.log"), 6_398_198, 520),
];

/// The events of a log that comes in `pieces`, written again.
fn read(pieces: impl Iterator<Item = Vec<u8>>) -> Result<(Vec<u8>, Totals), Malformed> {
    let mut decoder = Decoder::new(VERSION);
    let mut all = Vec::new();
    for piece in pieces {
        decoder.take(&piece, |event| VERSION.encode(event, &mut all))?;
    }
    Ok((all, decoder.totals))
}

/// The same, by way of a recording's columns.
fn through_columns(log: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(7);
    Decoder::new(VERSION).take(log, |event| builder.push(event)).unwrap();
    let (first, content) = builder.finish();
    assert_eq!(first, 7);
    let mut events = Events::new(first, &content).unwrap();
    let mut again = Vec::new();
    while let Some((_, event)) = events.next_event().unwrap() {
        VERSION.encode(&event, &mut again);
    }
    again
}

#[test]
fn a_whole_log_is_read_to_its_last_event() {
    for (log, icount, events) in LOGS {
        let word = u32::from_be_bytes(*log.first_chunk().unwrap());
        assert_eq!(Version::of(word), Some(VERSION));
        assert_eq!(log[..HEADER], VERSION.header());
        let (all, totals) = read(std::iter::once(log[HEADER..].to_vec())).unwrap();
        assert_eq!(all, log[HEADER..], "what is written is what QEMU wrote, byte for byte");
        assert_eq!(through_columns(&log[HEADER..]), log[HEADER..]);
        assert_eq!((totals.icount, totals.events, totals.ended), (icount, events, true));
        assert_eq!(totals.shutdown.unwrap().cause, Cause::HOST_SIGNAL);
        assert!(totals.unrequested());
    }
}

#[test]
fn every_truncation_is_read_up_to_the_last_event_that_qemu_waits_for() {
    for (log, ..) in LOGS {
        let body = &log[HEADER..];
        let (mut at, mut events, mut whole) = (0, 0, (0, 0));
        let mut from = 0;
        while let Some((event, length)) = VERSION.event(&body[at..]).unwrap() {
            // A cut in this event, or right before it.
            for cut in from..at + length {
                let (all, totals) = read(std::iter::once(body[..cut].to_vec())).unwrap();
                assert_eq!((all.len(), totals.events), whole, "cut at {cut}");
                assert!(!totals.ended);
            }
            from = at + length;
            let asked_for = matches!(event, Event::Clock(..) | Event::CharWrite { .. });
            if !asked_for {
                whole = (at, events);
            }
            (at, events) = (at + length, events + 1);
        }
        assert_eq!(at, body.len());
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
fn every_kind() -> Vec<Vec<u8>> {
    let be = |words: &[(u64, usize)]| -> Vec<u8> {
        words.iter().flat_map(|&(value, size)| value.to_be_bytes()[8 - size..].to_vec()).collect()
    };
    let mut kinds: Vec<Vec<u8>> = vec![
        be(&[(0, 1), (77, 4)]),
        be(&[(3, 1), (1, 8)]),
        be(&[(4, 1), (u64::MAX, 8)]),
        be(&[(5, 1), (0, 4), (0, 4), (30, 8), (1, 1)]),
        be(&[(5, 1), (0, 4), (1, 4), (30, 4), (1, 1)]),
        be(&[(5, 1), (1, 4), (2, 4), (255, 1)]),
        be(&[(5, 1), (2, 4), (0, 4), (u64::MAX, 8)]),
        be(&[(5, 1), (3, 4), (1, 4), (5, 8)]),
        be(&[(5, 1), (4, 4), (0, 4), (5, 8), (u64::MAX, 8), (1, 4), (9, 8)]),
        be(&[(7, 1), (3, 1), (3, 4), (0x61_6263, 3)]),
        be(&[(8, 1), (1, 8)]),
        be(&[(9, 1), (2, 1), (7, 4), (2, 4), (0x6162, 2)]),
        be(&[(22, 1), (0xffff_fff5, 4), (1, 4)]),
        be(&[(23, 1), (1, 4), (0x61, 1)]),
        be(&[(24, 1), (0xffff_ffff, 4)]),
        be(&[(25, 1), (5, 8)]),
        be(&[(26, 1), (1, 8), (4, 8), (7, 8), (8, 8)]),
        be(&[(27, 1), (0xffff_ffff, 4), (2, 4), (0x6162, 2)]),
        be(&[(28, 1), (1 << 60, 8)]),
        be(&[(29, 1), (1, 8)]),
    ];
    kinds.extend([1, 2, 6].into_iter().chain(10..=21).chain(30..=39).map(|kind| vec![kind]));
    kinds
}

#[test]
fn every_kind_of_event_is_read_and_written() {
    let key = |words: &[u32]| {
        let words = words.iter().flat_map(|word| word.to_be_bytes());
        [5].into_iter().chain(words).chain([1]).collect::<Vec<u8>>()
    };
    let sound = [&[26][..], &1_u64.to_be_bytes(), &7_u64.to_be_bytes(), &8_u64.to_be_bytes()].concat();
    let others = [(Version::E0200d, key(&[0, 1, 30])), (Version::E0200d, sound.clone())];
    let others = others.into_iter().chain([(Version::E0200e, key(&[0, 30])), (Version::E0200e, sound)]);
    for (version, bytes) in every_kind().into_iter().map(|bytes| (VERSION, bytes)).chain(others) {
        let mut followed = bytes.clone();
        followed.extend([39; 40]);
        let (event, length) = version.event(&followed).unwrap().unwrap();
        assert_eq!(length, bytes.len(), "{bytes:?} is {event:?}");
        let mut again = Vec::new();
        version.encode(&event, &mut again);
        assert_eq!(again, bytes, "{event:?}");
        for cut in 0..bytes.len() {
            assert_eq!(version.event(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
        }
    }
    // Linux's number of the key, which is none of QEMU's codes.
    let pressed = Event::Input(Input::KeyNumber { number: 30, down: 1 });
    assert_eq!(Version::E0200e.event(&key(&[0, 30])), Ok(Some((pressed, 10))));
    for (release, word) in [((7, 2), 0x00e0_200c), ((11, 0), 0x00e0_200d), ((11, 1), 0x00e0_200e)] {
        let version = Version::written_by(release);
        assert_eq!((version.word(), Version::of(word)), (word, Some(version)));
    }
    assert_eq!(VERSION.event(&[16]), Ok(Some((Event::Shutdown(Cause(6)), 1))));
    assert_eq!(VERSION.event(&[40]), Err(Malformed::Kind(40)));
    assert!(matches!(VERSION.event(&[23, 0xff, 0, 0, 0]), Err(Malformed::TooLong)));
}

/// Logs of any events, as QEMU would write them.
fn logs() -> impl Strategy<Value = Vec<u8>> {
    let event = prop_oneof![
        4 => any::<u32>().prop_map(|count| [&[0][..], &count.to_be_bytes()].concat()),
        4 => Just(vec![31]),
        2 => any::<(bool, u64)>().prop_map(|(rt, time)| [&[28 + u8::from(rt)][..], &time.to_be_bytes()].concat()),
        2 => any::<u64>().prop_map(|id| [&[3][..], &id.to_be_bytes()].concat()),
        2 => any::<u64>().prop_map(|id| [&[8][..], &id.to_be_bytes()].concat()),
        2 => prop::collection::vec(any::<u8>(), 0..90).prop_map(|bytes| {
            [&[9, 1, 0, 0, 0, 0, 0, 0, 0, u8::try_from(bytes.len()).unwrap()][..], &bytes].concat()
        }),
        4 => prop::sample::select(every_kind()).prop_filter("the end is the end", |bytes| bytes != &[39]),
    ];
    prop::collection::vec(event, 0..200).prop_map(|events| [events.concat(), vec![39]].concat())
}

proptest! {
    #[test]
    fn any_log_is_written_as_it_was_read(log in logs()) {
        let (again, _) = read(std::iter::once(log.clone())).unwrap();
        prop_assert_eq!(&again, &log);
        prop_assert_eq!(through_columns(&log), log);
    }

    /// Compaction keeps every event but the ones that it names, and every instruction.
    #[test]
    fn compaction_keeps_the_rest(log in logs()) {
        let is_rest = |event: &Event| !matches!(event, Event::Instructions(_)) && event.name() != "checkpoint-warp-account";
        let (mut compaction, mut compact) = (Compaction::default(), Vec::new());
        let (mut rest, mut kept_rest) = (Vec::new(), Vec::new());
        let (mut totals, mut events) = (Totals::default(), 0);
        let mut decoder = Decoder::new(VERSION);
        let mut keep = |event: &Event| {
            totals.count(event);
            events += 1;
            VERSION.encode(event, &mut compact);
            if is_rest(event) {
                // With QEMU's icount: each stays where it was.
                kept_rest.push((totals.icount, format!("{event:?}")));
            }
        };
        let mut icount = 0;
        decoder.take(&log, |event| {
            if let Event::Instructions(count) = event {
                icount += u64::from(*count);
            }
            if is_rest(event) {
                rest.push((icount, format!("{event:?}")));
            }
            compaction.take(event, &mut keep);
        }).unwrap();
        compaction.settle(&mut keep);
        prop_assert_eq!(totals.icount, decoder.totals.icount);
        prop_assert_eq!(events + compaction.dropped, decoder.totals.events);
        prop_assert_eq!(kept_rest, rest);
    }

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
}
