//! A server for gdb in front of QEMU's: the guest's registers and memory are those that QEMU tells, forwards and
//! backwards it goes as [`crate::seek::travel`] does, and nothing of it can be changed. What one packet means is the
//! crate `gdbstub`'s business.

pub(crate) mod description;
mod link;
mod target;

use std::sync::atomic::Ordering;

use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{GdbStub, GdbStubError, SingleThreadStopReason};
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::breakpoints::WatchKind;

use crate::breaks::Kind;
use crate::seek::travel::Arrival;
use crate::seek::{self, Seeker};

pub use link::{Link, Said};
use target::Guest;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Seek(#[from] seek::Error),
    #[error("gdb said what no gdb says: {0}")]
    Gdb(String),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// gdb has taken its leave, and may come again.
    Detached,
    /// Nobody will say anything more.
    Gone,
}

/// The longest packet that gdb may send, bytes. QEMU's own stub takes as much (gdbstub.c, `MAX_PACKET_LENGTH`).
const LONGEST: usize = 4096;

/// Serves one session with gdb, which finds the guest where `seeker` stands. A way that can't be gone is told to
/// `complain`; the guest then stands where it was.
///
/// # Errors
/// Where the replay fails, or what comes is not gdb's protocol.
pub fn serve(
    seeker: &mut Seeker,
    link: &mut Link,
    complain: &mut dyn FnMut(&seek::Error),
) -> Result<Over, Error> {
    let mut guest = Guest::new(seeker)?;
    let mut buffer = vec![0; LONGEST];
    let stub = GdbStub::builder(&mut *link).with_packet_buffer(&mut buffer).build();
    let mut gdb = stub.map_err(|error| Error::Gdb(error.to_string()))?.run_state_machine(&mut guest);
    loop {
        let next = match gdb {
            Ok(GdbStubStateMachine::Idle(mut idle)) => match idle.borrow_conn().next() {
                Some(byte) => idle.incoming_data(&mut guest, byte),
                None => return Ok(Over::Gone),
            },
            Ok(GdbStubStateMachine::Running(mut running)) => {
                guest.setting().interrupts.store(0, Ordering::Relaxed);
                // Who leaves before this is seen here, and who leaves after it counts as an interrupt.
                if running.borrow_conn().is_over() {
                    return Ok(Over::Gone);
                }
                running.borrow_conn().listen(true);
                let arrival = guest.travel(complain);
                running.borrow_conn().listen(false);
                if running.borrow_conn().is_over() {
                    return Ok(Over::Gone);
                }
                running.report_stop(&mut guest, told(arrival?))
            }
            Ok(GdbStubStateMachine::CtrlCInterrupt(interrupt)) => {
                interrupt.interrupt_handled(&mut guest, None::<SingleThreadStopReason<u64>>)
            }
            Ok(GdbStubStateMachine::Disconnected(_)) => break,
            Err(error) => return failed(error, link),
        };
        gdb = next;
    }
    Ok(if link.is_over() { Over::Gone } else { Over::Detached })
}

/// What ends a session before its time.
fn failed(error: GdbStubError<seek::Error, std::io::Error>, link: &Link) -> Result<Over, Error> {
    if link.is_over() || error.is_connection_error() {
        return Ok(Over::Gone);
    }
    let text = error.to_string();
    Err(error.into_target_error().map_or(Error::Gdb(text), Error::Seek))
}

/// An arrival in gdb's words.
fn told(arrival: Arrival) -> SingleThreadStopReason<u64> {
    match arrival {
        Arrival::Step => SingleThreadStopReason::DoneStep,
        Arrival::Break => SingleThreadStopReason::SwBreak(()),
        Arrival::Watch { kind, address } => SingleThreadStopReason::Watch {
            tid: (),
            kind: match kind {
                Kind::Read => WatchKind::Read,
                Kind::Access => WatchKind::ReadWrite,
                Kind::Instruction | Kind::Write => WatchKind::Write,
            },
            addr: address,
        },
        Arrival::Beginning => SingleThreadStopReason::ReplayLog { tid: None, pos: ReplayLogPosition::Begin },
        Arrival::End => SingleThreadStopReason::ReplayLog { tid: None, pos: ReplayLogPosition::End },
        Arrival::Interrupted => SingleThreadStopReason::Signal(Signal::SIGINT),
    }
}
