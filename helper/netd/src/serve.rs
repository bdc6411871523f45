//! Connections, side by side; requests, one after the other.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use banger_proto::{Code, Refusal, Request, TAP_PREFIX};
use futures_util::StreamExt;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Notify};
use tokio::task::spawn_local;

use crate::connection::{Asked, Connection, Terms};
use crate::network::Network;
use crate::options::Options;
use crate::peer::Peer;
use crate::receiver::Receivers;
use crate::{audit, links, operations};

const BREATH: Duration = Duration::from_millis(100);

/// What connections share. All run in one thread.
pub(crate) struct Server {
    pub(crate) options: Options,
    /// Whoever has it performs a request; the others wait in the order in which they came. Nobody has it over what may
    /// take long.
    pub(crate) network: Mutex<Network>,
    /// The route of names is changed by one at a time: the host's resolver may take long. Taken before the network.
    pub(crate) route: Mutex<()>,
    connections: RefCell<HashMap<u32, usize>>,
    receivers: Rc<Receivers>,
}

/// One of a user's connections; gives its place back when dropped.
struct Place {
    server: Rc<Server>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = self.server.connections.borrow_mut().get_mut(&self.uid) {
            *count -= 1;
        }
    }
}

impl Server {
    pub(crate) fn new(options: Options, network: Network) -> Rc<Server> {
        Rc::new(Server {
            options,
            network: Mutex::new(network),
            route: Mutex::new(()),
            connections: RefCell::default(),
            receivers: Rc::new(Receivers::new()),
        })
    }

    fn place(self: &Rc<Self>, peer: &Peer) -> Result<Place, Refusal> {
        if !peer.is_allowed(&self.options) {
            let message = format!("uid {} may not use banger-netd", peer.uid);
            return Err(Refusal::new(Code::Denied, message)
                .hint("sudo usermod --append --groups banger $USER   (then log in again)"));
        }
        let mut connections = self.connections.borrow_mut();
        let count = connections.entry(peer.uid).or_default();
        let limit = self.options.limits.connections;
        if *count >= limit && !peer.is_root() {
            let message = format!("you have {limit} connections, which is the limit for one user");
            return Err(Refusal::new(Code::Exhausted, message).hint("try again"));
        }
        *count += 1;
        Ok(Place {
            server: self.clone(),
            uid: peer.uid,
        })
    }
}

/// Accepts for ever.
pub(crate) async fn accept(server: Rc<Server>, listener: UnixListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                spawn_local(converse(server.clone(), stream, false));
            }
            Err(error) => {
                audit::note(&format!("accept: {error}"));
                // Out of descriptors: the kernel does not tell when there are some again.
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn converse(server: Rc<Server>, stream: UnixStream, patient: bool) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => return audit::note(&format!("a caller without credentials: {error}")),
    };
    let terms = Terms {
        uid: peer.uid,
        limits: server.options.limits.clone(),
        receivers: Rc::clone(&server.receivers),
        takes: !server.options.offered().is_empty(),
        patient,
    };
    let mut connection = Connection::new(stream, terms);
    let place = server.place(&peer);
    let refused = place.as_ref().err();
    if let Some(refusal) = refused {
        audit::connection(&peer, refusal);
    }
    let greeted = connection.greet(refused.map_or(Ok(()), Err)).await;
    let served = match (greeted, &place) {
        (Ok(()), Ok(_)) => requests(&server, &peer, &mut connection).await,
        (Ok(()), Err(_)) => Ok(()),
        (Err(refusal), _) => Err(refusal),
    };
    if let Err(refusal) = served {
        audit::connection(&peer, &refusal);
        // Whoever sent nonsense may not read either.
        let _ = connection.answer(&Err(refusal), None).await;
    }
    connection.end().await;
}

async fn requests(
    server: &Server,
    peer: &Peer,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    while let Some(asked) = connection.request().await? {
        let Asked {
            request,
            descriptors,
            receiver,
        } = asked;
        let start = Instant::now();
        let outcome = operations::perform(server, peer, &request, descriptors).await;
        drop(receiver);
        let changed = outcome.as_ref().map(|(response, _)| response.changed);
        audit::request(peer, &request, changed, start.elapsed());
        let (answer, descriptor) = match outcome {
            Ok((response, descriptor)) => (Ok(response), descriptor),
            Err(refusal) => (Err(refusal), None),
        };
        let answered = connection.answer(&answer, descriptor).await;
        if matches!(request, Request::Nat { .. } | Request::Group { .. }) {
            server.network.lock().await.write_old_names();
        }
        answered?;
    }
    Ok(())
}

/// Hears of interfaces that come and go, so that names follow a VM that ended by itself.
pub(crate) async fn watch(server: Rc<Server>) -> io::Result<()> {
    let groups = [rtnetlink::MulticastGroup::Link];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    spawn_local(connection);
    // Names only, and each once: messages are large, and wait here while somebody has the network.
    let heard = Rc::new(RefCell::new(BTreeSet::new()));
    let news = Rc::new(Notify::new());
    spawn_local(follow(server, heard.clone(), news.clone()));
    while let Some((message, _)) = messages.next().await {
        if let Some(name) = tap_name(message.payload) {
            heard.borrow_mut().insert(name);
            news.notify_one();
        }
    }
    Err(io::Error::other("the kernel tells of interfaces no more"))
}

async fn follow(server: Rc<Server>, heard: Rc<RefCell<BTreeSet<String>>>, news: Rc<Notify>) {
    loop {
        news.notified().await;
        let mut network = server.network.lock().await;
        let names = std::mem::take(&mut *heard.borrow_mut());
        let mut changed = false;
        for name in names {
            match network.look_at(&name).await {
                Ok(is_news) => changed |= is_news,
                Err(refusal) => audit::note(&refusal.message),
            }
        }
        if changed {
            network.write_names_or_note();
        }
    }
}

fn tap_name(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<String> {
    let message: LinkMessage = match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => link,
        _ => return None,
    };
    let name = links::link(&message).name;
    name.starts_with(TAP_PREFIX).then_some(name)
}
