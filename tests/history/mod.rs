//! A git repository with histories of QEMU, made of the source that `./setup check` has put into the cache: for each fault a
//! branch with the commits of `list.txt`, of which one has the fault. Authors and dates are fixed, so its commits are the same each
//! time, and builds of them that are kept stay good.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

const LIST: &str = include_str!("list.txt");
const FAULTS: &str = include_str!("../../corpus/faults/list.txt");

/// What QEMU's build does not need.
const LEFT_OUT: [&str; 3] = ["roms/*/", ".pc/", "debian/"];

/// The faults that have a branch, by the same name.
pub const BRANCHES: [&str; 5] = ["stored", "fold", "encoding", "real-segment", "frame"];

pub struct History {
    pub repository: PathBuf,
}

struct Edit {
    file: &'static str,
    pattern: String,
    replacement: String,
}

fn field(paragraph: &'static str, name: &str) -> &'static str {
    let mut lines = paragraph.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap().trim()
}

impl Edit {
    fn of(paragraph: &'static str) -> Self {
        let text = |name| field(paragraph, name).replace("\\n", "\n");
        Edit { file: field(paragraph, "file"), pattern: text("pattern"), replacement: text("replacement") }
    }
}

/// Runs git, with something to read, and gives back what it printed.
pub fn git(repository: &Path, words: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("git")
        .args(words)
        .current_dir(repository)
        .envs([("GIT_AUTHOR_NAME", "A. Developer"), ("GIT_COMMITTER_NAME", "A. Developer")])
        .envs([("GIT_AUTHOR_EMAIL", "a@example.org"), ("GIT_COMMITTER_EMAIL", "a@example.org")])
        .envs([("GIT_AUTHOR_DATE", "1760000000 +0000"), ("GIT_COMMITTER_DATE", "1760000000 +0000")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The repository, which stays in the cache.
pub fn history() -> History {
    let cache = corpus::cache().unwrap();
    let version =
        fs::read_to_string(cache.join("qemu-src/version")).expect("no source of QEMU; run ./setup check");
    let source = cache.join("qemu-src").join(version.trim()).join("source");
    let folder = cache.join("history");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, why)| why).unwrap();
    let repository = folder.join("repository");
    // What builds faults edits the source for a moment.
    let building = File::create(cache.join("qemu-src/lock")).unwrap();
    let _building = Flock::lock(building, FlockArg::LockShared).map_err(|(_, why)| why).unwrap();
    let made_of = format!("{version}{LIST}{:?}{FAULTS}", BRANCHES);
    if fs::read_to_string(folder.join("made-of")).ok().as_ref() != Some(&made_of) {
        let _ = fs::remove_dir_all(&repository);
        fs::create_dir_all(&repository).unwrap();
        make(&repository, &source);
        fs::write(folder.join("made-of"), made_of).unwrap();
    }
    History { repository }
}

fn make(repository: &Path, source: &Path) {
    let git = |words: &[&str], input: &[u8]| git(repository, words, input);
    git(&["init", "--quiet", "--initial-branch=base", "."], b"");
    let tree = format!("--work-tree={}", source.display());
    let left_out: Vec<String> = LEFT_OUT.iter().map(|path| format!(":(exclude,glob){path}**")).collect();
    let mut add = vec![&*tree, "add", "--all", "--force", "--", "."];
    add.extend(left_out.iter().map(String::as_str));
    // Pathspecs are meant from where it is.
    let git_dir = repository.join(".git").display().to_string();
    let mut command = vec!["--git-dir", &*git_dir];
    command.extend(add);
    self::git(source, &command, b"");
    let tree = git(&["write-tree"], b"");
    let base = git(&["commit-tree", &tree, "-m", "QEMU"], b"");
    git(&["update-ref", "refs/heads/base", &base], b"");
    for branch in BRANCHES {
        git(&["read-tree", &base], b"");
        let mut changed: HashMap<&'static str, String> = HashMap::new();
        let mut last = base.clone();
        for paragraph in LIST.split("\n\n").skip(1) {
            let mut edits = vec![Edit::of(paragraph)];
            let mut subject = field(paragraph, "subject").to_owned();
            if subject == "fault" {
                let name = format!("name: {branch}\n");
                let fault = FAULTS.split("\n\n").find(|fault| fault.contains(&name)).unwrap();
                edits.push(Edit::of(fault));
                subject = format!("a change that breaks something ({branch})");
            }
            for Edit { file, pattern, replacement } in edits {
                let text =
                    changed.entry(file).or_insert_with(|| fs::read_to_string(source.join(file)).unwrap());
                assert_eq!(text.matches(&pattern).count(), 1, "{file} has `{pattern}` once");
                *text = text.replace(&pattern, &replacement);
                let blob = git(&["hash-object", "-w", "--stdin"], text.as_bytes());
                git(&["update-index", "--cacheinfo", &format!("100644,{blob},{file}")], b"");
            }
            let tree = git(&["write-tree"], b"");
            last = git(&["commit-tree", &tree, "-p", &last, "-m", &subject], b"");
        }
        git(&["update-ref", &format!("refs/heads/{branch}"), &last], b"");
    }
    git(&["symbolic-ref", "HEAD", "refs/heads/base"], b"");
    // Nothing is checked out.
    git(&["read-tree", "--empty"], b"");
}

impl History {
    /// The id of the commit of a branch that has the fault.
    pub fn broken(&self, branch: &str) -> String {
        git(&self.repository, &["log", "--format=%H", "--grep=breaks something", branch], b"")
    }

    /// All that git keeps of what is going on, to be compared.
    pub fn state(&self) -> Vec<String> {
        let git = |words: &[&str]| git(&self.repository, words, b"");
        let names = |folder: &str| {
            let mut names: Vec<_> = fs::read_dir(self.repository.join(folder))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names.join(" ")
        };
        vec![
            git(&["for-each-ref"]),
            git(&["worktree", "list"]),
            names("."),
            names(".git"),
            git(&["count-objects"]),
        ]
    }
}
