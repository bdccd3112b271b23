//! How the report of a lockstep is given out: printed on standard output, and written as a page.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Read, Write, stdout};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ::lockstep::report::{Again, BLOCKS};
use ::lockstep::text::Medium;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;
use replayer::symbols::Symbols;

use crate::Failure;

/// What is told, and where.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write the report as one HTML page too, to be attached to a bug, with the explanation. A page that is there already is
    /// replaced
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// How many of the last blocks up to the divergence are told
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(BLOCKS).unwrap_or(NonZeroUsize::MIN))]
    blocks: NonZeroUsize,
    /// An ELF file with the names of the guest's code
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
}

impl Arguments {
    pub fn blocks(&self) -> usize {
        self.blocks.get()
    }

    pub fn symbols(&self) -> Result<Option<Symbols>, Failure> {
        Ok(self.symbols.as_deref().map(Symbols::read).transpose()?)
    }

    /// The page that is to be written. It is found out before the ride whether it can be: a ride may take minutes.
    pub fn page(&self) -> Result<Option<Page>, Failure> {
        self.report.as_deref().map(Page::prepare).transpose()
    }
}

/// What a report is printed for.
pub fn medium() -> Medium {
    if !stdout().is_terminal() {
        return Medium::default();
    }
    // https://no-color.org
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let able = std::env::var_os("TERM").is_none_or(|name| name != "dumb");
    let width = terminal_size::terminal_size_of(stdout()).map(|(width, _)| usize::from(width.0));
    Medium { colour: wanted && able, width }
}

/// This command line.
pub fn again() -> Again {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    Again {
        folder: std::env::current_dir().unwrap_or_default().display().to_string(),
        command: std::iter::once("tandem".to_owned()).chain(words).collect(),
    }
}

/// A page that will be written, all at once.
pub struct Page {
    path: PathBuf,
    /// Has no name until all is written; `None` where the file system has no such files.
    unnamed: Option<File>,
}

/// How a page begins. What does not is not written over.
const BEGINNING: &[u8] = b"<!doctype html>";

impl Page {
    fn prepare(path: &Path) -> Result<Self, Failure> {
        let cannot = |why: &dyn std::fmt::Display| {
            Failure(format!("no report can be written to `{}`: {why}", path.display()))
        };
        let path = match path.metadata() {
            Ok(there) if !there.is_file() => return Err(cannot(&"it is there and is no file")),
            Ok(_) => {
                let path = path.canonicalize().map_err(|error| cannot(&error))?;
                let mut beginning = Vec::new();
                let most = BEGINNING.len() as u64;
                let read = File::open(&path).and_then(|file| file.take(most).read_to_end(&mut beginning));
                read.map_err(|error| cannot(&error))?;
                if !beginning.is_empty() && beginning != BEGINNING {
                    return Err(cannot(&"it is there and is no report; name another file"));
                }
                path
            }
            Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(cannot(&error)),
        };
        let mut options = OpenOptions::new();
        options.write(true).mode(0o666).custom_flags(OFlag::O_TMPFILE.bits());
        let unnamed = match options.open(folder(&path)) {
            Ok(file) => Some(file),
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => None,
            Err(error) => return Err(cannot(&error)),
        };
        Ok(Page { path, unnamed })
    }

    /// Writes it. Until then, and where that fails, what was there before is.
    pub fn write(self, page: &str) -> Result<(), Failure> {
        let Page { path, unnamed } = self;
        let written = match unnamed {
            Some(file) => named(file, &path, page),
            None => renamed(&path, page),
        };
        written.map_err(|error| {
            Failure(format!("the report could not be written to `{}`: {error}", path.display()))
        })
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name beside, for a moment.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.incomplete", std::process::id()));
    name.into()
}

fn filled(mut file: File, page: &str) -> std::io::Result<File> {
    file.write_all(page.as_bytes())?;
    file.sync_data()?;
    Ok(file)
}

fn named(file: File, path: &Path, page: &str) -> std::io::Result<()> {
    let file = filled(file, page)?;
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link =
        |name: &Path| linkat(AT_FDCWD, descriptor.as_str(), AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW);
    match link(path) {
        Err(Errno::EEXIST) => {
            let beside = beside(path);
            link(&beside)?;
            std::fs::rename(&beside, path).inspect_err(|_| drop(std::fs::remove_file(&beside)))
        }
        linked => Ok(linked?),
    }
}

fn renamed(path: &Path, page: &str) -> std::io::Result<()> {
    let beside = beside(path);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&beside)
        .and_then(|file| filled(file, page))
        .and_then(|_| std::fs::rename(&beside, path));
    written.inspect_err(|_| drop(std::fs::remove_file(&beside)))
}
