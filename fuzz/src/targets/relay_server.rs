//! Any sequence of datagrams from two clients and a peer: no panic, no allocation without credentials.

use std::{net::SocketAddr, time::Instant};

use cooee_proto::{
    clock::{Now, UnixTime},
    relay::{
        AllocationId, ClientId, FromClient, RelayConfig, RelayOutput, RelaySecret, RelayServer,
    },
};

pub(crate) fn run(bytes: &[u8]) {
    let now = Now { instant: Instant::now(), unix: UnixTime::from_seconds(1_800_000_000) };
    let config = RelayConfig { relayed_v4: Some([8, 8, 8, 8].into()), ..RelayConfig::default() };
    let mut relay = RelayServer::new(config, RelaySecret::new([1; 32]), [2; 32]);
    let mut rest = bytes;
    while let Some((&[who, length], tail)) = rest.split_first_chunk::<2>() {
        let (datagram, tail) = tail.split_at(usize::from(length).min(tail.len()));
        rest = tail;
        let remote = SocketAddr::from(([9, 9, 9, 9], 1000 + u16::from(who & 1)));
        let client = if who & 2 == 0 {
            ClientId::Udp { remote, socket: 0 }
        } else {
            ClientId::Stream { number: 1, remote }
        };
        if relay.forward_from_client(now.instant, &client, datagram) == FromClient::Message {
            relay.handle_message(now, client, None, datagram);
        }
        assert_eq!(relay.forward_from_peer(now.instant, AllocationId(0), remote, 10), None);
        while let Some(output) = relay.poll_output() {
            assert!(matches!(output, RelayOutput::Transmit { .. }), "{output:?}");
        }
    }
    assert_eq!(relay.counts().allocations_made, 0);
}
