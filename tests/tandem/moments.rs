//! What `tandem replay --at` shows of a recording's moments, and where there is something to go to.

use super::{Place, words};

/// What is shown of a moment: icount, position, and the registers and instructions as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub icount: u64,
    pub position: u64,
    pub state: String,
}

fn shown(out: &str) -> Vec<Shown> {
    let number = |text: &str| text.replace(',', "").parse().unwrap();
    let mut all = Vec::new();
    for line in out.lines() {
        if let Some(rest) = line.strip_prefix("at icount ") {
            let (icount, rest) = rest.split_once(", instruction ").unwrap();
            let (position, _) = rest.split_once(" of the stream").unwrap();
            all.push(Shown { icount: number(icount), position: number(position), state: String::new() });
        } else if let Some(last) = all.last_mut()
            && (line.starts_with("0x") || line.split_once('=').is_some_and(|(name, _)| name.len() <= 5))
        {
            last.state += line;
            last.state.push('\n');
        }
    }
    all
}

impl Place {
    /// What is shown of `moments`.
    pub fn at(&self, file: &str, moments: &[&str]) -> Vec<Shown> {
        self.shown(words(&["replay", file]), moments)
    }

    /// The same from the beginning on, without checkpoints.
    pub fn at_in_one_run(&self, file: &str, moments: &[&str]) -> Vec<Shown> {
        self.shown(words(&["replay", file, "--no-checkpoints"]), moments)
    }

    fn shown(&self, mut arguments: Vec<String>, moments: &[&str]) -> Vec<Shown> {
        arguments.extend(moments.iter().flat_map(|moment| words(&["--at", moment])));
        let ran = self.run(&arguments);
        ran.ends_with(0);
        let shown = shown(&ran.out);
        assert_eq!(shown.len(), moments.len(), "{}", ran.out);
        shown
    }

    /// Icounts at which the recording has such an event.
    pub fn icounts(&self, file: &str, event: &str) -> Vec<u64> {
        let listed = self.run(&["show", file, "--events", "--format", "json"]);
        listed.ends_with(0);
        let lines = listed.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut icounts: Vec<u64> = lines
            .filter(|line| line["event"] == event)
            .map(|line| line["icount"].as_u64().unwrap())
            .collect();
        icounts.dedup();
        icounts
    }
}
