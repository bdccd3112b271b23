//! A log with everything in it that QEMU can be made to log: disk, network, serial input, keys and pointers, random
//! bytes, sound out and in. It is read and written back to the byte, as QEMU writes it and as a recording keeps it.
//!
//! The guest is a boot sector of ours; QEMU is run here by hand, so that the log is QEMU's own file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tandem;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use recorder::columns::{Builder, Events};
use recorder::log::decoder::Decoder;
use recorder::log::{HEADER, Version};
use serde_json::{Value, json};
use tandem::{ALL_BUILDS, Place, boot_sector, build, wait_until, words};

/// A QEMU that dies with the test.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Qmp {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Qmp {
    fn connect(path: &Path) -> Self {
        let to = UnixStream::connect(path).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut qmp = Qmp { from: BufReader::new(to.try_clone().unwrap()), to };
        qmp.answer("QMP");
        qmp.says("qmp_capabilities", json!({}));
        qmp
    }

    fn answer(&mut self, key: &str) {
        loop {
            let mut line = String::new();
            self.from.read_line(&mut line).unwrap();
            let answer: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(answer.get("error"), None, "{line}");
            if answer.get(key).is_some() {
                return;
            }
        }
    }

    fn says(&mut self, command: &str, arguments: Value) {
        writeln!(self.to, "{}", json!({ "execute": command, "arguments": arguments })).unwrap();
        self.answer("return");
    }

    fn input(&mut self, kind: &str, data: Value) {
        self.says("input-send-event", json!({ "events": [{ "type": kind, "data": data }] }));
    }
}

fn everything(place: &Place, build: &str, has_touch: bool) -> Vec<u8> {
    let image = boot_sector(place, "every-event.s");
    let (log, socket) = (place.path("qemu.log"), place.path("qmp"));
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let firmware = corpus::cache().unwrap().join("firmware");
    let line = format!(
        "-M pc-i440fx-7.2 -cpu max -m 64 -L {} -display none -nodefaults -no-reboot -serial stdio \
         -icount shift=0,rr=record,rrfile={} -qmp unix:{},server=on,wait=off \
         -drive if=none,file={},format=raw,snapshot=on,id=img -drive driver=blkreplay,if=none,image=img,id=rr \
         -device ide-hd,drive=rr -audiodev none,id=snd -device adlib,audiodev=snd \
         -device ES1370,audiodev=snd,addr=5 -device piix3-usb-uhci,id=usb -device usb-tablet \
         -netdev dgram,id=n,local.type=inet,local.host=127.0.0.1,local.port={port},remote.type=inet,\
         remote.host=127.0.0.1,remote.port={} -device e1000,netdev=n,romfile= \
         -object filter-replay,id=f,netdev=n",
        firmware.display(),
        log.display(),
        socket.display(),
        image.display(),
        outside.local_addr().unwrap().port(),
    );
    let mut qemu = Command::new(build);
    qemu.args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
    if has_touch {
        qemu.args(["-device", "virtio-multitouch-pci"]);
    }
    let mut qemu = Qemu(qemu.spawn().unwrap());
    let mut greeting = [0];
    qemu.0.stdout.as_mut().unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"!", "the guest has booted from its disk");

    let mut qmp = Qmp::connect(&socket);
    qmp.says("send-key", json!({ "keys": [{ "type": "qcode", "data": "a" }] }));
    qmp.input("key", json!({ "down": true, "key": { "type": "number", "data": 30 } }));
    qmp.input("btn", json!({ "down": true, "button": "left" }));
    qmp.input("rel", json!({ "axis": "x", "value": -5 }));
    qmp.input("abs", json!({ "axis": "y", "value": 500 }));
    if has_touch {
        qmp.input("mtt", json!({ "type": "begin", "slot": 0, "tracking-id": 7, "axis": "x", "value": 100 }));
    }
    let packet = [&[0xff; 12][..], &[8, 0], &[b'p'; 60]].concat();
    outside.send_to(&packet, ("127.0.0.1", port)).unwrap();
    // Sound is taken in a hundred times a second.
    std::thread::sleep(Duration::from_millis(300));
    qemu.0.stdin.as_mut().unwrap().write_all(b"xyzq").unwrap();
    let began = Instant::now();
    wait_until("the guest resets itself", || {
        qemu.0.try_wait().unwrap().is_some() || began.elapsed() > Duration::from_secs(30)
    });
    std::fs::read(log).unwrap()
}

#[test]
fn a_log_of_everything_is_read_and_written_back_to_the_byte() {
    for name in ALL_BUILDS {
        let place = Place::new();
        let log = everything(&place, &build(name), name != "debian-7.2");
        let version = Version::of(u32::from_be_bytes(*log.first_chunk().unwrap())).unwrap();
        let mut decoder = Decoder::new(version);
        let mut again = version.header().to_vec();
        let mut columns = Builder::new(0);
        let mut kinds = BTreeMap::<&str, u64>::new();
        decoder
            .take(&log[HEADER..], |event| {
                *kinds.entry(event.name()).or_default() += 1;
                version.encode(event, &mut again);
                columns.push(event);
            })
            .unwrap();
        assert!(decoder.totals.ended);
        assert!(again == log, "{name}: decoding and encoding is the identity");

        let (first, content) = columns.finish();
        let mut kept = version.header().to_vec();
        let mut events = Events::new(first, &content).unwrap();
        while let Some((_, event)) = events.next_event().unwrap() {
            version.encode(&event, &mut kept);
        }
        assert!(kept == log, "{name}: so is going through a recording's columns");

        let touch: &[&str] = if name != "debian-7.2" { &["touch"] } else { &[] };
        let expected = words(&[
            "instructions",
            "interrupt",
            "exception",
            "block",
            "key",
            "button",
            "relative-motion",
            "absolute-motion",
            "input-sync",
            "char-read",
            "char-write",
            "packet",
            "random",
            "audio-out",
            "audio-in",
            "clock-host",
            "clock-virtual-rt",
            "shutdown",
            "end",
        ]);
        for kind in expected.iter().map(String::as_str).chain(touch.iter().copied()) {
            assert!(kinds.contains_key(kind), "{name}: no {kind} in {kinds:?}");
        }
    }
}
