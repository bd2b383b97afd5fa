//! Datagrams of strangers at the socket of a call: STUN, TURN, DTLS, RTP, RTCP.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::network::pieces;
use cooee_media::session::{LocalCandidate, MediaSession, Output, SessionConfig};

pub(crate) fn run(input: &[u8]) {
    let mut now = Instant::now();
    let mut session = MediaSession::new(SessionConfig::new(input.len() % 2 == 0, [1; 32]), now);
    let other = MediaSession::new(SessionConfig::new(input.len() % 2 == 1, [2; 32]), now);
    let local = SocketAddr::from(([10, 0, 0, 1], 5000));
    let remote = SocketAddr::from(([10, 0, 0, 2], 5000));
    let _ = session.add_local_candidate(now, LocalCandidate::Host(local));
    let _ = session.set_remote_parameters(now, other.local_parameters().clone());
    for (choice, piece) in pieces(input).take(64) {
        session.handle_datagram(now, local, remote, piece);
        if choice & 1 != 0 {
            now += Duration::from_millis(u64::from(choice) * 8);
            session.handle_timeout(now);
        }
        while !matches!(session.poll_output(), Output::Timeout(..)) {}
    }
}
