//! A thousand registrations from many clients at once, in the middle of which something happens.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cooee_node::login_server::{
    ClientConfig, Invitation, NodeKey, Password, Stretching,
    client::{Device, LoginClient},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Small on purpose and only here: the cost of the password hash is not what these tests are about.
const CHEAP: Stretching = Stretching { memory_kib: 64, passes: 1, lanes: 1 };
pub(crate) const REGISTRATIONS: usize = 1000;
pub(crate) const CLIENTS: usize = 16;

/// The key of the device that registers a number.
pub(crate) fn key(number: usize) -> NodeKey {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    NodeKey::from_seed(seed)
}

/// Numbers in letters whose skeletons differ.
fn user_name(number: usize) -> String {
    const LETTERS: &[u8; 10] = b"aefghjkptx";
    let digits = format!("{number:05}");
    let letters = digits.bytes().map(|digit| char::from(LETTERS[usize::from(digit - b'0')]));
    std::iter::once('u').chain(letters).collect()
}

/// Registers a number over a stream; the user's name if it was acknowledged.
pub(crate) async fn register<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    invitation: &Invitation,
    stream: S,
    number: usize,
) -> Option<String> {
    let config = ClientConfig { root: invitation.root, stretching: CHEAP };
    let mut client = LoginClient::connect(stream, config, 0).await.ok()?;
    let name = user_name(number);
    let device = Device { key: key(number), name: "test".into() };
    let password = Password::new("correct horse").unwrap();
    let user = name.parse().unwrap();
    let registered = client.register(&user, &password, "", "", &device).await;
    registered.ok().map(|_| name)
}

/// Registers from many clients at once; when half are acknowledged, `at_half` is called while the
/// others are under way. Gives those that were acknowledged, and how many were not.
pub(crate) async fn flood<F: Future<Output = Option<String>> + Send>(
    register: impl Fn(usize) -> F + Clone + Send + 'static,
    at_half: impl FnOnce(),
) -> (BTreeSet<String>, usize) {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let failed = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (acknowledged, failed) = (acknowledged.clone(), failed.clone());
            let register = register.clone();
            tokio::spawn(async move {
                for number in (client..REGISTRATIONS).step_by(CLIENTS) {
                    match register(number).await {
                        Some(user) => _ = acknowledged.lock().unwrap().insert(user),
                        None => _ = failed.fetch_add(1, Ordering::Relaxed),
                    }
                }
            })
        })
        .collect();
    while acknowledged.lock().unwrap().len() < REGISTRATIONS / 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(clients.iter().any(|client| !client.is_finished()), "too few were acknowledged");
    }
    at_half();
    for client in clients {
        client.await.unwrap();
    }
    let acknowledged = Arc::into_inner(acknowledged).unwrap().into_inner().unwrap();
    (acknowledged, failed.load(Ordering::Relaxed))
}
