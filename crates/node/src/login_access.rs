//! The running node's way to the login server, for what it asks in the background: does a user
//! exist, which devices were removed, what is kept sealed.
//!
//! Directly; when that does not come through at once, also by a stream of the super node in use.

use std::{sync::Arc, time::Duration};

use cooee_proto::{
    identity::{Invitation, NodeKey, UserName},
    login::ClientConfig,
};
use futures::{FutureExt, future::select_ok};
use tokio::time::timeout;

use crate::{
    account::{AccountError, PROGRAM_VERSION, resolve},
    attachment::{Attachment, open_login_path},
    login_server::client::{Device, LoginClient},
    transport::{ByteStream, Dialer, TransportError},
};

/// Head start of the direct way (RFC 8305 section 5, and a round trip across a continent).
const HEAD_START: Duration = Duration::from_millis(300);

/// Patience with a question that a person waits for. Chosen: within the 10 s of a look-up.
const QUESTION_MAX: Duration = Duration::from_secs(6);

/// A line to the login server.
pub(crate) type Line = LoginClient<Box<dyn ByteStream>>;

/// Opens lines to the login server. Clones share it.
#[derive(Clone)]
pub(crate) struct LoginAccess {
    invitation: Arc<Invitation>,
    dialer: Dialer,
    attachment: Option<Attachment>,
}

impl LoginAccess {
    pub(crate) fn new(invitation: &Invitation, dialer: Dialer) -> Self {
        Self { invitation: Arc::new(invitation.clone()), dialer, attachment: None }
    }

    /// Where the direct way is blocked, the super node in use leads there.
    pub(crate) fn lead_through(&mut self, attachment: Attachment) {
        self.attachment = Some(attachment);
    }

    /// Opens a line by the first way that works.
    pub(crate) async fn open(&self) -> Result<Line, AccountError> {
        let stream = self.stream().await.map_err(AccountError::Unreachable)?;
        let config = ClientConfig::new(self.invitation.root);
        Ok(LoginClient::connect(stream, config, PROGRAM_VERSION).await?)
    }

    /// Proves this device on a line, for what belongs to its user. The certificate that comes with
    /// it is not needed: the one in use is renewed in its time.
    pub(crate) async fn authenticate(&self, line: &mut Line) -> Result<(), AccountError> {
        let trust = self.dialer.tls().trust();
        let held = trust.revocation_list().number();
        let session = line.renew(&self.device(), held, &[]).await?;
        if let Some(list) = session.revocation_list {
            trust.replace_revocation_list(list);
        }
        Ok(())
    }

    /// Fetches the list of removed devices, if there is a newer one.
    pub(crate) async fn fetch_revocations(&self) -> Result<(), AccountError> {
        let trust = self.dialer.tls().trust();
        let mut line = self.open().await?;
        if let Some(list) = line.revocation_list(trust.revocation_list().number()).await? {
            trust.replace_revocation_list(list);
        }
        line.close().await;
        Ok(())
    }

    fn device(&self) -> Device {
        let credentials = self.dialer.tls().credentials();
        Device {
            key: NodeKey::from_seed(*credentials.key.seed()),
            name: crate::account::machine_name(),
        }
    }

    async fn stream(&self) -> Result<Box<dyn ByteStream>, TransportError> {
        let direct = async {
            let login_servers = resolve(&self.invitation.login_servers).await;
            Ok(open_login_path(&self.dialer, &login_servers, &[]).await?.stream)
        };
        let Some(attachment) = &self.attachment else { return direct.await };
        let through = async {
            let stream: Box<dyn ByteStream> = Box::new(attachment.open_login_server().await?);
            Ok(stream)
        };
        let mut direct = direct.boxed();
        match timeout(HEAD_START, &mut direct).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) => through.await,
            // Only slow: it may still win.
            Err(_) => select_ok([direct, through.boxed()]).await.map(|(stream, _)| stream),
        }
    }

    /// Whether the network has a user of this name; none if nobody can be asked now.
    pub(crate) async fn user_exists(&self, name: &UserName) -> Option<bool> {
        let ask = async {
            let credentials = self.dialer.tls().credentials();
            let certificate = credentials.certificate.ok_or(AccountError::NoInvitation)?;
            let mut line = self.open().await?;
            Ok::<_, AccountError>(line.user_exists(name, &credentials.key, &certificate).await?)
        };
        match timeout(QUESTION_MAX, ask).await {
            Ok(Ok(exists)) => Some(exists),
            Ok(Err(error)) => {
                tracing::info!(%name, %error, "nobody says whether this user exists");
                None
            }
            Err(_) => None,
        }
    }
}
