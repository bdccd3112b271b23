//! The instructions around a divergence as both sides executed them: each with the registers that it began with and what it
//! did to memory. It is what a program of its own can be cut from.

use std::collections::HashMap;

use qemu::build::Mode;
use trace::message::{Accessed, Look, Step, Stretch};

use crate::calls;
use crate::comparator::{Pair, Side};
use crate::depth::{self, VALUES};
use crate::difference::take_in;
use crate::drive::Drive;
use crate::expansion::Executed;
use crate::report::Report;
use crate::ride::naming::streams_of;
use crate::ride::{Driven, Error, Request, Trouble};
use crate::zoom::{Again, BLOCK, begins, closely};

/// How many instructions before the guilty one it begins, at the most.
const BEFORE: u64 = 256;

/// A stretch that was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Of an x86 guest: what its code there is, 16, 32 or 64 bit.
    pub bits: Option<u32>,
    /// The names of the registers.
    pub names: Vec<String>,
    /// What each side executed, one behind the other.
    pub sides: Pair<Vec<Moment>>,
    /// The position of the guilty instruction, and of the one at which its effect shows.
    pub guilty: u64,
    pub shows: u64,
}

/// One executed instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// How many were executed before it.
    pub position: u64,
    pub address: u64,
    pub bytes: Vec<u8>,
    /// Whether its block begins with it.
    pub begins: bool,
    /// The registers before it, in the order of their names, as QEMU tells them to gdb.
    pub registers: Vec<Vec<u8>>,
    /// What it did to memory, in order.
    pub accesses: Vec<Accessed>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("the divergence has no instruction")]
    NoInstruction,
    #[error("the builds emulate {0}, and of x86_64 only programs are made")]
    Architecture(String),
    #[error(
        "the newer build is QEMU {0}, which does not tell a probe what is read from memory and written to it; 10.0 is the first that does"
    )]
    Blind(String),
    #[error("when run once more, {0}")]
    Again(String),
    #[error("when run once more, the guilty instruction was not met")]
    NotMet,
    #[error(transparent)]
    Ride(#[from] Error),
}

/// Runs both once more to where `report` says that they part. `request`: the one that it is the report of.
///
/// # Errors
/// Where there is no such place, or the builds do not tell enough of it.
pub fn excerpt(mut request: Request, report: &Report) -> Result<Excerpt, Missing> {
    let divergence = report.divergence.as_ref().ok_or(Missing::NoInstruction)?;
    if divergence.pc.a.is_none() {
        return Err(Missing::NoInstruction);
    }
    if report.builds.a.target != "x86_64" {
        return Err(Missing::Architecture(report.builds.a.target.clone()));
    }
    let drive = Drive::of(&mut request)?;
    // Up to there both do the same, and one that tells more of it can stand for the other.
    let newer = if report.builds.a.plugin_api < report.builds.b.plugin_api { Side::B } else { Side::A };
    let tells = |side| report.builds.get(side).plugin_api >= VALUES;
    if !tells(newer) {
        return Err(Missing::Blind(report.builds.get(newer).version.clone()));
    }
    let stands = |side: Side| if tells(side) { side } else { newer };
    let builds = Pair::of(|side| *request.builds.get(stands(side)));
    let levels = Pair::of(|side| report.builds.get(stands(side)).plugin_api);
    let request = Request { builds, driven: Driven::Live, ..request };
    let (look, _) = depth::look(None, true, levels).map_err(Error::from)?;
    let is_program = request.builds.a.mode == Mode::User;
    let calls = if is_program { calls::does(&report.builds.a.target) } else { Vec::new() };
    let look = Look { calls, until: (drive.least > 0).then_some(drive.least), ..look };
    let place = Place {
        bits: divergence.mode,
        guilty: divergence.icount.a,
        shows: divergence.seen.icount.max(divergence.icount.a),
    };
    let again = Again { request: &request, drive: &drive, look: &look, levels };
    let looked_at = match place.looked_at(&again) {
        // Up to there the other does the same, and goes on.
        Err(Trouble::Died { side, .. }) => {
            let lives = *request.builds.get(side.other());
            let request = Request { builds: Pair { a: lives, b: lives }, driven: Driven::Live, ..request };
            place.looked_at(&Again { request: &request, ..again })
        }
        looked_at => looked_at,
    };
    looked_at.map_err(|trouble| Missing::Again(trouble.to_string()))?.ok_or(Missing::NotMet)
}

/// Where both part.
struct Place {
    bits: Option<u32>,
    guilty: u64,
    shows: u64,
}

impl Place {
    /// What is executed there; `None` where the instruction is not.
    fn looked_at(&self, again: &Again) -> Result<Option<Excerpt>, Trouble> {
        let Place { bits, guilty, shows } = *self;
        let from = guilty.saturating_sub(BEFORE);
        let to = shows.min(guilty + BEFORE) + BLOCK;
        let stretch = Stretch { from, to };
        let windows = closely(again, again.look, stretch, Pair::default())?.windows;
        let inside = Pair::of(|side| begins(windows.get(side), from, to));
        let close = closely(again, again.look, stretch, inside)?;
        let streams = streams_of(&close.windows)?;
        let met = streams.a.iter().find(|executed| executed.position == guilty);
        let Some(vcpu) = met.map(|executed| executed.vcpu) else { return Ok(None) };
        let sides = Pair::of(|side| moments(streams.get(side), close.steps.get(side), vcpu, stretch));
        Ok(Some(Excerpt { bits, names: close.names, sides, guilty, shows }))
    }
}

/// The instructions of `vcpu` in `stretch`, with what its steps tell of them.
fn moments(stream: &[Executed], steps: &[Step], vcpu: u32, stretch: Stretch) -> Vec<Moment> {
    let mut registers: Vec<Vec<u8>> = Vec::new();
    let mut before = HashMap::new();
    let mut accesses: HashMap<u64, Vec<Accessed>> = HashMap::new();
    for step in steps {
        take_in(&mut registers, step);
        if step.vcpu == vcpu && !step.ends {
            before.insert(step.position, registers.clone());
        }
        for access in &step.accesses {
            accesses.entry(access.position).or_default().push(*access);
        }
    }
    let own = stream
        .iter()
        .filter(|executed| executed.vcpu == vcpu && (stretch.from..stretch.to).contains(&executed.position));
    let moment = |executed: &Executed| {
        Some(Moment {
            position: executed.position,
            address: executed.instruction.address,
            bytes: executed.instruction.bytes.clone(),
            begins: executed.number == 0,
            registers: before.remove(&executed.position)?,
            accesses: accesses.remove(&executed.position).unwrap_or_default(),
        })
    };
    own.filter_map(moment).collect()
}
