//! The handle by which the local API and the rest of the node use calls.

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use cooee_proto::{
    call::{
        CallEvent, CallId, CallRecord, CallSummary, CallsConfig, CommandError, LookUpFailure,
        Relation,
    },
    identity::{NodeId, NodePublicKey, UserName},
};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    LiveStatistics, Log, LogError, MediaCommand, MediaEvent,
    task::{Command, Inputs, Task},
};
use crate::{
    audio::AudioEvent,
    peer::{PeerEvent, Peers},
};

/// Records kept in memory. Chosen.
const RECORDS_MAX: usize = 500;

/// Finds the devices of a user.
pub trait LookUp: Send + Sync + 'static {
    /// All devices that can be reached now.
    fn devices(
        &self,
        user: UserName,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<NodeId>, LookUpFailure>> + Send>>;
}

/// Knows the buddy list.
pub trait Relations: Send + Sync + 'static {
    /// What a user is to the local user.
    fn relation(&self, user: &UserName) -> Relation;
}

/// What a call service needs.
pub struct CallServiceConfig {
    /// How calls are treated.
    pub calls: CallsConfig,
    /// The local user and device key, for safety numbers.
    pub own: (UserName, NodePublicKey),
    /// Where call records are kept (`calls.jsonl` in the profile).
    pub records: PathBuf,
    /// Finds devices.
    pub look_up: Arc<dyn LookUp>,
    /// Knows the buddy list.
    pub relations: Arc<dyn Relations>,
    /// The peer connections.
    pub peers: Peers,
    /// What they report.
    pub peer_events: mpsc::Receiver<PeerEvent>,
    /// Takes what else happens at the peer connections: who connected, and what is said that is
    /// not about calls.
    pub other_messages: mpsc::Sender<PeerEvent>,
    /// Whoever runs the media legs.
    pub media: mpsc::Sender<MediaCommand>,
    /// What they report.
    pub media_events: mpsc::Receiver<MediaEvent>,
    /// Unpredictable: makes call ids.
    pub seed: [u8; 32],
}

/// What a person may want to know, as the local API hands it on.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum CallNotice {
    /// Something happened in a call.
    Event(CallEvent),
    /// A call's record is complete and stored.
    Recorded {
        /// Always `recorded`.
        event: &'static str,
        /// The record.
        record: CallRecord,
    },
    /// How a call's voice fares.
    Statistics {
        /// Always `statistics`.
        event: &'static str,
        /// The call.
        call: CallId,
        /// The figures.
        #[serde(flatten)]
        statistics: LiveStatistics,
    },
    /// Microphone or speaker of a call changed.
    Devices {
        /// The call.
        call: CallId,
        /// How; `event` is its tag.
        #[serde(flatten)]
        change: AudioEvent,
    },
    /// A call has neither microphone nor speaker.
    NoSound {
        /// Always `no_sound`.
        event: &'static str,
        /// The call.
        call: CallId,
        /// Why, and what to do.
        message: String,
    },
}

/// Why a command did not work.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum CallError {
    /// The call's state does not allow it.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}

/// All calls of this device. Clones share them; when the last is dropped, calls end.
#[derive(Clone)]
pub struct CallService {
    commands: mpsc::Sender<Command>,
    notices: broadcast::Sender<CallNotice>,
    list: watch::Receiver<Vec<CallSummary>>,
    live: watch::Receiver<BTreeMap<CallId, LiveStatistics>>,
    records: Arc<Mutex<Log<CallRecord>>>,
}

impl CallService {
    /// Starts the task that runs calls.
    pub fn start(config: CallServiceConfig) -> Result<Self, LogError> {
        let records = Arc::new(Mutex::new(Log::open(&config.records, RECORDS_MAX)?));
        let (commands, command_receiver) = mpsc::channel(64);
        let (notices, _) = broadcast::channel(256);
        let (list_sender, list) = watch::channel(Vec::new());
        let (live_sender, live) = watch::channel(BTreeMap::new());
        let inputs = Inputs {
            commands: command_receiver,
            peer_events: config.peer_events,
            media_events: config.media_events,
        };
        let task = Task::new(
            config.calls,
            config.seed,
            config.own,
            (config.look_up, config.relations),
            (config.peers, config.media, config.other_messages),
            (notices.clone(), list_sender, live_sender, records.clone()),
        );
        tokio::spawn(task.run(inputs));
        Ok(Self { commands, notices, list, live, records })
    }

    /// Calls a user.
    pub async fn place(&self, user: UserName) -> Result<CallId, CallError> {
        self.command(|reply| Command::Place(user, reply)).await
    }

    /// Accepts a ringing call.
    pub async fn answer(&self, call: CallId) -> Result<(), CallError> {
        self.act(move |calls, now| calls.answer(now, call)).await
    }

    /// Declines, cancels or ends a call.
    pub async fn hang_up(&self, call: CallId) -> Result<(), CallError> {
        self.act(move |calls, now| calls.hang_up(now, call)).await
    }

    /// Puts a call on hold.
    pub async fn hold(&self, call: CallId) -> Result<(), CallError> {
        self.act(move |calls, now| calls.hold(now, call)).await
    }

    /// Takes a call back from hold.
    pub async fn resume(&self, call: CallId) -> Result<(), CallError> {
        self.act(move |calls, now| calls.resume(now, call)).await
    }

    /// Mutes or opens the microphone.
    pub async fn mute(&self, call: CallId, muted: bool) -> Result<(), CallError> {
        self.act(move |calls, now| calls.mute(now, call, muted)).await
    }

    /// Presses a key.
    pub async fn dtmf(&self, call: CallId, digit: char) -> Result<(), CallError> {
        self.act(move |calls, now| calls.dtmf(now, call, digit)).await
    }

    /// Sends the peer to somebody else.
    pub async fn transfer(&self, call: CallId, to: UserName) -> Result<(), CallError> {
        self.act(move |calls, now| calls.transfer(now, call, &to)).await
    }

    /// Joins the peers of two calls.
    pub async fn transfer_to_call(&self, call: CallId, with: CallId) -> Result<(), CallError> {
        self.act(move |calls, now| calls.transfer_to_call(now, call, with)).await
    }

    /// Changes how calls are treated from now on.
    pub async fn set_config(&self, config: CallsConfig) -> Result<(), CallError> {
        self.act(move |calls, _| {
            calls.set_config(config);
            Ok(())
        })
        .await
    }

    /// The machine's network changed: every call looks for a new path.
    pub async fn network_changed(&self) -> Result<(), CallError> {
        self.act(|calls, now| {
            calls.handle_network_changed(now);
            Ok(())
        })
        .await
    }

    /// The calls that are not over.
    pub fn list(&self) -> Vec<CallSummary> {
        self.list.borrow().clone()
    }

    /// How the voice of each call that talks fares, as of the last second.
    pub fn live(&self) -> BTreeMap<CallId, LiveStatistics> {
        self.live.borrow().clone()
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<CallNotice> {
        self.notices.subscribe()
    }

    /// The latest records, newest first.
    pub fn records(&self, count_max: usize) -> Vec<CallRecord> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.latest().rev().take(count_max).cloned().collect()
    }

    async fn act(
        &self,
        act: impl FnOnce(
            &mut cooee_proto::call::Calls,
            cooee_proto::clock::Now,
        ) -> Result<(), CommandError>
        + Send
        + 'static,
    ) -> Result<(), CallError> {
        self.command(|reply| Command::Act(Box::new(act), reply)).await
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Command,
    ) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| CallError::Stopped)?;
        Ok(answer.await.map_err(|_| CallError::Stopped)??)
    }
}
