//! How much of two runs is compared.

use ::lockstep::depth::Depth;
use clap::ValueEnum;

#[derive(clap::Args)]
pub struct Arguments {
    /// How much is compared, instead of the most that the older of both builds (the good one of a bisection) can give: the
    /// instructions, what they write to memory as well, or the registers too
    #[arg(long, value_name = "DEPTH")]
    compare: Option<Compare>,
    /// Compare what is read from memory as well
    #[arg(long)]
    pub loads: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compare {
    Flow,
    Stores,
    Full,
}

impl Arguments {
    pub fn depth(&self) -> Option<Depth> {
        self.compare.map(|compare| match compare {
            Compare::Flow => Depth::Flow,
            Compare::Stores => Depth::Stores,
            Compare::Full => Depth::Full,
        })
    }
}
