//! Command lines that Tandem does not take, and the way out of each.

use super::item::Item;
use super::{Arguments, time};

/// A command line that Tandem does not take, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("`{0}` asks for another accelerator than TCG; only TCG can be recorded and compared: remove it")]
    Accelerator(String),
    #[error("`{0}`: QEMU records and replays one vCPU only; use -smp 1")]
    Smp(String),
    #[error("`{0}`: QEMU refuses it while recording; remove it, a recording never writes to an image anyway")]
    Snapshot(String),
    #[error("`{0}`: the host's local time can't be recorded; use -rtc base=utc or a fixed date")]
    LocalTime(String),
    #[error("`{0}`: Tandem chooses record and replay itself; remove rr= and rrfile=")]
    OwnReplay(String),
    #[error(
        "`{0}`: icount shift=auto follows the host's speed; give a number from 0 to 10, or leave -icount out"
    )]
    Shift(String),
    #[error("`{0}` takes QEMU out of Tandem's hands; remove it")]
    Detached(String),
    #[error("`{0}` only prints something and ends: there is no guest to run")]
    NoGuest(String),
    #[error(
        "`{0}` hides options from Tandem, which has to look at every one; write them on the command line"
    )]
    Hidden(String),
    #[error("`{option}`: {why}; {instead}")]
    Unrecorded { option: String, why: &'static str, instead: &'static str },
    #[error(
        "`{0}` waits for the outside world, so two live runs of it differ; record the guest first and give the recording with --recording"
    )]
    NotDeterministic(String),
    #[error(
        "--time virtual does not go with `{0}`: completions of disks and packets of networks never come when time is virtual; use --time host"
    )]
    Starves(String),
}

/// Refuses what neither a recording nor a lockstep can take.
pub(super) fn refuse(all: &Arguments) -> Result<(), Refusal> {
    all.items.iter().try_for_each(refuse_item)
}

/// Refuses what QEMU neither records nor replays.
pub(super) fn refuse_turns(all: &Arguments) -> Result<(), Refusal> {
    let several = all.all(&["smp"]).find(|item| vcpus(item) > 1);
    several.map_or(Ok(()), |item| Err(Refusal::Smp(item.shown())))
}

/// How many vCPUs an `-smp` asks for.
pub(super) fn vcpus(item: &Item) -> u64 {
    let fields = item.fields();
    let product = || {
        ["sockets", "dies", "clusters", "modules", "cores", "threads", "maxcpus"]
            .iter()
            .filter_map(|key| fields.get(key)?.parse::<u64>().ok())
            .fold(1, u64::saturating_mul)
    };
    fields.get("cpus").and_then(|count| count.parse().ok()).unwrap_or_else(product)
}

fn refuse_item(item: &Item) -> Result<(), Refusal> {
    let fields = item.fields();
    let shown = || item.shown();
    let accelerator = |value: &str| value.split(':').any(|one| one != "tcg");
    match item.name.as_str() {
        "enable-kvm" | "xen-attach" | "xen-domid" => return Err(Refusal::Accelerator(shown())),
        "accel" | "machine" | "M" if fields.get("accel").is_some_and(accelerator) => {
            return Err(Refusal::Accelerator(shown()));
        }
        "icount" => {
            if fields.has("rr") || fields.has("rrfile") {
                return Err(Refusal::OwnReplay(shown()));
            }
            if time::shift(item).is_none() {
                return Err(Refusal::Shift(shown()));
            }
        }
        "rtc" if fields.get("base") == Some("localtime") => return Err(Refusal::LocalTime(shown())),
        "localtime" => return Err(Refusal::LocalTime(shown())),
        "snapshot" => return Err(Refusal::Snapshot(shown())),
        "daemonize" | "S" | "preconfig" | "incoming" | "loadvm" => return Err(Refusal::Detached(shown())),
        "readconfig" => return Err(Refusal::Hidden(shown())),
        "h" | "help" | "version" => return Err(Refusal::NoGuest(shown())),
        "machine" | "M" | "cpu" | "device" | "accel" if matches!(item.value(), "help" | "?") => {
            return Err(Refusal::NoGuest(shown()));
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::arguments::Time;
    use crate::arguments::tests::parse;

    #[test]
    fn what_cannot_be_compared_is_refused_with_its_option() {
        for line in [
            "-enable-kvm",
            "-accel kvm",
            "-machine q35,accel=kvm:tcg",
            "-smp 2",
            "-smp cpus=4",
            "-smp cores=2,threads=2",
            "-snapshot",
            "-rtc base=localtime",
            "-rtc localtime",
            "-icount shift=auto",
            "-icount 1,rr=record,rrfile=x",
            "-daemonize",
            "-loadvm booted",
            "-readconfig vm.cfg",
            "-help",
        ] {
            let refusal = parse(line).recorded(Time::Virtual, "log").unwrap_err().to_string();
            assert!(refusal.contains(&format!("`{line}`")), "{line}: {refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
    }

    #[test]
    fn several_vcpus_run_live_only() {
        for (line, count) in [("-smp 2", 2), ("-smp cores=2,threads=2", 4), ("-smp 1,maxcpus=4", 1), ("", 1)]
        {
            assert_eq!(parse(line).vcpus(), count, "{line}");
            assert!(parse(line).deterministic().is_ok(), "{line}");
        }
    }

    #[test]
    fn tcg_and_one_vcpu_are_taken() {
        for line in
            ["-accel tcg,one-insn-per-tb=on", "-accel tcg", "-machine pc,accel=tcg", "-smp 1", "-smp cpus=1"]
        {
            assert!(parse(line).recorded(Time::Virtual, "log").is_ok(), "{line}");
            assert!(parse(line).deterministic().is_ok(), "{line}");
        }
    }
}
