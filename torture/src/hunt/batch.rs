//! One batch: its ride, and what is made of a difference.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use iced_x86::{Code, Decoder, DecoderOptions};
use lockstep::report::{Report, Verdict};
use lockstep::ride::{Driven, ride};
use reduce::case::{Case, MXCSR_FLAGS, Piece};
use reduce::image::{Image, Setting, Tells};
use reduce::judged::judge;
use reduce::kept::keep;
use reduce::native::Unnamed;
use reduce::subject::{self, line};
use reduce::subjects::{Reduced, Shows, both_die, differs};

use super::{Hunt, Stop, Told};
use crate::finding::{self, Finding, Key};
use crate::generator::{Sequence, forms_of};

impl Hunt<'_> {
    /// One batch, to the end.
    pub(super) fn batch(&mut self, batch: &[Sequence], tell: &mut dyn FnMut(Told)) -> Result<(), Stop> {
        let mut left: Vec<&Sequence> = batch.iter().collect();
        let mut looked_at = false;
        if self.suspicious {
            self.suspicious = self.sift(&mut left, tell)?;
            self.without_known(&mut left);
            looked_at = true;
        }
        while !left.is_empty() {
            let cases: Vec<_> = left.iter().map(|sequence| sequence.case.clone()).collect();
            let (report, image) = self.ride(&cases)?;
            match report.verdict {
                Verdict::Same if report.compared.instructions >= image.least => {
                    self.hunted.compared += report.compared.instructions;
                    return Ok(());
                }
                // On both sides something ended it.
                Verdict::Same => self.dying(&mut left)?,
                _ if self.request.interrupts.load(Ordering::Relaxed) > 0 => return Err(Stop::Interrupted),
                _ if !looked_at => {
                    looked_at = true;
                    if self.sift(&mut left, tell)? {
                        self.suspicious = true;
                        self.without_known(&mut left);
                    } else {
                        self.only_in_lockstep(&report, &image, &mut left, tell)?;
                    }
                }
                Verdict::Different => self.only_in_lockstep(&report, &image, &mut left, tell)?,
                Verdict::Trouble => {
                    self.hunted.troubles.push(format!("batch {}: {}", self.hunted.batches, report.summary));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes those sequences out that end their guest on both builds, and finds out in which forms they do.
    fn dying(&mut self, left: &mut Vec<&Sequence>) -> Result<(), Stop> {
        let mut open = self.taken(left, both_die)?;
        if open.is_empty() {
            let batch = self.hunted.batches;
            self.hunted.troubles.push(format!("batch {batch}: in lockstep it did not come to its end"));
            left.clear();
        }
        while let Some((sequence, case)) = open.pop() {
            let number = sequence.number;
            let Some(reduced) = self.subjects.reduce(self.setting, &case, both_die)? else {
                self.hunted.troubles.push(format!("sequence {number} ends both guests, and not each time"));
                continue;
            };
            let (form, text) = reduced.guilty;
            self.hunted.left_out.push(format!("{text} (in sequence {number})"));
            self.forms.leave_out(form);
            self.explained(&mut open, form, both_die)?;
        }
        Ok(())
    }

    /// Takes out of `left` what has a form that is known to be wrong: that may show on the way, and be made good again.
    fn without_known(&self, left: &mut Vec<&Sequence>) {
        let known = |form: &Code| self.known.contains(form);
        left.retain(|sequence| !forms_of(&sequence.case.pieces).iter().any(known));
    }

    /// Takes out of `left` those sequences of which `shows` holds.
    fn taken<'s>(
        &self,
        left: &mut Vec<&'s Sequence>,
        shows: Shows,
    ) -> Result<Vec<(&'s Sequence, Case)>, Stop> {
        let cases: Vec<_> = left.iter().map(|sequence| sequence.case.clone()).collect();
        let mut said = self.subjects.show(self.setting, &cases, shows)?.into_iter();
        let mut open = Vec::new();
        left.retain(|sequence| {
            let taken = said.next() == Some(true);
            if taken {
                open.push((*sequence, sequence.case.clone()));
            }
            !taken
        });
        open.reverse();
        Ok(open)
    }

    /// Takes `form` out of all of `open`, and those out of which `shows` no longer holds; gives back how many.
    fn explained(&self, open: &mut Vec<(&Sequence, Case)>, form: Code, shows: Shows) -> Result<usize, Stop> {
        let has = |piece: &Piece| forms_of(std::slice::from_ref(piece)).contains(&form);
        for (_, case) in &mut *open {
            case.pieces.retain(|piece| !has(piece));
        }
        let cases: Vec<_> = open.iter().map(|(_, case)| case.clone()).collect();
        let mut still = self.subjects.show(self.setting, &cases, shows)?.into_iter();
        let before = open.len();
        open.retain(|_| still.next() == Some(true));
        Ok(before - open.len())
    }

    fn ride(&self, cases: &[Case]) -> Result<(Report, Image), Stop> {
        let setting = Setting { tells: Tells::Nothing, ..self.setting };
        let image = Image::new(setting, cases).map_err(subject::Error::from)?;
        let program = Unnamed::holding(&subject::file(&image)?).map_err(subject::Error::from)?;
        let mode = self.request.builds.a.mode;
        let arguments = line(mode, self.request.options, program.path());
        let request = lockstep::ride::Request {
            builds: self.request.builds,
            probe: self.request.probe,
            arguments: Some(&arguments),
            extra: self.request.extra,
            driven: Driven::Live,
            depth: None,
            loads: false,
            explain: false,
            blocks: BLOCKS,
            symbols: None,
            interrupts: self.request.interrupts,
        };
        Ok((ride(request, &mut |_| {})?, image))
    }

    /// Takes those sequences out of `left` whose ends differ, and makes findings of them. Whether there were any.
    fn sift(&mut self, left: &mut Vec<&Sequence>, tell: &mut dyn FnMut(Told)) -> Result<bool, Stop> {
        let mut open = self.taken(left, differs)?;
        let any = !open.is_empty();
        while let Some((sequence, case)) = open.pop() {
            if self.request.interrupts.load(Ordering::Relaxed) > 0 {
                return Err(Stop::Interrupted);
            }
            // Where there is much to be found that takes long.
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(Stop::Time);
            }
            let Some(reduced) = self.subjects.reduce(self.setting, &case, differs)? else {
                self.hunted.troubles.push(format!(
                    "sequence {}: the builds differ in what it comes to, but not each time that they do it",
                    sequence.number
                ));
                continue;
            };
            let key = self.taken_in(sequence, reduced, tell)?;
            // Of those that have this in them too some have nothing else.
            let explained = match key {
                Key::Form(form) => self.explained(&mut open, form, differs)?,
                Key::Exceptions(_) => {
                    let before = open.len();
                    let cases: Vec<_> = open.iter().map(|(_, case)| case.clone()).collect();
                    let mut still = self.subjects.show(self.setting, &cases, differs)?.into_iter();
                    open.retain(|_| still.next() == Some(true));
                    before - open.len()
                }
            };
            if let Some(finding) = self.hunted.findings.iter_mut().find(|finding| finding.key == key) {
                finding.times += explained as u64;
            }
        }
        Ok(any)
    }

    /// Counts one more of a known key; false where there is none.
    fn counted(&mut self, key: Key) -> bool {
        let known = self.hunted.findings.iter_mut().find(|finding| finding.key == key);
        known.map(|known| known.times += 1).is_some()
    }

    /// Counts what is known, or makes a finding of it.
    fn taken_in(
        &mut self,
        sequence: &Sequence,
        mut reduced: Reduced,
        tell: &mut dyn FnMut(Told),
    ) -> Result<Key, Stop> {
        let key = finding::key(&reduced);
        if self.counted(key) {
            return Ok(key);
        }
        let (report, image) = self.ride(std::slice::from_ref(&reduced.case))?;
        // An instruction whose flags are wrong only together with one behind shows there.
        if let Some(named) = guilty(&report, &image) {
            reduced.guilty = named;
        }
        let key = finding::key(&reduced);
        if !self.counted(key) {
            self.found(sequence, &reduced, key, &report, tell)?;
        }
        Ok(key)
    }

    fn found(
        &mut self,
        sequence: &Sequence,
        reduced: &Reduced,
        key: Key,
        report: &Report,
        tell: &mut dyn FnMut(Told),
    ) -> Result<(), Stop> {
        let judged = judge(self.setting, reduced).map_err(subject::Error::from)?;
        let said = judged.said();
        let mut found = Finding {
            sequence: sequence.number,
            instruction: reduced.guilty.1.clone(),
            instructions: judged.code.len(),
            code: judged.code,
            wrong: judged.wrong,
            differs: judged.differs,
            ended: judged.ended,
            lockstep: verdict_line(report),
            times: 1,
            folder: PathBuf::new(),
            key,
        };
        let name = match key {
            Key::Exceptions(_) => "mxcsr".to_owned(),
            Key::Form(form) => format!("{form:?}").to_lowercase(),
        };
        found.folder = self.request.folder.join(format!("{}-{name}", sequence.number));
        let mut heading = vec![
            format!("sequence {}: {}", found.sequence, found.wrong.said()),
            format!("the builds differ first behind: {}", found.instruction),
        ];
        heading.extend(said);
        let cases = (&sequence.case, &reduced.case);
        let expected = judged.expected.as_ref();
        keep(&found.folder, self.setting, &heading, cases, expected)?;
        let json = serde_json::to_string_pretty(&found).unwrap_or_default();
        std::fs::write(found.folder.join("finding.json"), json).map_err(subject::Error::from)?;
        self.leave_out(key);
        tell(Told::Found(&found));
        self.hunted.findings.push(found);
        Ok(())
    }

    /// What is known is not to be met again.
    fn leave_out(&mut self, key: Key) {
        match key {
            Key::Form(form) => {
                self.known.push(form);
                self.forms.leave_out(form);
            }
            Key::Exceptions(flags) => self.setting.mxcsr_mask &= !(flags & MXCSR_FLAGS),
        }
    }

    /// A difference that lockstep tells, and that does not show in what any sequence comes to.
    fn only_in_lockstep(
        &mut self,
        report: &Report,
        image: &Image,
        left: &mut Vec<&Sequence>,
        tell: &mut dyn FnMut(Told),
    ) -> Result<(), Stop> {
        let trouble = |hunt: &mut Self| {
            hunt.hunted.troubles.push(format!("batch {}: {}", hunt.hunted.batches, report.summary));
        };
        let Some(number) = case_of(report, image).filter(|_| report.verdict == Verdict::Different) else {
            trouble(self);
            left.clear();
            return Ok(());
        };
        let sequence = left.remove(number);
        if let Some((form, _)) = guilty(report, image)
            && let Some(known) = self.hunted.findings.iter_mut().find(|known| known.key == Key::Form(form))
        {
            known.times += 1;
            return Ok(());
        }
        let alone = |hunt: &Self, case: &Case| -> Result<bool, Stop> {
            Ok(hunt.ride(std::slice::from_ref(case))?.0.verdict == Verdict::Different)
        };
        if !alone(self, &sequence.case)? {
            trouble(self);
            return Ok(());
        }
        let with = |pieces: &[Piece]| Case { pieces: pieces.to_vec(), ..sequence.case.clone() };
        let pieces = reduce::delta::shortest(&sequence.case.pieces, |candidates| {
            let fit = |pieces: &[Piece]| reduce::flags::undefined(pieces).is_ok();
            candidates
                .iter()
                .map(|pieces| Ok(fit(pieces) && alone(self, &with(pieces))?))
                .collect::<Result<_, Stop>>()
        })?;
        // Up to some place in it the ends may differ, which can be checked on the real processor.
        if let Some(reduced) = self.subjects.first_part(self.setting, &with(&pieces), differs)? {
            self.taken_in(sequence, reduced, tell)?;
            return Ok(());
        }
        // At no instruction's end anything differs, so it is no finding: one of the builds tells plugins of an access that
        // the other does not tell of, or is another with the probe inside.
        let (report, image) = self.ride(&[with(&pieces)])?;
        let troubles = &mut self.hunted.troubles;
        troubles.push(format!("sequence {}, in lockstep only: {}", sequence.number, report.summary));
        if let Some((form, _)) = guilty(&report, &image) {
            self.leave_out(Key::Form(form));
            self.without_known(left);
        }
        Ok(())
    }
}

/// How many of the last blocks are told: enough for those behind a sequence, which make a number of what it came to.
const BLOCKS: usize = 16;

fn verdict_line(report: &Report) -> String {
    let verdict = match report.verdict {
        Verdict::Same => "the same",
        Verdict::Different => "DIFFERENT",
        Verdict::Trouble => "no verdict",
    };
    format!("{verdict}: {}", report.summary)
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The case that a divergence is in: its instruction's, or that of the last block before.
fn case_of(report: &Report, image: &Image) -> Option<usize> {
    let divergence = report.divergence.as_ref()?;
    let own = divergence.pc.a.as_deref().and_then(number).and_then(|pc| image.case_at(pc));
    own.or_else(|| {
        let lines = divergence.previous.a.iter().rev().flat_map(|block| block.instructions.iter().rev());
        lines.filter_map(|line| image.case_at(number(&line.pc)?)).next()
    })
}

/// The instruction that a divergence names, where it is one of a case's.
fn guilty(report: &Report, image: &Image) -> Option<(Code, String)> {
    let divergence = report.divergence.as_ref()?;
    let pc = number(divergence.pc.a.as_deref()?)?;
    image.case_at(pc)?;
    let at = usize::try_from(pc - reduce::image::CODE).ok()?;
    let mut decoder = Decoder::new(64, image.bytes.get(at..)?, DecoderOptions::NONE);
    Some((decoder.decode().code(), divergence.instruction.a.clone()?))
}
