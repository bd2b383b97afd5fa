//! One connection to the login server: bytes to requests, questions to the database, answers back.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cooee_proto::{
    clock::Now,
    login::{Limits, Refusal, ServerConfig, ServerConnection, Step},
    wire::{
        encode_frame,
        v1::{LoginRequest, LoginResponse},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Metrics, random_seed, tls::channel_binding, unix_now};
use crate::{
    storage::Storage,
    transport::{TransportError, read_frame},
};

/// Patience with a handshake (chosen: three lost packets on a slow line).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Patience with a silent node (chosen: a person types a password meanwhile).
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Patience with a node that does not read its answer (chosen).
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most requests on a connection (chosen: far above any use).
const REQUESTS_MAX: u32 = 10_000;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) config: Arc<ServerConfig>,
    pub(super) storage: Storage,
    pub(super) limits: Mutex<Limits>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) acceptor: TlsAcceptor,
}

/// Serves a connection to its end. `stop` ends it between two requests, never within one.
pub(super) async fn serve(
    shared: &Shared,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: IpAddr,
    stop: &CancellationToken,
) -> Result<(), TransportError> {
    let accepted = timeout(HANDSHAKE_TIMEOUT, shared.acceptor.accept(stream)).await;
    let Ok(Ok(mut stream)) = accepted else {
        shared.metrics.failed_handshakes.inc();
        return Ok(());
    };
    let binding = channel_binding(stream.get_ref().1)
        .map_err(|error| TransportError::Protocol(error.to_string()))?;
    let mut machine = ServerConnection::new(shared.config.clone(), binding, address, random_seed());
    for _ in 0..REQUESTS_MAX {
        let request = tokio::select! {
            request = timeout(IDLE_TIMEOUT, read_frame::<LoginRequest>(&mut stream)) => request,
            () = stop.cancelled() => break,
        };
        let request = match request {
            Ok(Ok(Some(request))) => request,
            Ok(Err(error @ TransportError::Frame(_))) => {
                shared.metrics.request(None);
                let refusal = Refusal::BadRequest.response();
                let _ = timeout(WRITE_TIMEOUT, write(&mut stream, &refusal)).await;
                return Err(error);
            }
            Ok(Err(error)) => return Err(error),
            // The end of the stream, or silence.
            Ok(Ok(None)) | Err(_) => break,
        };
        shared.metrics.request(request.kind.as_ref());
        let response = answer(shared, &mut machine, request).await;
        shared.metrics.response(response.kind.as_ref());
        match timeout(WRITE_TIMEOUT, write(&mut stream, &response)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
    let _ = timeout(WRITE_TIMEOUT, stream.shutdown()).await;
    Ok(())
}

async fn answer(
    shared: &Shared,
    machine: &mut ServerConnection,
    request: LoginRequest,
) -> LoginResponse {
    let step = {
        let mut limits = shared.limits.lock().expect("no holder of this lock panics");
        machine.handle_request(now(), request, &mut limits)
    };
    match step {
        Step::Respond(response) => response,
        Step::Store(question) => {
            let answer = shared.storage.perform(question).await;
            if let Err(fault) = answer {
                shared.metrics.storage_fault(fault);
            }
            machine.handle_stored(now(), answer)
        }
    }
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    response: &LoginResponse,
) -> Result<(), TransportError> {
    stream.write_all(&encode_frame(response)).await?;
    stream.flush().await?;
    Ok(())
}

fn now() -> Now {
    Now { instant: Instant::now(), unix: unix_now() }
}
