//! Registers of builds that tell plugins none (QEMU before 9.0), and with them the instruction behind which they differ first.
//!
//! The probe holds a guest where a block begins. There its registers are in memory, and as the processor's thread then has no
//! lock of QEMU's, its monitor answers: `info registers` tells all, on any release and without another instruction in what QEMU
//! generates. Both builds are read in that way, so that the same is compared.
//!
//! Before the place where the sweep saw them part registers may have been different for long. So both are held at a thousand
//! places on the way there, and again at a thousand between the last at which all was equal and the first at which it was not,
//! until each block can be looked at; and at last both run with one instruction a block, up to behind the guilty one. This
//! changes what QEMU generates: where it hides the difference the block is what is known.
//!
//! A replay is not held: its processor has a lock while it runs that the monitor waits for.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use qemu::arguments::Arguments;
use qemu::build::Mode;
use qemu::monitor::Monitor;
use trace::message::{CHUNK, FromProbe, Look, Step, Stretch, Window};

use crate::comparator::{Pair, Side};
use crate::difference::{Compared, Difference, first};
use crate::disassembly::asks_qemu;
use crate::dump::{self, FLAGS, Registers};
use crate::report::console::Written;
use crate::report::{Certainty, Divergence};
use crate::ride::Trouble;
use crate::ride::naming::{Named, of_zoomed};
use crate::ride::sides::{Given, Ride};
use crate::selfcheck;
use crate::zoom::{Again, BLOCK, Zoomed};

/// At how many places both are held on the way.
const PLACES: u64 = 1024;

/// So many instructions are looked at block by block.
const CLOSE: u64 = 4096;

/// What one run with places to hold at has brought.
struct Held {
    /// The registers at each place: of several entries at one position the last counts.
    registers: Pair<BTreeMap<u64, Registers>>,
    steps: Pair<Vec<Step>>,
    windows: Pair<Vec<Window>>,
}

/// Whether registers are to be read so: nobody asked for less, and a build tells the probe none.
pub(crate) fn is_wanted(again: &Again) -> bool {
    again.request.depth.is_none()
        && !again.look.registers
        && again.request.builds.a.mode == Mode::System
        && again.drive.sources.is_empty()
        // The monitor shows those of one vCPU, whoever's turn it is.
        && Arguments::parse(&again.drive.lines.a).vcpus() == 1
}

/// What was found with registers.
struct Found {
    zoomed: Zoomed,
    /// The position of the instruction of the guilty block behind which an x86's flags are no longer the same.
    flags: Option<u64>,
}

/// Said where registers tell no more than what was compared without them.
pub(crate) const NOTHING: &str = "a build tells plugins no registers; read through QEMU's monitor they are not the same from the \
     guest's beginning on, or never differ where nothing else does";

/// Looks for where registers differ first on the way to `to`, behind which two runs are known to be different; gives back the
/// divergence there, and what there is to say of it. `None` where they don't, or differ from the beginning on.
///
/// # Errors
/// Where a run fails.
pub(crate) fn look(again: &Again, to: u64, target: &str) -> Result<Option<Named>, Trouble> {
    let Some(found) = zoom(again, to)? else { return Ok(None) };
    let mut named = of_zoomed(again.request.telling(target), &found.zoomed)?;
    found.doubt(&mut named.divergence, &mut named.notes);
    Ok(Some(named))
}

fn zoom(again: &Again, to: u64) -> Result<Option<Found>, Trouble> {
    let mut stretch = Stretch { from: 0, to };
    while stretch.to - stretch.from > CLOSE {
        let spacing = (stretch.to - stretch.from).div_ceil(PLACES);
        let look = Look { spacing, waits: Some(stretch), ..again.look.clone() };
        let held = run(again, &look, stretch, false)?;
        let Some(nearer) = held.nearer(stretch) else { return Ok(None) };
        if nearer == stretch {
            break;
        }
        stretch = nearer;
    }
    // A block more: what an instruction leaves is seen where the next one begins.
    let stretch = Stretch { to: stretch.to + BLOCK, ..stretch };
    let look =
        Look { loads: true, spacing: 0, closely: Some(stretch), waits: Some(stretch), ..again.look.clone() };
    let mut close = run(again, &look, stretch, false)?;
    let Some((difference, names)) = close.first(stretch) else { return Ok(None) };
    let windows = std::mem::take(&mut close.windows);
    let Difference { from, to, .. } = difference;
    let mut zoomed =
        Zoomed { difference, inside: None, names, values: look.values, windows, written: Written::default() };
    let mut flags = None;
    if to > from + 1 {
        let stretch = Stretch { from, to: to + 1 };
        let look = Look { closely: Some(stretch), waits: Some(stretch), ..look };
        let mut single = run(again, &look, stretch, true)?;
        zoomed.inside = single
            .first(stretch)
            .filter(|(inside, names)| inside.from >= from && inside.to <= to && *names == zoomed.names)
            .map(|(inside, _)| inside);
        flags = zoomed.inside.as_ref().and_then(|inside| single.flags_differ(inside.to));
    }
    Ok(Some(Found { zoomed, flags }))
}

/// Runs both up to behind `stretch`, and reads their registers wherever they are held. `single`: with one instruction a block.
fn run(again: &Again, look: &Look, stretch: Stretch, single: bool) -> Result<Held, Trouble> {
    let mut sockets = Pair { a: None, b: None };
    let mut given = Pair { a: Given::default(), b: Given::default() };
    for side in [Side::A, Side::B] {
        let (ours, theirs) = UnixStream::pair()?;
        let fd = OwnedFd::from(theirs);
        let monitor = format!("socket,id=tandem-registers,fd={}", fd.as_raw_fd());
        let mut arguments = ["-chardev", &monitor, "-mon", "chardev=tandem-registers,mode=control"]
            .map(str::to_owned)
            .to_vec();
        if single {
            arguments.extend(selfcheck::one_instruction_a_block(again.request.builds.get(side)));
        }
        *sockets.get_mut(side) = Some(ours);
        *given.get_mut(side) = Given { arguments, passed: Some(fd) };
    }
    let mut ride = Ride::start_given(again.request, again.drive, None, &given)
        .map_err(|error| Trouble::Again(Box::new(error)))?;
    drop(given);
    let target = ride.target().to_owned();
    let (begin, last) = (stretch.from / CHUNK, stretch.to / CHUNK);
    let keeps = u32::try_from(last - begin).unwrap_or(u32::MAX).saturating_add(2);
    let look = Look { texts: look.closely.is_some() && asks_qemu(&target), ..look.clone() };
    for side in [Side::A, Side::B] {
        ride.go(side, last + 1, keeps, &look);
    }
    let mut monitors = Pair { a: None, b: None };
    let mut registers = Pair { a: BTreeMap::new(), b: BTreeMap::new() };
    ride.run_up_to(last, again.request.interrupts, |ride, side, message| {
        let FromProbe::Waiting { position } = message else { return Ok(()) };
        if let Some(socket) = sockets.get_mut(side).take() {
            *monitors.get_mut(side) = Some(Monitor::greet(socket).map_err(Trouble::Unread)?);
        }
        let Some(monitor) = monitors.get_mut(side) else { return Ok(()) };
        let text = monitor.human("info registers").map_err(Trouble::Unread)?;
        registers.get_mut(side).insert(position, dump::registers(&target, &text));
        ride.on(side);
        Ok(())
    })?;
    let windows = if look.closely.is_some() { ride.windows_from(begin, last)? } else { Pair::default() };
    Ok(Held { registers, steps: std::mem::take(&mut ride.steps), windows })
}

/// Whether two sets of registers are the same in all that both have, but for an x86's flags.
fn are_equal(a: &Registers, b: &Registers) -> bool {
    let compared = |(name, _): &&(String, Vec<u8>)| name != FLAGS;
    a.iter().filter(compared).all(|(name, bytes)| {
        b.iter().find(|(other, _)| other == name).is_none_or(|(_, theirs)| theirs == bytes)
    })
}

impl Held {
    /// The stretch between the last place at which all was equal and the first behind it at which it was not. What differs where
    /// the guest begins, and then no more, is what the processor was like when it was switched on. Where all differs from the
    /// beginning on it is the stretch up to the first place.
    fn nearer(&self, stretch: Stretch) -> Option<Stretch> {
        let Held { registers: Pair { a, b }, .. } = self;
        let both = a.iter().filter_map(|(position, a)| Some((*position, are_equal(a, b.get(position)?))));
        let mut equal = (stretch.from > 0).then_some(stretch.from);
        let mut first = None;
        for (position, is_equal) in both {
            match (is_equal, equal) {
                (true, _) => equal = Some(position),
                (false, Some(from)) => return Some(Stretch { from, to: position }),
                (false, None) if position > 0 => first = first.or(Some(position)),
                (false, None) => {}
            }
        }
        match equal {
            Some(from) => Some(Stretch { from, ..stretch }),
            None => first.map(|to| Stretch { to, ..stretch }),
        }
    }

    /// The first difference of those blocks or instructions that were looked at one by one, and the names of the registers.
    fn first(&mut self, stretch: Stretch) -> Option<(Difference, Vec<String>)> {
        let names = self.names();
        for side in [Side::A, Side::B] {
            let registers = self.registers.get(side);
            for step in self.steps.get_mut(side) {
                let Some(read) = registers.get(&step.position) else { continue };
                let bytes = |(name, number): (&String, u16)| {
                    let (_, bytes) = read.iter().find(|(other, _)| other == name)?;
                    Some((number, bytes.clone()))
                };
                step.registers =
                    names.iter().zip(0..).filter(|(name, _)| *name != FLAGS).filter_map(bytes).collect();
            }
        }
        // Where registers are the same so are the places that are read, and of some reads only one of two releases tells.
        let loads = Pair::of(|side| {
            let all = self.steps.get(side).iter().flat_map(|step| &step.accesses);
            all.filter(|access| !access.is_store).copied().collect::<Vec<_>>()
        });
        for side in [Side::A, Side::B] {
            for step in self.steps.get_mut(side) {
                step.accesses.retain(|access| access.is_store);
            }
        }
        let Compared::Found(difference) = first(&self.steps, stretch) else { return None };
        let mut difference = *difference;
        for side in [Side::A, Side::B] {
            let within = difference.from..difference.to;
            let own = loads.get(side).iter().filter(|access| within.contains(&access.position));
            // An instruction that does both reads first.
            difference.accesses.get_mut(side).splice(0..0, own.copied());
        }
        // Flags are shown, and not compared.
        if let Some(number) = names.iter().position(|name| name == FLAGS) {
            let flags = |side: Side, position: u64| flags(self.registers.get(side).get(&position)?).cloned();
            let Difference { from, to, before, after, .. } = &mut difference;
            for (values, side, position) in
                [(before, Side::A, *from), (&mut after.a, Side::A, *to), (&mut after.b, Side::B, *to)]
            {
                values.resize(names.len(), Vec::new());
                values[number] = flags(side, position).unwrap_or_default();
            }
        }
        Some((difference, names))
    }

    /// The last place up to `to` behind which flags were no longer the same.
    fn flags_differ(&self, to: u64) -> Option<u64> {
        let Held { registers: Pair { a, b }, .. } = self;
        let both = a
            .range(..=to)
            .filter_map(|(position, a)| Some((*position, flags(a)? == flags(b.get(position)?)?)));
        let mut equal = None;
        let mut found = None;
        for (position, is_equal) in both {
            match equal {
                Some(before) if !is_equal => (equal, found) = (None, Some(before)),
                _ if is_equal => equal = Some(position),
                _ => {}
            }
        }
        found
    }

    /// The names of the registers that both sides have, in A's order, the flags last.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let theirs: Vec<&str> = self.registers.b.values().flatten().map(|(name, _)| name.as_str()).collect();
        let theirs: std::collections::BTreeSet<&str> = theirs.into_iter().collect();
        for (name, _) in self.registers.a.values().flatten() {
            if theirs.contains(name.as_str()) && !names.contains(name) {
                names.push(name.clone());
            }
        }
        names.sort_by_key(|name| name == FLAGS);
        names
    }
}

fn flags(registers: &Registers) -> Option<&Vec<u8>> {
    registers.iter().find(|(name, _)| name == FLAGS).map(|(_, bytes)| bytes)
}

impl Found {
    /// What is to be said of an instruction that was found so.
    fn doubt(&self, divergence: &mut Divergence, notes: &mut Vec<String>) {
        let Found { zoomed, flags } = self;
        notes.push(
            "a build tells plugins no registers: they were read through QEMU's monitor, at places on the way to where the difference shows"
                .to_owned(),
        );
        let position = divergence.icount.a;
        if divergence.certainty == Certainty::Flags && *flags == Some(position) {
            notes.push(
                "the monitor tells flags: they are the same before this instruction, and not behind it"
                    .to_owned(),
            );
        }
        let reads = |difference: &Difference| {
            let all = difference.accesses.a.iter().chain(&difference.accesses.b);
            all.into_iter().any(|access| !access.is_store && access.position == position)
        };
        if !zoomed.values && (reads(&zoomed.difference) || zoomed.inside.as_ref().is_some_and(reads)) {
            if divergence.certainty == Certainty::Seen {
                divergence.certainty = Certainty::First;
            }
            notes.push(
                "this instruction reads memory, whose values a build does not tell: what was written there may have been wrong before"
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places with a value of a register and of the flags.
    fn held(a: &[(u64, u8, u8)], b: &[(u64, u8, u8)]) -> Held {
        let side = |places: &[(u64, u8, u8)]| {
            let registers = |&(position, value, flags): &(u64, u8, u8)| {
                (position, vec![("rax".to_owned(), vec![value]), (FLAGS.to_owned(), vec![flags])])
            };
            places.iter().map(registers).collect()
        };
        Held { registers: Pair { a: side(a), b: side(b) }, steps: Pair::default(), windows: Pair::default() }
    }

    const ALL: Stretch = Stretch { from: 0, to: 100 };

    #[test]
    fn the_next_stretch_lies_between_places_that_both_have() {
        let a = [(10, 1, 0), (20, 1, 0), (25, 7, 0), (30, 2, 0)];
        let b = [(10, 1, 0), (20, 1, 9), (26, 8, 0), (30, 3, 0)];
        assert_eq!(held(&a, &b).nearer(ALL), Some(Stretch { from: 20, to: 30 }));
        assert_eq!(held(&a, &a).nearer(ALL), Some(Stretch { from: 30, to: 100 }));
    }

    #[test]
    fn what_differs_at_the_beginning_does_not_count_until_it_is_the_same() {
        let (a, b) = ([(0, 1, 0), (10, 1, 0), (20, 2, 0)], [(0, 2, 0), (10, 1, 0), (20, 3, 0)]);
        assert_eq!(held(&a, &b).nearer(ALL), Some(Stretch { from: 10, to: 20 }));
        assert_eq!(held(&a[..1], &b[..1]).nearer(ALL), None);
        let (a, b) = ([(0, 1, 0), (10, 1, 0)], [(0, 2, 0), (10, 2, 0)]);
        assert_eq!(held(&a, &b).nearer(ALL), Some(Stretch { from: 0, to: 10 }));
        assert_eq!(
            held(&[(60, 1, 0)], &[(60, 2, 0)]).nearer(Stretch { from: 50, to: 70 }),
            Some(Stretch { from: 50, to: 60 })
        );
    }

    #[test]
    fn of_flags_the_last_instruction_counts_behind_which_they_differ() {
        let a = [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4)];
        let b = [(1, 0, 9), (2, 0, 2), (3, 0, 9), (4, 0, 9)];
        assert_eq!(held(&a, &b).flags_differ(4), Some(2));
        assert_eq!(held(&a, &b).flags_differ(2), None);
        assert_eq!(held(&a, &a).flags_differ(4), None);
    }

    #[test]
    fn registers_that_one_side_has_alone_are_left_out() {
        let mut held = held(&[(1, 0, 0)], &[(1, 0, 0)]);
        held.registers.a.get_mut(&1).unwrap().insert(0, ("opmask0".to_owned(), vec![1]));
        assert_eq!(held.names(), ["rax", FLAGS]);
        assert!(are_equal(&held.registers.a[&1], &held.registers.b[&1]));
    }
}
