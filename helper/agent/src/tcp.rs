//! Streams of the host to TCP ports of the guest's loopback.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::channel::Stream;
use crate::{loopback, splice, sys};

/// A listener on loopback whose backlog is full answers late.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, accepts the stream, and moves bytes until both sides have finished. A port where nobody
/// listens refuses: the stream is reset.
pub(crate) async fn serve(stream: Stream, port: u16) {
    loopback::ensure();
    let Some(socket) = connect(port).await else {
        return;
    };
    let Ok(socket) = sys::watch(socket, Interest::READABLE | Interest::WRITABLE) else {
        return;
    };
    stream.accept();
    let down = async {
        splice::from_socket(&stream, &socket).await?;
        stream.finish();
        Ok(())
    };
    // The first side that breaks breaks both: dropped, the stream is reset and the socket closed.
    let _: Result<_, splice::Broken> =
        tokio::try_join!(splice::to_socket(&stream, &socket, Vec::new()), down);
}

async fn connect(port: u16) -> Option<OwnedFd> {
    let addresses: [SocketAddr; 2] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ];
    for address in addresses {
        if let Ok(Ok(socket)) = timeout(PATIENCE, TcpStream::connect(address)).await {
            let _ = socket.set_nodelay(true);
            return socket.into_std().ok().map(OwnedFd::from);
        }
    }
    None
}
