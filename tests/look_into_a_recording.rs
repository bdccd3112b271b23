//! A user looks into a recording: how it was made, its events, its console.

mod tandem;

use serde_json::Value;
use tandem::{BUILDS, Place, build, guest};

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn its_summary_its_events_and_its_console() {
    let place = Place::new();
    let recorded = place.record("boot.tdm", &build(BUILDS[0]), &guest("linux"));
    recorded.ends_with(0);

    let summary = place.run(&["show", "boot.tdm"]);
    summary.ends_with(0);
    for part in [
        "in virtual time",
        "7.2",
        "guests/linux/vmlinuz",
        "the guest shut down",
        "proven        by its witness",
    ] {
        assert!(summary.out.contains(part), "`{part}` is not in:\n{}", summary.out);
    }
    let json = place.run(&["show", "boot.tdm", "--format", "json"]).json();
    let icount = json["ending"]["icount"].as_u64().unwrap();
    let kinds: u64 = json["events"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(
        kinds + json["ending"]["dropped"].as_u64().unwrap(),
        json["ending"]["events"].as_u64().unwrap()
    );

    let all = json_lines(&place.run(&["show", "boot.tdm", "--events", "--format", "json"]).out);
    assert_eq!(all.len() as u64, kinds);
    assert_eq!(all.last().unwrap()["event"], "end");
    let at = |event: &Value| event["icount"].as_u64().unwrap();
    assert!(all.windows(2).all(|pair| at(&pair[0]) <= at(&pair[1])), "icounts never go back");
    assert!(at(all.last().unwrap()) >= icount);
    let some =
        ["show", "boot.tdm", "--events", "--format", "json", "--from", "500000000", "--to", "600000000"];
    let expected: Vec<Value> =
        all.iter().filter(|event| (500_000_000..=600_000_000).contains(&at(event))).cloned().collect();
    assert!(expected.len() > 10 && json_lines(&place.run(&some).out) == expected);

    let text = place.run(&["show", "boot.tdm", "--events"]).out;
    assert_eq!(text.lines().count(), all.len());
    assert!(
        text.contains("char-write result=1 written=1") && text.contains("(the guest shut down)"),
        "{text}"
    );

    let console = json_lines(&place.run(&["show", "boot.tdm", "--console", "--format", "json"]).out);
    let said: String = console.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(said, recorded.out, "the console is what the guest wrote");
    assert!(console.iter().all(|line| line["exact"] == true), "a serial port's bytes have exact icounts");
    // Each line begins at an event of the serial port.
    let writes: Vec<u64> = all.iter().filter(|event| event["event"] == "char-write").map(at).collect();
    assert!(console.iter().all(|line| writes.binary_search(&at(line)).is_ok()));
}

#[test]
fn a_console_that_is_no_serial_port_has_the_time_at_which_it_was_seen() {
    let place = Place::new();
    place.record("bios.tdm", &build(BUILDS[1]), &guest("seabios")).ends_with(0);
    let shown = place.run(&["show", "bios.tdm", "--console"]);
    shown.ends_with(0);
    assert!(shown.err.contains("not what one serial port wrote"), "{}", shown.err);
    assert!(
        shown.out.lines().all(|line| line.starts_with('~')) && shown.out.contains("SeaBIOS"),
        "{}",
        shown.out
    );
}
