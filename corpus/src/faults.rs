//! Builds of QEMU with one small fault of known place each, and the guests that show them: what a comparison of builds
//! has to find. The list is `faults/list.txt`; `build-faults` in this folder makes the builds, and `./setup check` has
//! it do so.

use std::path::PathBuf;

use object::{Object, ObjectSymbol};

use crate::{Error, build, cache, guest, present};

const LIST: &str = include_str!("../faults/list.txt");

/// The name of the build that all faults were put into, without any.
pub const GOOD: &str = "good";

/// The part of QEMU that a fault lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From guest instructions to TCG ops.
    Frontend,
    /// From TCG ops to fewer of them, liveness included.
    Optimiser,
    /// From TCG ops to host instructions.
    Backend,
    /// A function that translated code calls.
    Helper,
    /// What keeps, links and throws away translated blocks, and delivers interrupts.
    Runtime,
    Device,
}

/// One fault, and the place in a guest at which it first acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub name: &'static str,
    /// What sort of mistake it is, in a few words.
    pub kind: &'static str,
    /// What it does.
    pub what: &'static str,
    pub stage: Stage,
    /// The file of QEMU's source that it was put into.
    pub file: &'static str,
    /// Its guest's name in `guests.txt`.
    pub guest: &'static str,
    /// The guilty instruction's name in the guest's source.
    pub label: &'static str,
    /// Which execution of that instruction is the first with a wrong effect, from 1 on.
    pub nth: u64,
    /// Ways of running or looking under which it is not there, as the list names them.
    pub hidden: Vec<&'static str>,
}

impl Stage {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "frontend" => Stage::Frontend,
            "optimiser" => Stage::Optimiser,
            "backend" => Stage::Backend,
            "helper" => Stage::Helper,
            "runtime" => Stage::Runtime,
            "device" => Stage::Device,
            _ => return None,
        })
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Frontend => "frontend",
            Stage::Optimiser => "optimiser",
            Stage::Backend => "backend",
            Stage::Helper => "helper",
            Stage::Runtime => "runtime",
            Stage::Device => "device",
        }
    }
}

impl Fault {
    fn listed(lines: &'static str) -> Option<Self> {
        let field = |name: &str| {
            lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
        };
        Some(Fault {
            name: field("name")?,
            kind: field("kind")?,
            what: field("what")?,
            stage: Stage::named(field("stage")?)?,
            file: field("file")?,
            guest: field("guest")?,
            label: field("label")?,
            nth: field("nth")?.parse().ok()?,
            hidden: field("hidden").unwrap_or_default().split_whitespace().collect(),
        })
    }

    /// The executable with the fault.
    ///
    /// # Errors
    /// Where it has not been made.
    pub fn build(&self) -> Result<PathBuf, Error> {
        present(cache()?.join("builds/faults").join(self.name).join("qemu-system-x86_64"))
    }

    /// QEMU's arguments for the guest that shows it.
    ///
    /// # Errors
    /// Where the guest has not been made.
    pub fn arguments(&self) -> Result<Vec<String>, Error> {
        guest(self.guest)
    }

    /// The guest's ELF file, with symbols.
    ///
    /// # Errors
    /// Where the guest has not been made.
    pub fn symbols(&self) -> Result<PathBuf, Error> {
        present(cache()?.join("guests").join(self.guest).join("rom.elf"))
    }

    /// Where the guilty instruction lies: the value of its label.
    ///
    /// # Errors
    /// Where the guest has not been made.
    pub fn address(&self) -> Result<u64, Error> {
        self.address_of(self.label)
    }

    /// The value of a label of its guest.
    ///
    /// # Errors
    /// Where the guest has not been made, or has no such label.
    pub fn address_of(&self, label: &str) -> Result<u64, Error> {
        let path = self.symbols()?;
        let none = || Error::NoLabel { label: label.to_owned(), file: path.clone() };
        let bytes = std::fs::read(&path).map_err(|_| none())?;
        let file = object::File::parse(&*bytes).map_err(|_| none())?;
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(label)).ok_or_else(none)?;
        Ok(symbol.address())
    }
}

/// All faults.
pub fn faults() -> impl Iterator<Item = Fault> {
    LIST.split("\n\n").filter_map(Fault::listed)
}

/// The fault `name`.
///
/// # Errors
/// Where there is none of that name.
pub fn fault(name: &str) -> Result<Fault, Error> {
    let known = || faults().map(|fault| fault.name).collect::<Vec<_>>().join(", ");
    faults()
        .find(|fault| fault.name == name)
        .ok_or_else(|| Error::NoFault { name: name.to_owned(), known: known() })
}

/// The executable that all faults were put into, without any.
///
/// # Errors
/// Where it has not been made.
pub fn good() -> Result<PathBuf, Error> {
    build(GOOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_list_is_complete() {
        let named: Vec<&str> = LIST.lines().filter_map(|line| line.strip_prefix("name: ")).collect();
        let read: Vec<Fault> = faults().collect();
        assert_eq!(named, read.iter().map(|fault| fault.name).collect::<Vec<_>>());
        assert!(read.len() >= 12);
        for fault in &read {
            assert!(crate::guests().any(|guest| guest == fault.guest), "{fault:?}");
            assert_eq!(Stage::named(fault.stage.name()), Some(fault.stage));
        }
    }

    #[test]
    fn an_unknown_fault_lists_the_known_ones() {
        assert!(fault("nope").unwrap_err().to_string().contains("flag"));
    }
}
