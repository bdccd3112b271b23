//! What `tandem replay --at` shows of a moment.

use std::cell::RefCell;
use std::ops::ControlFlow;

use ::recorder::account::Stamps;
use ::recorder::account::grouped;
use ::recorder::reader::Reader;
use replayer::machine::Setting;
use replayer::moment::Moment;
use replayer::registers;
use replayer::seek::Seeker;
use replayer::symbols::Symbols;
use serde_json::{Map, json};

use crate::progress::{Progress, say};
use crate::show::Format;
use crate::{Failure, Outcome};

/// How many instructions are shown that come next.
const NEXT: usize = 8;

/// How moments are shown.
pub struct Shown<'a> {
    /// Whether a way may begin at one.
    pub checkpoints: bool,
    pub symbols: Option<&'a Symbols>,
    pub format: Format,
}

/// Goes to each moment and shows the guest there: its console since the one before, its registers, its next
/// instructions.
pub fn show(
    recording: &mut Reader,
    setting: Setting,
    moments: &[Moment],
    shown: &Shown,
) -> Result<Outcome, Failure> {
    let progress = RefCell::new(Progress::new("seeking"));
    let mut on = |instructions| progress.borrow_mut().show(instructions, String::new);
    let mut seeker = Seeker::new(recording, setting, &mut on);
    if !shown.checkpoints {
        seeker = seeker.without_checkpoints();
    }
    let is_proven = seeker.recording().manifest.witness.is_some();
    let proven = if is_proven {
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
        let name = |address| shown.symbols.and_then(|symbols| symbols.name(address));
        if shown.format == Format::Json {
            let mut written = Vec::new();
            let mut take = |bytes: &[u8]| written.extend_from_slice(bytes);
            console(seeker.recording(), stamps.as_ref(), None, icount, &mut take)?;
            let next = next.iter().map(|(address, text)| {
                json!({ "address": format!("{address:#x}"), "symbol": name(*address), "text": text })
            });
            let named = registers::named(&registers).into_iter();
            let values = named.map(|(name, value)| (name.to_owned(), format!("0x{value}").into()));
            say(&json!({
                "icount": icount,
                "instruction": position,
                "proven": is_proven,
                "registers": values.collect::<Map<_, _>>(),
                "registers_text": registers.trim(),
                "next": next.collect::<Vec<_>>(),
                "console": String::from_utf8_lossy(&written),
            })
            .to_string());
            continue;
        }
        let mut show = |bytes: &[u8]| progress.borrow().console(bytes);
        console(seeker.recording(), stamps.as_ref(), before.replace(icount), icount, &mut show)?;
        progress.borrow().verdict(&format!(
            "at icount {}, instruction {} of the stream; {proven}\n\n{}\n",
            grouped(icount),
            grouped(position),
            registers.trim()
        ));
        for (address, text) in next {
            let name = name(address).map_or_else(String::new, |name| format!(" <{name}>"));
            say(&format!("{address:#018x}{name}  {text}"));
        }
    }
    Ok(Outcome::Same)
}

/// Hands on what the guest had written by `icount`, and had not by `before`.
fn console(
    recording: &mut Reader,
    stamps: Option<&Stamps>,
    before: Option<u64>,
    icount: u64,
    to: &mut dyn FnMut(&[u8]),
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
        to(&bytes[old..old + new]);
        place += bytes.len() as u64;
        if old + new < bytes.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(())
}
