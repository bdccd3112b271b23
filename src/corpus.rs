//! `tandem corpus`

use crate::progress::say;
use crate::{Failure, Outcome};

/// List the builds and guests that ./setup has brought, or say where one lies.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print the path of this build's executable
    #[arg(long, value_name = "NAME")]
    build: Option<String>,
    /// Print QEMU's arguments for this guest
    #[arg(long, value_name = "NAME")]
    guest: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    if let Some(name) = &arguments.build {
        say(&::corpus::build(name)?.display().to_string());
    }
    if let Some(name) = &arguments.guest {
        say(&::corpus::guest(name)?.join(" "));
    }
    if arguments.build.is_none() && arguments.guest.is_none() {
        for name in ::corpus::builds() {
            let place = ::corpus::build(name);
            say(&format!(
                "build {name:<12} {}",
                place.map_or_else(|e| e.to_string(), |p| p.display().to_string())
            ));
        }
        for name in ::corpus::guests() {
            say(&format!(
                "guest {name:<12} {}",
                ::corpus::guest(name).map_or_else(|e| e.to_string(), |a| a.join(" "))
            ));
        }
    }
    Ok(Outcome::Same)
}
