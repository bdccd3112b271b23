//! A finding in files: its source, programs, and what the sequence was before.

use std::fs;
use std::path::Path;

use lockstep::comparator::Pair;
use reduce::case::{Case, End};
use reduce::image::{Image, Setting, Tells, Where, flags_that_count};
use reduce::{elf, source};

use super::{Finding, Unequal};
use crate::subject::{self, Error};

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
