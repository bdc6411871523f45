//! Tells the host why the boot failed, when the port works that far.

use std::time::Duration;

use banger_wire::agent::Event;
use banger_wire::port;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::virtio_port;
use crate::channel::Channel;
use crate::console;
use crate::port::Port;
use crate::runtime;
use crate::serve::line;

/// How long the host may take to accept the message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends `message` and waits until the host has accepted the stream it is on.
pub(super) fn report(message: String) {
    if let Err(error) = send(message) {
        console::say(&format!("could not tell the host: {error}"));
    }
}

fn send(message: String) -> Result<(), String> {
    let file = virtio_port::open().map_err(|e| e.to_string())?;
    let runtime = runtime().map_err(|e| e.to_string())?;
    let reporting = async {
        let port = Port::serial(file.into()).map_err(|e| e.to_string())?;
        let channel = Channel::new();
        let stream = channel.open(port::EVENTS).map_err(|e| e.to_string())?;
        let sending = async {
            let sent = stream.send(&line(&Event::Failed { message })).await;
            stream.accepted().await;
            sent
        };
        tokio::select! {
            sent = timeout(PATIENCE, sending) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("the host refused the message".to_owned()),
                Err(_) => Err("the host did not accept the message in time".to_owned()),
            },
            error = channel.run(&port, |_, _| {}) => Err(error.to_string()),
        }
    };
    LocalSet::new().block_on(&runtime, reporting)
}
