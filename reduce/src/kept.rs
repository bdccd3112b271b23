//! A reduced case in files: its source, programs, and what it was before.

use std::fs;
use std::path::Path;

use crate::case::{Case, End};
use crate::image::{self, Image, Setting, Tells, Where, flags_that_count};
use crate::subject::{self, Error};
use crate::{elf, source};

/// Keeps a case in `folder`: its source with `heading` at its top, the program that tests for it, a machine's firmware where one
/// was used, and what it was before.
///
/// # Errors
/// Where there is no room.
pub fn keep(
    folder: &Path,
    setting: Setting,
    heading: &[String],
    (whole, reduced): (&Case, &Case),
    expected: Option<&End>,
) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    let executable = |name: &str, bytes: &[u8]| -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    };
    let mask = flags_that_count(reduced).map_err(|why| image::Error::Unfit(0, why))?;
    if let Some(expected) = expected {
        let image = Image::checking(setting, reduced, expected)?;
        executable("reduced", &elf::program(&image))?;
        fs::write(folder.join("reduced.s"), source::program(&image, reduced, expected, mask, heading))?;
    }
    for (name, case) in [("reduced", reduced), ("whole", whole)] {
        let silent = Setting { tells: Tells::Nothing, ..setting };
        let image = Image::new(silent, std::slice::from_ref(case))?;
        match setting.runs {
            Where::Machine => fs::write(folder.join(format!("{name}.rom")), subject::file(&image)?)?,
            Where::Linux => executable(&format!("{name}-silent"), &subject::file(&image)?)?,
        }
    }
    fs::write(folder.join("whole.txt"), source::listing(whole))?;
    Ok(())
}
