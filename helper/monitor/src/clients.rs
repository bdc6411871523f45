//! All connections to `agent.sock` and to published ports: who has something to do, who waits for what, who is late.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use banger_wire::mux::{Event, StreamId};

use crate::agent::Agent;
use crate::client::{Client, State, Turn};
use crate::socket::Socket;

/// Connections at a time; more are closed at once.
pub(crate) const MAX_CLIENTS: usize = 512;
/// For the `CONNECT` line.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Connections to published ports at a time, so that they leave room for others.
pub(crate) const MAX_PUBLISHED: usize = 256;
/// For a guest that boots to listen.
const QUEUE_TIME: Duration = Duration::from_secs(60);
/// For the guest to take what a client left behind that is gone, and the other way round.
const LINGER_TIME: Duration = Duration::from_secs(30);

/// The clients by token.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    clients: HashMap<u64, Client>,
    by_stream: HashMap<StreamId, u64>,
    /// Have something to do.
    scheduled: VecDeque<u64>,
    /// Wait for credit or for room in the channel.
    starved: Vec<u64>,
    /// Wait for a stream.
    queued: VecDeque<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// How many of them came to published ports.
    published: usize,
}

impl Clients {
    /// Connections to `agent.sock`.
    pub(crate) fn unpublished(&self) -> usize {
        self.clients.len() - self.published
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.scheduled.is_empty()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes a connection whose socket is registered under `token`.
    pub(crate) fn add(&mut self, token: u64, socket: Socket, now: Instant) {
        let deadline = now + HANDSHAKE_TIME;
        self.deadlines.insert((deadline, token));
        self.clients.insert(token, Client::new(socket, deadline));
        self.schedule(token);
    }

    /// Takes a connection to a published port; false when there are too many.
    pub(crate) fn add_published(
        &mut self,
        token: u64,
        socket: Socket,
        port: u32,
        now: Instant,
    ) -> bool {
        if self.published >= MAX_PUBLISHED {
            return false;
        }
        self.published += 1;
        let deadline = now + QUEUE_TIME;
        self.deadlines.insert((deadline, token));
        let client = Client::published(socket, port, deadline);
        self.clients.insert(token, client);
        self.queued.push_back(token);
        true
    }

    /// Notes what epoll said.
    pub(crate) fn wake(&mut self, token: u64, readable: bool, writable: bool, hung_up: bool) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let gone = client.wake(readable, writable, hung_up);
        if client.is_lost() {
            self.remove(token);
            return;
        }
        if gone {
            self.linger(token);
        }
        self.schedule(token);
    }

    /// The guest did something with a stream that is not the monitor's own.
    pub(crate) fn event(&mut self, event: Event, agent: &mut Agent) {
        let (Event::Accepted(stream)
        | Event::Data(stream, _)
        | Event::Finished(stream)
        | Event::Reset(stream)) = event
        else {
            return;
        };
        let Some(&token) = self.by_stream.get(&stream) else {
            return;
        };
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let lawful = match event {
            Event::Accepted(_) => {
                client.accepted();
                true
            }
            Event::Data(_, bytes) => client.data(&bytes),
            Event::Finished(_) => client.finished(),
            Event::Reset(_) => {
                self.by_stream.remove(&stream);
                let rest = client.cut();
                if rest {
                    self.linger(token);
                }
                rest
            }
            Event::Hello(_) | Event::Opened(..) => true,
        };
        if lawful {
            self.schedule(token);
        } else {
            agent.mux().reset(stream);
            self.remove(token);
        }
    }

    /// Opens streams for those who wait, as far as the channel allows.
    pub(crate) fn open_queued(&mut self, agent: &mut Agent) {
        while agent.can_open()
            && let Some(token) = self.queued.pop_front()
        {
            let Some(client) = self.clients.get_mut(&token) else {
                continue;
            };
            let State::Queued(port) = client.state else {
                continue;
            };
            match agent.open(port) {
                Some(stream) => {
                    client.state = State::Opening(stream);
                    self.by_stream.insert(stream, token);
                    self.clear_deadline(token);
                    self.schedule(token);
                }
                None => self.remove(token),
            }
        }
    }

    /// Those who could not send try again when the guest gave credit or the channel has room.
    pub(crate) fn feed_starved(&mut self, agent: &mut Agent) {
        let mut still = std::mem::take(&mut self.starved);
        still.retain(|token| {
            let Some(stream) = self.clients.get(token).and_then(Client::stream) else {
                return false;
            };
            let fed = agent.mux().writable(stream) > 0;
            if fed {
                self.schedule(*token);
            }
            !fed
        });
        self.starved.append(&mut still);
    }

    /// Gives every scheduled client one turn.
    pub(crate) fn run(&mut self, mut agent: Option<&mut Agent>, scratch: &mut [u8]) {
        for _ in 0..self.scheduled.len() {
            let Some(token) = self.scheduled.pop_front() else {
                break;
            };
            let Some(client) = self.clients.get_mut(&token) else {
                continue;
            };
            client.scheduled = false;
            match turn(client, agent.as_deref_mut(), scratch) {
                Turn::Again => {
                    if let State::Queued(_) = client.state {
                        self.clear_deadline(token);
                        self.queued.push_back(token);
                    } else {
                        self.schedule(token);
                    }
                }
                Turn::Wait => {}
                Turn::Starved => {
                    if !self.starved.contains(&token) {
                        self.starved.push(token);
                    }
                }
                Turn::Over => self.remove(token),
            }
        }
    }

    /// Ends those whose time is over.
    pub(crate) fn expire(&mut self, agent: Option<&mut Agent>, now: Instant) {
        let mut agent = agent;
        while let Some(&(at, token)) = self.deadlines.first()
            && at <= now
        {
            let stream = self.clients.get(&token).and_then(Client::stream);
            if let (Some(stream), Some(agent)) = (stream, agent.as_deref_mut()) {
                agent.mux().reset(stream);
            }
            self.remove(token);
        }
    }

    /// The channel is gone: all are over, except those for whom bytes are left.
    pub(crate) fn cut_all(&mut self) {
        self.by_stream.clear();
        self.queued.clear();
        self.starved.clear();
        let tokens: Vec<u64> = self.clients.keys().copied().collect();
        for token in tokens {
            if self.clients.get_mut(&token).is_some_and(Client::cut) {
                self.linger(token);
                self.schedule(token);
            } else {
                self.remove(token);
            }
        }
    }

    fn schedule(&mut self, token: u64) {
        if let Some(client) = self.clients.get_mut(&token)
            && !std::mem::replace(&mut client.scheduled, true)
        {
            self.scheduled.push_back(token);
        }
    }

    fn linger(&mut self, token: u64) {
        self.clear_deadline(token);
        if let Some(client) = self.clients.get_mut(&token) {
            let deadline = Instant::now() + LINGER_TIME;
            client.deadline = Some(deadline);
            self.deadlines.insert((deadline, token));
        }
    }

    fn clear_deadline(&mut self, token: u64) {
        if let Some(client) = self.clients.get_mut(&token)
            && let Some(deadline) = client.deadline.take()
        {
            self.deadlines.remove(&(deadline, token));
        }
    }

    fn remove(&mut self, token: u64) {
        self.clear_deadline(token);
        if let Some(client) = self.clients.remove(&token) {
            self.published -= usize::from(client.published);
            if let State::Queued(_) = client.state {
                // A guest that never listens must not make the queue grow with each attempt.
                self.queued.retain(|queued| *queued != token);
            }
            if let Some(stream) = client.stream() {
                self.by_stream.remove(&stream);
            }
        }
    }
}

fn turn(client: &mut Client, agent: Option<&mut Agent>, scratch: &mut [u8]) -> Turn {
    match (client.state, agent) {
        (State::Handshake, Some(_)) => client.handshake(),
        (State::Queued(_), Some(_)) => Turn::Wait,
        (State::Opening(_) | State::Open(_), Some(agent)) => client.pump(agent.mux(), scratch),
        _ => match client.drain(None) {
            Ok(()) if !client.over() => Turn::Wait,
            _ => Turn::Over,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_gives_up_waiting_for_a_guest_leaves_nothing_behind() {
        let mut clients = Clients::default();
        let now = Instant::now();
        for token in 0..10 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            assert!(clients.add_published(token, Socket::Unix(ours), 1024, now));
            drop(theirs);
            clients.wake(token, true, true, true);
        }
        assert!(clients.is_empty() && clients.queued.is_empty());
        assert_eq!((clients.published, clients.next_deadline()), (0, None));
    }
}
