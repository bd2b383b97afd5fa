//! The running node: what is started, in which order, and how it ends.
//!
//! ```text
//!   profile ─▶ TLS ─▶ UDP port ─▶ [relay, listener, super node] ─▶ attachment
//!                                                                   │
//!   local API ◀── events ── calls ◀── peers ◀── splices ◀───────────┘
//! ```
//!
//! Nothing is decided here: each part does its own work, and this module wires them together.

mod candidacy;
mod draining;
mod finding;
mod people;
mod presence;
mod publishing;
mod searching;
mod serving;
mod status;
mod upkeep;
mod voice;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cooee_proto::{
    call::{AutoAnswer, CallId, CallsConfig},
    identity::{Invitation, UserName},
};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, watch};

use self::{finding::Finder, publishing::Publication, serving::Serving, voice::Voice};
pub use self::{presence::ShownPresence, serving::own_addresses};
use crate::{
    account::resolve,
    api::types::{PlaceCall, Problem},
    attachment::{Attachment, AttachmentConfig, UdpProber},
    call::{CallService, CallServiceConfig, run_legs},
    login_access::LoginAccess,
    login_server::{random_seed, unix_now},
    overlay::LiveTrust,
    peer::{Peers, PeersConfig},
    people::{KeepingConfig, People, PeopleConfig},
    profile::{Profile, ProfileError},
    settings::{AnswerMode, Settings},
    transport::{Credentials, Dialer, Proxy, ProxyConfig, Tls, TransportError, Trust},
    udp::{UdpConfig, UdpEndpoint, UdpError},
};

/// Events that wait for a slow reader of the local API; older ones are then left out.
const EVENTS_MAX: usize = 512;

/// Records that the local API lists.
const RECORDS_LISTED: usize = 100;

/// How long a shutdown may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a node cannot start. Whatever had been started has been stopped.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Nobody has registered or logged in here.
    #[error(
        "this profile has no account yet: `cooee register NAME --invitation LINK` makes one, \
         `cooee login NAME --invitation LINK` uses one from another device"
    )]
    NoAccount,
    /// Certificate and invitation do not belong together.
    #[error(
        "the certificate of this profile is of another network than its invitation: log in to this \
         one with `cooee login NAME --invitation LINK`, from another profile (--profile-dir)"
    )]
    OtherNetwork,
    /// The certificate no longer holds and could not be renewed.
    #[error(
        "the certificate of this device ended and cannot be renewed now ({0}): log in again with \
         `cooee login NAME`, or check the clock"
    )]
    CertificateEnded(String),
    /// The UDP port.
    #[error("{0}; another port can be given with --port")]
    Udp(#[from] UdpError),
    /// The TCP port, or TLS.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The relay.
    #[error(transparent)]
    Relay(#[from] crate::relay::RelayError),
    /// The call records.
    #[error(transparent)]
    Log(#[from] crate::call::LogError),
    /// The buddy list or the messages.
    #[error(transparent)]
    People(#[from] crate::people::StoreError),
    /// A setting makes no sense.
    #[error("{key} = {value:?}: {problem}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What can be done to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallAction {
    /// Accept a ringing call.
    Answer,
    /// Refuse a ringing call.
    Decline,
    /// End or cancel a call.
    HangUp,
    /// Put it on hold.
    Hold,
    /// Take it back.
    Resume,
    /// Send silence.
    Mute,
    /// Send the microphone again.
    Unmute,
    /// Press a key.
    Dtmf(char),
    /// Send the other side to somebody else.
    Transfer(UserName),
    /// Join the other sides of two calls.
    Join(CallId),
}

/// A running node.
pub struct Node {
    profile: Profile,
    settings: Settings,
    invitation: Invitation,
    tls: Arc<Tls>,
    /// The port closes with its last handle: it stays open as long as the node runs.
    endpoint: UdpEndpoint,
    port: u16,
    started: Instant,
    events: broadcast::Sender<Value>,
    ended: watch::Sender<bool>,
    attachment: Option<Attachment>,
    serving: Option<Serving>,
    calls: Option<CallService>,
    peers: Option<Peers>,
    people: Option<People>,
    voice: Arc<Voice>,
    publication: Publication,
    login: LoginAccess,
    facts: Mutex<Facts>,
    candidacy: Mutex<candidacy::Standing>,
}

/// What happened, for the status.
#[derive(Debug, Default)]
struct Facts {
    login_ms: Option<u64>,
    login_bytes: Option<u64>,
    dialled: BTreeMap<CallId, Instant>,
}

impl Node {
    /// Starts a node on an open profile.
    pub async fn start(profile: Profile, settings: Settings) -> Result<Arc<Self>, NodeError> {
        let invitation = profile.invitation()?.ok_or(NodeError::NoAccount)?;
        let certificate = profile.certificate()?.ok_or(NodeError::NoAccount)?;
        if certificate.network() != invitation.root.network_id() {
            return Err(NodeError::OtherNetwork);
        }
        let certificate = upkeep::fresh(&profile, &settings, certificate).await?;
        let user = certificate.user().cloned();
        let key = profile.device_key()?;
        let own_key = key.public();
        let trust = Trust::new(invitation.root);
        if let Some(list) = profile.revocation_list(&invitation.root) {
            trust.replace_revocation_list(list);
        }
        let tls = Tls::new(trust, Credentials::new(key, certificate))?;
        let dialer = Dialer::new(tls.clone(), settings.proxy()?);

        let bind = settings.bind_address()?;
        let endpoint = settings.open_udp(&profile, bind)?;
        let port = endpoint.local_addresses().first().map_or(0, SocketAddr::port);
        let shown = ShownPresence::kept(&profile);
        let serves = settings.serves(user.is_some());
        let kept = publishing::kept(&profile);
        let (serving, arrivals) =
            Serving::start(&settings, &invitation, &endpoint, &dialer, (bind, port), serves, kept)
                .await?;

        let login = LoginAccess::new(&invitation, dialer.clone());
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let voice = Arc::new(Voice::new(&settings)?);
        let mut node = Self {
            profile,
            settings,
            invitation,
            tls: tls.clone(),
            endpoint: endpoint.clone(),
            port,
            started: Instant::now(),
            events,
            ended: watch::Sender::new(false),
            attachment: None,
            serving: Some(serving),
            calls: None,
            peers: None,
            people: None,
            voice,
            publication: Publication::new(shown),
            login,
            facts: Mutex::default(),
            candidacy: Mutex::default(),
        };
        let mut incoming = None;
        if let Some(user) = user {
            let (attachment, came) = node.attach(dialer).await;
            node.login.lead_through(attachment.clone());
            let trust = LiveTrust::new(tls.clone());
            let finder = Finder::new(attachment.clone(), trust, node.login.clone());
            let finder = Arc::new(finder);
            let (peers, peer_events) = Peers::new(tls, finder.clone(), PeersConfig::default());
            let (media, media_commands) = mpsc::channel(256);
            let (media_sender, media_events) = mpsc::channel(256);
            let (other_messages, others) = mpsc::channel(256);
            tokio::spawn(run_legs(endpoint, node.voice.clone(), media_commands, media_sender));
            finder.use_peers(&peers);
            let people = People::start(PeopleConfig {
                own: (user.clone(), own_key),
                display_name: user.to_string(),
                folder: node.profile.directory().to_owned(),
                network: node.invitation.root.network_id(),
                look_up: finder.clone(),
                peers: peers.clone(),
                peer_events: others,
                attachment: attachment.clone(),
                events: node.events.clone(),
                keeping: node.keeping()?,
                direct_addresses: node.direct_addresses(),
                seed: random_seed(),
            })?;
            finder.use_relations(&people);
            let calls = CallService::start(CallServiceConfig {
                calls: node.calls_config(&user),
                own: (user, own_key),
                records: node.profile.path("calls.jsonl"),
                look_up: finder,
                relations: Arc::new(people.clone()),
                peers: peers.clone(),
                peer_events,
                other_messages,
                media,
                media_events,
                seed: random_seed(),
            })?;
            incoming = Some(came);
            node.attachment = Some(attachment);
            node.calls = Some(calls);
            node.peers = Some(peers);
            node.people = Some(people);
        }
        let node = Arc::new(node);
        upkeep::start(&node, incoming, arrivals);
        Ok(node)
    }

    async fn attach(&self, dialer: Dialer) -> (Attachment, crate::attachment::Incoming) {
        let bootstrap = resolve(&self.invitation.super_nodes).await;
        let restored = self.profile.host_cache_file().restore(bootstrap, unix_now());
        let config = AttachmentConfig {
            race: cooee_proto::attachment::Config {
                other_ports: !self.settings.loopback,
                ..Default::default()
            },
            port_kind: restored.port_kind,
            listening_port: Some(self.port),
            prober: Arc::new(UdpProber),
            seed: random_seed(),
            room: self.voice.room().clone(),
        };
        Attachment::start(config, dialer, restored.host_cache)
    }

    /// Where the buddy list is kept, if this device has the key for it.
    fn keeping(&self) -> Result<Option<KeepingConfig>, ProfileError> {
        let key = self.profile.account_key()?;
        if key.is_none() {
            tracing::info!("without account.key the buddy list stays on this device: log in again");
        }
        let (access, room) = (self.login.clone(), self.voice.room().clone());
        Ok(key.map(|key| KeepingConfig { access, key, room }))
    }

    /// Where mutual buddies may connect to this device, asked anew each time: networks change.
    fn direct_addresses(&self) -> Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync> {
        let (settings, port) = (self.settings.clone(), self.port);
        Arc::new(move || {
            let own = own_addresses(&settings).unwrap_or_default();
            own.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
        })
    }

    fn calls_config(&self, user: &UserName) -> CallsConfig {
        let auto_answer = match self.settings.answer {
            AnswerMode::Ring => AutoAnswer::Never,
            AnswerMode::Auto => AutoAnswer::Everybody(Duration::ZERO),
        };
        CallsConfig {
            auto_answer,
            call_waiting: self.settings.call_waiting,
            do_not_disturb: self.presence() == ShownPresence::DoNotDisturb,
            display_name: self.settings.display_name.clone().unwrap_or_else(|| user.to_string()),
            ring_time: Duration::from_secs(self.settings.ring_seconds),
            ..CallsConfig::default()
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens from now on, as the local API tells it.
    pub fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }

    fn tell(&self, event: Value) {
        // Without a reader there is nobody to tell.
        let _ = self.events.send(event);
    }

    /// Reads a user name.
    pub fn user_name(text: &str) -> Result<UserName, Problem> {
        text.parse().map_err(|error| Problem::bad_request(format!("{text:?}: {error}")))
    }

    fn call_service(&self) -> Result<&CallService, Problem> {
        let none = || Problem::refused("a dedicated super node places and takes no calls");
        self.calls.as_ref().ok_or_else(none)
    }

    /// Calls a user.
    pub async fn place_call(&self, place: PlaceCall) -> Result<Value, Problem> {
        let to = Self::user_name(&place.to)?;
        let sound = self.voice.choose(place.microphone, place.speaker)?;
        let calls = self.call_service()?;
        let dialled = Instant::now();
        let call = calls.place(to).await.map_err(|error| Problem::refused(error.to_string()))?;
        self.voice.use_for(call, sound);
        self.facts().dialled.insert(call, dialled);
        Ok(serde_json::json!({ "call": call }))
    }

    /// Does something to a call.
    pub async fn act_on_call(&self, id: &str, action: CallAction) -> Result<(), Problem> {
        let calls = self.call_service()?;
        let call: CallId =
            id.parse().map_err(|_| Problem::bad_request("a call is 32 hexadecimal digits"))?;
        let done = match action {
            CallAction::Answer => calls.answer(call).await,
            CallAction::Decline | CallAction::HangUp => calls.hang_up(call).await,
            CallAction::Hold => calls.hold(call).await,
            CallAction::Resume => calls.resume(call).await,
            CallAction::Mute => calls.mute(call, true).await,
            CallAction::Unmute => calls.mute(call, false).await,
            CallAction::Dtmf(digit) => calls.dtmf(call, digit).await,
            CallAction::Transfer(to) => calls.transfer(call, to).await,
            CallAction::Join(with) => calls.transfer_to_call(call, with).await,
        };
        done.map_err(|error| Problem::refused(error.to_string()))
    }

    /// Calls that are not over.
    pub fn calls(&self) -> Value {
        let Some(calls) = &self.calls else { return Value::Array(Vec::new()) };
        let live = calls.live();
        let described = calls.list().into_iter().map(|call| {
            let mut shown = serde_json::to_value(&call).expect("own types serialise");
            shown["path"] = serde_json::json!(self.voice.path_of(call.call));
            if let Some(statistics) = live.get(&call.call) {
                shown["statistics"] = serde_json::to_value(statistics).expect("own types");
            }
            shown
        });
        described.collect()
    }

    /// Records of past calls, the newest last.
    pub fn records(&self) -> Value {
        let records = self.calls.as_ref().map(|calls| calls.records(RECORDS_LISTED));
        let mut records = records.unwrap_or_default();
        records.reverse();
        serde_json::to_value(records).expect("own types serialise")
    }

    /// Asks the node to end.
    pub fn shut_down(&self) {
        self.ended.send_replace(true);
    }

    /// Resolves when somebody has asked the node to end.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.subscribe();
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Says goodbye to everybody and stops. Call it once, after [`Self::ended`].
    pub async fn stop(&self) {
        if let Some(calls) = &self.calls {
            for call in calls.list() {
                let _ = calls.hang_up(call.call).await;
            }
            let until = tokio::time::Instant::now() + FAREWELL;
            while !calls.list().is_empty() && tokio::time::Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        if let Some(peers) = &self.peers {
            peers.close();
        }
        self.store_host_cache();
        self.store_super_nodes();
        if let Some(attachment) = &self.attachment {
            let _ = tokio::time::timeout(FAREWELL, attachment.stop()).await;
        }
        if let Some(serving) = &self.serving {
            serving.drain(FAREWELL).await;
        }
    }

    fn store_host_cache(&self) {
        let Some(attachment) = &self.attachment else { return };
        let (entries, port_kind) = attachment.to_store();
        if let Err(error) = self.profile.host_cache_file().store(&entries, port_kind, None) {
            tracing::warn!(%error, "the host cache cannot be stored");
        }
    }
}

impl Settings {
    /// The proxy to use: the configured one, else the environment's.
    pub fn proxy(&self) -> Result<ProxyConfig, NodeError> {
        match &self.proxy {
            Some(url) => Ok(ProxyConfig::fixed(Proxy::parse(url)?, "")),
            None => Ok(ProxyConfig::from_environment(|name| std::env::var(name).ok())?),
        }
    }

    pub(crate) fn bind_address(&self) -> Result<IpAddr, NodeError> {
        self.bind.parse().map_err(|_| NodeError::Setting {
            key: "bind",
            value: self.bind.clone(),
            problem: "an IP address is wanted, such as 0.0.0.0 or ::".to_owned(),
        })
    }

    fn serves(&self, is_user: bool) -> bool {
        match self.super_node {
            crate::settings::SuperNodeRole::Never => false,
            // A user's node serves when it is elected: `candidacy`.
            _ => !is_user,
        }
    }

    fn open_udp(&self, profile: &Profile, bind: IpAddr) -> Result<UdpEndpoint, NodeError> {
        let port = match self.port {
            Some(port) => port,
            None => profile.port()?,
        };
        let config = if bind.is_unspecified() {
            UdpConfig::any(port)
        } else {
            UdpConfig::at(SocketAddr::new(bind, port))
        };
        Ok(UdpEndpoint::bind(&config)?)
    }
}
