//! Streams that are cut in every way are one and the same.

use super::*;
use crate::access::Tag;
use crate::digest::identity;
use proptest::prelude::*;

fn block(table: &mut Table, addresses: &[u64]) -> &'static Block {
    let instructions: Vec<_> =
        addresses.iter().map(|&address| Instruction::new(address, vec![0x90])).collect();
    table.intern(&instructions.iter().collect())
}

fn none() -> Accesses {
    Accesses::default()
}

fn plain(addresses: &[u64]) -> u64 {
    addresses.iter().fold(0, |digest, &address| append(digest, identity(address, &[0x90])))
}

fn expand(window: &Window) -> Vec<u64> {
    window
        .visits
        .iter()
        .flat_map(|v| {
            let range = v.skip as usize..(v.skip + v.ran) as usize;
            window.blocks[v.block as usize][range].iter().map(|i| i.address)
        })
        .collect()
}

#[test]
fn a_fault_in_the_middle_counts_what_started() {
    let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
    let (a, handler) = (block(&mut table, &[1, 2, 3, 4]), block(&mut table, &[100, 101]));
    stream.enter(a, 0, &mut none()).unwrap();
    stream.enter(handler, 3, &mut none()).unwrap();
    stream.finish(2, &mut none()).unwrap();
    assert_eq!(stream.end(), Point { position: 5, digest: plain(&[1, 2, 3, 100, 101]) });
}

/// Two vCPUs: `turns` are who executes and the instructions, cut into blocks of at most `cut`.
fn in_turns(turns: &[(u32, &[u64])], cut: usize) -> (Table, Stream) {
    let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
    for &(vcpu, addresses) in turns {
        stream.is_turn_of(vcpu);
        let mut started = 0;
        for piece in addresses.chunks(cut) {
            stream.enter(block(&mut table, piece), started, &mut none()).unwrap();
            started = piece.len() as u64;
        }
        stream.finish(started, &mut none()).unwrap();
    }
    (table, stream)
}

#[test]
fn whose_turn_it_is_counts_and_a_turn_in_which_nothing_starts_does_not() {
    let (table, stream) = in_turns(&[(0, &[1, 2]), (1, &[3]), (0, &[4, 5])], 2);
    assert_eq!((stream.of_each(), stream.end().position), (vec![4, 1], 5));
    let window = stream.window(&table, 0).unwrap();
    assert_eq!(window.visits.iter().map(|visit| visit.vcpu).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(expand(&window), [1, 2, 3, 4, 5]);
    let end = stream.end().digest;
    assert_eq!(stream.digests(&table, 5, 5), Some(vec![end]), "they are made anew with their turns");
    let of = |turns: &[(u32, &[u64])], cut| in_turns(turns, cut).1.end().digest;
    assert_eq!(of(&[(0, &[1, 2]), (1, &[3]), (0, &[4, 5])], 1), end, "however blocks are cut");
    assert_eq!(of(&[(0, &[1]), (1, &[]), (0, &[2]), (1, &[3]), (0, &[4, 5])], 2), end);
    assert_ne!(of(&[(0, &[1, 2]), (0, &[3]), (0, &[4, 5])], 2), end);
    assert_ne!(of(&[(0, &[1, 2]), (1, &[3, 4]), (0, &[5])], 2), end);
    assert_eq!(of(&[(0, &[1, 2, 3])], 2), plain(&[1, 2, 3]), "one vCPU's is as ever");
}

#[test]
fn an_instruction_that_starts_again_at_once_counts_once() {
    let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
    let (a, again, rest) =
        (block(&mut table, &[1, 2, 3, 4]), block(&mut table, &[2]), block(&mut table, &[3, 4]));
    stream.enter(a, 0, &mut none()).unwrap();
    stream.enter(again, 2, &mut none()).unwrap();
    stream.enter(rest, 1, &mut none()).unwrap();
    stream.finish(2, &mut none()).unwrap();
    assert_eq!(stream.end(), Point { position: 4, digest: plain(&[1, 2, 3, 4]) });
}

#[test]
fn who_knows_that_an_instruction_starts_again_can_say_so() {
    for (first, left_out) in [(&[1, 2, 3][..], true), (&[1, 2], false)] {
        let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
        let (block_of_it, again, rest) =
            (block(&mut table, first), block(&mut table, &[2]), block(&mut table, &[3]));
        stream.enter(block_of_it, 0, &mut none()).unwrap();
        // A watchpoint's second start of the instruction at 2, which as a block's last is in the stream by then.
        stream.enter(again, 2, &mut none()).unwrap();
        assert_eq!(stream.is_again(), !left_out);
        let started = u64::from(left_out);
        stream.enter(rest, started, &mut none()).unwrap();
        stream.finish(1, &mut none()).unwrap();
        assert_eq!(stream.end(), Point { position: 3, digest: plain(&[1, 2, 3]) });
    }
}

#[test]
fn a_blocks_last_instruction_that_starts_again_counts_once() {
    let block_of = |table: &mut Table, bytes: &[&[u8]]| {
        let mut address = 0x1000;
        let instructions = bytes.iter().map(|bytes| {
            address += bytes.len() as u64;
            Instruction::new(address - bytes.len() as u64, bytes.to_vec())
        });
        table.intern(&instructions.collect::<Vec<_>>().iter().collect())
    };
    // A push as last; and a repeated string instruction, which stores in each of its turns that is executed.
    for (code, again, sees, stores, counts) in [
        (&[&[0x90][..], &[0x50]][..], [&[0x50][..]], false, false, 2),
        (&[&[0xf3, 0xa4]], [&[0xf3, 0xa4]], true, false, 1),
        (&[&[0xf3, 0xa4]], [&[0xf3, 0xa4]], true, true, 2),
        (&[&[0xf3, 0xa4]], [&[0xf3, 0xa4]], false, false, 2),
        (&[&[0xeb, 0xfe]], [&[0xeb, 0xfe]], true, false, 2),
    ] {
        let mut table = Table::of("x86_64");
        let stream = Stream::at(Point::START, 2);
        let mut stream = if sees { stream.with_stores() } else { stream };
        let first = block_of(&mut table, code);
        let last = &first.instructions()[code.len() - 1];
        let second =
            table.intern(&[Instruction { bytes: again[0].to_vec(), ..last.clone() }].iter().collect());
        let mut accesses = Accesses::with_room();
        stream.enter(first, 0, &mut accesses).unwrap();
        if stores {
            accesses.push(Access::new(Tag::of(0, 0, true), 0, 0x5000, 0, 1));
        }
        stream.enter(second, first.count().into(), &mut accesses).unwrap();
        stream.finish(1, &mut accesses).unwrap();
        assert_eq!(stream.end().position, counts, "{code:02x?} {sees} {stores}");
    }
}

/// How a build starts a repeated string instruction.
#[derive(Debug, Clone, Copy)]
enum Starts {
    /// For each turn, and once more.
    OnceMore,
    /// For each turn, at least once, each instruction in a block of its own.
    EachTurn,
    /// For so many turns at a time.
    Turns(u32),
}

/// The stream of a program that is so many other instructions, so many turns, and so on, over a chunk's end.
fn repeating(program: &[(u64, u32)], starts: Starts) -> (Point, Memory, Vec<Full>) {
    let (mut table, mut accesses) = (Table::of("x86_64"), Accesses::with_room());
    let point = Point { position: CHUNK - 30, digest: 7 };
    let mut stream = Stream::at(point, 2).with_stores().of_program();
    let (mut address, mut ran, mut fulls) = (0x1000, 0, Vec::new());
    // Of each turn a load and a store.
    let mut enter = |code: &[Instruction], turns: std::ops::Range<u32>| {
        let block = table.intern(&code.iter().collect());
        fulls.extend(stream.enter(block, ran, &mut accesses).unwrap());
        ran = block.count().into();
        let number = u16::try_from(code.len() - 1).unwrap();
        for (turn, is_store) in turns.flat_map(|turn| [(turn, false), (turn, true)]) {
            let access = Access::new(
                Tag::of(0, number, is_store),
                0,
                code[code.len() - 1].address + u64::from(turn),
                0,
                1,
            );
            while !accesses.push(access) {
                accesses.grow();
            }
        }
    };
    for &(plain, turns) in program {
        let mut code = Vec::new();
        let mut instruction = |bytes: &[u8]| {
            address += bytes.len() as u64;
            Instruction::new(address - bytes.len() as u64, bytes.to_vec())
        };
        code.extend((0..plain).map(|_| instruction(&[0x90])));
        let repeated = instruction(&[0xf3, 0xa4]);
        if let Starts::EachTurn = starts {
            for one in &code {
                enter(std::slice::from_ref(one), 0..0);
            }
            code.clear();
        }
        code.push(repeated.clone());
        let at_once = if let Starts::Turns(turns) = starts { turns } else { 1 };
        let mut made = 0;
        loop {
            let next = (made + at_once).min(turns);
            enter(&code, made..next);
            code = vec![repeated.clone()];
            let over = made == turns || next == turns && !matches!(starts, Starts::OnceMore);
            made = next;
            if over {
                break;
            }
        }
    }
    fulls.extend(stream.finish(ran, &mut accesses).unwrap());
    (stream.end(), stream.memory(), fulls)
}

proptest! {
    #[test]
    fn a_programs_repeated_string_instruction_counts_once(program in prop::collection::vec((0u64..8, 0u32..20), 8..20), at_once in 2u32..9) {
        let expected = repeating(&program, Starts::OnceMore);
        prop_assert_eq!(&repeating(&program, Starts::EachTurn), &expected);
        prop_assert_eq!(&repeating(&program, Starts::Turns(at_once)), &expected);
        let count: u64 = program.iter().map(|(plain, _)| plain + 1).sum();
        prop_assert_eq!(expected.0.position, CHUNK - 30 + count);
        prop_assert_eq!(expected.2.len(), usize::from(count >= 30));
        prop_assert!(expected.1.stores != 0 || program.iter().all(|&(_, turns)| turns == 0));
    }
}

#[test]
fn what_repeats_is_no_place_to_look_at() {
    let mut table = Table::of("x86_64");
    let mut block_of =
        |bytes: &[u8]| table.intern(&[Instruction::new(0x1000, bytes.to_vec())].iter().collect());
    let (repeated, other) = (block_of(&[0xf3, 0xa4]), block_of(&[0xa4]));
    for (stream, expected) in
        [(Stream::at(Point::START, 2).of_program(), true), (Stream::at(Point::START, 2), false)]
    {
        let mut stream = stream;
        stream.enter(repeated, 0, &mut none()).unwrap();
        assert_eq!(stream.is_between_turns(), expected);
        stream.enter(other, 1, &mut none()).unwrap();
        assert!(!stream.is_between_turns());
    }
}

#[test]
fn stores_that_only_say_what_starts_again_do_not_count() {
    let mut table = Table::of("x86_64");
    let code = [Instruction::new(0x1000, vec![0xf3, 0xa4])];
    let repeated = table.intern(&code.iter().collect());
    let mut stream = Stream::at(Point::START, 2).with_stores().without_memory();
    let mut accesses = Accesses::with_room();
    stream.enter(repeated, 0, &mut accesses).unwrap();
    accesses.push(Access::new(Tag::of(0, 0, true), 0, 0x5000, 0, 1));
    stream.enter(repeated, 1, &mut accesses).unwrap();
    stream.enter(repeated, 1, &mut accesses).unwrap();
    stream.finish(1, &mut accesses).unwrap();
    assert_eq!((stream.end().position, stream.memory()), (2, Memory::default()));
}

#[test]
fn a_loop_of_one_instruction_counts_each_time() {
    let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
    let a = block(&mut table, &[7]);
    stream.enter(a, 0, &mut none()).unwrap();
    stream.enter(a, 1, &mut none()).unwrap();
    stream.enter(a, 1, &mut none()).unwrap();
    stream.finish(1, &mut none()).unwrap();
    assert_eq!(stream.end(), Point { position: 3, digest: plain(&[7, 7, 7]) });
}

#[test]
fn more_starts_than_instructions_is_an_error() {
    let (mut table, mut stream) = (Table::of(""), Stream::at(Point::START, 2));
    let a = block(&mut table, &[7, 8]);
    stream.enter(a, 0, &mut none()).unwrap();
    assert_eq!(stream.enter(a, 3, &mut none()), Err(Unaccounted { address: 7, count: 2, started: 3 }));
}

#[test]
fn a_stream_that_goes_on_from_a_point_is_the_same_from_there_on() {
    let mut table = Table::of("");
    let (a, b) = (block(&mut table, &[1, 2, 3]), block(&mut table, &[7, 8, 9, 10]));
    let mut whole = Stream::at(Point::START, 2);
    let mut later: Option<Stream> = None;
    let mut fulls = (Vec::new(), Vec::new());
    whole.enter(a, 0, &mut none()).unwrap();
    for turn in 0..CHUNK / 3 {
        let (next, before) = if turn % 2 == 0 { (b, a) } else { (a, b) };
        if turn == 1000 {
            // As a restored machine does: it stands behind a whole block.
            let (point, unfinished) = whole.standing(before.count().into());
            assert_eq!(unfinished, None);
            later = Some(Stream::at(point, 2));
        }
        fulls.0.extend(whole.enter(next, before.count().into(), &mut none()).unwrap());
        if let Some(later) = &mut later {
            let started = if turn == 1000 { 0 } else { before.count().into() };
            fulls.1.extend(later.enter(next, started, &mut none()).unwrap());
        }
    }
    let later = later.unwrap();
    assert_eq!((fulls.0.len(), &fulls.0), (1, &fulls.1));
    assert_eq!(later.end(), whole.end());
    assert!(
        whole.window(&table, 0).is_some() && later.window(&table, 0).is_none(),
        "it has not seen all of it"
    );
    let around = (CHUNK - 5, CHUNK + 5);
    assert_eq!(later.digests(&table, around.0, around.1), whole.digests(&table, around.0, around.1));
    assert_eq!(later.digests(&table, 0, 5), None);
}

#[test]
fn where_it_stands_is_behind_what_has_started() {
    let mut table = Table::of("");
    let a = block(&mut table, &[1, 2, 3]);
    let mut stream = Stream::at(Point::START, 2);
    assert_eq!(stream.standing(0), (Point::START, None));
    stream.enter(a, 0, &mut none()).unwrap();
    assert_eq!(stream.standing(0), (Point::START, None));
    let two = Point { position: 2, digest: plain(&[1, 2]) };
    assert_eq!(stream.standing(2), (two, Some(Instruction::new(2, vec![0x90]))));
    let three = Point { position: 3, digest: plain(&[1, 2, 3]) };
    assert_eq!(stream.standing(3), (three, None));
}

/// Of the instructions at these positions every third writes, every fourth reads.
fn made_at(position: u64, number: u16, entry: usize) -> impl Iterator<Item = Access> {
    let kinds = [(true, 3), (false, 4)].into_iter();
    kinds
        .filter(move |(_, every)| position.is_multiple_of(*every))
        .map(move |(is_store, _)| Access::new(Tag::of(0, number, is_store), entry, 8 * position, 3, position))
}

/// What they have done before each of these positions, which rise.
fn done_before(positions: impl Iterator<Item = u64>) -> Vec<(u64, Memory)> {
    let (mut memory, mut done) = (Memory::default(), 0);
    let mut before = |position| {
        for position in done..position {
            memory.take_in(&made_at(position, 0, 0).collect::<Vec<_>>());
        }
        done = position;
        (position, memory)
    };
    positions.map(&mut before).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The same stream, cut in two ways with blocks that end early, over several chunks. All within 1 KiB: beyond, two
    /// instructions of the same bytes can be one to the digest.
    #[test]
    fn any_cutting_gives_the_same_chunks(cuts_a in prop::collection::vec((1usize..64, 0usize..4), 1..50),
                                         cuts_b in prop::collection::vec((1usize..64, 0usize..4), 1..50),
                                         period in 900u64..1024, until in 1..CHUNK * 5 / 2, asked in 1000..CHUNK * 2) {
        let length = (CHUNK * 2 + CHUNK / 2) as usize;
        let address = |position: usize| 0x1000 + position as u64 % period;
        let mut streams = Vec::new();
        for (cuts, batched, until) in [(&cuts_a, false, u64::MAX), (&cuts_b, true, u64::MAX), (&cuts_a, false, until), (&cuts_b, true, until)] {
            let (mut recent, mut whole, mut accesses) = (Vec::new(), false, Accesses::with_room());
            let (mut table, mut stream, mut fulls) = (Table::of(""), Stream::at(Point::START, 2).until(until), Vec::new());
            let (mut position, mut started) = (0usize, 0u64);
            for &(count, lost) in cuts.iter().cycle() {
                if position >= length { break; }
                let ran = count.min(length - position);
                // `lost` instructions behind those that ran belong to the block too.
                let addresses: Vec<u64> = (position..position + ran).map(address)
                    .chain((0..lost).map(|k| 0xdead_0000 + k as u64)).collect();
                let entered = block(&mut table, &addresses);
                // As the probe does: those left at their end are noted, and taken in together.
                if position > asked as usize / 2 && (position as u64) < asked { stream.note(asked); }
                if whole && started > 0 && recent.len() < 1024 {
                    recent.push(entered.entry());
                    let (at, running) = stream.ahead(&table, &recent);
                    prop_assert_eq!((at, running.map(Block::id)), (position as u64, Some(entered.id())));
                } else {
                    fulls.extend(stream.settle(&table, &recent, &mut accesses));
                    recent.clear();
                    fulls.extend(stream.enter(entered, started, &mut accesses).unwrap());
                }
                for (number, at) in (0..).zip(position..position + ran) {
                    for access in made_at(at as u64, number, recent.len()) {
                        while !accesses.push(access) {
                            accesses.grow();
                        }
                    }
                }
                let noted = recent.iter().rev().skip(1).map(|entry: &Entry| entry.count()).sum::<u64>();
                let left = if recent.is_empty() { 0 } else { stream.running().map_or(0, |b| b.count().into()) };
                prop_assert_eq!(stream.end().position + left + noted, position as u64);
                whole = batched && lost == 0;
                started = ran as u64;
                position += ran;
            }
            fulls.extend(stream.settle(&table, &recent, &mut accesses));
            fulls.extend(stream.finish(started, &mut accesses).unwrap());
            streams.push((stream, table, fulls));
        }
        let (a, table_a, fulls_a) = &streams[0];
        let (b, table_b, fulls_b) = &streams[1];
        prop_assert_eq!(fulls_a.len(), 2);
        prop_assert_eq!(fulls_a, fulls_b);
        prop_assert_eq!((a.end(), a.memory()), (b.end(), b.memory()));
        prop_assert_ne!(a.memory().loads, 0);
        prop_assert_eq!(a.end().position, length as u64);
        for index in 0..3 {
            let window_a = expand(&a.window(table_a, index).unwrap());
            prop_assert_eq!(&window_a, &expand(&b.window(table_b, index).unwrap()));
            prop_assert_eq!(window_a[0], address((index * CHUNK) as usize));
        }
        prop_assert!(a.window(table_a, 3).is_none());
        let around = (CHUNK - 100, CHUNK + 100);
        let digests = a.digests(table_a, around.0, around.1).unwrap();
        prop_assert_eq!(&digests, &b.digests(table_b, around.0, around.1).unwrap());
        prop_assert_eq!(digests[100], fulls_a[0].digest);
        prop_assert_eq!(a.digests(table_a, a.end().position, a.end().position), Some(vec![a.end().digest]));
        // What was done last, however that was cut; and nothing else is told than what was.
        let end = a.end().position;
        let ends = |stream: &Stream| (stream.memory_at(end), stream.memory_at(end + 1));
        prop_assert_eq!((ends(a), ends(b)), ((Some(a.memory()), None), (Some(a.memory()), None)));
        for (at, expected) in done_before((0..41).rev().map(|back| end - 997 * back)) {
            for stream in [a, b] {
                let told = stream.memory_at(at);
                prop_assert!(told == Some(expected) || told.is_none() && end - at > 4000, "at {}: {:?}", at, told);
            }
        }
        prop_assert_eq!(a.memory_at(1), None);
        prop_assert_eq!((a.memory_at(asked), b.memory_at(asked)), {
            let (_, expected) = done_before(std::iter::once(asked))[0];
            (Some(expected), Some(expected))
        });
        let (_, expected) = done_before(std::iter::once(until))[0];
        for stream in [&streams[2].0, &streams[3].0] {
            prop_assert_eq!((stream.memory(), stream.memory_at(until), stream.memory_at(until + 1)), (expected, Some(expected), Some(expected)));
            prop_assert!(stream.counts_at(until) && !stream.counts_at(until + 1));
            prop_assert_eq!(stream.end(), a.end());
        }
        prop_assert_eq!(&streams[2].2, &streams[3].2, "chunks behind the last that counts are frozen alike");
        prop_assert_eq!(a.digests(table_a, 0, 0), Some(vec![0]));
        prop_assert_eq!(a.digests(table_a, a.end().position, a.end().position + 1), None);
    }
}
