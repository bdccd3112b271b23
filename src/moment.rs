//! What `tandem replay --at` shows of a moment.

use std::cell::RefCell;
use std::ops::ControlFlow;

use ::recorder::account::Stamps;
use ::recorder::account::grouped;
use ::recorder::reader::Reader;
use replayer::machine::Setting;
use replayer::moment::Moment;
use replayer::seek::Seeker;
use replayer::symbols::Symbols;

use crate::progress::{Progress, say};
use crate::{Failure, Outcome};

/// How many instructions are shown that come next.
const NEXT: usize = 8;

/// Goes to each moment and shows the guest there: its console since the one before, its registers, its next
/// instructions.
pub fn show(
    recording: &mut Reader,
    setting: Setting,
    moments: &[Moment],
    checkpoints: bool,
    symbols: Option<&Symbols>,
) -> Result<Outcome, Failure> {
    let progress = RefCell::new(Progress::new("seeking"));
    let mut on = |instructions| progress.borrow_mut().show(instructions, String::new);
    let mut seeker = Seeker::new(recording, setting, &mut on);
    if !checkpoints {
        seeker = seeker.without_checkpoints();
    }
    let proven = if seeker.recording().manifest.witness.is_some() {
        "every full chunk up to here is identical"
    } else {
        "recorded without a witness, so nothing is proven"
    };
    let stamps = Stamps::of(seeker.recording())?;
    let mut before = None;
    for moment in moments {
        let reached = moment.reach(&mut seeker);
        progress.borrow().done();
        reached?;
        let machine = seeker.machine()?;
        let (icount, position) = (machine.icount(), machine.position()?);
        let (registers, next) = (machine.registers()?, machine.disassembly(NEXT)?);
        console(seeker.recording(), stamps.as_ref(), before.replace(icount), icount, &progress.borrow())?;
        progress.borrow().verdict(&format!(
            "at icount {}, instruction {} of the stream; {proven}\n\n{}\n",
            grouped(icount),
            grouped(position),
            registers.trim()
        ));
        for (address, text) in next {
            let name = symbols.and_then(|symbols| symbols.name(address));
            let name = name.map_or_else(String::new, |name| format!(" <{name}>"));
            say(&format!("{address:#018x}{name}  {text}"));
        }
    }
    Ok(Outcome::Same)
}

/// Prints what the guest had written by `icount`, and had not by `before`.
fn console(
    recording: &mut Reader,
    stamps: Option<&Stamps>,
    before: Option<u64>,
    icount: u64,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut place = 0;
    recording.console(|seen, bytes| {
        let at = |index: usize| match stamps {
            Some(stamps) => stamps.at(place + index as u64).unwrap_or(u64::MAX),
            None => seen,
        };
        let old =
            (0..bytes.len()).take_while(|&index| before.is_some_and(|before| at(index) <= before)).count();
        let new = (old..bytes.len()).take_while(|&index| at(index) <= icount).count();
        progress.console(&bytes[old..old + new]);
        place += bytes.len() as u64;
        if old + new < bytes.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(())
}
