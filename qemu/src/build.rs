//! One QEMU executable: where it lies, its version, what it emulates, and its hash.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use object::{Object, ObjectSymbol, SymbolKind};
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
    /// Recordings are of system emulators, and do not say it.
    #[serde(skip)]
    pub mode: Mode,
}

/// What a build emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// A whole machine.
    #[default]
    System,
    /// One Linux program.
    User,
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
    #[error(
        "`{0}` emulates single programs, which only `tandem lockstep` takes; this command needs a system emulator (qemu-system-...)"
    )]
    UserMode(PathBuf),
    #[error("`{path}` has no TCG: Tandem needs the emulator, not {has}; use a build with TCG")]
    NoTcg { path: PathBuf, has: String },
}

/// What makes a QEMU say which accelerators it has.
const ACCELERATORS: [&str; 2] = ["-accel", "help"];

/// Whether an executable is called as QEMU's emulators of machines are.
fn is_called_a_system(path: &Path) -> bool {
    path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b"qemu-system-")
}

impl Build {
    /// Looks at the executable `name`: a path, or a name on the PATH.
    ///
    /// # Errors
    /// Where there is none, or it is not a QEMU system emulator with TCG.
    pub fn inspect(name: &Path) -> Result<Self, Error> {
        let build = Build::inspect_any(name)?;
        if build.mode == Mode::User { Err(Error::UserMode(build.path)) } else { Ok(build) }
    }

    /// The same of an emulator of whatever kind.
    ///
    /// # Errors
    /// Where there is none, or it is not a QEMU with TCG.
    pub fn inspect_any(name: &Path) -> Result<Self, Error> {
        let path = find(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        let unrunnable = |why| Error::Unrunnable { path: path.clone(), why };
        let ask = |argument: &[&str]| {
            let mut command = Command::new(&path);
            let command =
                command.args(argument).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().map_err(unrunnable)
        };
        let says = |asked: Child| {
            let output = asked.wait_with_output().map_err(unrunnable)?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        // It answers while the file is read. Only what is called a QEMU is asked more before it has said that it is one.
        let version = ask(&["--version"])?;
        let accelerators = is_called_a_system(&path).then(|| ask(&ACCELERATORS)).transpose()?;
        let sha256 = sha256(&path).map_err(unrunnable);
        let text = says(version)?;
        let accelerators = accelerators.map(says).transpose()?;
        let first = text.lines().next().unwrap_or_default();
        if let Some((_, version)) = first.split_once(" version ")
            && first.starts_with("qemu-")
        {
            return Ok(Build { version: version.to_owned(), sha256: sha256?, path, mode: Mode::User });
        }
        let Some(version) = first.strip_prefix("QEMU emulator version ") else {
            return Err(Error::NotQemu(path));
        };
        let accelerators = match accelerators {
            Some(said) => said,
            None => says(ask(&ACCELERATORS)?)?,
        };
        if !accelerators.lines().any(|line| line.trim() == "tcg") {
            let has = accelerators.lines().skip(1).map(str::trim).collect::<Vec<_>>().join(", ");
            return Err(Error::NoTcg { path, has: if has.is_empty() { "none".to_owned() } else { has } });
        }
        Ok(Build { version: version.to_owned(), sha256: sha256?, path, mode: Mode::System })
    }
}

impl Build {
    /// Whether the executable is still the file that was looked at, so that it need not be asked again. Never of one that
    /// is not called as QEMU's are: what a stranger's recording names is run as a QEMU only where it says that it is one.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        is_called_a_system(&self.path) && sha256(&self.path).is_ok_and(|now| now == self.sha256)
    }

    /// The release that it is, or that it is developed towards: the major and the minor number.
    #[must_use]
    pub fn release(&self) -> (u32, u32) {
        let mut numbers =
            self.version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let (major, minor, micro) = (next(), next(), next());
        (major, if micro >= 50 { minor + 1 } else { minor })
    }

    /// The level of the plugin interface, where it is one that a plugin has to name: 6 of QEMU 11.0, 7 from 11.1 on
    /// (11.1.3 refuses any other).
    #[must_use]
    pub fn plugin_api(&self) -> Option<u32> {
        match self.release() {
            (10, 3..) | (11, 0) => Some(6),
            (11.., _) => Some(7),
            _ => None,
        }
    }

    /// Where in each thread's own memory of the executable it keeps which vCPU that thread executes (`current_cpu`), bytes from
    /// the beginning: where its table of symbols was not taken out.
    #[must_use]
    pub fn current_cpu(&self) -> Option<u64> {
        let bytes = std::fs::read(&self.path).ok()?;
        let file = object::File::parse(&*bytes).ok()?;
        let mut own = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Tls);
        own.find(|symbol| symbol.name() == Ok("current_cpu")).map(|symbol| symbol.address())
    }

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

#[cfg(test)]
mod tests {
    use super::{Build, Mode};

    #[test]
    fn a_version_tells_the_release_and_the_plugin_interface() {
        for (version, release, api) in [
            ("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2), None),
            ("10.2.0", (10, 2), None),
            ("10.2.50 (v10.2.0-123-gabcdef)", (10, 3), Some(6)),
            ("11.0.1", (11, 0), Some(6)),
            ("11.0.92", (11, 1), Some(7)),
            ("11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)", (11, 1), Some(7)),
            ("12.0.0", (12, 0), Some(7)),
            ("master", (0, 0), None),
        ] {
            let build = Build {
                path: "/q".into(),
                version: version.to_owned(),
                sha256: String::new(),
                mode: Mode::System,
            };
            assert_eq!((build.release(), build.plugin_api()), (release, api), "{version}");
        }
    }
}
