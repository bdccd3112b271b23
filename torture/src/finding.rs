//! What is made of a difference: as few instructions as show it, the guilty one, and who is right.

use std::fs;
use std::path::{Path, PathBuf};

use iced_x86::{Code, Decoder, DecoderOptions, Formatter, IntelFormatter};
use lockstep::comparator::Pair;
use reduce::case::{Case, End, GPR_NAMES, MXCSR_FLAGS, Piece, REGION, State};
use reduce::image::{Image, Setting, Tells, Where, flags_that_count};
use reduce::{delta, elf, flags, native, source};
use serde::Serialize;

use crate::subject::{self, Came, Error, Subject};

/// Which build the real processor does not agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrong {
    A,
    B,
    Both,
    /// The real processor did not come to an end, or is none that can tell.
    Undetermined,
}

impl Wrong {
    /// In words.
    #[must_use]
    pub fn said(self) -> &'static str {
        match self {
            Wrong::A => "A is wrong",
            Wrong::B => "B is wrong",
            Wrong::Both => "both are wrong",
            Wrong::Undetermined => "undetermined which is wrong",
        }
    }
}

/// A register, or a word of memory, that is not the same on both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unequal {
    pub name: String,
    pub a: String,
    pub b: String,
    /// On the real processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real: Option<String>,
}

/// What makes two findings one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// This form is guilty.
    Form(Code),
    /// Nothing but these of `MXCSR`'s flags differ, which many forms may set.
    Exceptions(u32),
    /// What is wrong shows only in lockstep, at this form.
    OnTheWay(Code),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The sequence's number in its seed.
    pub sequence: u64,
    /// The instruction behind which both differ first.
    pub instruction: String,
    /// How many instructions are left.
    pub instructions: usize,
    /// Those.
    pub code: Vec<String>,
    pub wrong: Wrong,
    pub differs: Vec<Unequal>,
    /// How the sequence ended on a side, where it did not as it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Pair<String>>,
    /// What a lockstep of what is left says.
    pub lockstep: String,
    /// How many sequences it explains.
    pub times: u64,
    /// Where it is kept.
    pub folder: PathBuf,
    #[serde(skip)]
    pub key: Key,
}

/// A sequence on which builds differ, made short.
pub struct Reduced {
    pub case: Case,
    pub ends: Pair<Came>,
    /// The guilty instruction.
    pub guilty: (Code, String),
}

/// Its instructions, each as a piece of its own.
fn single(pieces: &[Piece]) -> Vec<Piece> {
    let mut all = Vec::new();
    for piece in pieces {
        let bytes = with_displacement(piece);
        let decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
        let mut from = 0;
        for instruction in decoder {
            let to = (from + instruction.len()).min(piece.code.len());
            let jump = if to == piece.code.len() { piece.jump } else { None };
            all.push(Piece { id: piece.id, code: piece.code[from..to].to_vec(), jump });
            from = to;
        }
    }
    all
}

fn with_displacement(piece: &Piece) -> Vec<u8> {
    if piece.jump.is_some() { [&*piece.code, &[0; 4]].concat() } else { piece.code.clone() }
}

/// The form of a piece's last instruction, and its text.
fn told(piece: &Piece) -> (Code, String) {
    let bytes = with_displacement(piece);
    let last = Decoder::new(64, &bytes, DecoderOptions::NONE).into_iter().last().unwrap_or_default();
    (last.code(), text(&last, piece))
}

fn text(instruction: &iced_x86::Instruction, piece: &Piece) -> String {
    let mut text = String::new();
    match piece.jump {
        Some(target) => {
            let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
            text = format!("{name} to piece {target}");
        }
        None => IntelFormatter::new().format(instruction, &mut text),
    }
    text
}

/// The instructions of `pieces` as text.
#[must_use]
pub fn texts(pieces: &[Piece]) -> Vec<String> {
    single(pieces).iter().map(|piece| told(piece).1).collect()
}

/// What is looked for in what a case came to on both.
pub type Shows = fn(&Pair<Came>) -> bool;

/// Both builds.
#[derive(Clone, Copy)]
pub struct Subjects<'a>(pub Pair<Subject<'a>>);

impl Subjects<'_> {
    /// What `cases` come to on both.
    ///
    /// # Errors
    /// Where they can't be run.
    pub fn run(&self, setting: Setting, cases: &[Case]) -> Result<Vec<Pair<Came>>, Error> {
        if cases.is_empty() {
            return Ok(Vec::new());
        }
        let (a, b) = (self.0.a.run(setting, cases)?, self.0.b.run(setting, cases)?);
        Ok(a.into_iter().zip(b).map(|(a, b)| Pair { a, b }).collect())
    }

    /// Of which of `cases` `shows` holds, as of their differing. Of one that acts on what is undefined nothing does.
    ///
    /// # Errors
    /// As [`Subjects::run`].
    pub fn show(&self, setting: Setting, cases: &[Case], shows: Shows) -> Result<Vec<bool>, Error> {
        let setting = Setting { tells: Tells::Numbers, ..setting };
        let fit: Vec<_> = cases.iter().map(|case| flags::undefined(&case.pieces).is_ok()).collect();
        let chosen: Vec<_> = cases.iter().zip(&fit).filter(|(_, fit)| **fit).map(|(case, _)| case.clone()).collect();
        let mut came = self.run(setting, &chosen)?.into_iter();
        let shows = |fit: &bool| *fit && came.next().is_some_and(|came| shows(&came));
        Ok(fit.iter().map(shows).collect())
    }

    /// Makes a case on which `shows` holds short.
    ///
    /// # Errors
    /// As [`Subjects::run`].
    pub fn reduce(&self, setting: Setting, case: &Case, shows: Shows) -> Result<Option<Reduced>, Error> {
        let with = |pieces: &[Piece]| Case { pieces: pieces.to_vec(), ..case.clone() };
        let pieces = delta::shortest(&case.pieces, |candidates| {
            let cases: Vec<_> = candidates.iter().map(|pieces| with(pieces)).collect();
            self.show(setting, &cases, shows)
        })?;
        // Of a piece's instructions each may be needed by the next.
        let mut case = with(&pieces);
        let simpler = simpler(&case);
        let kept = delta::shortest(&(0..simpler.len()).collect::<Vec<_>>(), |candidates| {
            let cases: Vec<_> = candidates.iter().map(|kept| without(&case, &simpler, kept)).collect();
            self.show(setting, &cases, shows)
        })?;
        case = without(&case, &simpler, &kept);
        self.first_part(setting, &case, shows)
    }

    /// The shortest part from its beginning of which `shows` holds, and its last instruction.
    ///
    /// # Errors
    /// As [`Subjects::run`].
    pub fn first_part(&self, setting: Setting, case: &Case, shows: Shows) -> Result<Option<Reduced>, Error> {
        let tells = Setting { tells: Tells::Ends, ..setting };
        let instructions = single(&case.pieces);
        let parts = (1..=instructions.len())
            .map(|count| Case { pieces: instructions[..count].to_vec(), ..case.clone() });
        let mut parts: Vec<_> = parts.filter(|part| flags::undefined(&part.pieces).is_ok()).collect();
        let mut came = self.run(tells, &parts)?;
        let Some(first) = came.iter().position(shows) else { return Ok(None) };
        let (case, ends) = (parts.swap_remove(first), came.swap_remove(first));
        let guilty = case.pieces.last().map(told).unwrap_or_default();
        Ok(Some(Reduced { case, ends, guilty }))
    }
}

#[must_use]
pub fn differs(came: &Pair<Came>) -> bool {
    match (&came.a, &came.b) {
        // How one dies is told by each build's own words.
        (Came::Died(_) | Came::Hung, Came::Died(_) | Came::Hung) => false,
        (a, b) => a != b,
    }
}

/// Whether both end in it, which is no difference between them.
#[must_use]
pub fn both_die(came: &Pair<Came>) -> bool {
    !matches!(came.a, Came::To(_)) && !matches!(came.b, Came::To(_))
}

/// What of a start can be made simpler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    General(usize),
    Vector(usize),
    Mmx(usize),
    Flags,
    Mxcsr,
    /// So many bytes of memory from here on.
    Memory(usize),
}

/// What memory is made simpler by, bytes.
const STRETCH: usize = 64;

fn simpler(case: &Case) -> Vec<Part> {
    let general = (0..16).filter(|&number| number != reduce::case::RSP && number != reduce::case::R15);
    let mut parts: Vec<_> = general.map(Part::General).collect();
    parts.extend((0..16).map(Part::Vector));
    parts.extend((0..8).map(Part::Mmx));
    parts.extend([Part::Flags, Part::Mxcsr]);
    // The counters of loops stay.
    parts.extend((STRETCH..case.memory.len()).step_by(STRETCH).map(Part::Memory));
    parts
}

/// `case` with all `parts` zero but for those with these numbers.
fn without(case: &Case, parts: &[Part], kept: &[usize]) -> Case {
    let mut case = case.clone();
    let State { gpr, rflags, mxcsr, vectors, mmx } = &mut case.start;
    for (number, part) in parts.iter().enumerate().filter(|(number, _)| !kept.contains(number)) {
        let _ = number;
        match *part {
            Part::General(number) => gpr[number] = 0,
            Part::Vector(number) => vectors[number] = [0; 32],
            Part::Mmx(number) => mmx[number] = 0,
            Part::Flags => *rflags = 0,
            Part::Mxcsr => *mxcsr = reduce::case::MXCSR,
            Part::Memory(from) => case.memory[from..from + STRETCH].fill(0),
        }
    }
    case
}

/// What differs between two ends.
#[must_use]
pub fn unequal(a: &End, b: &End, real: Option<&End>) -> Vec<Unequal> {
    let mut all = Vec::new();
    let mut compare = |name: &str, of: &dyn Fn(&End) -> String| {
        let (in_a, in_b) = (of(a), of(b));
        if in_a != in_b {
            all.push(Unequal { name: name.to_owned(), a: in_a, b: in_b, real: real.map(of) });
        }
    };
    for (number, name) in GPR_NAMES.iter().enumerate() {
        compare(name, &|end| format!("{:#x}", end.state.gpr[number]));
    }
    compare("rflags", &|end| format!("{:#x}", end.state.rflags));
    compare("mxcsr", &|end| format!("{:#x}", end.state.mxcsr));
    let big = |bytes: &[u8]| {
        let digits: String = bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        format!("0x{digits}")
    };
    for number in 0..16 {
        compare(&format!("ymm{number}"), &|end| big(&end.state.vectors[number]));
    }
    for number in 0..8 {
        compare(&format!("mm{number}"), &|end| format!("{:#x}", end.state.mmx[number]));
    }
    for at in (0..a.memory.len()).step_by(8) {
        compare(&format!("[{:#x}]", REGION + at as u64), &|end| big(&end.memory[at..at + 8]));
    }
    all
}

/// What makes it one with others.
#[must_use]
pub fn key(reduced: &Reduced) -> Key {
    if let (Some(mut a), Some(b)) = (reduced.ends.a.end(), reduced.ends.b.end()) {
        let apart = a.state.mxcsr ^ b.state.mxcsr;
        a.state.mxcsr = b.state.mxcsr;
        if a == b && apart & !MXCSR_FLAGS == 0 {
            return Key::Exceptions(apart);
        }
    }
    Key::Form(reduced.guilty.0)
}

/// What the real processor comes to.
///
/// # Errors
/// Where the program can't be made.
pub fn real(setting: Setting, case: &Case) -> Result<Option<End>, Error> {
    let setting = Setting { runs: Where::Linux, tells: Tells::Ends, ..setting };
    let image = Image::new(setting, std::slice::from_ref(case))?;
    let ran = native::run(&elf::program(&image));
    Ok(ran.ok().filter(|ran| ran.signal().is_none()).and_then(|ran| End::from_bytes(&ran.said)))
}

/// Who is wrong.
#[must_use]
pub fn wrong(ends: &Pair<Came>, real: Option<&End>) -> Wrong {
    let Some(real) = real else { return Wrong::Undetermined };
    let is_right = |came: &Came| came.end().as_ref() == Some(real);
    match (is_right(&ends.a), is_right(&ends.b)) {
        (true, false) => Wrong::B,
        (false, true) => Wrong::A,
        (false, false) => Wrong::Both,
        (true, true) => Wrong::Undetermined,
    }
}

/// Keeps a finding in `folder`: its source, the program that tests for it, a machine's firmware where one was used, and what
/// the sequence was before.
///
/// # Errors
/// Where there is no room.
pub fn keep(
    folder: &Path,
    setting: Setting,
    finding: &Finding,
    (whole, reduced): (&Case, &Case),
    expected: Option<&End>,
    runs: Where,
) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    let executable = |name: &str, bytes: &[u8]| -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    };
    let mask = flags_that_count(reduced).map_err(|why| reduce::image::Error::Unfit(0, why))?;
    if let Some(expected) = expected {
        let image = Image::checking(setting, reduced, expected)?;
        executable("reduced", &elf::program(&image))?;
        let heading = heading(finding);
        fs::write(folder.join("reduced.s"), source::program(&image, reduced, expected, mask, &heading))?;
    }
    for (name, case) in [("reduced", reduced), ("whole", whole)] {
        let silent = Setting { runs, tells: Tells::Nothing, ..setting };
        let image = Image::new(silent, std::slice::from_ref(case))?;
        match runs {
            Where::Machine => fs::write(folder.join(format!("{name}.rom")), subject::file(&image)?)?,
            Where::Linux => executable(&format!("{name}-silent"), &subject::file(&image)?)?,
        }
    }
    fs::write(folder.join("whole.txt"), source::listing(whole))?;
    let json = serde_json::to_string_pretty(finding).unwrap_or_default();
    fs::write(folder.join("finding.json"), json)?;
    Ok(())
}

/// What is said of it at the top of its source.
fn heading(finding: &Finding) -> Vec<String> {
    let mut lines = vec![
        format!("sequence {}: {}", finding.sequence, finding.wrong.said()),
        format!("the builds differ first behind: {}", finding.instruction),
    ];
    for Unequal { name, a, b, real } in &finding.differs {
        let real = real.as_ref().map_or_else(String::new, |real| format!(", the real processor {real}"));
        lines.push(format!("{name}: {a} on A, {b} on B{real}"));
    }
    if let Some(Pair { a, b }) = &finding.ended {
        lines.push(format!("on A it {a}; on B it {b}"));
    }
    lines
}

/// How a case ended, where one did not as it should.
#[must_use]
pub fn ended(ends: &Pair<Came>) -> Option<Pair<String>> {
    let said = |came: &Came| match came {
        Came::To(_) => "comes to its end".to_owned(),
        Came::Died(how) => format!("dies ({how})"),
        Came::Hung => "does not end".to_owned(),
    };
    let all_told = matches!(ends, Pair { a: Came::To(_), b: Came::To(_) });
    (!all_told).then(|| Pair { a: said(&ends.a), b: said(&ends.b) })
}
