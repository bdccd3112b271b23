//! `tandem show`

use std::io::{BufWriter, StdoutLock, Write, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ::recorder::account::{Account, Field, Stamps, described, fields, grouped};
use ::recorder::format::Kind;
use ::recorder::manifest::GuestFile;
use ::recorder::reader::Reader;
use clap::ValueEnum;
use qemu::stub::to_hex;
use serde_json::{Map, Value, json};

use crate::progress::quoted;
use crate::{Failure, Outcome};

/// Show what a recording holds: how it was made, how it ended, its events, its console.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recording
    #[arg(value_name = "FILE")]
    recording: PathBuf,
    /// List the events, each with QEMU's icount before it
    #[arg(long)]
    events: bool,
    /// Begin at this icount
    #[arg(long, value_name = "ICOUNT", requires = "events", default_value_t = 0)]
    from: u64,
    /// End behind this icount
    #[arg(long, value_name = "ICOUNT", requires = "events", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// Print the guest's console, each line with the icount at which it begins
    #[arg(long, conflicts_with = "events")]
    console: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    /// JSON, a line each
    Json,
}

type Out = BufWriter<StdoutLock<'static>>;

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut recording = Reader::open(&arguments.recording)?;
    let mut out = BufWriter::new(stdout().lock());
    let json = arguments.format == Format::Json;
    if arguments.events {
        events(&mut recording, arguments, json, &mut out)?;
    } else if arguments.console {
        console(&mut recording, json, &mut out)?;
    } else {
        summary(&mut recording, json, &mut out)?;
    }
    // Nobody may be reading any more, as behind `| head`.
    let _ = out.flush();
    Ok(Outcome::Same)
}

fn go_on(written: std::io::Result<()>) -> ControlFlow<()> {
    if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

fn events(recording: &mut Reader, arguments: &Arguments, json: bool, out: &mut Out) -> Result<(), Failure> {
    recording.events(arguments.from, |icount, event| {
        if icount > arguments.to {
            return ControlFlow::Break(());
        }
        go_on(if json {
            let mut line = Map::new();
            line.insert("icount".to_owned(), icount.into());
            line.insert("event".to_owned(), event.name().into());
            for (name, field) in fields(event) {
                line.insert(name.to_owned(), value(field));
            }
            writeln!(out, "{}", Value::Object(line))
        } else {
            writeln!(out, "{:>17}  {}", grouped(icount), described(event))
        })
    })?;
    Ok(())
}

fn value(field: Field) -> Value {
    match field {
        Field::Number(number) => number.into(),
        Field::Signed(number) => number.into(),
        Field::Word(word) => word.into(),
        Field::Bytes(bytes) => to_hex(bytes).into(),
    }
}

fn console(recording: &mut Reader, json: bool, out: &mut Out) -> Result<(), Failure> {
    let stamps = Stamps::of(recording)?;
    if stamps.is_none() && !json {
        eprintln!(
            "tandem: the console is not what one serial port wrote, so its lines have the time at which they were \
             seen (~), to a chunk of instructions"
        );
    }
    let mut place = 0_u64;
    let mut line: Vec<u8> = Vec::new();
    let mut began = None;
    let mut put = |icount: u64, exact: bool, line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        go_on(if json {
            writeln!(out, "{}", json!({ "icount": icount, "exact": exact, "text": text }))
        } else {
            let about = if exact { ' ' } else { '~' };
            writeln!(out, "{about}{:>16}  {}", grouped(icount), shown(&text))
        })
    };
    recording.console(|seen, bytes| {
        for &byte in bytes {
            began.get_or_insert_with(|| match stamps.as_ref().and_then(|stamps| stamps.at(place)) {
                Some(icount) => (icount, true),
                None => (seen, false),
            });
            line.push(byte);
            place += 1;
            if byte == b'\n' || line.len() >= 1 << 16 {
                let (icount, exact) = began.take().unwrap_or((seen, false));
                let flow = put(icount, exact, &line);
                line.clear();
                if flow.is_break() {
                    return flow;
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some((icount, exact)) = began {
        let _ = put(icount, exact, &line);
    }
    Ok(())
}

/// A line of console without what would move the cursor.
fn shown(line: &str) -> String {
    line.trim_end_matches(['\r', '\n'])
        .chars()
        .map(|char| if char.is_control() && char != '\t' { '\u{fffd}' } else { char })
        .collect()
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Manifest => "manifest",
        Kind::Events => "events",
        Kind::Witness => "witness",
        Kind::Console => "console",
        Kind::Ending => "ending",
        Kind::Index => "index",
        Kind::Piece => "guest's files",
        Kind::Files => "list of the guest's files",
        Kind::State => "state in checkpoints",
        Kind::Checkpoint => "checkpoints",
    }
}

fn summary(recording: &mut Reader, json: bool, out: &mut Out) -> Result<(), Failure> {
    let account = Account::of(recording)?;
    let sizes = recording.sizes()?;
    let (manifest, ending) = (recording.manifest.clone(), recording.ending.clone());
    let shift: u32 = manifest
        .line
        .iter()
        .find_map(|word| word.strip_prefix("shift=")?.split(',').next()?.parse().ok())
        .unwrap_or(0);
    let busy = u128::from(ending.icount) << shift.min(10);
    let bytes = recording.bytes();
    if json {
        let page = json!({
            "file": arguments_path(recording),
            "bytes": bytes,
            "manifest": manifest,
            "ending": ending,
            "guest_ns_busy": u64::try_from(busy).unwrap_or(u64::MAX),
            "host_clock_ns": account.host.map(|(first, last)| last.saturating_sub(first)),
            "events": account.kinds,
            "sizes": sizes.iter().map(|(kind, frames, bytes)| json!({ "kind": name(*kind), "frames": frames, "bytes": bytes })).collect::<Vec<_>>(),
        });
        return written(writeln!(out, "{page}"));
    }
    // Text from the recording may come from a stranger.
    let mut line = |name: &str, text: String| written(writeln!(out, "{name:<14}{}", shown(&text)));
    line(
        "recorded",
        format!("{} by tandem {}, in {} time", when(manifest.began), manifest.tandem, manifest.time),
    )?;
    line(
        "QEMU",
        format!("{} ({}), {}", manifest.build.path.display(), manifest.target, manifest.build.version),
    )?;
    line("command line", quoted(&manifest.arguments))?;
    line("in", manifest.folder.display().to_string())?;
    for (folder, files) in by_folder(&manifest.files) {
        match files[..] {
            [file] => {
                let sha256 = file.sha256.get(..12).unwrap_or(&file.sha256);
                let path = file.path.display();
                line("file", format!("{path} ({} bytes, SHA-256 {sha256})", grouped(file.bytes)))?;
            }
            _ => {
                let bytes = files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
                line("files", format!("{} in {} ({} bytes)", files.len(), folder.display(), grouped(bytes)))?;
            }
        }
    }
    line("ended by", ending.cause.clone())?;
    if ending.cut {
        line("", "the guest was cut off: a replay goes on to the last event that was kept".to_owned())?;
    }
    line("icount", grouped(ending.icount))?;
    line(
        "guest time",
        format!(
            "{:.3} s busy{}",
            busy as f64 / 1e9,
            match account.host {
                Some((first, last)) if last > first => {
                    format!(
                        "; {:.3} s by the host's clock between its first and last look at it",
                        (last - first) as f64 / 1e9
                    )
                }
                _ => String::new(),
            }
        ),
    )?;
    line(
        "proven",
        match ending.proof {
            Some(proof) => format!("by its witness up to instruction {}", grouped(proof.position)),
            None => "not: recorded without a witness".to_owned(),
        },
    )?;
    line(
        "size",
        format!(
            "{} bytes, {:.4} for 1000 instructions",
            grouped(bytes),
            bytes as f64 * 1000.0 / ending.icount.max(1) as f64
        ),
    )?;
    for (kind, frames, bytes) in sizes {
        line("", format!("{:>12} bytes  {} ({} frames)", grouped(bytes), name(kind), grouped(frames)))?;
    }
    line(
        "events",
        format!(
            "{} logged{}",
            grouped(ending.events),
            if ending.dropped > 0 {
                format!(", {} of them left out because no replay needs them", grouped(ending.dropped))
            } else {
                String::new()
            }
        ),
    )?;
    for (kind, count) in account.kinds {
        line("", format!("{:>12}  {kind}", grouped(count)))?;
    }
    Ok(())
}

/// The guest's files, those of one folder together where they are more than three.
fn by_folder(files: &[GuestFile]) -> Vec<(&Path, Vec<&GuestFile>)> {
    let mut groups: Vec<(&Path, Vec<&GuestFile>)> = Vec::new();
    for file in files {
        let folder = file.path.parent().unwrap_or(&file.path);
        match groups.iter_mut().find(|(group, _)| *group == folder) {
            Some((_, group)) => group.push(file),
            None => groups.push((folder, vec![file])),
        }
    }
    let split = |(folder, files): (_, Vec<_>)| match files.len() {
        0..=3 => files.into_iter().map(|file| (folder, vec![file])).collect(),
        _ => vec![(folder, files)],
    };
    groups.into_iter().flat_map(split).collect()
}

fn arguments_path(recording: &Reader) -> String {
    recording.path().display().to_string()
}

/// Nobody may be reading any more; that is no failure.
#[expect(clippy::unnecessary_wraps, reason = "so that `?` ends a listing that nobody reads")]
fn written(_: std::io::Result<()>) -> Result<(), Failure> {
    Ok(())
}

/// A time in seconds since 1970 as a date, UTC.
fn when(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("{seconds} s after 1970"), |time| time.to_string())
}
