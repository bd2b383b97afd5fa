//! Logins and renewals per second of one core of a login server, on the whole path: TCP, TLS, the
//! greeting, OPAQUE, the database (SQLite in a file), the certificate.
//!
//! `cargo bench -p cooee-node --bench login [-- --seconds N]`. The clients have a thread of their
//! own, whose processor time is taken off that of the process; what is left is the server's, with
//! its database. The password hash (Argon2id) is the client's work and is made cheap here.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cooee_node::login_server::{
    ClientConfig, LimitConfig, LoginServer, LoginServerOptions, NodeKey, Password, Stretching,
    UserName,
    client::{Device, LoginClient},
};
use cooee_proto::identity::NetworkKey;
use rustix::time::{ClockId, clock_gettime};
use tokio::{net::TcpStream, runtime::Builder};

const CHEAP: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };
/// Clients at once: enough that neither side waits for the other.
const CLIENTS: usize = 16;

/// What the clients do over and over, each time on a connection of its own.
#[derive(Clone, Copy, Debug)]
enum Act {
    Login,
    Renewal,
}

struct Clients {
    config: ClientConfig,
    address: SocketAddr,
    password: Password,
}

impl Clients {
    fn user(number: usize) -> (UserName, Device) {
        let letter = char::from(b"aefghjkptxyzbcdr"[number]);
        let name = format!("user.{letter}{letter}").parse().expect("legal");
        let key = NodeKey::from_seed([number as u8 + 2; 32]);
        (name, Device { key, name: "bench".into() })
    }

    async fn connect(&self) -> LoginClient<TcpStream> {
        let stream = TcpStream::connect(self.address).await.expect("the server listens");
        LoginClient::connect(stream, self.config, 0).await.expect("it is ours")
    }

    async fn register(&self) {
        for number in 0..CLIENTS {
            let (user, device) = Self::user(number);
            let mut client = self.connect().await;
            let made = client.register(&user, &self.password, "", "", &device).await;
            made.expect("a new user");
        }
    }

    /// All clients at once until `until`; how often they did it.
    async fn run(&self, act: Act, until: Instant) -> u64 {
        let done = Cell::new(0);
        let one = async |number| {
            let (user, device) = Self::user(number);
            while Instant::now() < until {
                let mut client = self.connect().await;
                match act {
                    Act::Login => {
                        let login = client.login(&user, &self.password, &device, 0).await;
                        login.expect("logged in");
                    }
                    Act::Renewal => {
                        client.renew(&device, 0, &[]).await.expect("renewed");
                    }
                }
                done.set(done.get() + 1);
            }
        };
        futures::future::join_all((0..CLIENTS).map(one)).await;
        done.get()
    }
}

fn processor_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--seconds").skip(1);
    let seconds = arguments.next().map_or(5.0, |text| text.parse().expect("seconds"));
    let directory = tempfile::tempdir().expect("a folder");
    let database = format!("sqlite:{}/database.sqlite", directory.path().display());
    let key = NetworkKey::from_seed([1; 32]);
    let config = ClientConfig { root: key.root(), stretching: CHEAP };
    let mut options =
        LoginServerOptions::new(vec!["127.0.0.1:0".parse().expect("legal")], database);
    options.address_limit = LimitConfig { burst: u32::MAX >> 8, ..LimitConfig::ADDRESS };
    options.name_limit = options.address_limit;
    let shell = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("starts");
    let server = shell.block_on(LoginServer::start(key, &options)).expect("starts");
    let password = Password::new("correct horse").expect("legal");
    let clients = Clients { config, address: server.addresses()[0], password };
    let runtime = Builder::new_current_thread().enable_all().build().expect("starts");
    runtime.block_on(clients.register());
    for (act, name) in [(Act::Login, "logins"), (Act::Renewal, "renewals")] {
        let clocks = [ClockId::ProcessCPUTime, ClockId::ThreadCPUTime];
        let before = clocks.map(processor_time);
        let start = Instant::now();
        let until = start + Duration::from_secs_f64(seconds);
        let done = runtime.block_on(clients.run(act, until)) as f64;
        let [process, client] = [0, 1].map(|at| processor_time(clocks[at]) - before[at]);
        let server_s = process.saturating_sub(client).as_secs_f64();
        println!(
            "{name}: {:.0} {name}/s per core of the server ({:.2} ms of processor time each; \
             {done:.0} in {:.1} s with {CLIENTS} clients on one thread, which used {:.2} ms each)",
            done / server_s,
            server_s / done * 1e3,
            start.elapsed().as_secs_f64(),
            client.as_secs_f64() / done * 1e3,
        );
    }
}
