//! One QEMU executable: where it lies, its version, what it emulates, and its hash.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::digest::sha256;

/// A QEMU executable that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub path: PathBuf,
    /// As QEMU prints it, `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)`.
    pub version: String,
    /// SHA-256 of the executable, hexadecimal.
    pub sha256: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no QEMU at `{0}`; give the path of a qemu-system-... executable, or a name that is on the PATH"
    )]
    Missing(PathBuf),
    #[error("`{path}` can't be run: {why}")]
    Unrunnable { path: PathBuf, why: std::io::Error },
    #[error("`{0}` is not a QEMU: its --version says nothing of \"QEMU emulator version\"")]
    NotQemu(PathBuf),
    #[error("`{0}` emulates single programs; this command needs a system emulator (qemu-system-...)")]
    UserMode(PathBuf),
    #[error("`{path}` has no TCG: Tandem needs the emulator, not {has}; use a build with TCG")]
    NoTcg { path: PathBuf, has: String },
}

impl Build {
    /// Looks at the executable `name`: a path, or a name on the PATH.
    ///
    /// # Errors
    /// Where there is none, or it is not a QEMU system emulator with TCG.
    pub fn inspect(name: &Path) -> Result<Self, Error> {
        let path = find(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        let says = |argument: &[&str]| {
            Command::new(&path)
                .args(argument)
                .stdin(Stdio::null())
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .map_err(|why| Error::Unrunnable { path: path.clone(), why })
        };
        let text = says(&["--version"])?;
        let first = text.lines().next().unwrap_or_default();
        if first.starts_with("qemu-") && first.contains(" version ") {
            return Err(Error::UserMode(path));
        }
        let Some(version) = first.strip_prefix("QEMU emulator version ") else {
            return Err(Error::NotQemu(path));
        };
        let accelerators = says(&["-accel", "help"])?;
        if !accelerators.lines().any(|line| line.trim() == "tcg") {
            let has = accelerators.lines().skip(1).map(str::trim).collect::<Vec<_>>().join(", ");
            return Err(Error::NoTcg { path, has: if has.is_empty() { "none".to_owned() } else { has } });
        }
        let sha256 = sha256(&path).map_err(|why| Error::Unrunnable { path: path.clone(), why })?;
        Ok(Build { version: version.to_owned(), sha256, path })
    }
}

impl Build {
    /// QEMU's name of the guest's architecture, as far as the executable's own name tells it.
    #[must_use]
    pub fn target(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("qemu-system-").unwrap_or(&name).to_owned()
    }
}

/// The file that the shell would run for `name`.
fn find(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| std::path::absolute(name).unwrap_or_else(|_| name.to_owned()));
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
