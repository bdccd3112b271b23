//! `tandem repair`

use std::path::PathBuf;

use ::recorder::account::grouped;
use ::recorder::repair::{Found, repair};

use crate::progress::say;
use crate::{Failure, Outcome};

/// Make a proper recording of what a dead recorder left (`FILE.incomplete`), or of a damaged one.
///
/// Says what the file holds. What comes out replays up to the first event that is missing. A damaged file stays as it
/// is; one that only broke off is removed once the recording is made of it.
#[derive(clap::Args)]
pub struct Arguments {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The recording to write [default: FILE without `.incomplete`, or with `.repaired`]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let file = arguments.file.display();
    match repair(&arguments.file, arguments.output.as_deref())? {
        Found::Whole { path } if path == arguments.file => {
            say(&format!("{file} is whole; nothing to repair"))
        }
        Found::Whole { path } => {
            say(&format!("{file} was whole but for its name; it is now {}", path.display()))
        }
        Found::Part { path, ending, chunks, broken, removed } => {
            let proof = match ending.proof {
                Some(proof) => format!(
                    "{} chunks of witness, which prove it up to instruction {}",
                    grouped(chunks),
                    grouped(proof.position)
                ),
                None => "no witness".to_owned(),
            };
            if let Some(broken) = broken {
                eprintln!("tandem: {broken}");
            }
            say(&format!(
                "{file} holds {} events up to icount {}, and {proof}; it is now {}{}",
                grouped(ending.events),
                grouped(ending.icount),
                path.display(),
                if removed { "" } else { ", and the damaged file stays as it is" },
            ));
        }
    }
    Ok(Outcome::Same)
}
