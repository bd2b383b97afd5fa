//! Length-delimited messages on an asynchronous stream; see `cooee_proto::wire` for the framing.
//!
//! Reads exactly one frame and no byte beyond it: the stream may turn raw after it.

use bytes::BytesMut;
use cooee_proto::wire::{FRAME_BYTES_MAX, FrameError, encode_frame};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::TransportError;

/// Reads the next message; `None` if the stream ended cleanly before it.
///
/// Not cancel safe: a caller that gives up must drop the stream.
pub async fn read_frame<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<M>, TransportError> {
    let mut header = [0; 4];
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await?;
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { announced: length }.into());
    }
    let mut body = BytesMut::zeroed(length);
    stream.read_exact(&mut body).await?;
    let message = M::decode(body.freeze());
    Ok(Some(message.map_err(|error| FrameError::Malformed(error.to_string()))?))
}

/// Writes one message and flushes it.
pub async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> Result<(), TransportError> {
    stream.write_all(&encode_frame(message)).await?;
    stream.flush().await?;
    Ok(())
}
