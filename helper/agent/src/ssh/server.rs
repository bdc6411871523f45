//! The process of one connection.

use std::os::unix::net::UnixStream as Socket;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve};
use russh::server::{Config, run_stream};
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::connection::Connection;
use super::flow::{Flow, Throttled, WINDOW};
use super::handler::Handler;
use super::identity::Identity;
use super::inputs::Inputs;
use super::{Briefing, own_socket, read_briefing};
use crate::runtime;

/// Between the connection and the end of the login, as sshd's LoginGraceTime.
const LOGIN_GRACE: Duration = Duration::from_secs(60);

/// No finite fields: in an emulated guest they take half a second (curve25519: a few milliseconds).
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];
const CIPHERS: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
];
const MACS: &[mac::Name] = &[
    mac::HMAC_SHA256_ETM,
    mac::HMAC_SHA512_ETM,
    mac::HMAC_SHA256,
    mac::HMAC_SHA512,
];

/// The host key is of the first kind; the others are for clients.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::SkEd25519,
    Algorithm::SkEcdsaSha2NistP256,
];

/// Serves the connection on standard input, and ends with it.
///
/// # Errors
/// Why it could not be served.
pub(crate) fn main() -> Result<(), String> {
    let socket = own_socket().map_err(|error| format!("standard input: {error}"))?;
    let briefing = read_briefing(&socket).map_err(|error| format!("the briefing: {error}"))?;
    let runtime = runtime().map_err(|error| format!("runtime: {error}"))?;
    LocalSet::new().block_on(&runtime, serve(socket, briefing))
}

async fn serve(socket: Socket, briefing: Briefing) -> Result<(), String> {
    let socket = socket
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(socket))
        .map_err(|error| format!("watching the connection: {error}"))?;
    let identity = Identity::parse(&briefing.ssh)?;
    let config = Arc::new(config(&identity));
    let flow = Arc::<Flow>::default();
    let inputs = Inputs::default();
    let (events, received) = mpsc::unbounded_channel();
    let (authenticated, login) = oneshot::channel();
    let handler = Handler::new(
        identity,
        Arc::clone(&flow),
        inputs.clone(),
        events,
        authenticated,
    );
    let serving = async {
        let stream = Throttled::new(socket, flow);
        // Why a client went away is its own business.
        let Ok(running) = run_stream(config, stream, handler).await else {
            return;
        };
        let connection = Connection::new(running.handle(), inputs, briefing.process);
        tokio::select! {
            _ = running => {}
            () = connection.run(received) => {}
        }
    };
    let grace = async {
        if tokio::time::timeout(LOGIN_GRACE, login).await.is_ok() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = serving => {}
        () = grace => {}
    }
    Ok(())
}

fn config(identity: &Identity) -> Config {
    Config {
        server_id: SshId::Standard(concat!("SSH-2.0-banger_", env!("CARGO_PKG_VERSION")).into()),
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        // Which keys are wrong is no secret: they are public.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![identity.host_key.clone()],
        window_size: WINDOW,
        maximum_packet_size: 32 * 1024,
        channel_buffer_size: 16,
        max_auth_attempts: 20,
        // The connection is a socket on this machine: its end is seen.
        inactivity_timeout: None,
        keepalive_interval: None,
        nodelay: true,
        preferred: Preferred {
            kex: KEX.into(),
            key: KEYS.into(),
            cipher: CIPHERS.into(),
            mac: MACS.into(),
            compression: [compression::NONE].as_slice().into(),
            ..Preferred::DEFAULT
        },
        ..Config::default()
    }
}
