//! A TCG developer attaches what lockstep found to a bug: one page, which others read in their browsers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tandem::{Place, Ran, build, guest, qemus, wait_until, words};
use tempfile::TempDir;

/// Loads a page in a browser, and gives back its elements as they are when its scripts have run.
fn loaded(page: &Path) -> String {
    let profile = TempDir::new().unwrap();
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    browser.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    browser.args(["--allow-file-access-from-files", "--virtual-time-budget=10000", "--dump-dom"]);
    browser.arg(format!("--user-data-dir={}", profile.path().display()));
    browser.arg(format!("file://{}", page.display()));
    let ran = browser.output().unwrap_or_else(|error| panic!("chromium: {error}; ./setup check brings it"));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// What a reader sees of `page` in a window so many pixels wide.
fn seen(page: &Path, width: u32) -> Value {
    let folder = TempDir::new().unwrap();
    let frame = folder.path().join("frame.html");
    let script = "
        const frame = document.querySelector('iframe'), page = frame.contentDocument;
        const shown = (element) => {
            element.scrollIntoView();
            const box = element.getBoundingClientRect();
            const top = page.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
            const color = (of) => frame.contentWindow.getComputedStyle(of).backgroundColor;
            return {
                text: element.innerText,
                visible: element.checkVisibility() && box.height > 0 && element.contains(top),
                marked: color(element) != color(page.querySelector('tr:not(.guilty)')),
            };
        };
        const all = (what) => Array.from(page.querySelectorAll(what));
        document.querySelector('pre').textContent = JSON.stringify({
            title: page.title,
            text: page.body.innerText,
            guilty: all('tr.guilty').map(shown),
            differing: all('.registers tr.differs').map(shown),
            wide: page.documentElement.scrollWidth > page.documentElement.clientWidth,
            asks: all('[src], [href], [action], link, script, iframe, object, embed, img, form').length,
            asked: frame.contentWindow.performance.getEntriesByType('resource').map((entry) => entry.name),
            owned: window.owned === 1,
        });";
    let harness = format!(
        "<!doctype html><script>window.own = () => {{ window.owned = 1; }};</script><iframe src=\"file://{}\" width=\"{width}\" height=\"800\"></iframe><pre></pre>\
         <script>window.onload = () => {{ {script} }};</script>",
        page.display()
    );
    std::fs::write(&frame, harness).unwrap();
    let page = loaded(&frame);
    let result = page.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>"));
    let text = result.unwrap_or_else(|| panic!("{page}")).0;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", " ").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A ride into a fault of the corpus, with the guests' names in the report.
fn fault(name: &str, options: &[&str]) -> (corpus::faults::Fault, Vec<String>) {
    let fault = corpus::faults::fault(name).unwrap();
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (good, bad) = (path(corpus::faults::good().unwrap()), path(fault.build().unwrap()));
    let symbols = path(fault.symbols().unwrap());
    let start = words(&["lockstep", "--a", &good, "--b", &bad, "--symbols", &symbols]);
    let line = [start, words(options), words(&["--"]), fault.arguments().unwrap()].concat();
    (fault, line)
}

#[test]
fn the_page_shows_the_guilty_instruction_and_asks_for_nothing() {
    let place = Place::new();
    let (fault, line) = fault(
        "fold",
        &["--report", "report.html", "--b-arg", "-name", "--b-arg", "<script>parent.own()</script>"],
    );
    let ran = place.run(&line);
    let summary = ran.ends_with(1).out.lines().next().unwrap().strip_prefix("DIFFERENT: ").unwrap();
    assert_eq!(place.left(), (words(&["report.html"]), vec![]));
    let guilty = format!("{:#x}", fault.address().unwrap());
    for width in [1100, 360] {
        let page = seen(&place.path("report.html"), width);
        let text = page["text"].as_str().unwrap();
        assert!(page["title"].as_str().unwrap().contains(summary), "{}", page["title"]);
        // In the block, and as the last of those executed.
        let marked = page["guilty"].as_array().unwrap();
        assert_eq!(marked.len(), 2, "{marked:?}");
        for row in marked {
            assert!(row["text"].as_str().unwrap().contains(&guilty), "{row}");
            assert!(row["text"].as_str().unwrap().contains("xor eax, 0x5bd1e995"), "{row}");
            assert_eq!((&row["visible"], &row["marked"]), (&true.into(), &true.into()), "{row} at {width}");
        }
        assert!(marked[0]["text"].as_str().unwrap().contains(fault.label), "{marked:?}");
        let registers = page["differing"].as_array().unwrap();
        assert_eq!(registers.len(), 1, "{registers:?}");
        let register = registers[0]["text"].as_str().unwrap();
        assert!(["rax", "49e5bfed", "49e5bfec"].iter().all(|part| register.contains(part)), "{register}");
        for part in [summary, "80000000", "optimiser: the ops are the same", "tandem lockstep --a", "SHA-256"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(text.contains("<script>parent.own()</script>"), "what only B has is shown: {text}");
        assert_eq!((&page["asks"], &page["owned"]), (&0.into(), &false.into()));
        assert_eq!(page["asked"], Value::Array(Vec::new()));
        assert_eq!(page["wide"], false, "at {width} it has to be pushed sideways");
    }
}

#[test]
fn the_data_has_what_the_page_shows() {
    let place = Place::new();
    let (fault, line) = fault("fold", &["--format", "json", "--blocks", "2", "--report", "report.html"]);
    let report = place.run(&line).ends_with(1).json();
    let divergence = &report["divergence"];
    assert_eq!(divergence["symbol"]["a"], fault.label);
    assert!(report["summary"].as_str().unwrap().contains(&format!("<{}>", fault.label)), "{report}");
    for side in ["a", "b"] {
        assert_eq!(divergence["previous"][side].as_array().unwrap().len(), 2, "{divergence}");
        let code = divergence["code"][side].as_array().unwrap();
        let guilty: Vec<&Value> = code.iter().filter(|code| code["guilty"] == true).collect();
        assert_eq!(guilty.len(), 1, "{code:?}");
        assert_eq!(guilty[0]["pc"], divergence["pc"][side]);
        assert_eq!(divergence["in_block"][side][1].as_u64(), Some(code.len() as u64));
        assert_eq!(report["console"][side]["lines"], Value::from(vec!["80000000"]));
        assert!(
            report["console"][side]["icount"].as_u64().unwrap()
                <= divergence["icount"][side].as_u64().unwrap()
        );
    }
    assert_eq!(report["console"]["differ_in"], Value::Null);
    let command = report["again"]["command"].as_array().unwrap();
    assert_eq!(command.iter().skip(1).map(|word| word.as_str().unwrap()).collect::<Vec<_>>(), line);
    // As many as there are.
    let (_, line) = self::fault("fold", &["--format", "json", "--blocks", "100000"]);
    let all = place.run(&line).ends_with(1).json();
    let all = all["divergence"]["previous"]["a"].as_array().unwrap();
    assert_eq!(all[0]["instructions"][0]["icount"], 0, "from the beginning on");
    assert_eq!(all[all.len() - 2..], divergence["previous"]["a"].as_array().unwrap()[..]);
    place.run(&fault_line(&["--blocks", "0"])).ends_with(2);
}

#[test]
fn symbols_that_cannot_be_read_are_told_before_the_ride() {
    let place = Place::new();
    std::fs::write(place.path("vmlinux"), "no ELF").unwrap();
    let start = words(&["lockstep", "--a", &build("debian-10.0"), "--b", &build("debian-10.0")]);
    let ran = place.run(&[start, words(&["--symbols", "vmlinux", "--"]), guest("seabios")].concat());
    ran.is_refused_with(&["vmlinux", "ELF"]);
}

fn fault_line(options: &[&str]) -> Vec<String> {
    fault("fold", options).1
}

#[test]
fn a_byte_on_the_console_has_the_line_that_it_is_in() {
    let place = Place::new();
    let (_, line) = fault("console", &["--format", "json"]);
    let report = place.run(&line).ends_with(1).json();
    assert_eq!(report["divergence"]["kind"], "console");
    let console = &report["console"];
    let lines = |side: &str| console[side]["lines"].as_array().unwrap().clone();
    let (a, b) = (lines("a"), lines("b"));
    assert_eq!(a.len(), b.len());
    assert_eq!(a[..a.len() - 1], b[..b.len() - 1]);
    assert!(a.last().unwrap().as_str().unwrap().contains('~'), "{console}");
    assert!(b.last().unwrap().as_str().unwrap().contains('\u{fffd}'), "0x7f acts on a terminal: {console}");
    assert_eq!(console["differ_in"].as_u64(), Some(a.len() as u64), "{console}");
}

#[test]
fn a_page_that_cannot_be_written_is_told_before_the_ride() {
    let place = Place::new();
    std::fs::write(place.path("boot.tdm"), "a recording").unwrap();
    std::fs::create_dir(place.path("folder")).unwrap();
    let run = |file: &str| place.run(&fault_line(&["--report", file]));
    run("nowhere/report.html").is_refused_with(&["nowhere/report.html", "No such file"]);
    run("folder").is_refused_with(&["`folder`", "no file"]);
    run("/dev/null").is_refused_with(&["/dev/null", "no file"]);
    run("boot.tdm").is_refused_with(&["boot.tdm", "name another file"]);
    assert_eq!(std::fs::read_to_string(place.path("boot.tdm")).unwrap(), "a recording");
    assert!(run("boot.tdm").out.is_empty(), "nothing was ridden");
    assert_eq!(place.left().0, ["boot.tdm", "folder"]);
}

#[test]
fn a_page_is_replaced_by_a_whole_one() {
    let place = Place::new();
    std::fs::write(place.path("report.html"), "<!doctype html>old").unwrap();
    place.run(&fault_line(&["--report", "report.html"])).ends_with(1);
    let page = std::fs::read_to_string(place.path("report.html")).unwrap();
    assert!(!page.contains("old</") && page.ends_with("</html>\n"), "{page}");
    assert_eq!(place.left(), (words(&["report.html"]), vec![]));
}

/// The folder goes while both run.
#[test]
fn what_was_found_is_printed_where_the_page_cannot_be_written_after_all() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    let marker = format!("marker-{}", std::process::id());
    let line = words(&["lockstep", "--a", &build("debian-10.0"), "--b", &build("debian-10.0")]);
    let options = words(&["--report", "folder/report.html", "--", "-name", &marker]);
    let child = place.start(&[line, options, guest("seabios")].concat());
    wait_until("both run", || qemus(&marker).len() == 2);
    std::fs::remove_dir(place.path("folder")).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(ran.out.starts_with("same: "), "{}", ran.out);
    ran.is_refused_with(&["folder/report.html", "could not be written"]);
}

#[test]
fn a_selfcheck_has_a_page_too() {
    let place = Place::new();
    let start =
        words(&["selfcheck", &build("debian-10.0"), "--setting", "nochain", "--report", "ok.html", "--"]);
    place.run(&[start, guest("seabios")].concat()).ends_with(0);
    let page = seen(&place.path("ok.html"), 1100);
    let text = page["text"].as_str().unwrap();
    assert!(page["title"].as_str().unwrap().contains("same"), "{page}");
    let sha256 = qemu::build::Build::inspect(Path::new(&build("debian-10.0"))).unwrap().sha256;
    for part in ["nochain", "no divergence", &sha256] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(page["asks"], 0);
}
