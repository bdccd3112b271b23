//! Reads what QEMU logs with `-d in_asm,op,op_opt,out_asm`, one translation after the other, as it comes.
//!
//! A log has no size bound and is no format that anybody promised, so nothing is guessed: a line that is not as expected
//! spoils its translation, a translation has a limit, and it counts only where it is whole: all four parts, and host code
//! of the size that its headline says.

use std::io::{self, BufRead, Read};
use std::ops::Range;

/// The longest line, bytes. QEMU's own are below 200.
const LINE: u64 = 4096;
/// The longest translation, lines. A block has at most 512 guest instructions.
const LINES: usize = 1 << 17;

/// A guest instruction as the log shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLine {
    pub address: u64,
    /// Its bytes, in groups that are printed as one number each.
    pub units: Vec<Vec<u8>>,
    /// By QEMU's own disassembler; empty where the build has none, and then this is not one instruction.
    pub text: String,
}

/// A line of TCG ops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpLine {
    /// A guest instruction begins: its address (or the place in its page), and what the target keeps of it.
    Instruction(Vec<u64>),
    Op {
        name: String,
        arguments: Vec<String>,
        /// What the liveness analysis says of them.
        liveness: String,
    },
}

/// Host code that belongs together: of one guest instruction, or what stands behind all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPart {
    pub headline: String,
    pub lines: Vec<HostLine>,
}

/// A host instruction; without text any number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLine {
    pub address: u64,
    pub units: Vec<Vec<u8>>,
    pub text: String,
}

/// One translation of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translation {
    pub guest: Vec<GuestLine>,
    pub ops: Vec<OpLine>,
    pub optimised: Vec<OpLine>,
    pub host: Vec<HostPart>,
    /// Constants behind the host code: where they lie, and their values.
    pub pool: Vec<(u64, u64)>,
    /// Where QEMU's own code is that enters and leaves blocks.
    pub prologue: Range<u64>,
}

impl Translation {
    /// The address of the first guest instruction.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        self.guest.first().map(|line| line.address)
    }

    /// The bytes of the guest's instructions, one behind the other as in memory.
    #[must_use]
    pub fn bytes(&self, big_endian: bool) -> Vec<u8> {
        self.guest.iter().flat_map(|line| in_memory(&line.units, big_endian)).collect()
    }
}

/// The bytes of `units` as they lie in memory.
#[must_use]
pub fn in_memory(units: &[Vec<u8>], big_endian: bool) -> Vec<u8> {
    let turned = |unit: &Vec<u8>| {
        let mut unit = unit.clone();
        if !big_endian {
            unit.reverse();
        }
        unit
    };
    units.iter().flat_map(turned).collect()
}

/// What comes of a log.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    Translation(Box<Translation>),
    /// A translation that can't be read, and why.
    Unreadable(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Between translations, and in one that is spoilt.
    Outside,
    Prologue,
    Guest,
    BeforeOps,
    Ops,
    Optimised,
    Host,
    Data,
}

/// Takes a log line by line.
#[derive(Debug)]
pub struct Parser {
    section: Section,
    current: Translation,
    lines: usize,
    /// The size of the host code as its headline says, and as it comes.
    announced: u64,
    come: u64,
    prologue: Range<u64>,
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            section: Section::Outside,
            current: Translation::default(),
            lines: 0,
            announced: 0,
            come: 0,
            prologue: 0..0,
        }
    }
}

impl Parser {
    /// Takes the next line, without its end. `None` of it where it is too long or no text.
    pub fn line(&mut self, line: Option<&str>) -> Option<Entry> {
        let line = line.map(str::trim_end);
        if let Some(line) = line
            && (line.starts_with("IN:") || line.bytes().all(|byte| byte == b'-') && !line.is_empty())
        {
            let spoilt = self.spoilt("the next begins in the middle of it");
            if line.starts_with("IN:") {
                self.begin();
            }
            return spoilt;
        }
        if self.section == Section::Outside {
            if let Some(size) = line.and_then(|line| line.strip_prefix("PROLOGUE: ")) {
                self.announced = size_of(size).unwrap_or_default();
                self.section = Section::Prologue;
            }
            return None;
        }
        self.lines += 1;
        let Some(line) = line else { return self.spoilt("a line is too long or no text") };
        if self.lines > LINES {
            return self.spoilt("it has too many lines");
        }
        match self.take(line) {
            Ok(done) => done.then(|| {
                self.section = Section::Outside;
                Entry::Translation(Box::new(std::mem::take(&mut self.current)))
            }),
            Err(why) => self.spoilt(&format!("{why}: `{}`", line.chars().take(80).collect::<String>())),
        }
    }

    fn begin(&mut self) {
        self.section = Section::Guest;
        self.current = Translation { prologue: self.prologue.clone(), ..Translation::default() };
        (self.lines, self.announced, self.come) = (0, 0, 0);
    }

    /// Gives up what has come so far, where that is a translation at all.
    fn spoilt(&mut self, why: &str) -> Option<Entry> {
        let section = std::mem::replace(&mut self.section, Section::Outside);
        (!matches!(section, Section::Outside | Section::Prologue)).then(|| {
            let at = self.current.address().map(|address| format!(" of {address:#x}")).unwrap_or_default();
            Entry::Unreadable(format!("the log{at}: {why}"))
        })
    }

    /// Whether the translation is whole with this line.
    fn take(&mut self, line: &str) -> Result<bool, &'static str> {
        match self.section {
            Section::Outside => {}
            // Its first line says where it begins; the others are of no use.
            Section::Prologue => {
                if let Some((begin, _, _)) = disassembled(line) {
                    self.prologue = begin..begin.saturating_add(self.announced);
                }
                self.section = Section::Outside;
            }
            Section::Guest if line.is_empty() => {
                if self.current.guest.iter().all(|guest| guest.units.is_empty()) {
                    return Err("a block without guest instructions");
                }
                self.section = Section::BeforeOps;
            }
            Section::Guest => self.guest(line)?,
            Section::BeforeOps => match line {
                "" => {}
                "OP:" => self.section = Section::Ops,
                _ => return Err("no ops"),
            },
            Section::Ops if line == "OP after optimization and liveness analysis:" => {
                self.section = Section::Optimised;
            }
            Section::Ops => self.current.ops.extend(op(line)?),
            Section::Optimised if line.starts_with("OUT: ") => {
                self.announced = size_of(&line[5..]).ok_or("no size")?;
                self.section = Section::Host;
            }
            Section::Optimised => self.current.optimised.extend(op(line)?),
            Section::Host | Section::Data if line.is_empty() => {
                if self.come != self.announced {
                    return Err("not all of the host code");
                }
                if self.current.ops.is_empty() || self.current.optimised.is_empty() {
                    return Err("no ops");
                }
                return Ok(true);
            }
            Section::Host => self.host(line)?,
            Section::Data => {
                let (address, value, size) = datum(line).ok_or("no constant")?;
                self.current.pool.push((address, value));
                self.come += size;
            }
        }
        Ok(false)
    }

    fn guest(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(bytes) = line.strip_prefix("OBJD-T: ") {
            let last = self.current.guest.last_mut().ok_or("bytes without an address")?;
            last.units.extend(raw(bytes).ok_or("no bytes")?.into_iter().map(|byte| vec![byte]));
            return Ok(());
        }
        // What a target says before the code: RISC-V in 7.2 the privilege.
        if self.current.guest.is_empty() && !line.starts_with("0x") {
            return Ok(());
        }
        let (address, units, text) = disassembled(line).ok_or("no guest instruction")?;
        let end = |line: &GuestLine| {
            line.address.wrapping_add(line.units.iter().map(Vec::len).sum::<usize>() as u64)
        };
        match self.current.guest.last_mut() {
            Some(last) if end(last) != address => {
                return Err("guest instructions that do not follow one another");
            }
            // The rest of a long one.
            Some(last) if text.is_empty() && !units.is_empty() && !last.text.is_empty() => {
                last.units.extend(units)
            }
            _ => self.current.guest.push(GuestLine { address, units, text: text.to_owned() }),
        }
        Ok(())
    }

    fn host(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(headline) = line.strip_prefix("  -- ") {
            self.current.host.push(HostPart { headline: headline.to_owned(), lines: Vec::new() });
            return Ok(());
        }
        if line.strip_prefix("  data: ").and_then(size_of).is_some() {
            self.section = Section::Data;
            return Ok(());
        }
        let part = self.current.host.last_mut().ok_or("host code without a headline")?;
        let units = if let Some(bytes) = line.strip_prefix("OBJD-H: ") {
            let last = part.lines.last_mut().ok_or("bytes without an address")?;
            let units: Vec<Vec<u8>> =
                raw(bytes).ok_or("no bytes")?.into_iter().map(|byte| vec![byte]).collect();
            last.units.extend(units.iter().cloned());
            units
        } else {
            let (address, units, text) = disassembled(line).ok_or("no host instruction")?;
            match part.lines.last_mut() {
                Some(last) if text.is_empty() && !units.is_empty() && !last.text.is_empty() => {
                    last.units.extend(units.iter().cloned());
                }
                _ => part.lines.push(HostLine { address, units: units.clone(), text: text.to_owned() }),
            }
            units
        };
        let size = units.iter().map(Vec::len).sum::<usize>() as u64;
        self.come = self.come.saturating_add(size);
        Ok(())
    }
}

/// `[size=12]`
fn size_of(text: &str) -> Option<u64> {
    text.strip_prefix("[size=")?.strip_suffix(']')?.parse().ok()
}

/// Hexadecimal digits without anything between.
fn raw(digits: &str) -> Option<Vec<u8>> {
    if digits.is_empty()
        || !digits.len().is_multiple_of(2)
        || !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

fn address(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits.strip_prefix("0x")?, 16).ok()
}

/// `0x1000:  48 89 e5   movq %rsp, %rbp`: the bytes are parted by one space, the text stands behind two or more.
fn disassembled(line: &str) -> Option<(u64, Vec<Vec<u8>>, &str)> {
    let (at, rest) = line.split_once(':')?;
    let at = address(at)?;
    let rest = rest.trim_start();
    let (bytes, text) = rest.split_once("  ").unwrap_or((rest, ""));
    let bytes = bytes.trim_end();
    if bytes.is_empty() {
        return text.is_empty().then_some((at, Vec::new(), ""));
    }
    let units: Vec<Vec<u8>> = bytes.split(' ').map(raw).collect::<Option<_>>()?;
    units.iter().all(|unit| unit.len() <= 8).then_some((at, units, text.trim()))
}

/// `0x1000:  .quad  0x0123`
fn datum(line: &str) -> Option<(u64, u64, u64)> {
    let (at, rest) = line.split_once(':')?;
    let mut words = rest.split_whitespace();
    let size = match words.next()? {
        ".quad" => 8,
        ".long" => 4,
        _ => return None,
    };
    let value = address(words.next()?)?;
    words.next().is_none().then_some((address(at)?, value, size))
}

/// An op; nothing of an empty line.
fn op(line: &str) -> Result<Option<OpLine>, &'static str> {
    if line.is_empty() {
        return Ok(None);
    }
    if let Some(words) = line.strip_prefix(" ---- ") {
        let words = words.split_whitespace().map(|word| u64::from_str_radix(word, 16));
        let words: Vec<u64> = words.collect::<Result<_, _>>().map_err(|_| "no guest instruction's begin")?;
        return if words.is_empty() {
            Err("no guest instruction's begin")
        } else {
            Ok(Some(OpLine::Instruction(words)))
        };
    }
    let known = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rest = line.strip_prefix(' ').ok_or("no op")?;
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(known) {
        return Err("no op");
    }
    let (arguments, liveness) = rest.split_once(' ').unwrap_or((rest, ""));
    let arguments = arguments.split(',').filter(|_| !arguments.is_empty()).map(str::to_owned);
    let liveness = liveness.split_whitespace().collect::<Vec<_>>().join(" ");
    if !["", "sync:", "dead:", "pref="]
        .iter()
        .any(|begin| liveness.starts_with(begin) && (!begin.is_empty() || liveness.is_empty()))
    {
        return Err("no op");
    }
    Ok(Some(OpLine::Op { name: name.to_owned(), arguments: arguments.collect(), liveness }))
}

/// Reads `log` to its end, or until `take` has enough.
///
/// # Errors
/// Where it can't be read.
pub fn read(log: &mut impl BufRead, mut take: impl FnMut(Entry) -> bool) -> io::Result<()> {
    let mut parser = Parser::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if log.by_ref().take(LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        if !whole && (line.len() as u64) < LINE {
            // The log ends within a line.
            return Ok(());
        }
        if !whole {
            log.skip_until(b'\n')?;
        }
        let text = if whole { std::str::from_utf8(&line).ok() } else { None };
        if let Some(entry) = parser.line(text)
            && !take(entry)
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{Entry, OpLine, Translation, read};

    const SEABIOS: &str = include_str!("logs/seabios-7.2.log");

    fn entries(log: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        read(&mut &log[..], |entry| {
            entries.push(entry);
            true
        })
        .unwrap();
        entries
    }

    fn only(log: &str) -> Translation {
        match entries(log.as_bytes()).as_slice() {
            [Entry::Translation(translation)] => (**translation).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_four_parts_are_read() {
        let translation = only(SEABIOS);
        assert_eq!(translation.address(), Some(0xf_e05b));
        let code = [0x2e, 0x66, 0x83, 0x3e, 0xc8, 0x61, 0x00, 0x0f, 0x85, 0x36, 0xf0];
        assert_eq!(translation.bytes(false), code);
        assert_eq!(translation.guest[1].text, "jne      0xd09c");
        assert_eq!(translation.prologue.end - translation.prologue.start, 45);
        let begins = |ops: &[OpLine]| ops.iter().filter(|op| matches!(op, OpLine::Instruction(_))).count();
        assert_eq!((begins(&translation.ops), begins(&translation.optimised)), (2, 2));
        let OpLine::Op { name, arguments, liveness } = &translation.optimised[1] else { panic!() };
        assert_eq!(name, "sub_i32");
        assert_eq!(arguments, &["loc9", "loc9", "$0x2"]);
        assert_eq!(liveness, "sync: 0 dead: 1 2 pref=0xffff");
        let heads: Vec<&str> = translation.host.iter().map(|part| part.headline.as_str()).collect();
        assert_eq!(
            heads,
            [
                "guest addr 0x000000000000005b + tb prologue",
                "guest addr 0x0000000000000062",
                "tb slow paths + alignment"
            ]
        );
        // A long instruction takes two lines.
        let long = &translation.host[0].lines[6];
        assert_eq!((long.units.len(), long.text.as_str()), (10, "movl     $0, -0x10b0(%rbp)"));
        assert_eq!(translation.pool.len(), 2);
    }

    #[test]
    fn without_a_disassembler_there_are_bytes() {
        let (with, without) = (only(SEABIOS), only(include_str!("logs/seabios-7.2-objd.log")));
        assert_eq!(with.bytes(false), without.bytes(false));
        assert_eq!(without.guest.len(), 1);
        let bytes = |translation: &Translation| {
            translation.host[1].lines.iter().flat_map(|line| line.units.concat()).count()
        };
        assert_eq!(bytes(&with), bytes(&without));
        assert_eq!(without.host[0].lines.len(), 1);
        assert_eq!(without.prologue.end - without.prologue.start, 45);
    }

    #[test]
    fn numbers_of_a_targets_words_become_bytes() {
        let translation = only(include_str!("logs/aarch64-7.2.log"));
        assert_eq!(translation.bytes(false)[..4], [0x00, 0x0a, 0xa6, 0xd2]);
        for riscv in [include_str!("logs/riscv64-7.2.log"), include_str!("logs/riscv64-10.0.log")] {
            assert_eq!(only(riscv).bytes(false)[..4], [0x97, 0x02, 0x00, 0x00]);
        }
    }

    /// Each line of a translation, lost or spoilt, makes it another, or none that is taken.
    #[test]
    fn a_lost_line_never_goes_unnoticed_as_host_code() {
        let lines: Vec<&str> = SEABIOS.lines().collect();
        let out = lines.iter().position(|line| line.starts_with("OUT:")).unwrap();
        for lost in out..lines.len() {
            if lines[lost].starts_with("  ") || lines[lost].is_empty() {
                continue;
            }
            let log = [&lines[..lost], &lines[lost + 1..]].concat().join("\n") + "\n\n";
            let all = entries(log.as_bytes());
            assert!(matches!(all.as_slice(), [Entry::Unreadable(_)]), "without `{}`: {all:?}", lines[lost]);
        }
    }

    #[test]
    fn a_translation_that_does_not_end_is_none() {
        for end in 0..SEABIOS.len() - 1 {
            assert_eq!(entries(&SEABIOS.as_bytes()[..end]), [], "cut at {end}");
        }
    }

    #[test]
    fn a_long_line_spoils_one_translation_and_no_more() {
        let spoilt = SEABIOS.replace(" goto_tb $0x1\n", &format!(" goto_tb {}IN:\n", "x".repeat(4096 - 9)));
        let all = entries(format!("{spoilt}{SEABIOS}").as_bytes());
        assert!(matches!(all.as_slice(), [Entry::Unreadable(_), Entry::Translation(_)]), "{all:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..2000)) {
            entries(&bytes);
        }

        /// Lines of real logs, in any order and with any byte changed.
        #[test]
        fn any_lines_are_read_without_a_panic(
            picks in vec((0_usize..400, any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..200)
        ) {
            let lines: Vec<&str> = [
                SEABIOS,
                include_str!("logs/seabios-7.2-objd.log"),
                include_str!("logs/aarch64-10.0.log"),
                include_str!("logs/riscv64-7.2.log"),
            ].iter().flat_map(|log| log.lines()).collect();
            let mut log = Vec::new();
            for (number, place, byte, change) in picks {
                let mut line = lines[number % lines.len()].as_bytes().to_vec();
                if change && !line.is_empty() {
                    let at = place.index(line.len());
                    line[at] = byte;
                }
                log.extend(line);
                log.push(b'\n');
            }
            entries(&log);
        }
    }
}
