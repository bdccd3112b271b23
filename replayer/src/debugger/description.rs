//! The description of the guest's registers, which QEMU gives and gdb asks for ("Target Descriptions" in gdb's manual).

use std::collections::BTreeMap;

use crate::machine::{self, Machine};

/// The document that names the others.
const FIRST: &str = "target.xml";

/// How much of a document is asked for at a time, bytes.
const PIECE: usize = 0x400;

/// A document that is longer is no description, bytes.
const LONGEST: usize = 4 << 20;

/// All documents of a machine's description, by name.
///
/// # Errors
/// Where QEMU is gone. What it does not give is left out: gdb then knows its own layout.
pub fn read(machine: &mut Machine) -> Result<BTreeMap<String, Vec<u8>>, machine::Error> {
    let mut documents = BTreeMap::new();
    let mut wanted = vec![FIRST.to_owned()];
    while let Some(name) = wanted.pop() {
        if documents.contains_key(&name) {
            continue;
        }
        let Some(text) = document(machine, &name)? else { continue };
        wanted.extend(included(&String::from_utf8_lossy(&text)));
        documents.insert(name, text);
    }
    Ok(documents)
}

/// One document of them; `None` where there is none of that name.
///
/// # Errors
/// Where QEMU is gone.
pub fn document(machine: &mut Machine, name: &str) -> Result<Option<Vec<u8>>, machine::Error> {
    let mut text = Vec::new();
    while text.len() < LONGEST {
        let answer = machine.ask(&format!("qXfer:features:read:{name}:{:x},{PIECE:x}", text.len()))?;
        let Some((&more, piece)) = answer.split_first() else { return Ok(None) };
        text.extend_from_slice(piece);
        match more {
            b'm' if !piece.is_empty() => {}
            b'l' => return Ok(Some(text)),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The documents that `text` includes.
fn included(text: &str) -> impl Iterator<Item = String> + '_ {
    let parts = text.split("<xi:include").skip(1);
    parts.filter_map(|part| {
        let (_, name) = part.split('>').next()?.split_once("href=\"")?;
        Some(name.split('"').next()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::included;

    #[test]
    fn documents_name_others() {
        let text = r#"<target><xi:include href="i386-64bit.xml"/><xi:include  href="a.xml" /><xi:include/></target>"#;
        assert_eq!(included(text).collect::<Vec<_>>(), ["i386-64bit.xml", "a.xml"]);
        assert_eq!(included("<xi:include href=\"x").count(), 1);
        assert_eq!(included("").count(), 0);
    }
}
