//! A developer whose guest runs differently since some commit of QEMU's has that commit found: by `tandem bisect`, or by
//! `git bisect run tandem step`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod history;
mod tandem;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use corpus::faults::{fault, faults, good};
use history::{History, git, history};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::programs::{assembled, status};
use tandem::{Place, Ran, build, guest, wait_until, words};

/// Taken by each who looks whether the one repository is as it was.
static REPOSITORY: Mutex<()> = Mutex::new(());

/// What builds QEMU where the system's own meson is too old (./setup has unpacked a newer one), and has the given cache.
fn building(command: &mut Command, cache: Option<&Path>) {
    let meson = corpus::cache().unwrap().join("meson/usr");
    let path = std::env::var("PATH").unwrap();
    command.env("PYTHONPATH", meson.join("lib/python3/dist-packages"));
    command.env("PATH", format!("{}:/usr/bin:{path}", meson.join("bin").display()));
    if let Some(cache) = cache {
        command.env("XDG_CACHE_HOME", cache);
    }
}

/// Has the broken commit of a branch looked for; `options` are more of `tandem`'s.
fn bisect(
    place: &Place,
    history: &History,
    branch: &str,
    options: &[&str],
    guest: &[String],
    cache: Option<&Path>,
) -> Ran {
    let repository = history.repository.display().to_string();
    let start =
        words(&["bisect", "--repo", &repository, "--good", "base", "--bad", branch, "--format", "json"]);
    let line = [start, words(options), words(&["--"]), guest.to_vec()].concat();
    let mut command = place.command(&line);
    building(&mut command, cache);
    Ran::of(command.output().unwrap())
}

/// What stands in the result of a branch's bisection.
fn is_found(history: &History, branch: &str, ran: &Ran, file: &str) {
    let found = ran.ends_with(0).json();
    assert_eq!(found["commit"]["id"], history.broken(branch), "{}", ran.err);
    assert!(found["message"].as_str().unwrap().contains("breaks something"));
    // The commit touches another file too, and before this one.
    assert_eq!(found["hunks"].as_array().unwrap().len(), 2, "{}", found["hunks"]);
    assert_eq!(found["hunks"][0]["file"], file, "{}", found["hunks"]);
    assert!(found["hunks"][0]["because"].is_string(), "{}", found["hunks"]);
    assert_eq!(found["report"]["verdict"], "different");
    let marks: Vec<_> = found["steps"].as_array().unwrap().iter().map(|step| step["mark"].clone()).collect();
    assert!(marks.contains(&"good".into()) && marks.contains(&"bad".into()), "{marks:?}");
    assert!(marks.contains(&"skip".into()), "one that does not build is on the way: {marks:?}");
}

/// The program of tests/guests/bisected.s, with the part in which the fault shows.
fn program(place: &Place, part: &str) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/bisected.s");
    let (object, program) = (place.path("bisected.o"), place.path("bisected"));
    assert!(Command::new("as").arg("-o").arg(&object).arg(source).status().unwrap().success());
    assert!(Command::new("ld").arg("-o").arg(&program).arg(object).status().unwrap().success());
    vec![program.display().to_string(), part.to_owned()]
}

#[test]
fn the_commit_that_broke_a_machine_is_found() {
    let place = Place::new();
    let history = history();
    let _alone = REPOSITORY.lock();
    let before = history.state();
    let fault = fault("encoding").unwrap();
    let ran = bisect(&place, &history, fault.name, &[], &fault.arguments().unwrap(), None);
    is_found(&history, fault.name, &ran, fault.file);
    let report = &ran.json()["report"]["divergence"];
    assert_eq!(report["pc"]["a"], format!("{:#x}", fault.address().unwrap()));
    assert_eq!(report["stage"], "backend");
    assert_eq!(history.state(), before, "the user's repository is as it was");
}

/// In a checked out tree, with git's own `bisect run`. The steps of a user's program.
#[test]
fn git_bisect_run_takes_the_steps() {
    let place = Place::new();
    let history = history();
    let _alone = REPOSITORY.lock();
    let before = history.state();
    let tree = place.path("tree");
    let tree_name = tree.display().to_string();
    git(&history.repository, &["worktree", "add", "--quiet", "--detach", &tree_name, "fold"], b"");
    let stepped = std::panic::catch_unwind(|| bisect_run(&place, &tree));
    git(&history.repository, &["worktree", "remove", "--force", &tree_name], b"");
    let log = stepped.unwrap();
    assert!(log.contains(&format!("# first bad commit: [{}]", history.broken("fold"))), "{log}");
    for mark in ["git bisect good", "git bisect bad", "git bisect skip"] {
        assert!(log.contains(mark), "{mark}: {log}");
    }
    assert_eq!(history.state(), before, "the user's repository is as it was");
}

/// Git's log of a `git bisect run tandem step`.
fn bisect_run(place: &Place, tree: &Path) -> String {
    git(tree, &["bisect", "start", "fold", "base"], b"");
    let mut command = Command::new("git");
    command.args(["bisect", "run", env!("CARGO_BIN_EXE_tandem"), "step", "--good", "base"]);
    command.args(["--target", "x86_64-linux-user", "--"]).args(program(place, "optimiser"));
    building(&mut command, None);
    let ran = Ran::of(command.current_dir(tree).output().unwrap());
    ran.ends_with(0);
    let log = git(tree, &["bisect", "log"], b"");
    git(tree, &["bisect", "reset"], b"");
    assert_eq!(git(tree, &["status", "--porcelain"], b""), "", "nothing was put into the tree");
    // What is changed there and in no commit is built too: here the fault is taken out, and it is good.
    let (file, text) =
        (tree.join("tcg/optimize.c"), std::fs::read_to_string(tree.join("tcg/optimize.c")).unwrap());
    let step = || {
        let repo = tree.display().to_string();
        let start =
            words(&["step", "--repo", &repo, "--good", "base", "--target", "x86_64-linux-user", "--"]);
        let mut command = place.command(&[start, program(place, "optimiser")].concat());
        building(&mut command, None);
        Ran::of(command.output().unwrap())
    };
    step().ends_with(1);
    std::fs::write(file, text.replace("return x ^ y ^ (y == 0x5bd1e995);", "return x ^ y;")).unwrap();
    let ran = step();
    assert!(ran.ends_with(0).out.contains("and what is changed there"), "{}", ran.out);
    log
}

/// Each break that shows in a program comes down to a few instructions, which are wrong on the bad build, and right on the good
/// one and on the processor here.
#[test]
fn a_break_comes_down_to_a_program_of_its_own() {
    let history = history();
    for (branch, part, instruction) in BREAKS {
        let place = Place::new();
        let broken = history.broken(branch);
        let repository = history.repository.display().to_string();
        let good = format!("{broken}^");
        let ends = ["--repo", &repository, "--good", &good, "--bad", &broken];
        let more = ["--target", "x86_64-linux-user", "--format", "json", "--reduce", "cut", "--"];
        let line = [words(&["bisect"]), words(&ends), words(&more), program(&place, part)].concat();
        let mut command = place.command(&line);
        building(&mut command, None);
        let found = Ran::of(command.output().unwrap()).ends_with(0).json();
        comes_down_to(&place, &found["report"], instruction);
    }
}

/// The breaks that show in a program, the part of it in which they do, and what they are of.
const BREAKS: [(&str, &str, &str); 3] = [
    ("stored", "frontend", "not word ptr"),
    ("fold", "optimiser", "xor eax, 0x5bd1e995"),
    ("encoding", "backend", "rol eax, "),
];

/// What is kept of a break in `cut`.
fn comes_down_to(place: &Place, report: &serde_json::Value, instruction: &str) {
    let reduction = &report["reduction"];
    let code = reduction["code"].as_array().unwrap_or_else(|| panic!("{}", report["notes"]));
    assert!(code.len() <= 2, "{reduction}");
    assert!(code.last().unwrap().as_str().unwrap().starts_with(instruction), "{reduction}");
    assert_eq!(reduction["wrong"], "b", "{reduction}");
    let builds = ["a", "b"].map(|side| report["builds"][side]["path"].as_str().unwrap());
    let folder = place.path("cut");
    for program in [folder.join("reduced"), assembled(place, &folder.join("reduced.s"))] {
        let ends = [status(&[], &program), status(&[builds[0]], &program), status(&[builds[1]], &program)];
        assert_eq!(ends, [Some(0), Some(0), Some(1)], "here, on the good build, on the bad one: {reduction}");
    }
}

/// The command line that looks in `repo` for the commit, each built by the shell's line `build`.
fn bisecting(repo: &str, good: &str, bad: &str, build: &str, more: &[&str]) -> Vec<String> {
    let start = ["bisect", "--repo", repo, "--good", good, "--bad", bad, "--build-cmd", build];
    [words(&start), words(more)].concat()
}

/// A repository that passes for QEMU's: each commit names an executable that is there already, which is what its build comes to.
fn small(place: &Place, executables: &[PathBuf]) -> String {
    let folder = place.path("small");
    std::fs::create_dir_all(folder.join("accel/tcg")).unwrap();
    std::fs::create_dir_all(folder.join("tcg")).unwrap();
    for file in ["configure", "accel/tcg/x.c", "tcg/tcg.c"] {
        std::fs::write(folder.join(file), "").unwrap();
    }
    git(&folder, &["init", "--quiet", "."], b"");
    for (number, executable) in executables.iter().enumerate() {
        std::fs::write(folder.join("built"), executable.display().to_string()).unwrap();
        git(&folder, &["add", "--all"], b"");
        git(&folder, &["commit", "--quiet", "--allow-empty", "-m", &format!("number {number}")], b"");
        git(&folder, &["tag", &format!("c{number}")], b"");
    }
    folder.display().to_string()
}

const COPIES: &str = "cp \"$(cat $TANDEM_SOURCE/built)\" $TANDEM_EXECUTABLE";

/// The executable of a fault.
fn of(name: &str) -> PathBuf {
    fault(name).unwrap().build().unwrap()
}

/// What answers as a QEMU does, and does not start a guest.
fn no_start(place: &Place) -> PathBuf {
    let path = place.path("no-start");
    let good = good().unwrap().display().to_string();
    let text = format!(
        "#!/bin/sh\ncase $1 in --version | -accel) exec {good} \"$@\" ;; esac\necho no machine today >&2\nexit 1\n"
    );
    std::fs::write(&path, text).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&path).status().unwrap().success());
    path
}

/// One that dies before the guest's first instruction says nothing of the guest; one that dies later does.
#[test]
fn one_that_does_not_start_is_skipped_and_one_that_dies_later_is_bad() {
    let place = Place::new();
    let (good, death) = (good().unwrap(), of("death"));
    let none = no_start(&place);
    let repo = small(
        &place,
        &[good.clone(), none.clone(), good.clone(), good, none.clone(), death.clone(), none, death],
    );
    let cache = place.path("cache").display().to_string();
    let start = bisecting(&repo, "c0", "c7", COPIES, &["--format", "json", "--"]);
    let line = [start, guest("rom-arithmetic")].concat();
    let ran = place.run_with(("XDG_CACHE_HOME", &cache), &line);
    // Number 4 stands between the last good one and the first bad one, and nobody knows what it is.
    ran.ends_with(2);
    assert!(ran.err.contains("no commit is the first bad one: it is one of "), "{}", ran.err);
    assert!(ran.err.contains("no machine today"), "{}", ran.err);
    let line =
        [bisecting(&repo, "c2", "c7", COPIES, &["--skip", "c4"]), words(&["--"]), guest("rom-arithmetic")]
            .concat();
    place.run_with(("XDG_CACHE_HOME", &cache), &line).ends_with(2);

    let step = |rev: &str| {
        git(Path::new(&repo), &["checkout", "--quiet", rev], b"");
        let start = ["step", "--repo", &repo, "--good", "c0", "--build-cmd", COPIES, "--"];
        place.run_with(("XDG_CACHE_HOME", &cache), &[words(&start), guest("rom-arithmetic")].concat())
    };
    assert!(step("c2").ends_with(0).out.contains(" good: the same "));
    let skipped = step("c4");
    assert!(skipped.ends_with(125).out.contains("no machine today"), "{}", skipped.out);
    let bad = step("c5");
    assert!(bad.ends_with(1).out.contains("QEMU died (killed by SIGABRT) when "), "{}", bad.out);
}

/// One that can't run live is recorded on the good build first.
#[test]
fn a_recording_drives_the_commits_where_the_guest_can_not_run_live() {
    let place = Place::new();
    let (good, fold) = (good().unwrap(), of("fold"));
    let repo = small(&place, &[good.clone(), good, fold.clone(), fold]);
    let cache = place.path("cache").display().to_string();
    let start = bisecting(&repo, "c0", "c3", COPIES, &["--format", "json"]);
    let until = ["--until-icount", "500000000", "--"];
    let line = [start, words(&until), guest("rom-arithmetic")].concat();
    let found = place.run_with(("XDG_CACHE_HOME", &cache), &line).ends_with(0).json();
    assert_eq!(found["commit"]["subject"], "number 2");
    assert_eq!(found["good_runs"], 3);
    assert_eq!(found["report"]["compared"]["driven_by"], "recording");
    let kept = place.run_with(("XDG_CACHE_HOME", &cache), &line).ends_with(0).json();
    assert_eq!((&kept["good_runs"], &kept["commit"]), (&0.into(), &found["commit"]), "all was kept");
}

/// Nothing can be looked for where the good build is another each time, or the bad one is the same.
#[test]
fn controls_come_first() {
    let place = Place::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/program.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-static", "-pthread", "-o"]).arg(place.path("program")).arg(source);
    assert!(gcc.status().unwrap().success());
    let qemu = PathBuf::from(build("debian-7.2-user"));
    let repo = small(&place, &[qemu.clone(), qemu]);
    let cache = place.path("cache").display().to_string();
    let start = ["bisect", "--repo", &repo, "--good", "c0", "--bad", "c1", "--target", "x86_64-linux-user"];
    let copies = COPIES.replace("cp ", "echo >>$TANDEM_BUILD/times; cp ");
    let ride = |part: &str| {
        let line = [&start[..], &["--build-cmd", &copies, "--", "./program", part]].concat();
        place.run_with(("XDG_CACHE_HOME", &cache), &line)
    };
    let ran = ride("tells-time");
    ran.ends_with(2);
    assert!(ran.err.contains("the good build differs from itself: "), "{}", ran.err);
    assert!(ran.err.contains("not deterministic"), "{}", ran.err);
    let ran = ride("adds");
    ran.ends_with(2);
    assert!(ran.err.contains("run the guest the same"), "{}", ran.err);
}

#[test]
fn ctrl_c_in_a_build_leaves_nothing() {
    let place = Place::new();
    let repo = small(&place, &[good().unwrap(), of("fold")]);
    let cache = place.path("cache").display().to_string();
    let state = || {
        git(Path::new(&repo), &["for-each-ref"], b"")
            + &git(Path::new(&repo), &["status", "--porcelain", "--ignored"], b"")
    };
    let before = state();
    let marker = format!("4{}", std::process::id());
    let sleeps = format!("touch $TANDEM_BUILD/begun; sleep {marker} & sleep {marker}; wait");
    let start = bisecting(&repo, "c0", "c1", &sleeps, &["--"]);
    let mut command = place.command(&[start, guest("rom-arithmetic")].concat());
    let child = command.env("XDG_CACHE_HOME", &cache).spawn().unwrap();
    let sleeping = || {
        let found = Command::new("pgrep").args(["-f", &format!("^sleep {marker}$")]).output().unwrap().stdout;
        String::from_utf8(found).unwrap().lines().count()
    };
    wait_until("both sleep", || sleeping() == 2);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.ends_with(2);
    assert!(ran.err.ends_with("interrupted\n"), "{}", ran.err);
    wait_until("nobody sleeps", || sleeping() == 0);
    assert_eq!(state(), before);
    let left: Vec<_> = std::fs::read_dir(place.path("cache/tandem/bisect/new")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Nothing is locked, and the next one builds.
    let start = bisecting(&repo, "c0", "c1", COPIES, &["--format", "json", "--"]);
    let line = [start, guest("rom-arithmetic")].concat();
    let found = place.run_with(("XDG_CACHE_HOME", &cache), &line).ends_with(0).json();
    assert_eq!(found["commit"]["subject"], "number 1");
}

#[test]
fn what_can_not_be_bisected_gets_a_clear_line() {
    let place = Place::new();
    let (good, fold) = (good().unwrap(), of("fold"));
    let executable = good.display().to_string();
    let repo = small(&place, &[good, fold]);
    let cache = place.path("cache").display().to_string();
    let other = place.path("other");
    std::fs::create_dir(&other).unwrap();
    git(&other, &["init", "--quiet", "."], b"");
    git(&other, &["commit", "--quiet", "--allow-empty", "-m", "no QEMU"], b"");
    git(Path::new(&repo), &["checkout", "--quiet", "--orphan", "apart", "c0"], b"");
    git(Path::new(&repo), &["commit", "--quiet", "-m", "apart"], b"");
    let line = |repo: &str, good: &str, bad: &str, more: &[&str]| {
        [bisecting(repo, good, bad, COPIES, more), words(&["--"]), guest("rom-arithmetic")].concat()
    };
    let ran = |line: &[String]| place.run_with(("XDG_CACHE_HOME", &cache), line);
    let nowhere = place.path("nowhere").display().to_string();
    ran(&line(&nowhere, "c0", "c1", &[])).is_refused_with(&["is in no git repository", "--repo"]);
    ran(&line(&other.display().to_string(), "HEAD", "HEAD", &[]))
        .is_refused_with(&["is no source of QEMU", "`configure`"]);
    ran(&line(&repo, "c0", "v99", &[])).is_refused_with(&["has no commit `v99`"]);
    ran(&line(&repo, "--help", "c1", &[])).ends_with(2);
    ran(&line(&repo, "c0", "c0", &[])).is_refused_with(&["the same commit"]);
    ran(&line(&repo, "c1", "c0", &[])).is_refused_with(&["comes before --good", "exchange them"]);
    ran(&line(&repo, "c0", "apart", &[])).is_refused_with(&["no commit in common"]);
    // The good one is on a branch of its own, off a commit that is bad: what is looked for was mended there.
    git(Path::new(&repo), &["checkout", "--quiet", "-b", "mended", "c1"], b"");
    std::fs::write(Path::new(&repo).join("built"), executable).unwrap();
    git(Path::new(&repo), &["commit", "--quiet", "--all", "-m", "mended"], b"");
    git(Path::new(&repo), &["checkout", "--quiet", "-b", "worse", "c1"], b"");
    git(Path::new(&repo), &["commit", "--quiet", "--allow-empty", "-m", "worse"], b"");
    let mended = ran(&line(&repo, "mended", "worse", &[]));
    mended.ends_with(2);
    assert!(mended.err.contains("The merge base ") && mended.err.contains("is bad"), "{}", mended.err);
    ran(&line(&repo, "c0", "c1", &["--target", "x86_64-bsd-user"]))
        .is_refused_with(&["x86_64-bsd-user", "CPU-softmmu"]);
    place
        .run_with(("XDG_CACHE_HOME", "/proc"), &line(&repo, "c0", "c1", &[]))
        .is_refused_with(&["the cache `/proc/tandem/bisect` can't be written"]);
    let fails = bisecting(&repo, "c0", "c1", "echo no compiler; exit 3", &["--", "-M", "pc"]);
    ran(&fails).is_refused_with(&["the good commit", "does not build: no compiler", ".log`"]);
    // Git would take these for a bad commit, were they told by the exit code that all other commands have.
    for bad in [
        &["step", "--good", "v99", "--repo", &*repo, "--", "-M", "pc"][..],
        &["step", "--", "-M", "pc"],
        &["step", "--nonsense"],
    ] {
        ran(&words(bad)).ends_with(128);
    }
}

/// Whatever a fault does: each of the corpus's makes a bad commit, and the good build a good one.
#[test]
#[ignore = "one of them hangs for a while; ./bench bisect runs it"]
fn each_fault_is_bad() {
    let place = Place::new();
    let cache = place.path("cache").display().to_string();
    let mut executables = vec![good().unwrap()];
    executables.extend(faults().map(|fault| fault.build().unwrap()));
    let repo = small(&place, &executables);
    let step = |number: usize, guest: &[String]| {
        git(Path::new(&repo), &["checkout", "--quiet", &format!("c{number}")], b"");
        let start = ["step", "--repo", &repo, "--good", "c0", "--build-cmd", COPIES, "--"];
        place.run_with(("XDG_CACHE_HOME", &cache), &[&words(&start), guest].concat())
    };
    for (number, fault) in faults().enumerate() {
        let guest = fault.arguments().unwrap();
        let begun = std::time::Instant::now();
        let ran = step(number + 1, &guest);
        println!("{}: {:.1} s, {}", fault.name, begun.elapsed().as_secs_f64(), ran.out.trim());
        ran.ends_with(1);
        step(0, &guest).ends_with(0);
    }
}

/// All five breaks, on machines and, where they show there, in programs, with a cache that has nothing: `./bench bisect`.
#[test]
#[ignore = "takes half an hour; ./bench bisect runs it"]
fn all_breaks_are_found_with_cold_caches() {
    let history = history();
    let machine = |name: &'static str| (name, "x86_64-softmmu", "");
    let all =
        [machine("real-segment"), machine("fold"), machine("encoding"), machine("stored"), machine("frame")]
            .into_iter()
            .chain(BREAKS.map(|(name, part, _)| (name, "x86_64-linux-user", part)));
    let only = std::env::var("TANDEM_BREAKS").unwrap_or_default();
    for (name, target, part) in all {
        if !only.is_empty() && !only.split_whitespace().any(|one| one == format!("{name}:{target}")) {
            continue;
        }
        let place = Place::new();
        let fault = fault(name).unwrap();
        let guest = if part.is_empty() { fault.arguments().unwrap() } else { program(&place, part) };
        let begun = std::time::Instant::now();
        let cache = place.path("cache");
        let options = ["--target", target, "--reduce", "cut"];
        let ran = bisect(&place, &history, name, &options, &guest, Some(&cache));
        let took = begun.elapsed().as_secs();
        is_found(&history, name, &ran, fault.file);
        let found = ran.json();
        let steps: Vec<_> =
            found["steps"].as_array().unwrap().iter().map(|step| step["mark"].as_str().unwrap()).collect();
        println!(
            "{name} ({}), {target}: found in {took} s, {} ({})",
            fault.stage.name(),
            steps.join(" "),
            found["report"]["summary"]
        );
        let reduction = &found["report"]["reduction"];
        println!("    reduced to {} ({})", reduction["code"], reduction["wrong"]);
        if let Some((.., instruction)) = BREAKS.iter().find(|(of, ..)| !part.is_empty() && *of == name) {
            comes_down_to(&place, &found["report"], instruction);
        }
    }
}
