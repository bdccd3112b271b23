//! Where a machine shall stop on its way: at an instruction, or at an access to memory; as gdb's remote protocol and
//! QEMU's stub name it ("Packets", `z` and `Z`, in gdb's manual).

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The instruction at the address is about to start.
    Instruction,
    Write,
    Read,
    /// A read or a write.
    Access,
}

/// A breakpoint or a watchpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Break {
    pub kind: Kind,
    /// As the guest's code sees it.
    pub address: u64,
    /// Of what is watched, bytes; of an instruction what gdb says of it.
    pub length: u64,
}

impl Break {
    pub(crate) fn packet(&self, set: bool) -> String {
        let kind = match self.kind {
            Kind::Instruction => 0,
            Kind::Write => 2,
            Kind::Read => 3,
            Kind::Access => 4,
        };
        let order = if set { 'Z' } else { 'z' };
        format!("{order}{kind},{:x},{:x}", self.address, self.length)
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.kind != Kind::Instruction
    }
}

/// What an access was seen at, in the words of a stop (`T05thread:01;watch:1f40;`).
pub(crate) fn watched(stop: &[u8]) -> Option<(Kind, u64)> {
    let text = std::str::from_utf8(stop.get(3..)?).ok()?;
    text.split(';').find_map(|part| {
        let (name, address) = part.split_once(':')?;
        let kind = match name {
            "watch" => Kind::Write,
            "rwatch" => Kind::Read,
            "awatch" => Kind::Access,
            _ => return None,
        };
        Some((kind, u64::from_str_radix(address, 16).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::{Break, Kind, watched};

    #[test]
    fn a_stop_says_what_was_accessed() {
        assert_eq!(
            watched(b"T05thread:01;watch:ffff888000001f40;"),
            Some((Kind::Write, 0xffff_8880_0000_1f40))
        );
        assert_eq!(watched(b"T05thread:p01.01;awatch:10;"), Some((Kind::Access, 0x10)));
        for other in
            [&b"T05thread:01;"[..], b"T05", b"S05", b"", b"T05watch:x;", b"T05watch", b"T\xff\xff\xff"]
        {
            assert_eq!(watched(other), None);
        }
    }

    #[test]
    fn it_is_set_and_taken_away() {
        let watch = Break { kind: Kind::Write, address: 0xffff_8000_0000_1000, length: 8 };
        assert_eq!(watch.packet(true), "Z2,ffff800000001000,8");
        assert_eq!(watch.packet(false), "z2,ffff800000001000,8");
    }
}
