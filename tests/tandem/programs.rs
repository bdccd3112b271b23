//! Programs that something is reduced to: made from their source, and run.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Place;

/// What a program ends with, started by `starter` where there is one.
pub fn status(starter: &[&str], program: &Path) -> Option<i32> {
    let words: Vec<_> = starter.iter().map(Path::new).chain([program]).collect();
    Command::new(words[0]).args(&words[1..]).status().unwrap().code()
}

/// Assembles and links a source, as it says at its top.
pub fn assembled(place: &Place, source: &Path) -> PathBuf {
    let (object, program) = (place.path("again.o"), place.path("again"));
    assert!(Command::new("as").arg(source).arg("-o").arg(&object).status().unwrap().success());
    let mut ld = Command::new("ld");
    ld.args(["-static", "--section-start=.written=0x2000000"]).arg(&object).arg("-o").arg(&program);
    assert!(ld.status().unwrap().success());
    program
}
