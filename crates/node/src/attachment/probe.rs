//! UDP probes: a STUN Binding request (RFC 8489) and whether it is answered.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use tokio::{net::UdpSocket, time::timeout};

/// Time for one answer. The machine repeats the probe.
const ANSWER_TIME: Duration = Duration::from_secs(3);
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Sends probes. The node's one UDP socket implements this too.
pub trait Prober: Send + Sync {
    /// Sends a Binding request and resolves when it is answered.
    fn probe(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<()>>;
}

/// Probes from a socket of its own each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpProber;

impl Prober for UdpProber {
    fn probe(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<()>> {
        async move {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            let mut transaction = [0; 12];
            getrandom::fill(&mut transaction)
                .map_err(|error| io::Error::other(error.to_string()))?;
            let request = [&BINDING_REQUEST[..], &[0, 0], &MAGIC_COOKIE, &transaction].concat();
            socket.send(&request).await?;
            let answered = async {
                let mut answer = [0; 1500];
                loop {
                    let length = socket.recv(&mut answer).await?;
                    if is_answer(&answer[..length], &transaction) {
                        return Ok(());
                    }
                }
            };
            timeout(ANSWER_TIME, answered).await?
        }
        .boxed()
    }
}

fn is_answer(datagram: &[u8], transaction: &[u8; 12]) -> bool {
    datagram.get(..2) == Some(&BINDING_SUCCESS)
        && datagram.get(4..8) == Some(&MAGIC_COOKIE)
        && datagram.get(8..20) == Some(transaction)
}
