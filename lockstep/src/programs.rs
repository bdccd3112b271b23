//! What is special where the guest is a user program: its system calls ask the host's own kernel, and nothing records what
//! that says.
//!
//! So a difference is what the builds make of the program only where each of them makes the same of it once more. Where one
//! does not, an input is behind it, and the first system call that came to something else names it.

use trace::message::{Call, Look, Window};

use crate::calls::Input;
use crate::comparator::{Order, Pair, Parted, Side};
use crate::expansion::{Executed, expand};
use crate::ride::Trouble;
use crate::zoom::{Again, start};

/// Said where the processes could not be made alike.
pub(crate) const OTHER_PROCESSES: &str = "values were not compared: the kernel lets this user make no PID namespace, and the program \
     keeps its process id in memory";

/// What makes two runs of one program part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The builds do.
    Builds,
    /// They do, by what a system call comes to in them.
    SystemCall(Input),
    /// An input, by this call where one is known.
    Input(Option<Input>),
}

/// Leaves values and registers out of what is looked at; gives back whether there were any.
pub(crate) fn without_values(look: &mut Look, what: &mut Vec<&'static str>) -> bool {
    let had = look.values && (look.stores || look.loads) || look.registers;
    (look.values, look.registers) = (false, false);
    for one in what.iter_mut() {
        *one = match *one {
            "stores" => "stores without their values",
            "loads" => "loads without their values",
            other => other,
        };
    }
    what.retain(|one| !one.starts_with("registers"));
    had
}

/// What a first run saw where it parted.
pub(crate) struct First<'a> {
    pub parted: Parted,
    pub seen: Pair<u64>,
    /// The instructions around, where it is they that differ.
    pub windows: Option<&'a Pair<Vec<Window>>>,
    /// The first system call that came to something else.
    pub outcome: Option<Pair<Call>>,
}

/// How often what a system call comes to has to be the same again before the builds are said to be behind it.
const TIMES: usize = 3;

/// Runs both again, and tells from what is the same once more why they part.
pub(crate) fn cause(again: &Again, first: &First, target: &str) -> Result<Cause, Trouble> {
    let named = |calls: Option<Pair<Call>>| calls.map(|calls| Input::of(target, &calls));
    let builds = again.request.builds;
    // What parts one build from itself, started alike, is no difference of builds.
    let is_one = builds.a.sha256 == builds.b.sha256 && again.drive.lines.a == again.drive.lines.b;
    for _ in 0..TIMES {
        let mut ride = start(again)?;
        let order = ride.follow(again.look, again.request.interrupts, &mut |_| {})?;
        let outcome = ride.calls().outcome;
        let same = match (order, first.windows) {
            (Order::Parted(parted), Some(windows)) if parted.flow => {
                parted.chunk == first.parted.chunk && is_again(windows, &ride.windows(parted.chunk)?)
            }
            (Order::Parted(parted), _) => parted == first.parted && ride.seen() == first.seen,
            _ => false,
        };
        if !same || is_one {
            return Ok(Cause::Input(named(first.outcome.or(outcome))));
        }
        // Nothing varies, or it does and nothing comes of it.
        if first.outcome.is_none() || first.outcome != outcome {
            return Ok(Cause::Builds);
        }
    }
    Ok(named(first.outcome).map_or(Cause::Builds, Cause::SystemCall))
}

/// Whether either side executes the same once more, up to the first instruction that differs and with it.
fn is_again(before: &Pair<Vec<Window>>, now: &Pair<Vec<Window>>) -> bool {
    let streams =
        |windows: &Pair<Vec<Window>>, side| expand(windows.get(side)).map(|stream| identities(&stream));
    let of = |side| Some((streams(before, side)?, streams(now, side)?));
    let (Some((a, a_now)), Some((b, b_now))) = (of(Side::A), of(Side::B)) else { return false };
    let apart = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let up_to = |stream: &[u64]| stream[..stream.len().min(apart + 1)].to_vec();
    up_to(&a) == up_to(&a_now) && up_to(&b) == up_to(&b_now)
}

fn identities(stream: &[Executed]) -> Vec<u64> {
    stream.iter().map(|executed| executed.instruction.identity()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::block::Instruction;
    use trace::message::Visit;

    fn window(addresses: &[u64]) -> Vec<Window> {
        let block: Vec<_> = addresses.iter().map(|&address| Instruction::new(address, vec![0x90])).collect();
        let visits = vec![Visit { vcpu: 0, block: 0, skip: 0, ran: u32::try_from(block.len()).unwrap() }];
        vec![Window { first: 0, visits, blocks: vec![block] }]
    }

    #[test]
    fn what_comes_behind_the_first_difference_may_vary() {
        let pair = |a: &[u64], b: &[u64]| Pair { a: window(a), b: window(b) };
        let first = pair(&[1, 2, 3, 4], &[1, 2, 5, 6]);
        assert!(is_again(&first, &pair(&[1, 2, 3, 7], &[1, 2, 5, 8])));
        assert!(!is_again(&first, &pair(&[1, 2, 3, 4], &[1, 2, 3, 4])));
        assert!(!is_again(&first, &pair(&[1, 9, 3, 4], &[1, 2, 5, 6])));
        let ended = pair(&[1, 2, 3], &[1, 2]);
        assert!(is_again(&ended, &ended));
        assert!(!is_again(&ended, &pair(&[1, 2, 3], &[1, 2, 3])));
    }
}
