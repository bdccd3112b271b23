//! Runs `tandem` on the builds and guests of the corpus, as a user would. A build or guest that is missing fails
//! the test: ./setup brings them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod moments;
pub mod programs;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const BUILDS: [&str; 2] = ["debian-7.2", "debian-10.0"];

/// With a newest one, which is tested in what each build does its own way.
pub const ALL_BUILDS: [&str; 3] = ["debian-7.2", "debian-10.0", "debian-11"];

pub fn build(name: &str) -> String {
    corpus::build(name).unwrap().display().to_string()
}

pub fn guest(name: &str) -> Vec<String> {
    corpus::guest(name).unwrap()
}

/// A folder of a test's own, with all that it starts: also the folder for temporary files.
pub struct Place {
    folder: TempDir,
}

/// What a run of `tandem` came to.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        Place { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What lies in the folder, and what in the one for temporary files.
    pub fn left(&self) -> (Vec<String>, Vec<String>) {
        let names = |folder: &Path| {
            let mut names: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "tmp")
                .collect();
            names.sort();
            names
        };
        (names(self.folder.path()), names(&self.path("tmp")))
    }

    pub fn command<S: AsRef<str>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .current_dir(self.folder.path())
            .env("TMPDIR", self.path("tmp"))
            .env_remove("TANDEM_PROBE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn start<S: AsRef<str>>(&self, arguments: &[S]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    pub fn run<S: AsRef<str>>(&self, arguments: &[S]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Records the beginning of a kernel, up to where it takes interrupts.
    pub fn record_a_kernel(&self, file: &str, build: &str, guest_name: &str) -> Ran {
        let line = words(&["record", "-o", file, "--until", "PF_NETLINK", "--", build]);
        let ran = self.run(&[line, guest(guest_name)].concat());
        ran.ends_with(0);
        ran
    }

    pub fn run_with<S: AsRef<str>>(&self, variable: (&str, &str), arguments: &[S]) -> Ran {
        Ran::of(self.command(arguments).env(variable.0, variable.1).output().unwrap())
    }

    /// Records `guest` on `build` as `file`.
    pub fn record(&self, file: &str, build: &str, guest: &[String]) -> Ran {
        self.run(&[&words(&["record", "-o", file, "--", build]), guest].concat())
    }
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn ends_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Bad input: exit code 2 and, on standard error, one line with all of `parts`.
    #[track_caller]
    pub fn is_refused_with(&self, parts: &[&str]) {
        self.ends_with(2);
        let lines: Vec<&str> = self.err.lines().filter(|line| !line.contains("recording on QEMU")).collect();
        assert_eq!(lines.len(), 1, "one line, not:\n{}", self.err);
        assert!(lines[0].starts_with("tandem: "), "{}", lines[0]);
        for part in parts {
            assert!(lines[0].contains(part), "`{part}` is not in: {}", lines[0]);
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.out, self.err))
    }
}

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A guest that is nothing but `code`, in a ROM, at the reset vector.
pub fn rom(place: &Place, code: &[u8]) -> Vec<String> {
    let mut rom = vec![0x90; 64 << 10];
    rom[0xfff0..0xfff0 + code.len()].copy_from_slice(code);
    std::fs::write(place.path("code.bin"), rom).unwrap();
    words(&["-M", "pc-i440fx-7.2", "-cpu", "max", "-m", "16", "-bios", "code.bin", "-serial", "stdio"])
}

/// Assembles the boot sector `name` of tests/guests.
pub fn boot_sector(place: &Place, name: &str) -> PathBuf {
    assembled(place, name, "0x7c00")
}

/// The same of a firmware of 64 KiB.
pub fn firmware(place: &Place, name: &str) -> PathBuf {
    assembled(place, name, "0")
}

fn assembled(place: &Place, name: &str, address: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name);
    let (object, image) = (place.path("boot.o"), place.path("boot.img"));
    let assembled = Command::new("as").arg("--32").arg(source).arg("-o").arg(&object).status().unwrap();
    let mut link = Command::new("ld");
    link.args(["-m", "elf_i386", "-Ttext", address, "-e", address, "--oformat", "binary", "-o"]);
    assert!(assembled.success() && link.arg(&image).arg(object).status().unwrap().success());
    image
}

/// The process ids whose command line has the word `marker`, `tandem`'s own excepted.
pub fn qemus(marker: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mut words = line.split(|&byte| byte == 0);
            let program = String::from_utf8_lossy(words.next()?).into_owned();
            (program.contains("qemu-system") && words.any(|word| word == marker.as_bytes())).then_some(pid)
        })
        .collect()
}

/// Waits until `done`, or fails.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
