//! Answers to the questions about our NAT: any datagrams from anywhere.

use std::time::Duration;

use crate::network::{now, pieces};
use cooee_proto::reachability::{ProbeOutput, ProbeSocket, Prober, ProberConfig};

pub(crate) fn run(input: &[u8]) {
    let servers = [([9, 9, 9, 1], 1000).into(), ([9, 9, 9, 2], 1000).into()];
    let config = ProberConfig { servers, local: ([10, 0, 0, 1], 5000).into() };
    let mut now = now();
    let mut prober = Prober::new(now, config, [2; 32]);
    for (choice, bytes) in pieces(input).take(64) {
        let socket = if choice & 1 == 0 { ProbeSocket::Main } else { ProbeSocket::Second };
        prober.handle_datagram(now, socket, servers[usize::from(choice >> 1 & 1)], bytes);
        if choice & 4 != 0 {
            now = now.plus(Duration::from_millis(700));
            prober.handle_timeout(now);
        }
        while let Some(output) = prober.poll_output() {
            if matches!(output, ProbeOutput::Finished(_)) {
                return;
            }
        }
    }
}
