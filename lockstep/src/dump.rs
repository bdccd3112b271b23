//! A guest's registers out of what QEMU's monitor prints of them (`info registers`): each target has a text of its own
//! (target/*/cpu-dump.c and the like, 7.2 and 10.0), and here they get the names by which gdb knows them.

/// Registers by their names, each with its bytes in the order in which QEMU tells them to gdb.
pub(crate) type Registers = Vec<(String, Vec<u8>)>;

/// An x86's flags: which of them an instruction leaves undefined releases of QEMU decide each in their own way.
pub(crate) const FLAGS: &str = "eflags";

/// What is derived from others, is the place in the code (kept elsewhere while blocks run), or says what devices want.
const LEFT_OUT: [&str; 8] = ["rip", "eip", "pc", "mip", "dpl", "st", "ii", "hlt"];

/// The registers in `text`, of a guest with QEMU's architecture name `target`; none where its text is not known.
#[must_use]
pub(crate) fn registers(target: &str, text: &str) -> Registers {
    let is_riscv = target.starts_with("riscv");
    if !is_riscv && !matches!(target, "x86_64" | "i386" | "aarch64" | "arm") {
        return Vec::new();
    }
    // A name may be padded up to its sign.
    let text = text.replace(" =", "=").replace(['[', ']'], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut registers = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let behind = words[place + 1..].iter().take_while(|word| is_number(word)).copied();
        match word.split_once('=') {
            Some((name, value)) if is_name(name) => {
                let numbers: Vec<&str> =
                    value.split(':').filter(|number| is_number(number)).chain(behind).collect();
                named(target, name, &numbers, &mut registers);
            }
            None if is_riscv && is_name(word) && !is_number(word) => {
                let number = behind.take(1).filter(|number| [8, 16].contains(&number.len()));
                named(target, word, &number.collect::<Vec<_>>(), &mut registers);
            }
            _ => {}
        }
    }
    registers
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && !word.ends_with('/')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '/' || c == '_')
}

/// Appends what stands behind the name `shown`.
fn named(target: &str, shown: &str, numbers: &[&str], registers: &mut Registers) {
    let mut push = |name: &str, numbers: &[&str]| {
        if !numbers.is_empty() && !LEFT_OUT.contains(&name) {
            registers.push((name.to_owned(), bytes(&numbers.concat())));
        }
    };
    let name = shown.to_lowercase();
    if target.starts_with("riscv") {
        // `x1/ra`: gdb has the second.
        return push(name.rsplit('/').next().unwrap_or(&name), numbers);
    }
    if target == "aarch64" || target == "arm" {
        return match &*name {
            "pstate" | "psr" => push("cpsr", numbers),
            // The place in the code.
            "r15" => {}
            _ => push(&unpadded(&name), numbers),
        };
    }
    match (&*name, numbers) {
        ("efl" | "rfl", _) => push(FLAGS, numbers),
        ("fcw", _) => push("fctrl", numbers),
        ("fsw", _) => push("fstat", numbers),
        ("ftw", _) => push("ftag", numbers),
        ("gdt" | "idt", [base, limit]) => {
            push(&format!("{name}_base"), &[base]);
            push(&format!("{name}_limit"), &[limit]);
        }
        (_, [selector, base, limit, _]) if name.len() <= 3 => {
            push(&name, &[selector]);
            push(&format!("{name}_base"), &[base]);
            push(&format!("{name}_limit"), &[limit]);
        }
        // The mantissa comes first.
        (_, [mantissa, exponent]) if name.starts_with("fpr") => push(&name, &[exponent, mantissa]),
        (_, [high @ .., upper, lower]) if ["xmm", "ymm", "zmm"].iter().any(|kind| name.starts_with(kind)) => {
            let number = unpadded(&name[3..]);
            push(&format!("xmm{number}"), &[upper, lower]);
            push(&format!("{}{number}h", &name[..3]), high);
        }
        (_, [number]) if target == "x86_64" && name.len() == 3 && name.starts_with('e') => {
            push(&format!("r{}", &name[1..]), &[number]);
        }
        _ => push(&name, numbers),
    }
}

/// A name without the zeros that pad its number.
fn unpadded(name: &str) -> String {
    let (kind, number) = name.split_at(name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len()));
    match number.parse::<u32>() {
        Ok(number) => format!("{kind}{number}"),
        Err(_) => name.to_owned(),
    }
}

/// The bytes of a number, the lowest first.
fn bytes(digits: &str) -> Vec<u8> {
    let digits = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    qemu::stub::from_hex(digits.as_bytes()).unwrap_or_default().into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::registers;

    fn value(target: &str, text: &str, name: &str) -> Option<Vec<u8>> {
        registers(target, text).into_iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes)
    }

    const X86: &str = "CPU#0\r\nEAX=00000001 EBX=000000ff\nR8 =0000000000000008\nEIP=0000b7b9 EFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\nES =d980 000d9800 0000ffff 00009300 DPL=0 DS16 [-WA]\nGDT=     00000000 0000ffff\nCR0=00000010 CR2=00000000\nFCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80\nFPR0=8000000000000000 3fff FPR1=0000000000000000 0000\nXMM00=0000000000000001 0000000000000002 XMM01=0000000000000000 0000000000000000\n";

    #[test]
    fn an_x86_has_the_names_that_gdb_knows() {
        let of = |name| value("x86_64", X86, name);
        assert_eq!(of("rax"), Some(vec![1, 0, 0, 0]));
        assert_eq!(of("r8"), Some(vec![8, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(of("eflags"), Some(vec![0x46, 2, 0, 0]));
        assert_eq!((of("es"), of("es_base")), (Some(vec![0x80, 0xd9]), Some(vec![0, 0x98, 0xd, 0])));
        assert_eq!(of("gdt_limit"), Some(vec![0xff, 0xff, 0, 0]));
        assert_eq!(of("fpr0"), Some(vec![0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]));
        assert_eq!(of("xmm0"), Some(vec![2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!((of("rip"), of("hlt"), of("st"), of("dpl")), (None, None, None, None));
        assert_eq!(value("i386", X86, "eax"), Some(vec![1, 0, 0, 0]));
    }

    #[test]
    fn others_have_theirs() {
        let arm = " PC=ffff80000801e0a4 X00=0000000000000007 X01=0000000000000000\nX30=0000000000000000  SP=0000000000001000\nPSTATE=600000c5 -ZC- EL1h     FPCR=00000000 FPSR=00000000\nQ01=0000000000000001:0000000000000002\n";
        let names: Vec<_> = registers("aarch64", arm).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["x0", "x1", "x30", "sp", "cpsr", "fpcr", "fpsr", "q1"]);
        assert_eq!(value("aarch64", arm, "q1").unwrap()[..9], [2, 0, 0, 0, 0, 0, 0, 0, 1]);
        let riscv = "CPU#0\n V      =   0\n pc       ffffffff80001234\n mhartid  0000000000000000\n mip      0000000000000080\n x0/zero  0000000000000000 x1/ra    ffffffff80001200\n f0/ft0   ffffffff00000000\n";
        let names: Vec<_> = registers("riscv64", riscv).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["mhartid", "zero", "ra", "ft0"]);
        assert_eq!(registers("s390x", "R00=0000000000000000\n"), []);
        assert_eq!(registers("riscv64", "x1/=0000000000000000\n"), []);
    }

    proptest! {
        #[test]
        fn whatever_is_printed_is_read(text in "([ \\r\\n=:\\[/_]|[xyz]mm|EFL|FPR|GDT|ES|E|[0-9a-fA-F]{1,9}|\\PC){0,60}") {
            for target in ["x86_64", "i386", "aarch64", "arm", "riscv64"] {
                let read = registers(target, &text);
                prop_assert!(read.iter().all(|(name, bytes)| !name.is_empty() && !bytes.is_empty()));
            }
        }
    }
}
