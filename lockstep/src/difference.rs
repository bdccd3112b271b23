//! What differs first between two stretches that were looked at closely. A pure function of what the probes told.
//!
//! Each side tells its steps: where its blocks begin, with the registers there, and what the instructions between did to
//! memory. Builds cut blocks differently, so only positions that both have a step at are compared.

use std::collections::BTreeMap;
use std::mem::take;

use trace::look::State;
use trace::message::{Accessed, Sample, Step, Stretch};

use crate::comparator::{Pair, Side};

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Another instruction comes next.
    Flow,
    /// Another vCPU executes next: the one on A, and that on B.
    Turn(Pair<u32>),
    /// An access; `None` where a side has none.
    Access(Pair<Option<Accessed>>),
    /// Registers only.
    Registers,
    /// A byte on the console; `None` where a side has none.
    Console(Pair<Option<u8>>),
}

/// The first difference, and what was the same before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The vCPU that comes to it.
    pub vcpu: u32,
    /// All is equal before the instruction at `from`; before that at `to` it is not.
    pub from: u64,
    pub to: u64,
    /// Where that was seen: at `to`, or when it was the vCPU's turn again.
    pub shows: u64,
    pub what: What,
    /// The registers at `from`, and at `to` on both sides, in the order of their names.
    pub before: Vec<Vec<u8>>,
    pub after: Pair<Vec<Vec<u8>>>,
    /// What the instructions in between did to memory.
    pub accesses: Pair<Vec<Accessed>>,
}

/// What comparing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// Nothing differs as far as both go.
    Same,
    /// Both differ where they begin.
    Before,
    /// Here.
    Found(Box<Difference>),
}

/// One side's steps, as they are gone through.
struct Track<'s> {
    steps: std::slice::Iter<'s, Step>,
    registers: Vec<Vec<u8>>,
    accesses: Vec<Accessed>,
    at: Option<&'s Step>,
}

impl<'s> Track<'s> {
    fn of(steps: &'s [Step]) -> Self {
        Track { steps: steps.iter(), registers: Vec::new(), accesses: Vec::new(), at: None }
    }

    /// Goes on to the next step; gives back whether there is one.
    fn go_on(&mut self) -> bool {
        let Some(step) = self.steps.next() else { return false };
        take_in(&mut self.registers, step);
        self.accesses.extend(&step.accesses);
        self.at = Some(step);
        true
    }
}

/// A step tells of those registers only that have changed since the one before.
pub(crate) fn take_in(registers: &mut Vec<Vec<u8>>, step: &Step) {
    for (number, bytes) in &step.registers {
        let number = usize::from(*number);
        if registers.len() <= number {
            registers.resize(number + 1, Vec::new());
        }
        registers[number].clone_from(bytes);
    }
}

/// Where a vCPU was last, and all was equal.
struct Before {
    from: u64,
    /// Where another one went on.
    to: Option<u64>,
    registers: Vec<Vec<u8>>,
    accesses: Pair<Vec<Accessed>>,
}

/// The first difference in `stretch`. Where vCPUs take turns, what is wrong in the registers of one shows when it is its turn again.
#[must_use]
pub fn first(steps: &Pair<Vec<Step>>, stretch: Stretch) -> Compared {
    let (mut a, mut b) = (Track::of(&steps.a), Track::of(&steps.b));
    let mut before: BTreeMap<u32, Before> = BTreeMap::new();
    let mut executing = None;
    if !a.go_on() || !b.go_on() {
        return Compared::Same;
    }
    loop {
        let (Some(ours), Some(theirs)) = (a.at, b.at) else { return Compared::Same };
        let mut at = ours.position;
        if at != theirs.position {
            let (behind, last) = if at < theirs.position { (&mut a, ours) } else { (&mut b, theirs) };
            if behind.go_on() {
                continue;
            }
            if !last.ends {
                return Compared::Same;
            }
            at = last.position;
        }
        // Of what the other does behind an end nothing is compared, and there only what was done to memory.
        let ends = ours.ends || theirs.ends;
        let turn = ends || ours.vcpu == theirs.vcpu;
        let access = first_access(made_before(&a.accesses, at, ends), made_before(&b.accesses, at, ends));
        // What ends the stretch may be entered again, on one side only.
        let registers = ends || at >= stretch.to || !turn || a.registers == b.registers;
        let flow = ends || turn && ours.address == theirs.address;
        // What was done since the step before, the one did whose turn it was.
        let executed = executing.unwrap_or(ours.vcpu);
        if let Some(before) = before.get_mut(&executed).filter(|before| before.to.is_none()) {
            before.accesses = Pair { a: take(&mut a.accesses), b: take(&mut b.accesses) };
            if !turn || executed != ours.vcpu {
                before.to = Some(at);
            }
        }
        if access.is_some() || !registers || !flow {
            let what = match access {
                Some(pair) => What::Access(pair),
                None if !turn => What::Turn(Pair { a: ours.vcpu, b: theirs.vcpu }),
                None if !flow => What::Flow,
                None => What::Registers,
            };
            let guilty = if what == What::Registers { ours.vcpu } else { executed };
            let Some(Before { from, to, registers, accesses }) = before.remove(&guilty) else {
                return Compared::Before;
            };
            let after = if !ends && turn && guilty == ours.vcpu {
                Pair { a: a.registers, b: b.registers }
            } else {
                Pair { a: registers.clone(), b: registers.clone() }
            };
            let (to, shows) = (to.unwrap_or(at), at);
            let before = registers;
            return Compared::Found(Box::new(Difference {
                vcpu: guilty,
                from,
                to,
                shows,
                what,
                before,
                after,
                accesses,
            }));
        }
        let registers = a.registers.clone();
        before.insert(ours.vcpu, Before { from: at, to: None, registers, accesses: Pair::default() });
        executing = Some(ours.vcpu);
        a.accesses.clear();
        b.accesses.clear();
        if !a.go_on() || !b.go_on() {
            return Compared::Same;
        }
    }
}

/// Whether `steps` begin with what the sample `from` shows and come to what `to` shows: whether they are of the run in which both
/// were taken. `loads`: whether samples tell of what was read.
#[must_use]
pub fn leads(steps: &[Step], from: &Sample, to: &Sample, loads: bool) -> bool {
    let mut track = Track::of(steps);
    let registers = |track: &Track| {
        let mut state = State::default();
        for register in &track.registers {
            state.bytes.extend(register);
            state.ends.push(state.bytes.len());
        }
        state.digest()
    };
    let at = |track: &Track| track.at.map(|step| step.position);
    if !track.go_on() || at(&track) != Some(from.position) || registers(&track) != from.registers {
        return false;
    }
    track.accesses.clear();
    while at(&track).is_some_and(|position| position < to.position) {
        if !track.go_on() {
            return false;
        }
    }
    let mut memory = from.memory;
    for access in &track.accesses {
        memory.take_in_told(access);
    }
    at(&track) == Some(to.position)
        && registers(&track) == to.registers
        && memory.stores == to.memory.stores
        && (!loads || memory.loads == to.memory.loads)
}

/// Of these accesses those that were made before the instruction at `position`, where `ends` says that others may be there.
fn made_before(accesses: &[Accessed], position: u64, ends: bool) -> &[Accessed] {
    let made =
        if ends { accesses.partition_point(|access| access.position < position) } else { accesses.len() };
    &accesses[..made]
}

/// The first accesses of two lists that differ.
fn first_access(a: &[Accessed], b: &[Accessed]) -> Option<Pair<Option<Accessed>>> {
    let place = a.iter().zip(b).position(|(a, b)| a != b);
    let place = place.or((a.len() != b.len()).then(|| a.len().min(b.len())))?;
    let mut pair = Pair { a: a.get(place).copied(), b: b.get(place).copied() };
    // Where one side has an access more, that is the one that the other does not have.
    if let (Some(ours), Some(theirs)) = (pair.a, pair.b)
        && ours.position != theirs.position
    {
        let later = if ours.position > theirs.position { Side::A } else { Side::B };
        *pair.get_mut(later) = None;
    }
    Some(pair)
}

/// The place of the first byte that is another one.
#[must_use]
pub fn parted(consoles: &Pair<Vec<u8>>) -> Option<usize> {
    consoles.a.iter().zip(&consoles.b).position(|(a, b)| a != b)
}

/// The stretch in which the byte at `place` was written by the side that had it first, by how much each had written at
/// which positions. `None` where neither did so behind its first position.
pub fn written<I: Iterator<Item = (u64, u64)> + Clone>(seen: &Pair<I>, place: usize) -> Option<Stretch> {
    let of = |side| {
        let mut before = None;
        for (position, written) in seen.get(side).clone() {
            if written > place as u64 {
                return Some(before.map(|from| Stretch { from, to: position }));
            }
            before = Some(position);
        }
        None
    };
    let (a, b) = (of(Side::A), of(Side::B));
    match (a, b) {
        (Some(Some(a)), Some(Some(b))) => Some(Stretch { from: a.from.min(b.from), to: a.to.min(b.to) }),
        (Some(one), None) | (None, Some(one)) => one,
        // It was there before one side's first.
        _ => None,
    }
}

impl Difference {
    /// A byte that is another one on the console, and shows nowhere else: of the instructions that the steps are behind, those
    /// with which the side that had it first wrote it. `None` where none of them did.
    #[must_use]
    pub fn on_console(steps: &Pair<Vec<Step>>, consoles: &Pair<Vec<u8>>) -> Option<Self> {
        let place = parted(consoles)?;
        let by = |step: &Step| (step.position, step.written);
        let Stretch { from, to } = written(&Pair::of(|side| steps.get(side).iter().map(by)), place)?;
        let bytes = Pair { a: consoles.a.get(place).copied(), b: consoles.b.get(place).copied() };
        let mut all = steps.a.iter().chain(&steps.b);
        let vcpu = all.find(|step| step.position == from).map_or(0, |step| step.vcpu);
        Some(Difference {
            vcpu,
            from,
            to,
            shows: to,
            what: What::Console(bytes),
            before: Vec::new(),
            after: Pair::default(),
            accesses: Pair::default(),
        })
    }

    /// The registers that differ at its end, by their number.
    #[must_use]
    pub fn registers(&self) -> Vec<usize> {
        let count = self.after.a.len().max(self.after.b.len());
        (0..count).filter(|&number| self.after.a.get(number) != self.after.b.get(number)).collect()
    }

    /// The position of the first access that differs.
    #[must_use]
    pub fn access(&self) -> Option<u64> {
        let What::Access(pair) = self.what else { return None };
        [pair.a, pair.b].into_iter().flatten().map(|access| access.position).min()
    }
}

#[cfg(test)]
mod tests {
    use trace::access::Memory;

    use super::*;

    const ALL: Stretch = Stretch { from: 0, to: 1000 };

    fn step(position: u64, value: u8, accesses: &[(u64, u64)]) -> Step {
        let access = |&(position, value): &(u64, u64)| Accessed {
            position,
            address: 0x5000,
            size: 8,
            is_store: true,
            value,
        };
        Step {
            position,
            address: 0x1000 + position,
            vcpu: 0,
            ends: false,
            registers: vec![(0, vec![value])],
            written: 0,
            accesses: accesses.iter().map(access).collect(),
        }
    }

    fn found(a: Vec<Step>, b: Vec<Step>) -> Difference {
        match first(&Pair { a, b }, ALL) {
            Compared::Found(difference) => *difference,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn equal_steps_are_the_same_however_blocks_are_cut() {
        let a = vec![step(10, 1, &[]), step(14, 2, &[(11, 7)]), step(20, 3, &[(15, 8)])];
        let b = vec![step(10, 1, &[]), step(12, 9, &[(11, 7)]), step(20, 3, &[(15, 8)]), step(30, 4, &[])];
        assert_eq!(first(&Pair { a, b }, ALL), Compared::Same);
    }

    #[test]
    fn a_register_differs_behind_the_last_place_where_all_was_equal() {
        let a = vec![step(10, 1, &[]), step(14, 2, &[]), step(20, 3, &[])];
        let b = vec![step(10, 1, &[]), step(14, 2, &[]), step(20, 4, &[])];
        let difference = found(a, b);
        assert_eq!((difference.from, difference.to, difference.what), (14, 20, What::Registers));
        assert_eq!((difference.registers(), difference.before), (vec![0], vec![vec![2]]));
    }

    /// What goes wrong in a turn's last block shows in the next turn, and is of that block.
    #[test]
    fn a_vcpus_registers_differ_when_it_is_its_turn_again() {
        let on = |vcpu, position, value| Step { vcpu, ..step(position, value, &[]) };
        let steps = |value| vec![on(1, 10, 1), on(1, 14, 2), on(0, 20, 7), on(0, 25, 8), on(1, 30, value)];
        let difference = found(steps(3), steps(4));
        assert_eq!((difference.vcpu, difference.from, difference.to, difference.shows), (1, 14, 20, 30));
        assert_eq!((difference.what, &difference.before), (What::Registers, &vec![vec![2]]));
        // Another one's turn is not another value.
        let other = vec![on(1, 10, 1), on(1, 14, 2), on(1, 20, 3)];
        let difference = found(steps(3), other);
        assert_eq!(
            (difference.vcpu, difference.to, difference.what),
            (1, 20, What::Turn(Pair { a: 0, b: 1 }))
        );
        assert!(difference.registers().is_empty());
        // Nothing is known of a vCPU that had no turn yet.
        let late = |value| vec![on(0, 10, 1), on(1, 20, value)];
        assert_eq!(first(&Pair { a: late(1), b: late(2) }, ALL), Compared::Before);
    }

    #[test]
    fn an_access_that_one_side_has_not_is_told_alone() {
        let a = vec![step(10, 1, &[]), step(20, 3, &[(12, 7), (13, 8)])];
        let b = vec![step(10, 1, &[]), step(20, 3, &[(13, 8)])];
        let difference = found(a, b);
        assert!(matches!(difference.what, What::Access(Pair { a: Some(_), b: None })), "{difference:?}");
        assert_eq!(difference.access(), Some(12));
    }

    #[test]
    fn registers_do_not_count_where_the_stretch_ends_but_what_came_before_does() {
        let steps = |value, stored| vec![step(990, 1, &[]), step(1003, value, &[(991, stored)])];
        assert_eq!(first(&Pair { a: steps(1, 5), b: steps(2, 5) }, ALL), Compared::Same);
        assert_eq!(found(steps(1, 5), steps(1, 6)).access(), Some(991));
    }

    #[test]
    fn a_byte_on_the_console_is_of_the_step_in_which_it_was_written() {
        let steps: Vec<Step> = [(10, 0), (14, 3), (20, 4), (22, 4)]
            .map(|(position, written)| Step { written, ..step(position, 1, &[]) })
            .to_vec();
        let consoles = |b: &[u8]| Pair { a: b"abcd".to_vec(), b: b.to_vec() };
        let both = |from: usize| Pair { a: steps[from..].to_vec(), b: steps[from..].to_vec() };
        let found = Difference::on_console(&both(0), &consoles(b"abcX")).unwrap();
        assert_eq!((found.from, found.to), (14, 20));
        assert_eq!(found.what, What::Console(Pair { a: Some(b'd'), b: Some(b'X') }));
        assert_eq!(Difference::on_console(&both(0), &consoles(b"abcd")), None);
        assert_eq!(Difference::on_console(&both(1), &consoles(b"Xbcd")), None, "it was written before");
    }

    /// B has not written what A has, and then what A writes later; then A has not.
    #[test]
    fn a_byte_that_one_side_leaves_out_is_of_the_side_that_has_it() {
        let steps = |written: [u64; 4]| {
            let step = |(position, written)| Step { written, ..step(position, 1, &[]) };
            [10, 14, 20, 30].into_iter().zip(written).map(step).collect::<Vec<_>>()
        };
        let (all, less) = (steps([0, 1, 2, 3]), steps([0, 1, 1, 2]));
        for (a, b, on_a, on_b) in [(&all, &less, "abc", "ac"), (&less, &all, "ac", "abc")] {
            let (steps, consoles) = (Pair { a: a.clone(), b: b.clone() }, Pair { a: on_a, b: on_b });
            let found =
                Difference::on_console(&steps, &Pair::of(|side| consoles.get(side).as_bytes().to_vec()));
            assert_eq!(found.map(|found| (found.from, found.to)), Some((14, 20)));
        }
    }

    #[test]
    fn steps_are_of_a_run_where_they_lead_from_one_of_its_samples_to_the_next() {
        let memory = |stored: &[(u64, u64)]| {
            let mut memory = Memory { stores: 77, loads: 0 };
            for access in &step(0, 0, stored).accesses {
                memory.take_in_told(access);
            }
            memory
        };
        let sample = |position, value: u8, stored: &[(u64, u64)]| Sample {
            position,
            registers: State { bytes: vec![value], ends: vec![1] }.digest(),
            memory: memory(stored),
            written: 0,
        };
        let (from, to) = (sample(10, 1, &[]), sample(20, 3, &[(12, 7), (15, 8)]));
        // What the block before has done is behind the first sample.
        let steps = [
            step(10, 1, &[(9, 5)]),
            step(14, 2, &[(12, 7)]),
            step(20, 3, &[(15, 8)]),
            step(30, 4, &[(25, 1)]),
        ];
        assert!(leads(&steps, &from, &to, false));
        assert!(
            !leads(&steps, &from, &sample(20, 3, &[(12, 7), (15, 9)]), false),
            "another value was stored"
        );
        assert!(!leads(&steps, &from, &sample(20, 4, &[(12, 7), (15, 8)]), false), "another register");
        assert!(!leads(&steps, &from, &Sample { position: 21, ..to }, false), "no step is there");
        assert!(!leads(&steps, &sample(10, 2, &[]), &to, false), "it began in another way");
        assert!(!leads(&steps[..2], &from, &to, false), "it does not come so far");
        let read = Sample { memory: Memory { loads: 5, ..to.memory }, ..to };
        assert!(leads(&steps, &from, &read, false) && !leads(&steps, &from, &read, true));
    }

    #[test]
    fn two_that_differ_from_the_beginning_part_before() {
        assert_eq!(
            first(&Pair { a: vec![step(10, 1, &[])], b: vec![step(10, 2, &[])] }, ALL),
            Compared::Before
        );
    }
}
