//! `tandem record`

use std::cell::RefCell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::recorder::account::grouped;
use ::recorder::record::script::Script;
use ::recorder::record::stop::Limits;
use ::recorder::record::{Output, Request, Show, record};
use ::recorder::writer::LEAST;
use clap::ValueEnum;
use qemu::arguments::{Arranged, Time};
use qemu::build::Build;

use crate::interrupt::INTERRUPTS;
use crate::progress::{Progress, quoted, say};
use crate::terminal::Terminal;
use crate::{Failure, Outcome};

/// Record a guest, given by QEMU's own command line.
///
/// The guest's console goes to standard output; what is typed at the terminal goes to the guest's serial port. Ctrl-C
/// ends the guest and keeps the recording; a second one ends everything at once, and what was recorded is kept all
/// the same.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recording to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Print the command line that QEMU would be started with, and each change with its reason
    #[arg(long)]
    dry_run: bool,
    /// What the guest's time follows [default: virtual, or host for a guest with a drive, a network or something
    /// typed into it]
    #[arg(long)]
    time: Option<Policy>,
    /// End the guest when this appears on its console
    #[arg(long, value_name = "REGEX")]
    until: Option<regex::bytes::Regex>,
    /// End the guest after so many instructions, at the next full chunk
    #[arg(long, value_name = "N")]
    until_icount: Option<u64>,
    /// End the guest after so long (90, 90s, 5m, 2h), with exit code 2
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// End a guest that has done nothing for so long: no instruction, no byte of console; with exit code 2. 0: never
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    no_progress: Duration,
    /// End the recording before its file is larger than this (64M, 2G), with exit code 2
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Type a script into the guest's serial port: lines `wait TEXT` and `send TEXT`, with \n \r \t \e \\ \xHH
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Keep every event of QEMU's log, also those that no replay needs
    #[arg(long)]
    raw: bool,
    /// Record without a witness: faster, but a replay can't be proven then
    #[arg(long)]
    no_witness: bool,
    /// QEMU and its arguments
    #[arg(last = true, required = true, value_name = "QEMU ARGS")]
    line: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    /// The instruction count alone: the same run each time
    Virtual,
    /// The host's clock while the guest idles
    Host,
}

/// A time with a unit, or in seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let with_unit = || text.parse::<jiff::SignedDuration>().ok().and_then(|time| time.try_into().ok());
    seconds.or_else(with_unit).ok_or_else(|| "give it as 90, 90s, 5m or 2h".to_owned())
}

/// A size with a unit, or in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(number) => {
            (number, [b'K', b'M', b'G', b'T'].iter().position(|unit| text.as_bytes().last() == Some(unit)))
        }
        None => (text, None),
    };
    let shift = shift.map_or(0, |place| 10 * (place + 1));
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    let bytes = bytes.ok_or_else(|| "give it as 500K, 64M, 2G or in bytes".to_owned())?;
    if bytes < LEAST { Err(format!("{} at least", grouped(LEAST))) } else { Ok(bytes) }
}

fn script(path: &Path) -> Result<Script, Failure> {
    let told = |why: String| Failure(format!("the script `{}`: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    Script::parse(&text).map_err(|malformed| told(malformed.to_string()))
}

/// Says what of the user's command line is changed, and why.
fn explain(build: &Build, arranged: &Arranged) {
    let program = build.path.display().to_string();
    say(&quoted(&[vec![program], arranged.line.clone()].concat()));
    for change in &arranged.changes {
        let is = if change.is.is_empty() { "(left out)".to_owned() } else { quoted(&change.is) };
        match &change.was {
            Some(was) => say(&format!("  {was} -> {is}: {}", change.why)),
            None => say(&format!("  + {is}: {}", change.why)),
        }
    }
    for warning in &arranged.warnings {
        say(&format!("  warning: {warning}"));
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let (name, guest) = arguments.line.split_first().ok_or_else(|| Failure("no QEMU given".to_owned()))?;
    let build = Build::inspect(name.as_ref())?;
    let probe = if arguments.no_witness { None } else { Some(qemu::run::probe()?) };
    let script = arguments.input.as_deref().map(script).transpose()?;
    let parsed = qemu::arguments::Arguments::parse(guest);
    let takes_input = parsed.console_input();
    if script.is_some() && !takes_input {
        return Err(Failure(
            "--input types into a serial port on stdio, and the guest has none; add -serial stdio".to_owned(),
        ));
    }
    let terminal =
        if takes_input && script.is_none() && !arguments.dry_run { Terminal::take() } else { None };
    let suits = parsed.time();
    let (time, why) = match arguments.time {
        Some(Policy::Virtual) => (Time::Virtual, "as --time says"),
        Some(Policy::Host) => (Time::Host, "as --time says"),
        None if suits == Time::Host => (suits, "the guest has a drive, a network or interactive input"),
        None if script.is_some() => (Time::Host, "a script is typed into the guest"),
        None if terminal.is_some() => (Time::Host, "the guest takes input from the terminal"),
        None => (suits, "the guest has no drive, network or interactive input"),
    };
    let arranged = parsed.recorded(time, "LOG")?;
    let Some(output) = arguments.output.as_deref().filter(|_| !arguments.dry_run) else {
        explain(&build, &arranged);
        return Ok(Outcome::Same);
    };
    for warning in &arranged.warnings {
        eprintln!("tandem: warning: {warning}");
    }
    eprintln!("tandem: recording on QEMU {}, in {time} time: {why}", build.version);
    let progress = RefCell::new(Progress::new("recording"));
    let request = Request {
        build: &build,
        probe: probe.as_deref(),
        arguments: guest,
        time,
        output: Output::Named(output),
        compact: !arguments.raw,
        limits: Limits {
            until: arguments.until.clone(),
            until_icount: arguments.until_icount,
            timeout: arguments.timeout,
            no_progress: Some(arguments.no_progress).filter(|limit| !limit.is_zero()),
            size: arguments.max_size,
        },
        script,
        typed: terminal.as_ref().map(|_| Box::new(std::io::stdin()) as Box<dyn Read + Send>),
        interrupts: &INTERRUPTS,
    };
    let mut show = Show {
        console: &mut |bytes| progress.borrow().console(bytes),
        progress: &mut |instructions, bytes| {
            progress.borrow_mut().show(instructions, || format!(", {} bytes", grouped(bytes)));
        },
    };
    let recorded = record(request, &mut show);
    progress.borrow().done();
    drop(terminal);
    let recorded = recorded?;
    if let Some(line) = recorded.script_waits_at {
        eprintln!("tandem: warning: the guest ended while the script still waited, at its line {line}");
    }
    let ending = &recorded.ending;
    let witness = if arguments.no_witness {
        "no witness".to_owned()
    } else {
        format!("{} chunks of witness", grouped(recorded.chunks))
    };
    let kept = format!(
        "{} instructions, {} events, {witness} in {} bytes",
        grouped(ending.instructions()),
        grouped(ending.events),
        grouped(recorded.bytes),
    );
    let output = output.display();
    match recorded.trouble {
        Some(why) => Err(Failure(format!("{why}; what was recorded is kept in `{output}`: {kept}"))),
        None => {
            eprintln!("tandem: recorded {kept} to {output}; ended by: {}", ending.cause);
            Ok(Outcome::Same)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, size};

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "-1", "1d", "nan", "1e99h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("256K"), Ok(256 << 10));
        assert_eq!(size("3G"), Ok(3 << 30));
        for wrong in ["", "G", "1", "1.5G", "99999999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
