//! The control stream: requests and their answers, keep-alives, and everything else handed out.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cooee_proto::{
    control::{Greeting, KEEPALIVE_ANSWER_TIME, VERSION, addresses_from_wire},
    wire::v1::{
        Answer, ControlMessage, ControlStream, Hello, Keepalive, Refusal, Request, RequestRefused,
        StreamHeader, answer, control_message::Kind, request, request_refused, stream_header,
    },
};
use tokio::{
    io::{ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Connection, MuxStream, TransportError, connection::printable, read_frame, write_frame,
};

/// Time for the Hello of the other side.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Time for the answer to a request: the super node may ask others.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// A peer that does not read for so long is given up.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// Requests of ours without answer. Chosen.
const PENDING_MAX: usize = 256;
/// Messages waiting to be written, and waiting to be handled. Chosen: at the bound the sender
/// waits.
const QUEUE_MAX: usize = 64;

/// Requests and notices of the peer, in order. Answers and keep-alives never show up here.
pub type Inbox = mpsc::Receiver<Kind>;

/// An answer that takes so long came through a full queue. Chosen.
const SLOW: Duration = Duration::from_millis(600);
/// Such a connection is asked again after this at the earliest.
const REST: Duration = Duration::from_secs(16);

/// Our side of a control stream. Clones share it.
#[derive(Clone, Debug)]
pub struct ControlChannel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    outgoing: mpsc::Sender<Kind>,
    pending: Mutex<BTreeMap<u64, oneshot::Sender<answer::Kind>>>,
    pings: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    next_id: AtomicU64,
    tempo: Mutex<Tempo>,
}

/// How long answers take, to know how long to wait for the next one.
#[derive(Debug, Default)]
struct Tempo {
    /// The longest round trip, forgotten by a quarter with each further one.
    slowest: Duration,
    asked_at: Option<Instant>,
}

impl ControlChannel {
    /// As the side that opened the connection: opens the control stream and greets.
    pub async fn open(
        connection: &Connection,
        greeting: &Greeting,
    ) -> Result<(Self, Inbox, Greeting), TransportError> {
        let kind = Some(stream_header::Kind::Control(ControlStream { version: VERSION }));
        let exchange = async {
            let mut stream = connection.open_stream(&StreamHeader { kind }).await?;
            let hello = ControlMessage { kind: Some(Kind::Hello(greeting.to_wire())) };
            write_frame(&mut stream, &hello).await?;
            let answer = read_frame::<ControlMessage>(&mut stream).await?;
            Ok((stream, answer.and_then(|message| message.kind)))
        };
        let result = timeout(HELLO_TIME, exchange).await;
        let (stream, answer) = match result {
            Err(_) => return Err(TransportError::TimedOut("greeting")),
            Ok(Ok(exchanged)) => exchanged,
            // Why the connection broke (a refused certificate) says more than that it did.
            Ok(Err(error)) => return Err(reason(connection, error).await),
        };
        let theirs = match answer {
            Some(Kind::Hello(hello)) => checked(&hello)?,
            Some(Kind::Busy(busy)) => {
                let try_these = addresses_from_wire(&busy.try_these);
                return Err(TransportError::Busy { try_these });
            }
            Some(Kind::Rejected(rejected)) => {
                let detail = printable(&rejected.detail);
                return Err(TransportError::Refused { reason: Refusal::NotAllowed, detail });
            }
            Some(_) => return Err(TransportError::Protocol("no greeting".into())),
            None => return Err(reason(connection, TransportError::Closed).await),
        };
        let (channel, inbox) = Self::start(connection.clone(), stream);
        Ok((channel, inbox, theirs))
    }

    /// As the other side, first step: reads the greeting of the opener.
    pub async fn read_greeting(stream: &mut MuxStream) -> Result<Greeting, TransportError> {
        let first = timeout(HELLO_TIME, read_frame::<ControlMessage>(stream)).await;
        let first = first.unwrap_or(Err(TransportError::TimedOut("greeting")))?;
        match first.and_then(|message| message.kind) {
            Some(Kind::Hello(hello)) => checked(&hello),
            _ => Err(TransportError::Protocol("no greeting".into())),
        }
    }

    /// As the other side, second step: takes the stream into use. The caller greets back first.
    pub fn start(connection: Connection, stream: MuxStream) -> (Self, Inbox) {
        let (outgoing, queue) = mpsc::channel(QUEUE_MAX);
        let (inbox_sender, inbox) = mpsc::channel(QUEUE_MAX);
        let inner = Arc::new(Inner {
            connection: connection.clone(),
            outgoing,
            pending: Mutex::default(),
            pings: Mutex::default(),
            next_id: AtomicU64::new(1),
            tempo: Mutex::default(),
        });
        let (reader, writer) = tokio::io::split(stream);
        tokio::spawn(write_all(writer, queue, connection));
        tokio::spawn(read_all(reader, inner.clone(), inbox_sender));
        (Self(inner), inbox)
    }

    /// The connection underneath.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Sends a message that has no answer.
    pub async fn send(&self, kind: Kind) -> Result<(), TransportError> {
        self.0.outgoing.send(kind).await.map_err(|_| TransportError::Closed)
    }

    /// Sends a message unless the peer is not keeping up.
    pub fn try_send(&self, kind: Kind) -> Result<(), TransportError> {
        self.0.outgoing.try_send(kind).map_err(|_| TransportError::TooMany("messages waiting"))
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&self, kind: request::Kind) -> Result<answer::Kind, TransportError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        {
            let mut pending = self.0.pending.lock().expect("no holder of this lock panics");
            if pending.len() >= PENDING_MAX {
                return Err(TransportError::TooMany("requests without answer"));
            }
            pending.insert(id, reply);
        }
        let _forget = Waiting { table: &self.0.pending, id };
        let exchange = async {
            self.send(Kind::Request(Request { id, kind: Some(kind) })).await?;
            tokio::select! {
                answer = answer => answer.map_err(|_| TransportError::Closed),
                ended = self.0.connection.ended() => Err(ended),
            }
        };
        let result = timeout(REQUEST_TIME, exchange).await;
        match result.unwrap_or(Err(TransportError::TimedOut("request")))? {
            answer::Kind::Refused(RequestRefused { detail, .. }) => Err(TransportError::Refused {
                reason: Refusal::NotAllowed,
                detail: printable(&detail),
            }),
            kind => Ok(kind),
        }
    }

    /// Answers a request of the peer.
    pub async fn answer(&self, id: u64, kind: answer::Kind) -> Result<(), TransportError> {
        self.send(Kind::Answer(Answer { id, kind: Some(kind) })).await
    }

    /// Refuses a request of the peer.
    pub async fn refuse(
        &self,
        id: u64,
        reason: request_refused::Reason,
        detail: &str,
    ) -> Result<(), TransportError> {
        let refused = RequestRefused { reason: reason.into(), detail: printable(detail) };
        self.answer(id, answer::Kind::Refused(refused)).await
    }

    /// Asks the peer for a sign of life and returns the round trip.
    pub async fn ping(&self, within: Duration) -> Result<Duration, TransportError> {
        let sequence = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, answered) = oneshot::channel();
        self.0.pings.lock().expect("no holder of this lock panics").insert(sequence, reply);
        let _forget = Waiting { table: &self.0.pings, id: sequence };
        let start = Instant::now();
        self.tempo().asked_at = Some(start);
        let exchange = async {
            self.send(Kind::Keepalive(Keepalive { sequence })).await?;
            tokio::select! {
                answered = answered => answered.map_err(|_| TransportError::Closed),
                ended = self.0.connection.ended() => Err(ended),
            }
        };
        let result = timeout(within.min(KEEPALIVE_ANSWER_TIME), exchange).await;
        result.unwrap_or(Err(TransportError::TimedOut("keep-alive")))?;
        let round_trip = start.elapsed();
        let mut tempo = self.tempo();
        tempo.slowest = round_trip.max(tempo.slowest * 3 / 4);
        Ok(round_trip)
    }

    /// How long to wait for a sign of life: `least`, or four times the slowest of late.
    pub fn patience(&self, least: Duration) -> Duration {
        least.max(self.tempo().slowest * 4).min(KEEPALIVE_ANSWER_TIME)
    }

    /// Whether asking for a sign of life again and again would do harm: answers come slowly, as
    /// through a full queue, and it was asked a while ago only.
    pub fn rests(&self) -> bool {
        let tempo = self.tempo();
        let is_recent = tempo.asked_at.is_some_and(|at| at.elapsed() < REST);
        tempo.slowest >= SLOW && is_recent
    }

    fn tempo(&self) -> MutexGuard<'_, Tempo> {
        self.0.tempo.lock().expect("no holder of this lock panics")
    }
}

/// Takes an entry out again when nobody waits for it any more, also if the caller gave up early.
struct Waiting<'a, T> {
    table: &'a Mutex<BTreeMap<u64, T>>,
    id: u64,
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.table.lock().expect("no holder of this lock panics").remove(&self.id);
    }
}

fn checked(hello: &Hello) -> Result<Greeting, TransportError> {
    Greeting::from_wire(hello).map_err(|error| TransportError::Protocol(error.to_string()))
}

/// The reason for which the connection ended, if it ends right now; else the error itself.
async fn reason(connection: &Connection, error: TransportError) -> TransportError {
    timeout(Duration::from_millis(500), connection.ended()).await.unwrap_or(error)
}

/// Our own greeting on a connection.
pub fn greeting(
    role: cooee_proto::control::NodeRole,
    connection: &Connection,
    listening_port: Option<u16>,
    unix: cooee_proto::clock::UnixTime,
) -> Greeting {
    Greeting {
        role,
        program_version: concat!("cooee ", env!("CARGO_PKG_VERSION")).into(),
        observed_address: Some(SocketAddr::new(
            connection.remote_address().ip().to_canonical(),
            connection.remote_address().port(),
        )),
        listening_port,
        unix,
    }
}

async fn write_all(
    mut writer: WriteHalf<MuxStream>,
    mut queue: mpsc::Receiver<Kind>,
    connection: Connection,
) {
    while let Some(kind) = queue.recv().await {
        let message = ControlMessage { kind: Some(kind) };
        if !matches!(timeout(WRITE_TIME, write_frame(&mut writer, &message)).await, Ok(Ok(()))) {
            connection.close();
            return;
        }
    }
}

/// A stream that ends or breaks the framing ends the connection: without control it is of no use.
async fn read_all(mut reader: ReadHalf<MuxStream>, inner: Arc<Inner>, inbox: mpsc::Sender<Kind>) {
    let mut handed_out = true;
    while handed_out && let Ok(Some(message)) = read_frame::<ControlMessage>(&mut reader).await {
        match message.kind {
            Some(Kind::Answer(Answer { id, kind: Some(kind) })) => {
                let waiting =
                    inner.pending.lock().expect("no holder of this lock panics").remove(&id);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(kind);
                }
            }
            Some(Kind::Keepalive(keepalive)) => {
                // A peer that floods without reading loses its answers, nothing else.
                let _ = inner.outgoing.try_send(Kind::KeepaliveAnswer(keepalive));
                let _ = inbox.send(Kind::Keepalive(keepalive)).await;
            }
            Some(Kind::KeepaliveAnswer(Keepalive { sequence })) => {
                let waiting =
                    inner.pings.lock().expect("no holder of this lock panics").remove(&sequence);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(());
                }
            }
            // A kind of a newer version is passed over.
            None => {}
            Some(kind) => handed_out = inbox.send(kind).await.is_ok(),
        }
    }
    inner.connection.close();
}
