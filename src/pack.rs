//! `tandem pack` and `tandem unpack`

use std::path::PathBuf;

use ::recorder::account::grouped;
use ::recorder::pack::{pack, unpack};
use ::recorder::reader::Reader;

use crate::progress::say;
use crate::{Failure, Outcome};

/// Put the guest's files (kernel, images, firmware) into the recording, so that it replays on another machine.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recording
    #[arg(value_name = "FILE")]
    recording: PathBuf,
}

/// Take the guest's files out of a recording that `tandem pack` put them into; `tandem replay --files FOLDER` then
/// replays with them.
#[derive(clap::Args)]
pub struct UnpackArguments {
    /// The recording
    #[arg(value_name = "FILE")]
    recording: PathBuf,
    /// A new or empty folder; each file gets in it the path that it had
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let sum = pack(&arguments.recording)?;
    say(&format!(
        "{} holds its guest's {} files now: {} bytes in {}",
        arguments.recording.display(),
        sum.files,
        grouped(sum.bytes),
        grouped(sum.stored)
    ));
    Ok(Outcome::Same)
}

pub fn run_unpack(arguments: &UnpackArguments) -> Result<Outcome, Failure> {
    let mut recording = Reader::open(&arguments.recording)?;
    let sum = unpack(&mut recording, &arguments.folder)?;
    let (file, folder) = (arguments.recording.display(), arguments.folder.display());
    say(&format!(
        "{} files, {} bytes, are in {folder}; tandem replay {file} --files {folder}",
        sum.files,
        grouped(sum.bytes)
    ));
    Ok(Outcome::Same)
}
