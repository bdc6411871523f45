//! Bytes both ways between a stream of the host and a socket in the guest, half-closed as they come.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::channel::{Gone, Stream};

/// As much of the socket is read at once.
const CHUNK: usize = 32 * 1024;

/// Moves bytes until both directions have ended, or one side is gone.
pub(crate) async fn relay(stream: Stream, socket: impl AsyncRead + AsyncWrite) {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let to_socket = async {
        while let Some(bytes) = stream.receive().await? {
            if writer.write_all(&bytes).await.is_err() {
                // It reads no more; what it says is still wanted.
                break;
            }
        }
        let _ = writer.shutdown().await;
        Ok::<_, Gone>(())
    };
    let from_socket = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            stream.send(&buffer[..length]).await?;
        }
        stream.finish();
        Ok::<_, Gone>(())
    };
    let both = async { tokio::try_join!(to_socket, from_socket) };
    if both.await.is_ok() {
        stream.close().await;
    }
}
