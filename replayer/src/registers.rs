//! What is read out of the registers as QEMU's monitor prints them (`info registers`): each target has a text of its
//! own (target/*/cpu-dump.c and the like, 7.2 and 10.0).

/// The address of the next instruction, as the stream of instructions has it: on x86 with the code segment's base.
#[must_use]
pub fn next(text: &str) -> Option<u64> {
    if let Some(offset) = value(text, "RIP=").or_else(|| value(text, "EIP=")) {
        let segment = text.lines().find_map(|line| line.strip_prefix("CS ="))?;
        let base = segment.split_whitespace().nth(1)?;
        return Some(offset.wrapping_add(u64::from_str_radix(base, 16).ok()?));
    }
    // aarch64, arm; riscv.
    value(text, " PC=").or_else(|| value(text, "R15=")).or_else(|| {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("pc "))?;
        u64::from_str_radix(line.trim(), 16).ok()
    })
}

/// Whether an x86 processor raises an exception behind each instruction (the trap flag).
#[must_use]
pub fn traces(text: &str) -> bool {
    value(text, " RFL=").or_else(|| value(text, " EFL=")).is_some_and(|flags| flags & 0x100 != 0)
}

/// The hexadecimal number behind `name`.
fn value(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    let digits = rest.find(|c: char| !c.is_ascii_hexdigit()).map_or(rest, |end| &rest[..end]);
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{next, traces};

    #[test]
    fn each_target_says_where_it_is() {
        let long = "RAX=0 RBX=1\nRIP=ffffffffa67ce1db RFL=00000202 [-------] CPL=0\nCS =0010 0000000000000000 ffffffff 00af9b00\n";
        assert_eq!(next(long), Some(0xffff_ffff_a67c_e1db));
        let real = "EAX=00000000\nEIP=0000fff0 EFL=00000002 [-------]\nES =0000 00000000 0000ffff\nCS =f000 ffff0000 0000ffff 00009b00\n";
        assert_eq!(next(real), Some(0xffff_fff0));
        assert_eq!(next(" PC=ffff80000801e0a4 X00=0000000000000000 X01=00\n"), Some(0xffff_8000_0801_e0a4));
        assert_eq!(
            next("CPU#0\n V      =   0\n pc       ffffffff80001234\n mhartid  0000\n"),
            Some(0xffff_ffff_8000_1234)
        );
        assert_eq!(next("nothing of the kind"), None);
        assert!(!traces(long) && !traces(real) && !traces(""));
        assert!(traces("RIP=ffffffffa67ce1db RFL=00000302 [-------] CPL=0\n"));
    }
}
