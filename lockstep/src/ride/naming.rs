//! From the place where two runs part to the instruction that the report names.

use trace::message::{Call, Window};

use super::Trouble;
use crate::comparator::{Pair, Parted, Samples, Side};
use crate::difference::{Difference, What};
use crate::disassembly::asks_qemu;
use crate::expansion::{Executed, expand, first_difference};
use crate::report::{Consoles, Divergence, Kind, Report, Telling, Verdict};
use crate::{held, texts, zoom};

/// Finds the instruction at which two runs part. `seen`: the instructions of the chunk in which theirs differ, or user
/// programs' system calls, which are `unlike`; `samples`: the last that were equal and the first that were not.
pub(super) fn part(
    again: &zoom::Again,
    parted: Parted,
    mut seen: Option<Pair<Vec<Window>>>,
    (unlike, samples): (Option<Pair<Call>>, Option<Samples>),
    report: &mut Report,
) -> Result<(), Trouble> {
    let target = report.builds.a.target.clone();
    // The instructions of whole chunks take much memory: none are kept while both run again.
    let mut turns = None;
    let (apart, at) = match &seen {
        Some(windows) => {
            let streams = streams_of(windows)?;
            let apart = first_difference(&streams.a, &streams.b);
            if apart.is_none() && unlike.is_none() {
                return Err(Trouble::Unfound(parted.chunk));
            }
            let first = Pair::of(|side| apart.and_then(|at| streams.get(side).get(at)));
            let at = first.a.or(first.b).map(|executed| executed.position);
            // Where one side has ended nobody took its turn.
            if let (Some(at), Pair { a: Some(a), b: Some(b) }) = (at, first) {
                let vcpus = Pair { a: a.vcpu, b: b.vcpu };
                turns = (a.vcpu != b.vcpu).then_some(Trouble::Turns { at, vcpus });
            }
            (apart, at)
        }
        None => (None, None),
    };
    let zoomed = zoom::at_once(again, parted, at, samples).and_then(|zoomed| match zoomed {
        None => zoom::zoom(again, parted, at),
        zoomed => Ok(zoomed),
    });
    let zoomed = match zoomed {
        // A side that dies soon behind can't be asked.
        Err(Trouble::Died { .. }) if seen.is_some() => None,
        Err(Trouble::Died { side, ending, said, .. }) => {
            return Err(Trouble::Died { side, ending, started: None, said });
        }
        zoomed => zoomed?,
    };
    // Samples may be the first to show it: of two vCPUs' registers nothing is the same.
    let closest = zoomed.as_ref().map(|zoomed| zoomed.inside.as_ref().unwrap_or(&zoomed.difference));
    if let Some(Difference { to, what: What::Turn(vcpus), .. }) = closest {
        report.compared.instructions = *to;
        return Err(Trouble::Turns { at: *to, vcpus: *vcpus });
    }
    if let (Some(turns), Some(at)) = (turns, at) {
        let before = |zoomed: &zoom::Zoomed| {
            let Difference { to, what, .. } = &zoomed.difference;
            *to < at || *to == at && matches!(what, What::Access(_))
        };
        if !zoomed.as_ref().is_some_and(before) {
            report.compared.instructions = at;
            return Err(turns);
        }
    }
    if held::is_wanted(again) {
        let to = zoomed.as_ref().map(|zoomed| zoomed.difference.to).or(at.map(|at| at + 1));
        match held::look(again, to.unwrap_or(parted.before), &target) {
            Ok(Some(mut named)) => {
                // What is said of the place where it shows without registers may explain it too.
                if let Some(zoomed) = &zoomed {
                    let shows = of_zoomed(again.request.telling(&target), zoomed)?;
                    if shows.divergence.icount != named.divergence.icount {
                        let summary = shows.divergence.summary();
                        named.notes.push(format!("without registers it shows here: {summary}"));
                        named.notes.extend(shows.notes);
                    }
                }
                found(named, report);
                return Ok(());
            }
            Ok(None) => report.notes.push(held::NOTHING.to_owned()),
            Err(Trouble::Interrupted) => return Err(Trouble::Interrupted),
            // What is found stays found.
            Err(why) => report.notes.push(format!("no registers can be told: {why}")),
        }
    }
    if let (None, Some(windows)) = (&zoomed, &mut seen)
        && asks_qemu(&target)
    {
        texts::fill(again, &mut [&mut windows.a, &mut windows.b])?;
    }
    let telling = again.request.telling(&target);
    if let Some(zoomed) = &zoomed {
        found(of_zoomed(telling, zoomed)?, report);
        return Ok(());
    }
    let (divergence, notes) = match (&seen, apart) {
        (Some(windows), Some(at)) => {
            let mut streams = streams_of(windows)?;
            let last = at.checked_sub(1).and_then(|at| streams.a.get(at)).map(|executed| executed.vcpu);
            let vcpu = turns_of(&mut streams, last);
            let at = first_difference(&streams.a, &streams.b).unwrap_or(streams.a.len());
            let (divergence, notes) = Divergence::of(telling, &streams, at);
            (Divergence { vcpu, ..divergence }, notes)
        }
        (Some(windows), None) => match &unlike {
            Some(unlike) => Divergence::of_calls(telling, &streams_of(windows)?, unlike),
            None => return Err(Trouble::Hidden(parted.chunk)),
        },
        (None, _) => return Err(Trouble::Hidden(parted.chunk)),
    };
    found(Named { divergence, notes, console: None }, report);
    Ok(())
}

/// A divergence whose instruction has a name.
pub(crate) struct Named {
    pub divergence: Divergence,
    /// What there is to say of it.
    pub notes: Vec<String>,
    /// What the guests had written by then, where that is known exactly.
    pub console: Option<Consoles>,
}

fn found(named: Named, report: &mut Report) {
    let Named { divergence, notes, console } = named;
    report.verdict = Verdict::Different;
    report.compared.instructions = divergence.icount.a;
    report.summary = divergence.summary();
    report.notes.extend(notes);
    report.console = console.or(report.console.take());
    report.divergence = Some(divergence);
}

/// Leaves of both streams what `vcpu` executed, where there are others; gives it back then.
fn turns_of(streams: &mut Pair<Vec<Executed<'_>>>, vcpu: Option<u32>) -> Option<u32> {
    let vcpu = vcpu?;
    let others = |stream: &[Executed]| stream.iter().any(|executed| executed.vcpu != vcpu);
    if vcpu == 0 && !others(&streams.a) && !others(&streams.b) {
        return None;
    }
    for side in [Side::A, Side::B] {
        streams.get_mut(side).retain(|executed| executed.vcpu == vcpu);
    }
    Some(vcpu)
}

/// What was only to be seen from outside comes of an instruction.
pub(super) fn explained(named: Named, seen: Kind, report: &mut Report) {
    let Named { divergence, notes, console } = named;
    let before = std::mem::replace(&mut report.summary, divergence.summary());
    report.notes = notes;
    report.notes.push(format!("seen first in {seen}: {before}"));
    report.compared.instructions = divergence.icount.a;
    // Where only the consoles differ the line says more in which they do.
    if divergence.kind != Kind::Console && console.is_some() {
        report.console = console;
    }
    report.divergence = Some(divergence);
}

/// The divergence that was looked at closely.
pub(crate) fn of_zoomed(telling: Telling, zoomed: &zoom::Zoomed) -> Result<Named, Trouble> {
    let mut streams = streams_of(&zoomed.windows)?;
    let vcpu = turns_of(&mut streams, Some(zoomed.difference.vcpu));
    let (divergence, notes) = Divergence::zoomed(telling, &streams, zoomed);
    let divergence = Divergence { vcpu, ..divergence };
    let console = zoomed.written.at(divergence.icount.a);
    Ok(Named { divergence, notes, console })
}

/// The instructions of both sides' windows.
pub(crate) fn streams_of(windows: &Pair<Vec<Window>>) -> Result<Pair<Vec<Executed<'_>>>, Trouble> {
    Ok(Pair { a: stream_of(Side::A, &windows.a)?, b: stream_of(Side::B, &windows.b)? })
}

/// The instructions of one side's windows.
pub(crate) fn stream_of(side: Side, windows: &[Window]) -> Result<Vec<Executed<'_>>, Trouble> {
    expand(windows).ok_or_else(|| Trouble::Probe(side, "its window makes no sense".to_owned()))
}
