//! The caller's end of one call: frames out, in order, whichever task sends them.

use banger_wire::agent::{CallError, kind};
use banger_wire::frame;
use serde_json::json;
use tokio::sync::Mutex;

use crate::channel::{Gone, Stream};

/// One call's stream.
#[derive(Debug)]
pub(crate) struct Caller {
    stream: Stream,
    /// A frame is sent in pieces when credit is short; frames must not mix.
    sending: Mutex<()>,
}

impl Caller {
    pub(crate) fn new(stream: Stream) -> Caller {
        Caller {
            stream,
            sending: Mutex::new(()),
        }
    }

    /// The next bytes of the caller; `None` when it will send no more.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn receive(&self) -> Result<Option<Vec<u8>>, Gone> {
        self.stream.receive().await
    }

    /// The stream itself, for what is no frame.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn send(&self, kind: u8, payload: &[u8]) -> Result<(), Gone> {
        let mut bytes = Vec::with_capacity(payload.len() + 8);
        frame::encode(&mut bytes, kind, payload);
        let _turn = self.sending.lock().await;
        self.stream.send(&bytes).await
    }

    /// Sends one frame with a JSON payload.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn send_json(
        &self,
        kind: u8,
        value: &impl serde::Serialize,
    ) -> Result<(), Gone> {
        let payload = serde_json::to_vec(value).unwrap_or_else(|_| json!({}).to_string().into());
        self.send(kind, &payload).await
    }

    /// Sends the last frame of a call that failed.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn fail(&self, error: &CallError) -> Result<(), Gone> {
        self.send_json(kind::ERROR, error).await
    }

    /// Ends the call and waits until the caller has hung up.
    pub(crate) async fn close(self) {
        self.stream.close().await;
    }
}
