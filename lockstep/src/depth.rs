//! How much of two runs is compared.

use trace::message::Look;

use crate::comparator::{Pair, Side};

/// How much is compared; each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The instructions.
    Flow,
    /// What they write to memory.
    Stores,
    /// The registers now and then.
    Full,
}

impl Depth {
    fn name(self) -> &'static str {
        match self {
            Depth::Flow => "flow",
            Depth::Stores => "stores",
            Depth::Full => "full",
        }
    }
}

/// A build can't give what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "side {side} tells no registers (its plugin interface is at level {level}, from level {REGISTERS} on there are some): `--compare {most}` is the most",
    most = .most.name()
)]
pub struct TooDeep {
    side: Side,
    level: i32,
    most: Depth,
}

/// Instructions between two samples.
const SPACING: u64 = 1 << 16;

/// From which levels of the plugin interface on there are registers, and accesses with their values (QEMU 9.0 and 10.0).
const REGISTERS: i32 = 2;
pub(crate) const VALUES: i32 = 4;

/// What both probes look at, where so much is asked for (or the most that both builds can give), and how a report
/// says that. `levels`: of their plugin interfaces.
///
/// # Errors
/// Where one of them can't give what is asked for.
pub fn look(
    asked: Option<Depth>,
    loads: bool,
    levels: Pair<i32>,
) -> Result<(Look, Vec<&'static str>), TooDeep> {
    let older = if levels.a <= levels.b { Side::A } else { Side::B };
    let level = *levels.get(older);
    let most = if level < REGISTERS { Depth::Stores } else { Depth::Full };
    let depth = asked.unwrap_or(most);
    if depth > most {
        return Err(TooDeep { side: older, level, most });
    }
    let look = Look {
        stores: depth >= Depth::Stores,
        loads,
        values: level >= VALUES,
        again: true,
        registers: depth == Depth::Full,
        spacing: if depth >= Depth::Stores || loads { SPACING } else { 0 },
        ..Look::default()
    };
    let mut what = vec!["control flow"];
    let with_values = |with, without| if look.values { with } else { without };
    if look.stores {
        what.push(with_values("stores", "stores without their values"));
    }
    if look.loads {
        what.push(with_values("loads", "loads without their values"));
    }
    if look.registers {
        what.push("registers every 65,536 instructions");
    }
    Ok((look, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_build_says_what_can_be_compared() {
        let (new, old) = (Pair { a: 4, b: 5 }, Pair { a: 4, b: 1 });
        assert_eq!(
            look(None, false, new).unwrap().1,
            ["control flow", "stores", "registers every 65,536 instructions"]
        );
        assert_eq!(
            look(None, true, old).unwrap().1,
            ["control flow", "stores without their values", "loads without their values"]
        );
        assert_eq!(
            look(Some(Depth::Flow), false, new).unwrap(),
            (Look { values: true, again: true, ..Look::default() }, vec!["control flow"])
        );
        let error = look(Some(Depth::Full), false, old).unwrap_err().to_string();
        assert!(error.contains("side B") && error.contains("`--compare stores` is the most"), "{error}");
    }
}
