//! The builds and guests that Tandem is shown and tested on, and where they lie. The lists are `builds.txt` and
//! `guests.txt` in this folder, which `./setup` reads too. [`faults`] are builds made worse on purpose.

pub mod faults;

use std::path::{Path, PathBuf};

const BUILDS: &str = include_str!("../builds.txt");
const GUESTS: &str = include_str!("../guests.txt");

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("neither XDG_CACHE_HOME nor HOME is set: there is no cache folder to look in")]
    NoCache,
    #[error("there is no build `{name}`; there are: {known}")]
    NoBuild { name: String, known: String },
    #[error("there is no guest `{name}`; there are: {known}")]
    NoGuest { name: String, known: String },
    #[error("there is no fault `{name}`; there are: {known}")]
    NoFault { name: String, known: String },
    #[error("`{file}` has no label `{label}`; run ./setup check")]
    NoLabel { label: String, file: PathBuf },
    #[error("`{0}` is not there; run ./setup, or ./setup check")]
    Missing(PathBuf),
}

/// The user's cache folder for Tandem.
///
/// # Errors
/// Where the environment names none.
pub fn cache() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.ok_or(Error::NoCache)?.join("tandem"))
}

fn lines(list: &'static str) -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.collect()))
    })
}

fn known(list: &'static str) -> String {
    lines(list).map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

fn expand(word: &str, cache: &Path) -> String {
    let cache = cache.display().to_string();
    word.replace("$FIRMWARE", &format!("{cache}/firmware")).replace("$CACHE", &cache)
}

/// The executable of the build `name`.
///
/// # Errors
/// Where there is no such build in the list or on this machine.
pub fn build(name: &str) -> Result<PathBuf, Error> {
    let found = lines(BUILDS).find(|(known, _)| *known == name).and_then(|(_, words)| words.last().copied());
    let word = found.ok_or_else(|| Error::NoBuild { name: name.to_owned(), known: known(BUILDS) })?;
    present(PathBuf::from(expand(word, &cache()?)))
}

fn present(path: PathBuf) -> Result<PathBuf, Error> {
    if path.is_file() { Ok(path) } else { Err(Error::Missing(path)) }
}

/// QEMU's arguments for the guest `name`.
///
/// # Errors
/// Where there is no such guest in the list or on this machine.
pub fn guest(name: &str) -> Result<Vec<String>, Error> {
    let cache = cache()?;
    let found = lines(GUESTS).find(|(known, _)| *known == name);
    let (_, words) = found.ok_or_else(|| Error::NoGuest { name: name.to_owned(), known: known(GUESTS) })?;
    let arguments: Vec<String> = words.iter().map(|word| expand(word, &cache)).collect();
    for argument in &arguments {
        if argument.starts_with('/') && !Path::new(argument).exists() {
            return Err(Error::Missing(PathBuf::from(argument)));
        }
    }
    Ok(arguments)
}

/// The names of all builds.
pub fn builds() -> impl Iterator<Item = &'static str> {
    lines(BUILDS).map(|(name, _)| name)
}

/// The names of all guests.
pub fn guests() -> impl Iterator<Item = &'static str> {
    lines(GUESTS).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_lists_is_complete() {
        assert!(lines(BUILDS).all(|(_, words)| words.len() == 2 && words[1].starts_with(['/', '$'])));
        assert!(lines(GUESTS).all(|(_, words)| !words.is_empty()));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert!(build("nope").unwrap_err().to_string().contains("debian-7.2"));
        assert!(guest("nope").unwrap_err().to_string().contains("linux"));
    }
}
