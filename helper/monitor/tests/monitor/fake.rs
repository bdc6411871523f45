//! A VMM and its guest: the guest's end of the mux, QMP, and a console, in one process.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::process::exit;

use banger_wire::agent::{Call, Event as Boot, Request, kind};
use banger_wire::frame;
use banger_wire::mux::{Event, Mux, Side, StreamId};
use banger_wire::port;
use nix::sys::socket::{MsgFlags, recv, send};

/// Returns what it gets.
pub(crate) const ECHO: u32 = 2000;
/// Counts until the client has finished, then answers count and checksum.
pub(crate) const COUNT: u32 = 2001;
/// Gets a length, sends as many bytes of the pattern, and finishes.
pub(crate) const SOURCE: u32 = 2002;
/// Takes nothing and never finishes.
pub(crate) const STALL: u32 = 2003;
/// Is not accepted.
pub(crate) const REFUSE: u32 = 2004;
/// Is reset at the first byte.
pub(crate) const RESET: u32 = 2005;
/// Says `hi`, finishes, then counts.
pub(crate) const FINISH_FIRST: u32 = 2006;
/// Gets a number; answers `ok` when so many streams were reset by the host.
pub(crate) const AWAIT_RESETS: u32 = 2007;
/// Sends data without accepting.
pub(crate) const EAGER: u32 = 2008;
/// Gets a number; answers that call of the monitor's, as JSON, once it was made.
pub(crate) const AWAIT_CALL: u32 = 2009;
/// Gets lines that tell the guest what to do.
pub(crate) const COMMANDS: u32 = 3000;

/// Repeats after a prime number of bytes, so that no block of a power of two looks like the next.
pub(crate) const PERIOD: u64 = 65_521;

pub(crate) fn pattern(at: u64) -> u8 {
    let at = at % PERIOD;
    (at ^ (at >> 8)) as u8
}

pub(crate) fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(crate) const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

pub(crate) fn run_if_asked() {
    let arguments: HashMap<String, String> = std::env::args()
        .filter_map(|argument| {
            let (key, value) = argument.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect();
    let Some(mode) = arguments.get("mode").cloned() else {
        return;
    };
    let number = |key: &str| arguments.get(key).and_then(|text| text.parse().ok());
    if mode == "exit" {
        eprintln!("fake: wrong arguments");
        exit(3);
    }
    if let Some(qmp) = number("qmp") {
        let mode = mode.clone();
        std::thread::spawn(move || serve_qmp(qmp, &mode));
    }
    let Some(agent) = number("agent") else {
        loop {
            std::thread::park();
        }
    };
    let mut guest = Guest::new(agent, number("qmp"), number("console"), mode);
    guest.gate = arguments.get("gate").cloned();
    guest.run();
}

fn send_all(fd: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = send(fd, bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
        bytes = &bytes[count..];
    }
}

fn shutdown_event(qmp: Option<RawFd>, guest: bool, reason: &str) {
    if let Some(qmp) = qmp {
        let line = format!(
            "{{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": {guest}, \"reason\": \"{reason}\"}}}}\r\n"
        );
        send_all(qmp, line.as_bytes());
    }
}

fn serve_qmp(qmp: RawFd, mode: &str) {
    send_all(
        qmp,
        b"{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n",
    );
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = recv(qmp, &mut buffer, MsgFlags::empty()).unwrap_or(0);
        if count == 0 {
            return;
        }
        text.extend_from_slice(&buffer[..count]);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8(text.drain(..=end).collect()).unwrap();
            send_all(qmp, b"{\"return\": {}}\r\n");
            if line.contains("system_powerdown") && !mode.contains("ignore-power") {
                shutdown_event(Some(qmp), true, "guest-shutdown");
                exit(0);
            }
            if line.contains("\"cont\"") {
                send_all(qmp, b"{\"event\": \"RESUME\"}\r\n");
            }
            if line.contains("\"quit\"") && !mode.contains("ignore-quit") {
                shutdown_event(Some(qmp), false, "host-qmp-quit");
                exit(0);
            }
        }
    }
}

#[derive(Default)]
struct Stream {
    port: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    count: u64,
    sum: u64,
    left: u64,
    position: u64,
    finished: bool,
}

struct Guest {
    agent: RawFd,
    qmp: Option<RawFd>,
    console: Option<RawFd>,
    mode: String,
    gate: Option<String>,
    mux: Mux,
    streams: HashMap<StreamId, Stream>,
    events: StreamId,
    resets: u64,
    calls: Vec<String>,
    pattern: Vec<u8>,
}

impl Guest {
    fn new(agent: RawFd, qmp: Option<RawFd>, console: Option<RawFd>, mode: String) -> Self {
        Guest {
            agent,
            qmp,
            console,
            mode,
            gate: None,
            mux: Mux::new(Side::Guest),
            streams: HashMap::new(),
            events: 0,
            resets: 0,
            calls: Vec::new(),
            pattern: (0..PERIOD).map(pattern).collect(),
        }
    }

    fn run(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        if let Some(gate) = &self.gate {
            // Opens when somebody opens the other end of the FIFO.
            std::fs::File::open(gate).unwrap();
        }
        self.events = self.mux.open(port::EVENTS).unwrap();
        if self.mode.contains("ready") {
            self.say(&Boot::Ready {
                protocol: banger_wire::PROTOCOL,
                version: "fake 1".into(),
                uptime_ms: 5,
            });
        }
        if self.mode.contains("failed") {
            self.say(&Boot::Failed {
                message: "no root disk".into(),
            });
        }
        self.flush();
        loop {
            let count = recv(self.agent, &mut buffer, MsgFlags::empty()).unwrap_or(0);
            if count == 0 {
                // The monitor gave the channel up; a VMM lives on.
                loop {
                    std::thread::park();
                }
            }
            self.mux.receive(&buffer[..count]).unwrap();
            while let Some(event) = self.mux.next_event() {
                self.event(event);
            }
            self.work();
        }
    }

    fn say(&mut self, event: &Boot) {
        let mut line = serde_json::to_vec(event).unwrap();
        line.push(b'\n');
        assert_eq!(self.mux.send(self.events, &line), line.len());
    }

    fn flush(&mut self) {
        send_all(self.agent, self.mux.output());
        self.mux.sent(self.mux.output().len());
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Opened(id, REFUSE) => self.mux.reset(id),
            Event::Opened(id, EAGER) => {
                self.mux.send(id, b"too early");
            }
            Event::Opened(id, port) => {
                // Behind a TCP port is what is behind the mux port of that number.
                let port = port::tcp(port).map_or(port, u32::from);
                if port == REFUSE {
                    return self.mux.reset(id);
                }
                self.mux.accept(id);
                let output = match port {
                    FINISH_FIRST => {
                        self.mux.send(id, b"hi");
                        self.mux.finish(id);
                        Vec::new()
                    }
                    _ => Vec::new(),
                };
                let stream = Stream {
                    port,
                    output,
                    sum: EMPTY,
                    ..Stream::default()
                };
                self.streams.insert(id, stream);
            }
            Event::Data(id, bytes) => self.data(id, &bytes),
            Event::Finished(id) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    // A call is over when it is answered.
                    stream.finished |= stream.port != port::AGENT;
                    if stream.port == COUNT {
                        let (count, sum) = (stream.count, stream.sum);
                        stream.output.extend_from_slice(&count.to_le_bytes());
                        stream.output.extend_from_slice(&sum.to_le_bytes());
                    }
                }
            }
            Event::Reset(id) => {
                self.streams.remove(&id);
                self.resets += 1;
            }
            Event::Hello(_) | Event::Accepted(_) => {}
        }
    }

    fn data(&mut self, id: StreamId, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let mut lines = Vec::new();
        match stream.port {
            STALL => return,
            // Consumed when it is sent back.
            ECHO => return stream.output.extend_from_slice(bytes),
            RESET => {
                self.mux.reset(id);
                self.streams.remove(&id);
                return;
            }
            SOURCE => {
                stream.input.extend_from_slice(bytes);
                if let Some(length) = stream.input.first_chunk() {
                    stream.left = u64::from_le_bytes(*length);
                }
            }
            AWAIT_RESETS | AWAIT_CALL => stream.input.extend_from_slice(bytes),
            COMMANDS => {
                stream.input.extend_from_slice(bytes);
                while let Some(end) = stream.input.iter().position(|byte| *byte == b'\n') {
                    lines.push(String::from_utf8(stream.input.drain(..=end).collect()).unwrap());
                }
            }
            port::AGENT => {
                let mut decoder = frame::Decoder::default();
                decoder.push(bytes);
                let call = decoder.next_frame().unwrap().unwrap();
                assert_eq!(call.kind, kind::CALL);
                let call: Call = serde_json::from_slice(&call.payload).unwrap();
                match call.request {
                    Request::Shutdown { grace_ms } => {
                        lines.push(format!("shutdown {id} {grace_ms}"));
                    }
                    other => self.calls.push(serde_json::to_string(&other).unwrap()),
                }
                if self.mode.contains("statistics") {
                    let answer = br#"{"uptime_ms":7,"cpus":3}"#;
                    frame::encode(&mut stream.output, kind::REPLY, answer);
                    stream.finished = true;
                }
                if self.mode.contains("nonsense") {
                    stream.output.extend_from_slice(&[b'x'; 100_000]);
                    stream.finished = true;
                }
            }
            _ => {
                stream.count += bytes.len() as u64;
                stream.sum = checksum(stream.sum, bytes);
            }
        }
        self.mux.consumed(id, bytes.len());
        for line in lines {
            self.command(line.trim_end());
        }
    }

    fn work(&mut self) {
        loop {
            let mut worked = false;
            let mut gone = Vec::new();
            for (id, stream) in &mut self.streams {
                if stream.port == AWAIT_RESETS && stream.input.ends_with(b"\n") {
                    let text = String::from_utf8(stream.input.clone()).unwrap();
                    if self.resets >= text.trim().parse().unwrap() {
                        stream.input.clear();
                        stream.output.extend_from_slice(b"ok");
                        stream.finished = true;
                    }
                }
                if stream.port == AWAIT_CALL && stream.input.ends_with(b"\n") {
                    let text = String::from_utf8(stream.input.clone()).unwrap();
                    if let Some(call) = self.calls.get(text.trim().parse::<usize>().unwrap() - 1) {
                        stream.input.clear();
                        stream.output.extend_from_slice(call.as_bytes());
                        stream.finished = true;
                    }
                }
                while stream.left > 0 {
                    let start = (stream.position % PERIOD) as usize;
                    let end = self.pattern.len().min(start + stream.left as usize);
                    let sent = self.mux.send(*id, &self.pattern[start..end]) as u64;
                    stream.position += sent;
                    stream.left -= sent;
                    stream.finished = stream.left == 0;
                    worked |= sent > 0;
                    if sent == 0 {
                        break;
                    }
                }
                let sent = self.mux.send(*id, &stream.output);
                stream.output.drain(..sent);
                worked |= sent > 0;
                if stream.port == ECHO {
                    self.mux.consumed(*id, sent);
                }
                if stream.finished && stream.output.is_empty() && stream.port != STALL {
                    self.mux.finish(*id);
                    gone.push(*id);
                }
            }
            for id in gone {
                self.streams.remove(&id);
            }
            self.flush();
            if !worked {
                return;
            }
        }
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match &words[..] {
            ["shutdown", id, grace_ms] => {
                let id = id.parse().unwrap();
                if self.mode.contains("refuse-shutdown") {
                    self.mux.reset(id);
                } else if !self.mode.contains("deaf") {
                    eprintln!("fake: shutdown with grace {grace_ms}");
                    let mut reply = Vec::new();
                    frame::encode(&mut reply, kind::REPLY, b"{}");
                    self.mux.send(id, &reply);
                    self.flush();
                    self.end("guest-shutdown");
                }
            }
            ["power-off"] => self.end("guest-shutdown"),
            ["reset"] => self.end("guest-reset"),
            ["panicked"] => {
                if let Some(qmp) = self.qmp {
                    send_all(qmp, b"{\"event\": \"GUEST_PANICKED\", \"data\": {}}\n");
                }
                exit(0);
            }
            ["exit", code] => exit(code.parse().unwrap()),
            ["last-words", count] => {
                let count: usize = count.parse().unwrap();
                let (&id, _) = self.streams.iter().find(|(_, s)| s.port == ECHO).unwrap();
                let bytes: Vec<u8> = (0..count as u64).map(pattern).collect();
                assert_eq!(self.mux.send(id, &bytes), count);
                self.flush();
                if let Some(console) = self.console {
                    send_all(console, b"the end\n");
                }
                self.end("guest-shutdown");
            }
            ["console", count] => {
                for number in 0..count.parse::<u64>().unwrap() {
                    send_all(self.console.unwrap(), format!("{number:07}\n").as_bytes());
                }
            }
            ["garbage"] => send_all(self.agent, b"SSH-2.0-OpenSSH_9 and more than a header"),
            ["opens", count] => {
                let mut frames = Vec::new();
                for id in 0..count.parse::<u32>().unwrap() {
                    frames.extend_from_slice(&[2, 0, 0, 0]);
                    frames.extend_from_slice(&(2 * id + 1000).to_le_bytes());
                    frames.extend_from_slice(&[4, 0, 0, 0]);
                    frames.extend_from_slice(&77u32.to_le_bytes());
                }
                send_all(self.agent, &frames);
            }
            ["endless"] => {
                let line = vec![b'x'; 100_000];
                self.mux.send(self.events, &line);
            }
            ["event", rest @ ..] => {
                let line = format!("{}\n", rest.join(" "));
                self.mux.send(self.events, line.as_bytes());
            }
            ["reopen-events"] => self.events = self.mux.open(port::EVENTS).unwrap(),
            ["qmp", rest @ ..] => {
                send_all(
                    self.qmp.unwrap(),
                    format!("{}\n", rest.join(" ")).as_bytes(),
                );
            }
            ["endless-qmp"] => {
                let endless = vec![b'x'; 200_000];
                let mut sent = 0;
                // The monitor closes its end before it has read all.
                while let Ok(count @ 1..) =
                    send(self.qmp.unwrap(), &endless[sent..], MsgFlags::MSG_NOSIGNAL)
                {
                    sent += count;
                }
            }
            _ => panic!("{line:?}"),
        }
    }

    fn end(&self, reason: &str) -> ! {
        shutdown_event(self.qmp, true, reason);
        exit(0);
    }
}
