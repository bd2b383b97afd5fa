//! The tests in their order, each one an [`Exchange`].

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use stun_types::message::Message;

use super::{
    Filtering, Mapping, Reachability,
    exchange::{Exchange, State},
};
use crate::{
    clock::Now,
    datagram::{Datagram, classify},
    relay::BindingRequestOptions,
};

/// Which of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeSocket {
    /// Asks both super nodes.
    Main,
    /// Asks the first only.
    Second,
}

/// What the prober needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProberConfig {
    /// UDP addresses of two super nodes; the second of another address than the first.
    pub servers: [SocketAddr; 2],
    /// Address and port of the main socket, with the address that the system would send from.
    pub local: SocketAddr,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutput {
    /// Send these bytes.
    Transmit {
        /// From where.
        socket: ProbeSocket,
        /// Whereto.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// All is known that can be known; nothing more comes.
    Finished(Reachability),
}

/// The tests by name; each is made at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    First,
    Other,
    FirstAlternate,
    SecondSocket,
    ChangeBoth,
    ChangePort,
    Hairpin,
}

/// The machine. Holds seven exchanges at most.
#[derive(Debug)]
pub struct Prober {
    config: ProberConfig,
    random: ChaCha12Rng,
    tests: Vec<(Test, Exchange)>,
    outputs: VecDeque<ProbeOutput>,
    finished: bool,
}

impl Prober {
    /// Starts the first tests at `now`.
    pub fn new(now: Now, config: ProberConfig, seed: [u8; 32]) -> Self {
        let mut prober = Self {
            config,
            random: ChaCha12Rng::from_seed(seed),
            tests: Vec::new(),
            outputs: VecDeque::new(),
            finished: false,
        };
        let ask_port = BindingRequestOptions { alternate_port: true, ..Default::default() };
        let [first, other] = config.servers;
        let plain = BindingRequestOptions::default();
        prober.start(now.instant, Test::First, ProbeSocket::Main, first, ask_port);
        prober.start(now.instant, Test::Other, ProbeSocket::Main, other, plain);
        prober.start(now.instant, Test::SecondSocket, ProbeSocket::Second, first, plain);
        prober.handle_timeout(now);
        prober
    }

    /// A datagram that came to one of the sockets.
    pub fn handle_datagram(
        &mut self,
        now: Now,
        socket: ProbeSocket,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        if !matches!(classify(bytes), Datagram::Stun(_)) {
            return;
        }
        let Ok(message) = Message::from_bytes(bytes) else { return };
        for (test, exchange) in &mut self.tests {
            if *test == Test::Hairpin
                && socket == ProbeSocket::Main
                && exchange.is_own_request(&message)
            {
                exchange.arrived(from);
            } else if exchange.socket == socket {
                exchange.handle(from, &message);
            }
        }
        self.advance(now);
    }

    /// Sends what is due and gives up what was silent.
    pub fn handle_timeout(&mut self, now: Now) {
        for (_, exchange) in &mut self.tests {
            if let Some(bytes) = exchange.poll_transmit(now.instant) {
                let (socket, to) = (exchange.socket, exchange.to);
                self.outputs.push_back(ProbeOutput::Transmit { socket, to, bytes });
            }
        }
        self.advance(now);
    }

    /// When to call [`Self::handle_timeout`]; `None` when finished.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tests.iter().filter_map(|(_, exchange)| exchange.timeout()).min()
    }

    /// The next thing to do; drain after every call.
    pub fn poll_output(&mut self) -> Option<ProbeOutput> {
        self.outputs.pop_front()
    }

    fn start(
        &mut self,
        now: Instant,
        test: Test,
        socket: ProbeSocket,
        to: SocketAddr,
        options: BindingRequestOptions,
    ) {
        let transaction = self.random.random();
        self.tests.push((test, Exchange::new(now, socket, to, options, transaction)));
    }

    /// Starts what follows from the answers so far, or finishes.
    fn advance(&mut self, now: Now) {
        if self.finished {
            return;
        }
        let before = self.tests.len();
        self.start_mapping_test(now.instant);
        self.start_filtering_tests(now.instant);
        self.start_hairpin_test(now.instant);
        if self.tests.len() > before {
            self.handle_timeout(now);
            return;
        }
        if self.tests.iter().all(|(_, exchange)| exchange.state != State::Waiting) {
            self.finished = true;
            let result = self.result(now);
            self.outputs.push_back(ProbeOutput::Finished(result));
        }
    }

    fn start_mapping_test(&mut self, now: Instant) {
        let (Some(first), Some(other)) = (self.answer(Test::First), self.answer(Test::Other))
        else {
            return;
        };
        if let (true, Some(port), None) =
            (first.mapped != other.mapped, first.alternate_port, self.state(Test::FirstAlternate))
        {
            let to = SocketAddr::new(first.from.ip(), port);
            let plain = BindingRequestOptions::default();
            self.start(now, Test::FirstAlternate, ProbeSocket::Main, to, plain);
        }
    }

    fn start_filtering_tests(&mut self, now: Instant) {
        let Some(baseline) = self.answer(Test::SecondSocket) else { return };
        let to = baseline.from;
        let both =
            BindingRequestOptions { change_ip: true, change_port: true, ..Default::default() };
        let port = BindingRequestOptions { change_port: true, ..Default::default() };
        match (self.state(Test::ChangeBoth), self.state(Test::ChangePort)) {
            (None, None) if baseline.has_partner => {
                self.start(now, Test::ChangeBoth, ProbeSocket::Second, to, both);
            }
            (None | Some(State::Silent | State::Refused), None) => {
                self.start(now, Test::ChangePort, ProbeSocket::Second, to, port);
            }
            _ => {}
        }
    }

    /// Last: it opens the second socket's filter towards our own outside address.
    fn start_hairpin_test(&mut self, now: Instant) {
        let filtering_known = match self.state(Test::ChangeBoth) {
            Some(State::Answered(_)) => true,
            _ => self.state(Test::ChangePort).is_some_and(|state| state != State::Waiting),
        };
        let Some(first) = self.answer(Test::First).filter(|_| filtering_known) else { return };
        if self.translated() == Some(true) && self.state(Test::Hairpin).is_none() {
            let plain = BindingRequestOptions::default();
            self.start(now, Test::Hairpin, ProbeSocket::Second, first.mapped, plain);
        }
    }

    fn exchange(&self, test: Test) -> Option<&Exchange> {
        self.tests.iter().find(|(name, _)| *name == test).map(|(_, exchange)| exchange)
    }

    fn state(&self, test: Test) -> Option<State> {
        self.exchange(test).map(|exchange| exchange.state)
    }

    fn answer(&self, test: Test) -> Option<super::exchange::Answer> {
        self.exchange(test).and_then(Exchange::answer)
    }

    fn mapped(&self) -> Option<SocketAddr> {
        let answer = self.answer(Test::First).or_else(|| self.answer(Test::Other));
        answer.map(|answer| answer.mapped)
    }

    fn translated(&self) -> Option<bool> {
        let unspecified = |ip: IpAddr| ip.is_unspecified();
        let mapped = self.mapped().filter(|_| !unspecified(self.config.local.ip()))?;
        Some(mapped != self.config.local)
    }

    fn mapping(&self) -> Option<Mapping> {
        let first = self.answer(Test::First)?.mapped;
        if first == self.answer(Test::Other)?.mapped {
            return Some(Mapping::EndpointIndependent);
        }
        match self.answer(Test::FirstAlternate) {
            Some(alternate) if alternate.mapped == first => Some(Mapping::AddressDependent),
            // Not testable counts as the worse: the caller then does not wait for a hole.
            _ => Some(Mapping::AddressAndPortDependent),
        }
    }

    fn filtering(&self) -> Option<Filtering> {
        match (self.state(Test::ChangeBoth), self.state(Test::ChangePort)) {
            (Some(State::Answered(_)), _) => Some(Filtering::EndpointIndependent),
            (Some(State::Silent), Some(State::Answered(_))) => Some(Filtering::AddressDependent),
            (_, Some(State::Silent)) => Some(Filtering::AddressAndPortDependent),
            // Without a partner an open port cannot be told from an address-dependent filter.
            _ => None,
        }
    }

    fn result(&self, now: Now) -> Reachability {
        let Some(mapped) = self.mapped() else { return Reachability::blocked(now.unix) };
        Reachability {
            udp: true,
            mapped: Some(mapped),
            translated: self.translated(),
            mapping: self.mapping(),
            filtering: self.filtering(),
            hairpin: match self.state(Test::Hairpin) {
                Some(State::Answered(_)) => Some(true),
                Some(State::Silent) => Some(false),
                _ => None,
            },
            measured: now.unix,
        }
    }
}
