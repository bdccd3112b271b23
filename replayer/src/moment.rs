//! Names of a moment of a recording, as users give them.

use std::ops::ControlFlow;
use std::str::FromStr;

use recorder::account::Stamps;
use recorder::reader::{self, Reader};
use regex::bytes::Regex;
use trace::message::Watch;

use crate::seek::{self, Seeker};

/// A moment, by one of its names.
#[derive(Debug, Clone)]
pub enum Moment {
    /// So many instructions are retired.
    Icount(u64),
    /// So many instructions of the stream have started: the number in lockstep's reports.
    Instruction(u64),
    /// So many instructions before the end.
    BeforeEnd(u64),
    /// The guest has just written what first matches.
    Console(Regex),
    /// The instruction at this address is about to start for the nth time.
    Address { address: u64, nth: u64 },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Recording(#[from] reader::Error),
    #[error(transparent)]
    Seek(#[from] seek::Error),
    #[error("the guest's console has nothing that matches `{0}`")]
    NotWritten(String),
    #[error(
        "the guest's console does not go through a serial port, so nobody knows at which icount it wrote what"
    )]
    NoStamps,
    #[error("the guest executes the instruction at {address:#x} {}", times(*.executed, *.nth))]
    NotExecuted { address: u64, nth: u64, executed: u64 },
    #[error(
        "the instruction at {address:#x} is executed at {at:#x} too, and this QEMU does not tell the two apart; say the moment in another way"
    )]
    Alias { address: u64, at: u64 },
    #[error("`end-{back}` is before the beginning: the recording ends at icount {end}")]
    BeforeBeginning { back: u64, end: u64 },
}

fn times(executed: u64, nth: u64) -> String {
    match executed {
        0 => "never".to_owned(),
        1 => format!("once, not {nth} times"),
        _ => format!("{executed} times, not {nth} times"),
    }
}

const FORMS: &str = "ICOUNT, end, end-N, instruction:N, console:REGEX or pc:ADDRESS[#N]";

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(pattern) = text.strip_prefix("console:") {
            return Regex::new(pattern).map(Moment::Console).map_err(|error| error.to_string());
        }
        if let Some(place) = text.strip_prefix("pc:") {
            let (address, nth) = place.split_once('#').unwrap_or((place, "1"));
            let digits = address.strip_prefix("0x").unwrap_or(address);
            let address = u64::from_str_radix(digits, 16)
                .map_err(|_| format!("`{address}` is no address: hexadecimal digits are expected"))?;
            let nth = number(nth)?;
            if nth == 0 {
                return Err("instructions are counted from #1".to_owned());
            }
            return Ok(Moment::Address { address, nth });
        }
        if let Some(position) = text.strip_prefix("instruction:") {
            return number(position).map(Moment::Instruction);
        }
        match text.strip_prefix("end") {
            Some("") => Ok(Moment::BeforeEnd(0)),
            Some(back) if back.starts_with('-') => number(&back[1..]).map(Moment::BeforeEnd),
            _ => number(text).map(Moment::Icount),
        }
    }
}

/// A number as Tandem prints it, or without the commas.
fn number(text: &str) -> Result<u64, String> {
    let digits = text.replace([',', '_'], "");
    digits.parse().map_err(|_| format!("`{text}` names no moment; {FORMS} does"))
}

impl Moment {
    /// Goes there.
    ///
    /// # Errors
    /// Where there is no such moment.
    pub fn reach(&self, seeker: &mut Seeker) -> Result<(), Error> {
        let end = seeker.recording().ending.icount;
        match self {
            Moment::Icount(icount) => Ok(seeker.to(*icount)?),
            Moment::Instruction(position) => Ok(seeker.to_position(*position)?),
            &Moment::BeforeEnd(back) => {
                let icount = end.checked_sub(back).ok_or(Error::BeforeBeginning { back, end })?;
                Ok(seeker.to(icount)?)
            }
            Moment::Console(pattern) => {
                let icount = written(seeker.recording(), pattern)?;
                Ok(seeker.to(icount)?)
            }
            &Moment::Address { address, nth } => {
                let watch = Watch { addresses: vec![address], until: nth };
                let found = seeker.find(watch, end)?;
                match found.wanted {
                    Some(position) => {
                        seeker.to_position(position)?;
                        let at = seeker.machine()?.next_address().map_err(seek::Error::from)?;
                        if at == address { Ok(()) } else { Err(Error::Alias { address, at }) }
                    }
                    None => Err(Error::NotExecuted { address, nth, executed: found.seen }),
                }
            }
        }
    }
}

/// The icount at which the guest has just written what first matches `pattern`.
fn written(recording: &mut Reader, pattern: &Regex) -> Result<u64, Error> {
    let mut console = Vec::new();
    recording.console(|_, bytes| {
        console.extend_from_slice(bytes);
        ControlFlow::Continue(())
    })?;
    let found = pattern.find(&console).ok_or_else(|| Error::NotWritten(pattern.to_string()))?;
    let stamps = Stamps::of(recording)?.ok_or(Error::NoStamps)?;
    stamps.at((found.end() as u64).saturating_sub(1)).ok_or(Error::NoStamps)
}

#[cfg(test)]
mod tests {
    use super::Moment;

    #[test]
    fn moments_have_names() {
        let parse = |text: &str| text.parse::<Moment>();
        assert!(matches!(parse("1,719,663,737"), Ok(Moment::Icount(1_719_663_737))));
        assert!(matches!(parse("instruction:42"), Ok(Moment::Instruction(42))));
        assert!(matches!(parse("end"), Ok(Moment::BeforeEnd(0))));
        assert!(matches!(parse("end-1_000"), Ok(Moment::BeforeEnd(1000))));
        assert!(matches!(
            parse("pc:0xffffffff81000000#3"),
            Ok(Moment::Address { address: 0xffff_ffff_8100_0000, nth: 3 })
        ));
        assert!(matches!(parse("pc:e05b"), Ok(Moment::Address { address: 0xe05b, nth: 1 })));
        assert!(matches!(parse("console:a|b"), Ok(Moment::Console(_))));
        for text in ["", "x", "-1", "end+1", "pc:", "pc:g", "pc:1#0", "pc:1#x", "console:(", "instruction:"] {
            let why = parse(text).unwrap_err();
            assert!(!why.is_empty(), "{text}");
        }
    }
}
