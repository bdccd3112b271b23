//! What the probe does, without QEMU's types: keeps the stream and the block table, and talks to the host.

use std::os::unix::net::UnixStream;

use trace::access::{Access, Accesses, Memory};
use trace::block::{Block, Code, Table};
use trace::codec;
use trace::look::{Looking, Place, State};
use trace::message::{FromProbe, Look, PROTOCOL, Point, Sample, Standing, ToProbe, Watch};
use trace::recent::Recent;
use trace::stream::{Full, Stream, Unaccounted};

use crate::calls::{Beginning, Calls};
/// Why the probe can't go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The host is gone: nobody needs this run any more.
    HostGone,
    Unaccounted(Unaccounted),
    /// The host said something out of turn.
    Protocol(&'static str),
    /// QEMU does not tell what is to be looked at.
    Blind(String),
    /// The user program starts a thread.
    Thread,
}

impl From<codec::Error> for Trouble {
    fn from(_: codec::Error) -> Self {
        Trouble::HostGone
    }
}

impl From<Unaccounted> for Trouble {
    fn from(unaccounted: Unaccounted) -> Self {
        Trouble::Unaccounted(unaccounted)
    }
}

pub(crate) struct Session {
    host: UnixStream,
    table: Table,
    stream: Stream,
    /// Chunks that may be run before the host has to grant more.
    credit: u64,
    /// What to look out for, how many instructions of it were seen, and the position of the last one.
    watch: Watch,
    seen: u64,
    last: Option<u64>,
    looking: Looking,
    /// Of a user program.
    calls: Option<Calls>,
    is_over: bool,
    /// The position whose digests the host waits for.
    asked: Option<u64>,
}

impl Session {
    /// Greets the host and waits until it lets the guest start.
    pub(crate) fn open(
        host: UnixStream,
        plugin_api: i32,
        target: String,
        system: bool,
    ) -> Result<Self, Trouble> {
        let mut host = host;
        let mut table = Table::of(&target);
        let pid = std::process::id();
        codec::write(&mut host, &FromProbe::Hello { protocol: PROTOCOL, plugin_api, target, system, pid })?;
        match codec::read(&mut host)? {
            Some(ToProbe::Go { credit, from, watch, keeps, look }) => {
                let stream = Stream::at(from, keeps as usize).until(look.until.unwrap_or(u64::MAX));
                let stream = if look.again { stream.with_stores() } else { stream };
                let stream = if look.stores { stream } else { stream.without_memory() };
                let stream = if !system && table.is_x86() { stream.of_program() } else { stream };
                if look.each {
                    table = table.with_each();
                }
                let calls = (!system).then(|| Calls::new(&look.calls));
                let looking = Looking::new(look);
                Ok(Session {
                    host,
                    table,
                    stream,
                    credit,
                    watch,
                    seen: 0,
                    last: None,
                    looking,
                    calls,
                    is_over: false,
                    asked: None,
                })
            }
            Some(_) => Err(Trouble::Protocol("expected Go")),
            None => Err(Trouble::HostGone),
        }
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// All before the running block is settled; the instruction that is `before` instructions into it starts, and is
    /// watched for.
    pub(crate) fn started(&mut self, before: u64) -> Result<(), Trouble> {
        let position = self.stream.end().position + before;
        // It starts again.
        if self.last == Some(position) || self.seen == self.watch.until {
            return Ok(());
        }
        self.seen += 1;
        self.last = Some(position);
        if self.seen == self.watch.until {
            self.say(&FromProbe::Found { position })?;
        }
        Ok(())
    }

    /// The position at the last entry and the block that runs, where `recent` is not settled. For a signal's handler: it
    /// changes nothing, and asks for no memory.
    pub(crate) fn ahead(&self, recent: &Recent) -> (u64, Option<&'static Block>) {
        self.stream.ahead(&self.table, recent.entries())
    }

    /// The socket to the host.
    pub(crate) fn host(&self) -> &UnixStream {
        &self.host
    }

    /// Where the guest stands, `started` instructions after the last entry; all before is settled.
    pub(crate) fn standing(&self, started: u64) -> Standing {
        let (point, unfinished) = self.stream.standing(started);
        Standing { point, unfinished, seen: self.seen }
    }

    /// Whether the running block begins with an instruction that is in the stream already, if it was started again.
    pub(crate) fn is_again(&self) -> bool {
        self.stream.is_again()
    }

    /// The block with these instructions.
    pub(crate) fn translated(&mut self, code: &Code) -> &'static Block {
        self.table.intern(code)
    }

    /// Whether QEMU's disassembler is to be asked for the instructions of `block`.
    pub(crate) fn wants_texts(&self, block: &Block) -> bool {
        self.looking.look().texts && !self.table.has_texts(block)
    }

    /// What it makes of them.
    pub(crate) fn keep_texts(&mut self, block: &Block, texts: impl Iterator<Item = String>) {
        self.table.keep_texts(block, texts);
    }

    /// Whether the instruction with these bytes may access memory.
    pub(crate) fn may_access(&self, bytes: &[u8]) -> bool {
        self.table.may_access(bytes)
    }

    /// The running block, where all before it is settled.
    pub(crate) fn running(&self) -> Option<&'static Block> {
        self.stream.running()
    }

    /// `block` is entered; all before is settled, and these accesses are the running block's.
    pub(crate) fn entered(
        &mut self,
        block: u32,
        started: u64,
        accesses: &mut Accesses,
    ) -> Result<(), Trouble> {
        let block = self.table.get(block);
        self.leave(accesses, |stream, accesses| stream.enter(block, started, accesses))
    }

    /// Another vCPU enters a block, `started` instructions into the running one, which made these accesses; all before is settled.
    pub(crate) fn turns(&mut self, vcpu: u32, started: u64, accesses: &mut Accesses) -> Result<(), Trouble> {
        self.leave(accesses, |stream, accesses| {
            let full = stream.finish(started, accesses)?;
            stream.is_turn_of(vcpu);
            Ok(full)
        })
    }

    /// The running block, which made these accesses, is left in this way.
    fn leave(
        &mut self,
        accesses: &mut Accesses,
        leave: impl FnOnce(&mut Stream, &mut Accesses) -> Result<Option<Full>, Unaccounted>,
    ) -> Result<(), Trouble> {
        let (before, made) = (self.position(), self.close_accesses(accesses));
        let full = leave(&mut self.stream, accesses)?;
        self.looking.made(before, self.stream.made(), &made);
        self.looking.entered();
        match full {
            Some(full) => self.chunk(full),
            None => Ok(()),
        }
    }

    /// What the running block did, where that is looked at closely. What an instruction did that starts again does not count.
    fn close_accesses(&self, accesses: &Accesses) -> Vec<Access> {
        if self.looking.is_close() { accesses.noted().to_vec() } else { Vec::new() }
    }

    /// Those samples that count.
    fn counted(&self, mut samples: Vec<Sample>) -> Vec<Sample> {
        samples.retain(|sample| self.stream.counts_at(sample.position));
        samples
    }

    /// Takes in what is noted, and has more be noted.
    pub(crate) fn settle(&mut self, recent: &mut Recent, accesses: &mut Accesses) -> Result<(), Trouble> {
        let full = self.stream.settle(&self.table, recent.entries(), accesses);
        recent.open();
        match full {
            Some(full) => self.chunk(full),
            None => Ok(()),
        }
    }

    /// Whether what all is like where the running block begins is no matter of the guest's.
    pub(crate) fn is_between_turns(&self) -> bool {
        self.stream.is_between_turns()
    }

    /// Whether `block` has to be entered the long way, as has the one behind it.
    pub(crate) fn is_counted_apart(&self, block: &Block) -> bool {
        self.calls.is_some() && self.table.is_x86() && block.ends_repeated()
    }

    /// At what is looked beside the instructions.
    pub(crate) fn looking(&self) -> &Looking {
        &self.looking
    }

    /// Whether all blocks are to be translated anew, here: once.
    pub(crate) fn begins_anew(&mut self) -> bool {
        self.looking.begins_anew(self.stream.end().position)
    }

    /// Where the running block begins.
    pub(crate) fn position(&self) -> u64 {
        self.stream.end().position
    }

    /// The user program's system calls.
    pub(crate) fn calls(&mut self) -> Option<&mut Calls> {
        self.calls.as_mut()
    }

    /// The program begins a system call, `started` instructions into the running block; all before that is settled.
    pub(crate) fn call_begins(
        &mut self,
        started: u64,
        accesses: &Accesses,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<(), Trouble> {
        let Some(calls) = &mut self.calls else { return Ok(()) };
        let (point, _) = self.stream.standing(started);
        match calls.begin(point.position, number, arguments) {
            Beginning::Usual => Ok(()),
            Beginning::Thread => Err(Trouble::Thread),
            Beginning::Leaving => {
                let mut memory = self.stream.memory();
                memory.take_in(accesses.noted());
                let calls = calls.perhaps_last();
                self.say(&FromProbe::Leaving {
                    position: point.position,
                    digest: point.digest,
                    memory,
                    calls,
                })
            }
        }
    }

    /// It has come back. Gives back whether to the process that the host follows.
    pub(crate) fn call_ends(&mut self, number: i64, result: i64) -> bool {
        self.calls.as_mut().is_none_or(|calls| calls.end(number, result))
    }

    /// The names of the registers that are read.
    pub(crate) fn names(&mut self, names: Vec<String>) -> Result<(), Trouble> {
        self.say(&FromProbe::Registers(names))
    }

    /// The running block begins, and all is like this.
    pub(crate) fn look(&mut self, state: &State, written: u64) -> Result<(), Trouble> {
        let address = self.stream.running().map_or(0, Block::begin);
        let position = self.position();
        let place = Place { position, address, vcpu: self.stream.vcpu() };
        self.looking.take(place, self.stream.memory(), state, written);
        self.steps()?;
        if self.looking.waits(position) {
            self.say(&FromProbe::Waiting { position })?;
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until the host lets it run on.
    fn wait(&mut self) -> Result<(), Trouble> {
        loop {
            match codec::read(&mut self.host)? {
                Some(ToProbe::On) => return Ok(()),
                Some(message) => self.answer(message)?,
                None => return Err(Trouble::HostGone),
            }
        }
    }

    /// The instruction that is `number` instructions into the running block comes next; these accesses are that block's.
    pub(crate) fn look_inside(
        &mut self,
        number: u64,
        address: u64,
        accesses: &Accesses,
        state: &State,
        written: u64,
    ) -> Result<(), Trouble> {
        let begin = self.stream.end().position;
        self.looking.made(begin, begin + number, accesses.noted());
        let place = Place { position: begin + number, address, vcpu: self.stream.vcpu() };
        self.looking.step(place, false, state, written);
        self.steps()
    }

    fn steps(&mut self) -> Result<(), Trouble> {
        match self.looking.steps() {
            Some(steps) => self.say(&FromProbe::Steps(steps)),
            None => Ok(()),
        }
    }

    /// The run is over, and all is settled: says so and serves questions until the host lets go.
    pub(crate) fn ended(
        &mut self,
        started: u64,
        accesses: &mut Accesses,
        written: u64,
    ) -> Result<(), Trouble> {
        let (before, made) = (self.position(), self.close_accesses(accesses));
        let full = self.stream.finish(started, accesses)?;
        self.looking.made(before, self.stream.made(), &made);
        let Point { position, digest } = self.stream.end();
        self.looking.end(Place { position, address: 0, vcpu: self.stream.vcpu() }, written);
        self.steps()?;
        let mut calls = self.calls.as_mut().map(Calls::last).unwrap_or_default();
        if let Some(Full { index, digest, memory }) = full {
            let samples = self.looking.samples();
            let (samples, calls) = (self.counted(samples), std::mem::take(&mut calls));
            self.say(&FromProbe::Chunk { index, digest, memory, samples, calls })?;
        }
        let samples = self.looking.last_samples();
        let (memory, samples) = (self.stream.memory(), self.counted(samples));
        let (recorded, vcpus) = (self.stream.recorded(), self.stream.of_each());
        self.passed()?;
        self.is_over = true;
        self.say(&FromProbe::End { position, recorded, digest, memory, samples, calls, vcpus })?;
        loop {
            match codec::read(&mut self.host)? {
                Some(ToProbe::Finish) | None => return Ok(()),
                Some(message) => self.answer(message)?,
            }
        }
    }

    /// Tells the host why nothing more will come. The host may be gone; then there is nobody to tell.
    pub(crate) fn fail(&mut self, why: &str) {
        let _ = self.say(&FromProbe::Failure(why.to_owned()));
    }

    #[cold]
    fn chunk(&mut self, full: Full) -> Result<(), Trouble> {
        let Full { index, digest, memory } = full;
        let samples = self.looking.samples();
        let samples = self.counted(samples);
        let calls = self.calls.as_mut().map(Calls::made).unwrap_or_default();
        self.say(&FromProbe::Chunk { index, digest, memory, samples, calls })?;
        self.passed()?;
        while full.index + 1 >= self.credit || self.asked()? {
            match codec::read(&mut self.host)? {
                Some(message) => self.answer(message)?,
                None => return Err(Trouble::HostGone),
            }
        }
        Ok(())
    }

    /// Answers what the host waits for, where the run has come there.
    fn passed(&mut self) -> Result<(), Trouble> {
        let position = self.position();
        match self.asked.take_if(|asked| *asked <= position) {
            Some(asked) => self.answer(ToProbe::UpTo { from: asked, to: asked }),
            None => Ok(()),
        }
    }

    /// Whether the host has said something that is not read yet.
    fn asked(&self) -> Result<bool, Trouble> {
        crate::ffi::readable(&self.host).map_err(|_| Trouble::HostGone)
    }

    fn answer(&mut self, message: ToProbe) -> Result<(), Trouble> {
        match message {
            ToProbe::Credit(credit) => {
                self.credit = self.credit.max(credit);
                Ok(())
            }
            ToProbe::Digests { from, to } => {
                let digests = self.stream.digests(&self.table, from, to);
                self.say(&FromProbe::Digests(digests))
            }
            ToProbe::UpTo { from, to } if from == to && to > self.position() && !self.is_over => {
                self.stream.note(to);
                self.asked = Some(to);
                Ok(())
            }
            ToProbe::UpTo { from, to } => {
                let Look { stores, loads, .. } = *self.looking.look();
                let memory = |position| {
                    if stores || loads { self.stream.memory_at(position) } else { Some(Memory::default()) }
                };
                let digests = self.stream.digests(&self.table, from, to);
                let both = digests.map(|digests| digests.into_iter().zip((from..).map(memory)).collect());
                self.say(&FromProbe::UpTo(both))
            }
            ToProbe::Window(index) => {
                let window = self.stream.window(&self.table, index);
                self.say(&FromProbe::Window(window))
            }
            ToProbe::Go { .. } => Err(Trouble::Protocol("Go a second time")),
            ToProbe::On => Err(Trouble::Protocol("On where nothing waits")),
            ToProbe::Finish => Err(Trouble::HostGone),
        }
    }

    fn say(&mut self, message: &FromProbe) -> Result<(), Trouble> {
        Ok(codec::write(&mut self.host, message)?)
    }
}
