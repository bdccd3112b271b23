use super::{render, selfcheck};
use crate::comparator::Pair;
use crate::report::{Again, Compared, Consoles, Divergence, Kind, Report, Ridden, Verdict};
use crate::selfcheck::{Checked, Examined, Found, Tried};

const HOSTILE: &str =
    "</style></title><script>alert(1)</script><img src=\"http://evil.example/\" onerror='x'>&\u{1b}[2J";

fn hostile() -> Report {
    let word = || HOSTILE.to_owned();
    let build = || Ridden {
        path: word(),
        version: word(),
        sha256: word(),
        plugin_api: 4,
        target: word(),
        line: vec![word(), "-append".to_owned(), word()],
    };
    let mut divergence = Divergence::without_instruction(Kind::Register, 7);
    divergence.pc = Pair { a: Some(word()), b: None };
    divergence.symbol = divergence.pc.clone();
    divergence.instruction = divergence.pc.clone();
    divergence.next = divergence.pc.clone();
    divergence.block = divergence.pc.clone();
    let mut other = build();
    other.line.pop();
    Report {
        verdict: Verdict::Different,
        summary: word(),
        compared: Compared {
            instructions: 1,
            chunks: 1,
            what: vec!["control flow"],
            driven_by: "live",
            vcpus: None,
            recorded: None,
        },
        builds: Pair { a: build(), b: other },
        divergence: Some(divergence),
        explanation: None,
        reduction: None,
        input: None,
        console: Some(Consoles::by_now(&Pair { a: HOSTILE.as_bytes().to_vec(), b: Vec::new() })),
        notes: vec![word()],
        again: Some(Again { folder: word(), command: vec!["tandem".to_owned(), word()] }),
    }
}

/// Of what comes from outside nothing is markup, wherever it stands.
#[track_caller]
fn is_harmless(page: &str) {
    let body = &page[page.find("</style>").unwrap() + "</style>".len()..];
    assert_eq!(page.matches("</style>").count(), 1);
    for markup in ["<script", "<img", "</title><", "src=\"", "href=", "url(", "\u{1b}"] {
        assert!(!body.contains(markup), "{markup} in {body}");
    }
    assert!(!page[..page.find("<style>").unwrap()].contains("<script"), "in the title");
    assert!(body.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count() > 10, "{body}");
}

#[test]
fn hostile_strings_are_shown_and_do_nothing() {
    let report = hostile();
    is_harmless(&render(&report));
    let tried = Tried {
        name: "nochain",
        arguments: vec![HOSTILE.to_owned()],
        found: Found::Different,
        summary: HOSTILE.to_owned(),
    };
    is_harmless(&selfcheck(&Checked {
        verdict: Verdict::Different,
        build: Examined {
            path: HOSTILE.to_owned(),
            version: HOSTILE.to_owned(),
            sha256: HOSTILE.to_owned(),
            line: vec![HOSTILE.to_owned()],
        },
        settings: vec![tried],
        report: Some(report),
    }));
}

#[test]
fn the_style_asks_for_nothing() {
    let style = include_str!("style.css");
    for asking in ["url(", "@import", "<", "http"] {
        assert!(!style.contains(asking), "{asking}");
    }
}

#[test]
fn how_to_run_it_again_can_be_pasted_into_a_shell() {
    let mut report = hostile();
    let command = ["tandem", "lockstep", "--", "-append", "console=ttyS0 quiet"].map(str::to_owned).to_vec();
    report.again = Some(Again { folder: "/my folder".to_owned(), command });
    let page = render(&report);
    let shown = "cd &#39;/my folder&#39;\ntandem lockstep -- -append &#39;console=ttyS0 quiet&#39;</pre>";
    assert!(page.contains(shown), "{page}");
}
