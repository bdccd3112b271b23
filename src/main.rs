//! `tandem`: the command line. One file a subcommand; what they do lives in the crates beside.
//!
//! Exit codes, everywhere: 0 the same (or done), 1 different, 2 trouble.

mod bisect;
mod corpus;
mod debug;
mod depth;
mod diff;
mod driving;
mod index;
mod interrupt;
mod lockstep;
mod moment;
mod pack;
mod progress;
mod record;
mod reduction;
mod repair;
mod replay;
mod report;
mod selfcheck;
mod show;
mod sides;
mod step;
mod terminal;
mod torture;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Records a guest on real QEMU, replays it exactly and proves it, and rides two QEMU builds in lockstep until
/// the first instruction at which they part.
///
/// Exit codes: 0 the same (or done), 1 different, 2 trouble.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Record(record::Arguments),
    Replay(replay::Arguments),
    Debug(debug::Arguments),
    Index(index::Arguments),
    Repair(repair::Arguments),
    Show(show::Arguments),
    Pack(pack::Arguments),
    Unpack(pack::UnpackArguments),
    Lockstep(lockstep::Arguments),
    Selfcheck(selfcheck::Arguments),
    Diff(diff::Arguments),
    Torture(torture::Arguments),
    Bisect(bisect::Arguments),
    Step(step::Arguments),
    Corpus(corpus::Arguments),
}

/// What a subcommand found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The same, or done.
    Same,
    Different,
    /// No verdict; the reason has been told.
    Trouble,
}

/// Whatever went wrong, as the line that the user reads.
#[derive(Debug)]
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return step::misused(&error),
    };
    interrupt::listen();
    let outcome = match arguments.command {
        Command::Record(arguments) => record::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Debug(arguments) => debug::run(&arguments),
        Command::Index(arguments) => index::run(&arguments),
        Command::Repair(arguments) => repair::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Pack(arguments) => pack::run(&arguments),
        Command::Unpack(arguments) => pack::run_unpack(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Lockstep(arguments) => lockstep::run(&arguments),
        Command::Selfcheck(arguments) => selfcheck::run(&arguments),
        Command::Torture(arguments) => torture::run(&arguments),
        Command::Bisect(arguments) => bisect::run(&arguments),
        Command::Step(arguments) => return step::run(&arguments),
        Command::Corpus(arguments) => corpus::run(&arguments),
    };
    match outcome {
        Ok(Outcome::Same) => ExitCode::from(0),
        Ok(Outcome::Different) => ExitCode::from(1),
        Ok(Outcome::Trouble) => ExitCode::from(2),
        Err(Failure(line)) => {
            eprintln!("tandem: {line}");
            ExitCode::from(2)
        }
    }
}
