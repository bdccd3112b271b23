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

/// The registers of which the text has one number, by QEMU's names, and their hexadecimal digits. Of others, an x86's segments
/// or vectors, it has several that stand one behind the other, or in words.
#[must_use]
pub fn named(text: &str) -> Vec<(&str, &str)> {
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_name = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '/' || c == '_')
    };
    let mut named = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        for (number, &word) in words.iter().enumerate() {
            let next = words.get(number + 1).copied().unwrap_or_default();
            match word.split_once('=') {
                // x86, aarch64, arm.
                Some((name, value)) if is_name(name) && is_number(value) && !is_number(next) => {
                    named.push((name, value));
                }
                // riscv: all of a machine's width.
                None if is_name(word)
                    && !is_number(word)
                    && is_number(next)
                    && [8, 16].contains(&next.len()) =>
                {
                    named.push((word, next));
                }
                _ => {}
            }
        }
    }
    named
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
    use super::{named, next, traces};

    #[test]
    fn what_is_one_number_has_a_name() {
        let x86 = "RAX=0000000000000001 RBX=00000000000000ff\nRIP=ffffffffa67ce1db RFL=00000202 [-------] CPL=0\nES =0000 0000000000000000 ffffffff 00c00000\nLDT=0000 fffffe0000000000 00000000 00000000\nGDT=     fffffe0000001000 0000007f\nFCW=037f FSW=0000 [ST=0] MXCSR=00001f80\nFPR0=0000000000000000 0000 FPR1=0000000000000000 0000\nXMM00=0000000000000000 0000000000000000\n";
        let names = |text| named(text).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(x86), ["RAX", "RBX", "RIP", "RFL", "CPL", "FCW", "FSW", "MXCSR"]);
        assert_eq!(named(x86)[1], ("RBX", "00000000000000ff"));
        let arm = " PC=ffff80000801e0a4 X00=0000000000000000\nPSTATE=600000c5 -ZC- EL1h\nQ00=0000000000000000:0000000000000000\n";
        assert_eq!(names(arm), ["PC", "X00", "PSTATE"]);
        let riscv = "CPU#0\n V      =   0\n pc       ffffffff80001234\n x1/ra    ffffffff80001200 x2/sp    ffffffff80c03f00\n";
        assert_eq!(names(riscv), ["pc", "x1/ra", "x2/sp"]);
    }

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
