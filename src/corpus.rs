//! `tandem corpus`

use crate::progress::say;
use crate::{Failure, Outcome};

/// List the builds, guests and faults that ./setup has brought, or say where one lies.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print the path of this build's executable
    #[arg(long, value_name = "NAME")]
    build: Option<String>,
    /// Print QEMU's arguments for this guest
    #[arg(long, value_name = "NAME")]
    guest: Option<String>,
    /// Print what is known of this fault: its build, the guest that shows it, and the guilty instruction
    #[arg(long, value_name = "NAME")]
    fault: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    if let Some(name) = &arguments.build {
        say(&::corpus::build(name)?.display().to_string());
    }
    if let Some(name) = &arguments.guest {
        say(&::corpus::guest(name)?.join(" "));
    }
    if let Some(name) = &arguments.fault {
        let fault = ::corpus::faults::fault(name)?;
        say(&format!("fault    {}: {} ({})", fault.kind, fault.what, fault.stage.name()));
        say(&format!("build    {}", fault.build()?.display()));
        say(&format!("guest    {}", fault.arguments()?.join(" ")));
        say(&format!("symbols  {}", fault.symbols()?.display()));
        say(&format!("guilty   pc:{:x}#{} ({})", fault.address()?, fault.nth, fault.label));
    }
    if arguments.build.is_none() && arguments.guest.is_none() && arguments.fault.is_none() {
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
        for fault in ::corpus::faults::faults() {
            say(&format!("fault {:<12} {}", fault.name, fault.kind));
        }
    }
    Ok(Outcome::Same)
}
