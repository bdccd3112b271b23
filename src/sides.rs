//! The two builds that are compared.

use std::path::PathBuf;

use ::lockstep::comparator::Pair;
use qemu::build::Build;

use crate::Failure;

#[derive(clap::Args)]
pub struct Arguments {
    /// The QEMU of side A: of a whole machine (qemu-system-...) or of one Linux program (qemu-x86_64 and others)
    #[arg(long, value_name = "QEMU")]
    a: PathBuf,
    /// The QEMU of side B
    #[arg(long, value_name = "QEMU")]
    b: PathBuf,
    /// An argument for side A only
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    a_arg: Vec<String>,
    /// An argument for side B only
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    b_arg: Vec<String>,
}

impl Arguments {
    /// Looks at both.
    pub fn builds(&self) -> Result<Pair<Build>, Failure> {
        let a = Build::inspect_any(&self.a)?;
        let b = if self.b == self.a { a.clone() } else { Build::inspect_any(&self.b)? };
        Ok(Pair { a, b })
    }

    pub fn extra(&self) -> Pair<&[String]> {
        Pair { a: &self.a_arg, b: &self.b_arg }
    }
}
