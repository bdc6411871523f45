//! A host mux behind an `agent.sock`, as small as a test needs.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;

use banger_wire::mux::{Event, Mux, Side, StreamId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

struct Client {
    socket: UnixStream,
    stream: Option<StreamId>,
    request: Vec<u8>,
    output: Vec<u8>,
    host_finished: bool,
    guest_finished: bool,
}

/// Moves bytes between the agent's channel and the clients of `agent.sock`.
pub(crate) struct Monitor {
    agent: UnixStream,
    listener: UnixListener,
    mux: Mux,
    clients: Vec<Client>,
    events: Sender<Vec<u8>>,
}

impl Monitor {
    pub(crate) fn new(
        agent: UnixStream,
        listener: UnixListener,
        events: Sender<Vec<u8>>,
    ) -> Monitor {
        agent.set_nonblocking(true).unwrap();
        listener.set_nonblocking(true).unwrap();
        Monitor {
            agent,
            listener,
            mux: Mux::new(Side::Host),
            clients: Vec::new(),
            events,
        }
    }

    /// Runs until the agent's channel ends.
    pub(crate) fn run(mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.wait();
            while let Ok((socket, _)) = self.listener.accept() {
                socket.set_nonblocking(true).unwrap();
                self.clients.push(Client {
                    socket,
                    stream: None,
                    request: Vec::new(),
                    output: Vec::new(),
                    host_finished: false,
                    guest_finished: false,
                });
            }
            match (&self.agent).read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if self.mux.receive(&buffer[..n]).is_err() => return,
                Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => return,
                _ => {}
            }
            self.events();
            self.serve_clients(&mut buffer);
            let output = self.mux.output().to_vec();
            match (&self.agent).write(&output) {
                Ok(n) => self.mux.sent(n),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn wait(&self) {
        let read_if = |wanted: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, wanted);
            flags.set(PollFlags::POLLOUT, write);
            flags
        };
        let mut polled = vec![
            PollFd::new(
                self.agent.as_fd(),
                read_if(true, !self.mux.output().is_empty()),
            ),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for client in &self.clients {
            let wanted = match client.stream {
                None => true,
                Some(id) => !client.host_finished && self.mux.writable(id) > 0,
            };
            let flags = read_if(wanted, !client.output.is_empty());
            // A client that hung up polls ready for ever.
            if !flags.is_empty() {
                polled.push(PollFd::new(client.socket.as_fd(), flags));
            }
        }
        poll(&mut polled, PollTimeout::NONE).unwrap();
    }

    fn events(&mut self) {
        while let Some(event) = self.mux.next_event() {
            let find =
                |clients: &Vec<Client>, id| clients.iter().position(|c| c.stream == Some(id));
            match event {
                Event::Opened(id, _) => self.mux.accept(id),
                Event::Accepted(id) => {
                    if let Some(at) = find(&self.clients, id) {
                        self.clients[at].output.extend_from_slice(b"OK 7\n");
                    }
                }
                Event::Data(id, bytes) => {
                    if let Some(at) = find(&self.clients, id) {
                        self.clients[at].output.extend_from_slice(&bytes);
                    } else {
                        self.mux.consumed(id, bytes.len());
                        let _ = self.events.send(bytes);
                    }
                }
                Event::Finished(id) => {
                    if let Some(at) = find(&self.clients, id) {
                        self.clients[at].guest_finished = true;
                    }
                }
                Event::Reset(id) => {
                    if let Some(at) = find(&self.clients, id) {
                        self.clients[at].guest_finished = true;
                        self.clients[at].host_finished = true;
                    }
                }
                Event::Hello(_) => {}
            }
        }
    }

    fn serve_clients(&mut self, buffer: &mut [u8]) {
        let mux = &mut self.mux;
        self.clients.retain_mut(|client| {
            if !client.output.is_empty() {
                match client.socket.write(&client.output) {
                    Ok(n) => {
                        client.output.drain(..n);
                        if let Some(id) = client.stream {
                            mux.consumed(id, n);
                        }
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        client.stream.inspect(|id| mux.reset(*id));
                        return false;
                    }
                }
            }
            let room = client
                .stream
                .map_or(64, |id| mux.writable(id))
                .min(buffer.len());
            if room > 0 && !client.host_finished {
                match client.socket.read(&mut buffer[..room]) {
                    Ok(0) => {
                        client.host_finished = true;
                        client.stream.inspect(|id| mux.finish(*id));
                        if client.stream.is_none() {
                            return false;
                        }
                    }
                    Ok(n) => match client.stream {
                        Some(id) => {
                            assert_eq!(mux.send(id, &buffer[..n]), n);
                        }
                        None => {
                            client.request.extend_from_slice(&buffer[..n]);
                            if client.request.ends_with(b"\n") {
                                let text = String::from_utf8(client.request.clone()).unwrap();
                                let port = text.trim().strip_prefix("CONNECT ").unwrap();
                                client.stream = Some(mux.open(port.parse().unwrap()).unwrap());
                            }
                        }
                    },
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        client.stream.inspect(|id| mux.reset(*id));
                        return false;
                    }
                }
            }
            !(client.guest_finished && client.output.is_empty())
        });
    }
}
