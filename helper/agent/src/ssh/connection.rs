//! One connection after the login: starts what its channels ask for.

use std::cell::Cell;
use std::rc::Rc;

use banger_wire::config::Process;
use russh::server::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::spawn_local;

use super::forward;
use super::handler::Event;
use super::inputs::Inputs;
use super::session::Session;
use crate::process::Processes;

/// What all channels share.
pub(super) struct Connection {
    pub(super) handle: Handle,
    pub(super) inputs: Inputs,
    pub(super) processes: Rc<Processes>,
    /// The image's own environment.
    pub(super) defaults: Process,
    /// Forwarded connections that the client was offered, and that have not ended.
    pub(super) offered: Cell<usize>,
}

impl Connection {
    pub(super) fn new(handle: Handle, inputs: Inputs, defaults: Process) -> Rc<Connection> {
        Rc::new(Connection {
            handle,
            inputs,
            processes: Rc::default(),
            defaults,
            offered: Cell::new(0),
        })
    }

    /// Serves events until there are no more.
    pub(super) async fn run(self: Rc<Self>, mut events: UnboundedReceiver<Event>) {
        let processes = Rc::clone(&self.processes);
        spawn_local(async move { processes.reap().await });
        while let Some(event) = events.recv().await {
            match event {
                Event::Session(channel, account) => {
                    let Some(inputs) = self.inputs.receiver(channel.id()) else {
                        continue;
                    };
                    let session = Session::new(Rc::clone(&self), channel, account);
                    spawn_local(session.run(inputs));
                }
                Event::Dial(target, channel, reply) => {
                    spawn_local(forward::dial(Rc::clone(&self), target, channel, reply));
                }
                Event::Listen(listener, origin, cancelled) => {
                    let listening = forward::listen(Rc::clone(&self), listener, origin, cancelled);
                    spawn_local(listening);
                }
            }
        }
    }
}
