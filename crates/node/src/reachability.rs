//! Runs the prober of `cooee_proto::reachability` on two sockets of its own.
//!
//! Its own, not the node's port: the answers tell about the NAT, which treats all ports alike, and
//! the filters of the node's port stay as they are.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use cooee_proto::{
    clock::{Now, UnixTime},
    reachability::{ProbeOutput, ProbeSocket, Prober, ProberConfig, Reachability},
};
use tokio::net::UdpSocket;

/// Largest answer read, in bytes; a longer one is no answer of a super node.
const ANSWER_BYTES_MAX: usize = 1500;

/// Finds out what stands between us and the Internet, with the UDP addresses of any two super
/// nodes of one family. Takes one round trip on an open path, up to 14 s behind strict filters.
pub async fn probe_reachability(servers: [SocketAddr; 2]) -> io::Result<Reachability> {
    let ip = source_address(servers[0]).await?;
    let main = UdpSocket::bind((ip, 0)).await?;
    let second = UdpSocket::bind((ip, 0)).await?;
    let config = ProberConfig { servers, local: main.local_addr()? };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let mut prober = Prober::new(now(), config, seed);
    let mut from_main = [0; ANSWER_BYTES_MAX];
    let mut from_second = [0; ANSWER_BYTES_MAX];
    loop {
        while let Some(output) = prober.poll_output() {
            match output {
                ProbeOutput::Finished(result) => return Ok(result),
                ProbeOutput::Transmit { socket, to, bytes } => {
                    let socket = if socket == ProbeSocket::Main { &main } else { &second };
                    // What cannot be sent is not answered: the prober finds that out by itself.
                    let _ = socket.send_to(&bytes, to).await;
                }
            }
        }
        let wake = prober.poll_timeout().unwrap_or_else(Instant::now);
        tokio::select! {
            received = main.recv_from(&mut from_main) => {
                // An error is an unreachable destination of an earlier send.
                if let Ok((length, from)) = received {
                    prober.handle_datagram(now(), ProbeSocket::Main, from, &from_main[..length]);
                }
            }
            received = second.recv_from(&mut from_second) => {
                if let Ok((length, from)) = received {
                    let bytes = &from_second[..length];
                    prober.handle_datagram(now(), ProbeSocket::Second, from, bytes);
                }
            }
            () = tokio::time::sleep_until(wake.into()) => prober.handle_timeout(now()),
        }
    }
}

/// The address that the system would send from; connecting a UDP socket sends nothing.
async fn source_address(to: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr =
        if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket.local_addr()?.ip())
}

fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix = UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    Now { instant: Instant::now(), unix }
}

#[cfg(test)]
mod tests {
    use cooee_proto::{reachability::Mapping, relay::RelayConfig};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        relay::{RelayHandle, RelayOptions},
        udp::{UdpConfig, UdpEndpoint},
    };

    fn super_node(ip: [u8; 4]) -> (UdpEndpoint, RelayHandle, SocketAddr) {
        let endpoint = UdpEndpoint::bind(&UdpConfig::at((ip, 0).into())).unwrap();
        let options = RelayOptions { config: RelayConfig::default(), bind_v4: None, bind_v6: None };
        let relay = RelayHandle::start(&endpoint, options).unwrap();
        let address = endpoint.local_addresses()[0];
        (endpoint, relay, address)
    }

    #[tokio::test]
    async fn loopback_is_public_to_two_super_nodes_that_answer_for_each_other() {
        let (_first_port, first, first_address) = super_node([127, 0, 0, 1]);
        let (_other_port, other, other_address) = super_node([127, 0, 0, 2]);
        let (sender, mut requests) = mpsc::channel(8);
        first.set_partner(Some((other_address, sender)));
        let control_connection = tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                other.answer_for_partner(request);
            }
        });
        let result = probe_reachability([first_address, other_address]).await.unwrap();
        assert_eq!(result.mapping, Some(Mapping::EndpointIndependent), "{result}");
        assert!(result.is_public(), "{result}: {:?}", result.sentences());
        control_connection.abort();
    }

    #[tokio::test]
    async fn two_dead_super_nodes_mean_blocked_udp() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let result = probe_reachability([address, address]).await.unwrap();
        assert!(!result.udp);
    }
}
