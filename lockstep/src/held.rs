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

use qemu::build::Mode;
use qemu::monitor::{self, Monitor};
use trace::message::{CHUNK, FromProbe, Look, Step, Stretch, Window};

use crate::comparator::{Pair, Side};
use crate::difference::{Compared, Difference, first};
use crate::disassembly::asks_qemu;
use crate::dump::{self, FLAGS, Registers};
use crate::report::{Certainty, Divergence};
use crate::ride::{Given, Ride, Trouble};
use crate::selfcheck;
use crate::zoom::{Again, Zoomed};

/// At how many places both are held on the way.
const PLACES: u64 = 1024;

/// So many instructions are looked at block by block.
const CLOSE: u64 = 4096;

/// The most instructions that a block has.
const BLOCK: u64 = 512;

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
}

/// Looks for where registers differ first on the way to `to`, behind which two runs are known to be different. `None` where
/// they don't, or differ from the beginning on.
///
/// # Errors
/// Where a run fails.
pub(crate) fn zoom(again: &Again, to: u64) -> Result<Option<Zoomed>, Trouble> {
    let mut stretch = Stretch { from: 0, to };
    while stretch.to - stretch.from > CLOSE {
        let spacing = (stretch.to - stretch.from).div_ceil(PLACES);
        let look = Look { spacing, waits: Some(stretch), ..Look::default() };
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
    let mut zoomed = Zoomed { difference, inside: None, names, values: look.values, windows };
    if to > from + 1 {
        let stretch = Stretch { from, to: to + 1 };
        let look = Look { closely: Some(stretch), waits: Some(stretch), ..look };
        let mut single = run(again, &look, stretch, true)?;
        zoomed.inside = single
            .first(stretch)
            .filter(|(inside, names)| inside.from >= from && inside.to <= to && *names == zoomed.names)
            .map(|(inside, _)| inside);
    }
    Ok(Some(zoomed))
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
    let mut ended = Pair { a: false, b: false };
    while !(ended.a && ended.b) {
        match ride.next(again.request.interrupts)? {
            Some((side, FromProbe::Waiting { position })) => {
                if let Some(socket) = sockets.get_mut(side).take() {
                    *monitors.get_mut(side) = Some(Monitor::greet(socket).map_err(unread)?);
                }
                let Some(monitor) = monitors.get_mut(side) else { continue };
                let text = monitor.human("info registers").map_err(unread)?;
                registers.get_mut(side).insert(position, dump::registers(&target, &text));
                ride.on(side);
            }
            Some((side, FromProbe::Chunk { index, .. })) if index >= last => *ended.get_mut(side) = true,
            Some((side, FromProbe::End { .. })) => *ended.get_mut(side) = true,
            _ => {}
        }
    }
    let mut windows = Pair { a: Vec::new(), b: Vec::new() };
    if look.closely.is_some() {
        for side in [Side::A, Side::B] {
            for index in begin.saturating_sub(1)..=last {
                match ride.window(side, index) {
                    Ok(window) => windows.get_mut(side).push(window),
                    // It has ended before.
                    Err(Trouble::Forgotten(_)) => break,
                    Err(trouble) => return Err(trouble),
                }
            }
        }
    }
    Ok(Held { registers, steps: std::mem::take(&mut ride.steps), windows })
}

fn unread(error: monitor::Error) -> Trouble {
    Trouble::Unread(error)
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
    /// the guest begins, and then no more, is what the processor was like when it was switched on.
    fn nearer(&self, stretch: Stretch) -> Option<Stretch> {
        let Held { registers: Pair { a, b }, .. } = self;
        let both = a.iter().filter_map(|(position, a)| Some((*position, are_equal(a, b.get(position)?))));
        let mut equal = (stretch.from > 0).then_some(stretch.from);
        for (position, is_equal) in both {
            match (is_equal, equal) {
                (true, _) => equal = Some(position),
                (false, Some(from)) => return Some(Stretch { from, to: position }),
                (false, None) => {}
            }
        }
        Some(Stretch { from: equal?, ..stretch })
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
        let Compared::Found(difference) = first(&self.steps, stretch) else { return None };
        let mut difference = *difference;
        // Flags are shown, and not compared.
        if let Some(number) = names.iter().position(|name| name == FLAGS) {
            let flags = |side: Side, position: u64| {
                let read = self.registers.get(side).get(&position)?;
                read.iter().find(|(name, _)| name == FLAGS).map(|(_, bytes)| bytes.clone())
            };
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

/// What is said of an instruction that was found so.
pub(crate) fn doubts(zoomed: &Zoomed, divergence: &mut Divergence, notes: &mut Vec<String>) {
    notes.push(
        "registers were read through QEMU's monitor, because a build tells plugins none: at places on the way to where the runs part"
            .to_owned(),
    );
    let reads = |side| divergence.accesses.get(side).iter().any(|access| access.kind == "load");
    if !zoomed.values && divergence.certainty == Certainty::Seen && (reads(Side::A) || reads(Side::B)) {
        divergence.certainty = Certainty::First;
        notes.push(
            "this instruction reads memory, whose values a build does not tell: what was written there may have been wrong before"
                .to_owned(),
        );
    }
}
