//! What QEMU needs to replay a recording: the guest's files as they were, the command line, and its log as a
//! file that QEMU can seek in. The file has no name, so it is gone when the last who has it open ends.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use qemu::arguments::{Arguments, Refusal, Time, overlays};
use recorder::manifest::Changed;
use recorder::pack::{self, unpacked};
use recorder::reader::{self, Reader};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Recording(#[from] reader::Error),
    #[error(transparent)]
    Changed(#[from] Changed),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the replay log can't be written to the folder for temporary files: {0}; TMPDIR names another")]
    Temporary(#[from] io::Error),
    #[error(
        "the folder `{0}`, in which the recording was made, is not there; its command line names files in it"
    )]
    NoFolder(PathBuf),
}

/// Files that hold a machine's state, or shall.
#[derive(Debug, Clone, Copy)]
pub struct State<'f> {
    /// A qcow2 image with no other purpose.
    pub machine: &'f File,
    /// What is in front of the image of each drive that can be written to; none, and QEMU makes them.
    pub drives: &'f [File],
    /// The name of the state that is restored, where one is.
    pub restored: Option<&'f str>,
}

/// A recording ready to be replayed, by any number of QEMUs one after the other.
#[derive(Debug)]
pub struct Source {
    log: File,
    parsed: Arguments,
    time: Time,
    /// Where QEMU is started.
    pub folder: PathBuf,
    /// The whole command line but for the probe.
    pub line: Vec<String>,
}

impl Source {
    /// Unpacks the log and checks the guest's files. `arguments` replace the recorded ones, where given; `files` is
    /// the folder into which the guest's files were unpacked, where they were.
    ///
    /// # Errors
    /// Where a file has changed, the recording is damaged, or the log can't be written.
    pub fn unpack(
        recording: &mut Reader,
        arguments: Option<&[String]>,
        files: Option<&Path>,
    ) -> Result<Self, Error> {
        let manifest = &recording.manifest;
        let moved = files.map(std::path::absolute).transpose()?;
        let folder = match &moved {
            _ if arguments.is_some() => std::env::current_dir()?,
            Some(files) => unpacked(files, &manifest.folder),
            None => manifest.folder.clone(),
        };
        if !folder.is_dir() {
            return Err(Error::NoFolder(folder));
        }
        for file in &manifest.files {
            match &moved {
                Some(files) => file.check_at(&unpacked(files, &file.path))?,
                None => file.check()?,
            }
        }
        let given = arguments.unwrap_or(&manifest.arguments);
        let parsed = match &moved {
            Some(files) => Arguments::parse(&pack::moved(given, &manifest.files, files)),
            None => Arguments::parse(given),
        };
        let time = manifest.time;
        let mut log = BufWriter::new(tempfile::tempfile()?);
        recording.copy_log(&mut log)?;
        log.flush()?;
        let log = log.into_inner().map_err(io::IntoInnerError::into_error)?;
        let line = parsed.replayed(time, &path(&log))?.line;
        Ok(Source { log, parsed, time, folder, line })
    }

    /// The whole command line of a replay of it with other arguments for the guest.
    ///
    /// # Errors
    /// Where what they ask for can't be recorded.
    pub fn replaying(&self, arguments: &[String]) -> Result<Vec<String>, Refusal> {
        Ok(Arguments::parse(arguments).replayed(self.time, &path(&self.log))?.line)
    }

    /// The command line of a replay that is commanded: when the guest ends, QEMU stays. With an image that states of the
    /// machine are kept in, and where one is restored, its name.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack).
    pub fn commanded(&self, state: Option<&State>) -> Result<Vec<String>, Refusal> {
        let mut line = match state {
            Some(state) => self.restored(state)?,
            None => self.line.clone(),
        };
        line.push("-no-shutdown".to_owned());
        Ok(line)
    }

    /// The command line of a replay with an image that states of the machine are kept in: where one is restored, it begins
    /// there, and ends as any replay does.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack).
    pub fn restored(&self, state: &State) -> Result<Vec<String>, Refusal> {
        let mut log = path(&self.log);
        let image = path(state.machine);
        log.extend(state.restored.map(|name| format!(",rrsnapshot={name}")));
        let mut line = vec![
            // First, so that QEMU takes it and none of the guest's own drives for the state.
            "-drive".to_owned(),
            format!("file={image},format=qcow2,if=none,id=tandem-state"),
            // Or else a virtio network card tells its driver that it has moved (`virtio_net_post_load_device`).
            "-global".to_owned(),
            "migration.announce-rounds=0".to_owned(),
        ];
        let drives: Vec<_> = state.drives.iter().map(path).collect();
        line.extend(overlays::given(&self.parsed.replayed(self.time, &log)?.line, &drives));
        Ok(line)
    }

    /// How many of the guest's drives can be written to: their state belongs to a machine's.
    #[must_use]
    pub fn drives(&self) -> usize {
        overlays::count(&self.line)
    }

    /// The log's descriptor, to be passed to QEMU.
    #[must_use]
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }
}

/// The name by which a QEMU that was given a file's descriptor opens it.
fn path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
