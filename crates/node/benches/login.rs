//! Logins per second of one login server: `cargo bench -p cooee-node --bench login`.
//!
//! The server's share of a login is OPAQUE, TLS and the database; the node's is the password hash,
//! which is made cheap here because it is not the server's cost. Client and server share the
//! thread, so a server alone does more than this says.

#![allow(missing_docs)] // criterion_group! makes an undocumented function.

use cooee_node::login_server::{
    ClientConfig, LimitConfig, LoginServer, LoginServerOptions, NodeKey, Password, Stretching,
    client::{Device, LoginClient},
};
use cooee_proto::identity::NetworkKey;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::net::TcpStream;

const CHEAP: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };

fn logins(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}/database.sqlite", directory.path().display());
    let key = NetworkKey::from_seed([1; 32]);
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut options = LoginServerOptions::new(vec![listen], database);
    options.address_limit = LimitConfig { burst: u32::MAX >> 8, ..LimitConfig::ADDRESS };
    options.name_limit = options.address_limit;
    let config = ClientConfig { root: key.root(), stretching: CHEAP };
    let server = runtime.block_on(LoginServer::start(key, &options)).unwrap();
    let address = server.addresses()[0];
    let user = "alice".parse().unwrap();
    let password = Password::new("correct horse").unwrap();
    let device = Device { key: NodeKey::from_seed([2; 32]), name: "bench".into() };
    let connect = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        LoginClient::connect(stream, config, 0).await.unwrap()
    };
    runtime.block_on(async {
        let mut client = connect().await;
        client.register(&user, &password, "", "", &device).await.unwrap();
    });
    let mut group = criterion.benchmark_group("login server");
    group.throughput(Throughput::Elements(1)).sample_size(30);
    group.bench_function("login, client and server on one core", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                connect().await.login(&user, &password, &device, 0).await.unwrap()
            })
        });
    });
    group.bench_function("renewal, client and server on one core", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async { connect().await.renew(&device, 0, &[]).await.unwrap() })
        });
    });
    group.finish();
}

criterion_group!(benches, logins);
criterion_main!(benches);
