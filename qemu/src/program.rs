//! The command line of a QEMU that emulates one Linux program: its own options, and behind them the program and all that
//! is the program's. (Source: linux-user/main.c of QEMU 7.2 and 10.0.)

use std::path::Path;

/// A command line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program<'a> {
    options: &'a [String],
    program: &'a [String],
}

/// A command line that can't be ridden, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "no program: give it behind `--`, as in `-- ./prog its arguments`, with QEMU's own options before it"
    )]
    NoProgram,
    #[error("there is no program at `{0}`; QEMU takes a path and looks for it nowhere else")]
    Missing(String),
    #[error("`{0}` waits for a debugger, and Tandem starts the program itself; remove it")]
    Debugger(String),
    #[error("`{0}` only prints something and ends: there is no program to run")]
    Prints(String),
}

/// Options that take a word more.
const WITH_VALUE: &[&str] = &[
    "g", "L", "s", "cpu", "E", "U", "0", "r", "B", "R", "t", "d", "dfilter", "D", "p", "tb-size", "seed",
    "trace", "plugin",
];

/// The option that `word` is, where it is one.
fn option(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

impl<'a> Program<'a> {
    /// Takes `arguments` apart. What QEMU itself would refuse is left to QEMU.
    ///
    /// # Errors
    /// Where there is no program that runs by itself.
    pub fn parse(arguments: &'a [String]) -> Result<Self, Refusal> {
        let mut place = 0;
        while let Some(word) = arguments.get(place)
            && let Some(name) = option(word)
        {
            place += 1;
            let value = if WITH_VALUE.contains(&name) { arguments.get(place) } else { None };
            match name {
                "" => break,
                "g" => return Err(Refusal::Debugger(word.clone())),
                "h" | "help" | "version" => return Err(Refusal::Prints(word.clone())),
                "cpu" | "d" if value.is_some_and(|value| value == "help") => {
                    return Err(Refusal::Prints(format!("{word} help")));
                }
                _ => {}
            }
            place += usize::from(value.is_some());
        }
        let (options, program) = arguments.split_at(place);
        if program.is_empty() { Err(Refusal::NoProgram) } else { Ok(Program { options, program }) }
    }

    /// Refuses a program that is not there. `folder`: where it is started.
    ///
    /// # Errors
    /// Where it is not.
    pub fn look_for(&self, folder: &Path) -> Result<(), Refusal> {
        match self.program.first() {
            Some(program) if !folder.join(program).is_file() => Err(Refusal::Missing(program.clone())),
            _ => Ok(()),
        }
    }

    /// The value that QEMU will use of its own option `name` (the last one given), if any.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.options.windows(2).rev();
        pairs.find(|pair| option(&pair[0]) == Some(name)).map(|pair| &*pair[1])
    }

    /// The line on which it is the same run each time, with `extra` options.
    #[must_use]
    pub fn line(&self, extra: &[String]) -> Vec<String> {
        let (options, end) = match self.options.split_last() {
            Some((last, before)) if last == "--" => (before, Some(last)),
            _ => (self.options, None),
        };
        let seed = ["-seed".to_owned(), "1".to_owned()];
        seed.iter().chain(options).chain(extra).chain(end).chain(self.program).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Program, Refusal};

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_of_a_side_stand_before_the_program_and_count_last() {
        for (given, line) in [
            ("./prog -cpu x", "-seed 1 -cpu max ./prog -cpu x"),
            ("-cpu qemu64 -strace ./prog", "-seed 1 -cpu qemu64 -strace -cpu max ./prog"),
            ("-L /usr/x --seed 7 prog -- y", "-seed 1 -L /usr/x --seed 7 -cpu max prog -- y"),
            ("-- prog", "-seed 1 -cpu max -- prog"),
        ] {
            let given = words(given);
            assert_eq!(Program::parse(&given).unwrap().line(&words("-cpu max")), words(line));
        }
    }

    #[test]
    fn the_last_of_an_option_counts_and_the_program_s_do_not() {
        let given = words("-cpu qemu64 --cpu max -L /usr/x prog -cpu x");
        let program = Program::parse(&given).unwrap();
        assert_eq!((program.value("cpu"), program.value("s")), (Some("max"), None));
    }

    #[test]
    fn what_runs_no_program_is_refused() {
        for (line, refusal) in [
            ("-cpu max", Refusal::NoProgram),
            ("-g 1234 prog", Refusal::Debugger("-g".to_owned())),
            ("--version", Refusal::Prints("--version".to_owned())),
            ("-cpu help", Refusal::Prints("-cpu help".to_owned())),
        ] {
            assert_eq!(Program::parse(&words(line)), Err(refusal));
        }
    }
}
