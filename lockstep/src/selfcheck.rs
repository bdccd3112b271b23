//! A build against itself, with a setting on side B that must not change what the guest does. It needs no good build.

use std::path::Path;
use std::sync::atomic::AtomicU32;

use qemu::arguments::Arguments;
use qemu::build::Build;
use qemu::run;
use replayer::symbols::Symbols;
use serde::Serialize;

use crate::comparator::{Pair, Side};
use crate::report::{Report, Verdict};
use crate::ride::{self, Driven, ride};

/// A setting of QEMU's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    /// What it is on QEMU's command line.
    pub arguments: Vec<String>,
}

pub const NAMES: [&str; 4] = ["one-insn-per-tb", "nochain", "tb-size", "split-wx"];

/// All settings, as the build understands them.
#[must_use]
pub fn settings(build: &Build) -> Vec<Setting> {
    let setting = |name, words: &[&str]| Setting {
        name,
        arguments: words.iter().map(|&word| word.to_owned()).collect(),
    };
    let [one, nochain, tb_size, split_wx] = NAMES;
    vec![
        Setting { name: one, arguments: one_instruction_a_block(build) },
        setting(nochain, &["-d", "nochain"]),
        setting(tb_size, &["-accel", "tcg,tb-size=1"]),
        setting(split_wx, &["-accel", "tcg,split-wx=on"]),
    ]
}

/// What has a build translate each instruction by itself.
pub(crate) fn one_instruction_a_block(build: &Build) -> Vec<String> {
    // The property came in 8.1, and the option went in 10.0.
    let words: &[&str] =
        if build.release() < (8, 1) { &["-singlestep"] } else { &["-accel", "tcg,one-insn-per-tb=on"] };
    words.iter().map(|&word| word.to_owned()).collect()
}

/// What came of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    Same,
    Different,
    /// The build does not take it.
    Refused,
    Trouble,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    pub name: &'static str,
    pub arguments: Vec<String>,
    pub found: Found,
    /// One line that says it all.
    pub summary: String,
}

/// The build that is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    pub path: String,
    pub version: String,
    pub sha256: String,
    /// The guest's arguments.
    pub line: Vec<String>,
}

/// What came of all settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub verdict: Verdict,
    pub build: Examined,
    pub settings: Vec<Tried>,
    /// The whole report of the first setting with a difference; where there is none, of the first with trouble.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

pub struct Request<'a> {
    pub build: &'a Build,
    pub probe: &'a Path,
    /// The guest's arguments; where a recording drives, they replace the recorded ones.
    pub arguments: Option<&'a [String]>,
    pub driven: Driven<'a>,
    /// Whether a difference is to be explained.
    pub explain: bool,
    /// How many of the last blocks up to a divergence are told, and the names of the guest's code.
    pub blocks: usize,
    pub symbols: Option<&'a Symbols>,
    pub interrupts: &'a AtomicU32,
}

/// Rides the build against itself with each of `settings`. `progress` gets the setting and the instructions found equal;
/// `done` what came of each.
///
/// # Errors
/// Where the guest can't be run without a setting either.
pub fn check(
    mut request: Request,
    settings: &[Setting],
    progress: &mut dyn FnMut(&Setting, u64),
    done: &mut dyn FnMut(&Tried),
) -> Result<Checked, ride::Error> {
    let recorded = match &request.driven {
        Driven::Recording(recording) => Some(recording.manifest.arguments.clone()),
        _ => None,
    };
    let guest = request.arguments.map(<[String]>::to_vec).or(recorded).unwrap_or_default();
    let build = Examined {
        path: request.build.path.display().to_string(),
        version: request.build.version.clone(),
        sha256: request.build.sha256.clone(),
        line: guest.clone(),
    };
    let mut checked = Checked { verdict: Verdict::Trouble, build, settings: Vec::new(), report: None };
    let chosen = Arguments::parse(&guest).value("accel").is_some();
    for setting in settings {
        let tried = |found, summary| Tried {
            name: setting.name,
            arguments: setting.arguments.clone(),
            found,
            summary,
        };
        // QEMU takes the first -accel, and never says so.
        if chosen && setting.arguments.iter().any(|word| word == "-accel") {
            let why = "the guest's command line has an -accel, which goes before this one: leave it out";
            let tried = tried(Found::Refused, why.to_owned());
            done(&tried);
            checked.settings.push(tried);
            continue;
        }
        let ridden = ride(
            ride::Request {
                depth: None,
                loads: false,
                builds: Pair { a: request.build, b: request.build },
                probe: request.probe,
                arguments: request.arguments,
                extra: Pair { a: &[], b: &setting.arguments },
                driven: request.driven.again(),
                explain: request.explain,
                blocks: request.blocks,
                symbols: request.symbols,
                interrupts: request.interrupts,
            },
            &mut |equal| progress(setting, equal),
        );
        let tried = match ridden {
            Err(ride::Error::Run(Side::B, why @ run::Error::Stillborn { .. })) => {
                tried(Found::Refused, why.to_string())
            }
            Err(error) => return Err(error),
            Ok(report) => {
                let found = match report.verdict {
                    Verdict::Same => Found::Same,
                    Verdict::Different => Found::Different,
                    Verdict::Trouble => Found::Trouble,
                };
                let tried = tried(found, report.summary.clone());
                let shown = checked.report.as_ref().map(|report| report.verdict);
                if found == Found::Different && shown != Some(Verdict::Different)
                    || found == Found::Trouble && shown.is_none()
                {
                    checked.report = Some(report);
                }
                tried
            }
        };
        done(&tried);
        checked.settings.push(tried);
        if request.interrupts.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            break;
        }
    }
    checked.verdict = verdict(&checked.settings);
    Ok(checked)
}

/// A difference counts before trouble, and nothing is the same of which nothing was compared.
fn verdict(settings: &[Tried]) -> Verdict {
    let any = |found| settings.iter().any(|setting| setting.found == found);
    if any(Found::Different) {
        Verdict::Different
    } else if any(Found::Trouble) || !any(Found::Same) {
        Verdict::Trouble
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_builds_have_an_option_for_single_steps() {
        let build = |version: &str| Build {
            path: "/q".into(),
            version: version.to_owned(),
            sha256: String::new(),
            mode: qemu::build::Mode::System,
        };
        let first = |version| settings(&build(version))[0].arguments.join(" ");
        assert_eq!(first("7.2.22"), "-singlestep");
        assert_eq!(first("8.0.5"), "-singlestep");
        assert_eq!(first("8.1.0"), "-accel tcg,one-insn-per-tb=on");
        assert_eq!(first("10.0.2"), "-accel tcg,one-insn-per-tb=on");
    }

    #[test]
    fn only_what_was_compared_can_be_the_same() {
        let tried = |found| Tried { name: "", arguments: Vec::new(), found, summary: String::new() };
        let of = |found: &[Found]| verdict(&found.iter().map(|&found| tried(found)).collect::<Vec<_>>());
        use Found::{Different, Refused, Same, Trouble};
        assert_eq!(of(&[Same, Same]), Verdict::Same);
        assert_eq!(of(&[Same, Refused]), Verdict::Same);
        assert_eq!(of(&[Refused, Refused]), Verdict::Trouble);
        assert_eq!(of(&[]), Verdict::Trouble);
        assert_eq!(of(&[Same, Trouble]), Verdict::Trouble);
        assert_eq!(of(&[Trouble, Different, Same]), Verdict::Different);
    }
}
