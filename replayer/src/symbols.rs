//! Names of the guest's code, from an ELF file with symbols (`vmlinux`, a firmware's `.elf`).

use std::path::{Path, PathBuf};

use object::{Object, ObjectSymbol, SymbolKind};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` can't be read: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("`{0}` is no file that symbols can be read from ({1}); an ELF file with symbols is needed")]
    Format(PathBuf, object::Error),
    #[error("`{0}` has no symbols; it was stripped")]
    Stripped(PathBuf),
}

/// Symbols by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Address, size in bytes (0: not said) and name, in the order of the addresses.
    all: Vec<(u64, u64, String)>,
}

/// How far behind a symbol without a size its code may go, bytes.
const FAR: u64 = 1 << 20;

impl Symbols {
    /// Reads those of the file at `path`.
    ///
    /// # Errors
    /// Where it has none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| Error::Read(path.to_owned(), error))?;
        let file = object::File::parse(&*bytes).map_err(|error| Error::Format(path.to_owned(), error))?;
        let mut all: Vec<_> = file
            .symbols()
            .filter(|symbol| {
                symbol.is_definition()
                    && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label)
            })
            .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?.to_owned())))
            .filter(|(_, _, name)| !name.is_empty())
            .collect();
        if all.is_empty() {
            return Err(Error::Stripped(path.to_owned()));
        }
        // Of several at one address the one with a size says more.
        all.sort_by(|a, b| (a.0, a.1, &b.2).cmp(&(b.0, b.1, &a.2)));
        Ok(Symbols { all })
    }

    /// `name` or `name+0x12` for an address.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<String> {
        let index = self.all.partition_point(|symbol| symbol.0 <= address).checked_sub(1)?;
        let (begin, size, name) = &self.all[index];
        let offset = address - begin;
        match offset {
            0 => Some(name.clone()),
            _ if offset < if *size == 0 { FAR } else { *size } => Some(format!("{name}+{offset:#x}")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Symbols;

    #[test]
    fn an_address_has_the_name_of_the_symbol_it_is_in() {
        let symbol = |address, size, name: &str| (address, size, name.to_owned());
        let symbols = Symbols { all: vec![symbol(0x100, 0x20, "first"), symbol(0x200, 0, "label")] };
        let named = |address| symbols.name(address);
        assert_eq!(named(0x100).as_deref(), Some("first"));
        assert_eq!(named(0x11f).as_deref(), Some("first+0x1f"));
        assert_eq!((named(0xff), named(0x120)), (None, None));
        assert_eq!(named(0x210).as_deref(), Some("label+0x10"));
    }

    #[test]
    fn a_file_without_symbols_says_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "no ELF").unwrap();
        assert!(Symbols::read(&path).unwrap_err().to_string().contains("an ELF file with symbols is needed"));
    }
}
