//! What builds come to, held against each other and against the real processor.

use iced_x86::Mnemonic;
use lockstep::comparator::Pair;
use lockstep::report::reduction::{Unequal, Wrong, lines};

use crate::case::{Case, End, GPR_NAMES, REGION};
use crate::image::{self, Setting, Where};
use crate::subject::Came;
use crate::subjects::Reduced;
use crate::{native, shorter};

/// What is said of a reduced case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Its instructions.
    pub code: Vec<String>,
    pub wrong: Wrong,
    pub differs: Vec<Unequal>,
    /// How it ended on each, where it did not as it should on both.
    pub ended: Option<Pair<String>>,
    /// What it should come to: what it does on the real processor. Where that says nothing, what it does on A, or on B where it
    /// does not come to its end on A.
    pub expected: Option<End>,
}

/// Runs a reduced case on the real processor here.
///
/// # Errors
/// Where its program can't be made.
pub fn judge(setting: Setting, reduced: &Reduced) -> Result<Judged, image::Error> {
    let real =
        if asks_the_machine(setting, &reduced.case) { None } else { native::end(setting, &reduced.case)? };
    let ends = Pair { a: reduced.ends.a.end(), b: reduced.ends.b.end() };
    let differs = match (&ends.a, &ends.b) {
        (Some(a), Some(b)) => unequal(a, b, real.as_ref()),
        _ => Vec::new(),
    };
    Ok(Judged {
        code: shorter::texts(&reduced.case.pieces),
        wrong: wrong(&reduced.ends, real.as_ref()),
        differs,
        ended: ended(&reduced.ends),
        expected: real.or(ends.a).or(ends.b),
    })
}

/// Whether it tells of the processor's model or of how a machine was set up, which a program here has otherwise.
fn asks_the_machine(setting: Setting, case: &Case) -> bool {
    case.pieces.iter().any(|piece| {
        let (code, _) = shorter::told(piece);
        match code.mnemonic() {
            Mnemonic::Cpuid
            | Mnemonic::Xgetbv
            | Mnemonic::Lar
            | Mnemonic::Lsl
            | Mnemonic::Verr
            | Mnemonic::Verw => true,
            Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => setting.runs == Where::Machine,
            _ => false,
        }
    })
}

impl Judged {
    /// The same in lines.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        lines(&self.differs, self.ended.as_ref())
    }
}

/// What differs between two ends.
fn unequal(a: &End, b: &End, real: Option<&End>) -> Vec<Unequal> {
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

/// Who is wrong.
fn wrong(ends: &Pair<Came>, real: Option<&End>) -> Wrong {
    let Some(real) = real else { return Wrong::Undetermined };
    let is_right = |came: &Came| came.end().as_ref() == Some(real);
    match (is_right(&ends.a), is_right(&ends.b)) {
        (true, false) => Wrong::B,
        (false, true) => Wrong::A,
        (false, false) => Wrong::Both,
        (true, true) => Wrong::Undetermined,
    }
}

/// How a case ended, where one did not as it should.
fn ended(ends: &Pair<Came>) -> Option<Pair<String>> {
    let said = |came: &Came| match came {
        Came::To(_) => "comes to its end".to_owned(),
        Came::Died(how) => format!("dies ({how})"),
        Came::Hung => "does not end".to_owned(),
    };
    let all_told = matches!(ends, Pair { a: Came::To(_), b: Came::To(_) });
    (!all_told).then(|| Pair { a: said(&ends.a), b: said(&ends.b) })
}
