//! russh's questions, answered at once: its task waits for each answer, and replies go out in order.
//! Everything that may take time goes to [`Connection`](super::connection::Connection) as an event.

use std::collections::HashMap;
use std::sync::Arc;

use nix::sys::signal::Signal;
use russh::server::{Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Error, Pty, Sig};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use super::command::accepted_variable;
use super::flow::Flow;
use super::forward::{Listener, Origin, Target};
use super::identity::{Identity, account, become_user};
use super::inputs::{Input, Inputs, Start};
use super::terminal;
use crate::account::Account;

/// Channels of one connection: sessions and forwarded connections.
const MAX_CHANNELS: usize = 200;
/// Forwarded ports and sockets of one connection.
const MAX_LISTENERS: usize = 64;
/// Variables that one session may set.
const MAX_VARIABLES: usize = 64;
/// Bytes of a variable's name and value.
const LONGEST_VARIABLE: usize = 4096;

/// Work for the connection.
pub(super) enum Event {
    /// A session was opened.
    Session(ChannelWriteHalf<Msg>, Account),
    /// The client wants a channel to something in the guest.
    Dial(Target, ChannelWriteHalf<Msg>, ChannelOpenHandle),
    /// Each connection to the listener is to become a channel, until the sender is dropped.
    Listen(Listener, Origin, watch::Receiver<()>),
}

/// What a session channel has been told.
#[derive(Debug, Default)]
struct Told {
    started: bool,
    terminal: bool,
    variables: usize,
}

/// One connection.
pub(super) struct Handler {
    identity: Identity,
    flow: Arc<Flow>,
    inputs: Inputs,
    events: UnboundedSender<Event>,
    authenticated: Option<oneshot::Sender<()>>,
    account: Option<Account>,
    sessions: HashMap<ChannelId, Told>,
    listeners: HashMap<Origin, watch::Sender<()>>,
}

impl Handler {
    pub(super) fn new(
        identity: Identity,
        flow: Arc<Flow>,
        inputs: Inputs,
        events: UnboundedSender<Event>,
        authenticated: oneshot::Sender<()>,
    ) -> Handler {
        Handler {
            identity,
            flow,
            inputs,
            events,
            authenticated: Some(authenticated),
            account: None,
            sessions: HashMap::new(),
            listeners: HashMap::new(),
        }
    }

    fn event(&self, event: Event) {
        // Without a receiver the connection has ended.
        let _ = self.events.send(event);
    }

    /// A session that has not started anything yet.
    fn waiting(&mut self, channel: ChannelId) -> Option<&mut Told> {
        self.sessions.get_mut(&channel).filter(|told| !told.started)
    }

    fn start(
        &mut self,
        channel: ChannelId,
        start: Start,
        session: &mut Session,
    ) -> Result<(), Error> {
        let Some(told) = self.waiting(channel) else {
            return session.channel_failure(channel);
        };
        told.started = true;
        self.inputs.send(channel, Input::Start(start));
        session.channel_success(channel)
    }

    async fn dial(
        &self,
        target: Target,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
    ) -> Result<(), Error> {
        if self.inputs.count() >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        } else {
            let (_, write) = channel.split();
            self.inputs.open(write.id());
            self.event(Event::Dial(target, write, reply));
        }
        Ok(())
    }

    fn listen(&mut self, listener: Listener, origin: Origin) {
        let (sender, receiver) = watch::channel(());
        self.listeners.insert(origin.clone(), sender);
        self.event(Event::Listen(listener, origin, receiver));
    }

    fn may_listen(&self, origin: &Origin) -> bool {
        self.listeners.len() < MAX_LISTENERS && !self.listeners.contains_key(origin)
    }
}

impl russh::server::Handler for Handler {
    type Error = Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Error> {
        let known = self.identity.authorizes(offer.public_key) && account(user).is_some();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Error> {
        let known = self.identity.authorizes(key.public_key);
        self.account = account(user).filter(|_| known);
        Ok(match self.account {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), Error> {
        let account = self.account.as_ref().ok_or(Error::NotAuthenticated)?;
        become_user(account).map_err(|errno| Error::IO(errno.into()))?;
        if let Some(authenticated) = self.authenticated.take() {
            // Nobody waits any more when the connection has ended.
            let _ = authenticated.send(());
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        let account = self.account.clone().ok_or(Error::NotAuthenticated)?;
        if self.inputs.count() >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let (_, write) = channel.split();
        self.sessions.retain(|id, _| self.inputs.has(*id));
        self.sessions.insert(write.id(), Told::default());
        self.inputs.open(write.id());
        self.event(Event::Session(write, account));
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        match u16::try_from(port) {
            Ok(port) => {
                let target = Target::Tcp(host.to_owned(), port);
                self.dial(target, channel, reply).await
            }
            Err(_) => {
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
                Ok(())
            }
        }
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        self.dial(Target::Unix(path.into()), channel, reply).await
    }

    async fn channel_open_confirmation(
        &mut self,
        channel: ChannelId,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Error> {
        self.inputs.open(channel);
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), Error> {
        let held = self.flow.hold(data)?;
        self.inputs.send(channel, Input::Data(held));
        Ok(())
    }

    fn adjust_window(&mut self, _: ChannelId, _: u32) -> u32 {
        self.flow.window()
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Error> {
        self.inputs.send(channel, Input::Eof);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Error> {
        self.inputs.close(channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Error> {
        let Some(told) = self.waiting(channel).filter(|told| !told.terminal) else {
            return session.channel_failure(channel);
        };
        match terminal::open(term, terminal::size(columns, rows), modes) {
            Ok(terminal) => {
                told.terminal = true;
                self.inputs.send(channel, Input::Terminal(terminal));
                session.channel_success(channel)
            }
            Err(_) => session.channel_failure(channel),
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Error> {
        let size = terminal::size(columns, rows);
        self.inputs.send(channel, Input::Resize(size));
        Ok(())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Error> {
        let short = name.len() + value.len() <= LONGEST_VARIABLE && !value.contains('\0');
        match self.waiting(channel) {
            Some(told) if told.variables < MAX_VARIABLES && short && accepted_variable(name) => {
                told.variables += 1;
                let variable = Input::Variable(name.to_owned(), value.to_owned());
                self.inputs.send(channel, variable);
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Error> {
        self.start(channel, Start::Shell, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Error> {
        self.start(channel, Start::Command(command.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Error> {
        match name {
            "sftp" => self.start(channel, Start::Sftp, session),
            _ => session.channel_failure(channel),
        }
    }

    async fn agent_request(&mut self, channel: ChannelId, _: &mut Session) -> Result<bool, Error> {
        if self.waiting(channel).is_none() || !self.may_listen(&Origin::Agent(channel)) {
            return Ok(false);
        }
        let Ok((listener, path)) = Listener::agent() else {
            return Ok(false);
        };
        let variable = Input::Variable("SSH_AUTH_SOCK".to_owned(), path);
        self.inputs.send(channel, variable);
        self.listen(listener, Origin::Agent(channel));
        Ok(true)
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        _: &mut Session,
    ) -> Result<(), Error> {
        if let Some(signal) = number(&signal) {
            self.inputs.send(channel, Input::Signal(signal));
        }
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        _: &mut Session,
    ) -> Result<bool, Error> {
        let Ok(wanted) = u16::try_from(*port) else {
            return Ok(false);
        };
        let origin = |port| Origin::Tcp(address.to_owned(), port);
        if !self.may_listen(&origin(*port)) {
            return Ok(false);
        }
        match Listener::tcp(wanted) {
            Ok((listener, bound)) => {
                *port = bound.into();
                self.listen(listener, origin(*port));
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _: &mut Session,
    ) -> Result<bool, Error> {
        let origin = Origin::Tcp(address.to_owned(), port);
        Ok(self.listeners.remove(&origin).is_some())
    }

    async fn streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Result<bool, Error> {
        let origin = Origin::Unix(path.to_owned());
        if !self.may_listen(&origin) {
            return Ok(false);
        }
        match Listener::unix(path) {
            Ok(listener) => {
                self.listen(listener, origin);
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        path: &str,
        _: &mut Session,
    ) -> Result<bool, Error> {
        let origin = Origin::Unix(path.to_owned());
        Ok(self.listeners.remove(&origin).is_some())
    }
}

/// Those that sshd passes on.
fn number(signal: &Sig) -> Option<Signal> {
    Some(match signal {
        Sig::ABRT => Signal::SIGABRT,
        Sig::ALRM => Signal::SIGALRM,
        Sig::FPE => Signal::SIGFPE,
        Sig::HUP => Signal::SIGHUP,
        Sig::ILL => Signal::SIGILL,
        Sig::INT => Signal::SIGINT,
        Sig::KILL => Signal::SIGKILL,
        Sig::PIPE => Signal::SIGPIPE,
        Sig::QUIT => Signal::SIGQUIT,
        Sig::SEGV => Signal::SIGSEGV,
        Sig::TERM => Signal::SIGTERM,
        Sig::USR1 => Signal::SIGUSR1,
        Sig::Custom(name) if name == "USR2" => Signal::SIGUSR2,
        Sig::Custom(_) => return None,
    })
}
