//! Why a login server says no, in words that tell what to do next.

use std::time::Duration;

use crate::wire::v1::{LoginRefusal as Reason, LoginRefused, LoginResponse, login_response::Kind};

/// A refusal by the login server. Nothing was changed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The message of each says it better.
pub enum Refusal {
    #[error("the login server did not understand the request: are both programs up to date?")]
    BadRequest,
    #[error("wrong user name or password (the login server does not tell which)")]
    WrongPassword,
    #[error(
        "this user name is taken: choose another one, or if it is yours (a registration that was \
         interrupted counts), use `cooee login`"
    )]
    NameTaken,
    #[error("this user name is not allowed: 3 to 32 of a-z 0-9 . _ -, starting with a letter")]
    NameIllegal,
    #[error("this user name is too easily taken for an existing one: choose another one")]
    NameLooksAlike,
    #[error("this network asks for a valid invitation code: ask the operator for one")]
    CodeWrong,
    #[error("this network takes no new users: ask its operator")]
    Closed,
    #[error("too many attempts: try again in {} s", .0.as_secs().max(1))]
    RateLimited(Duration),
    #[error("log in with the password first")]
    NotAuthenticated,
    #[error(
        "this device was removed from the account, for good: use another profile \
         (--profile-dir) and `cooee login`"
    )]
    DeviceRemoved,
    #[error("the login server does not know this device: log in with the password")]
    DeviceUnknown,
    #[error("this program is too old for the network: update it")]
    TooOld,
    #[error("another device has changed this meanwhile: read it again first")]
    VersionConflict,
    #[error("this token is wrong or was used: ask the operator for a new one")]
    TokenWrong,
    #[error("the account has its greatest number of devices: remove one first")]
    TooManyDevices,
    #[error("the disk of the login server is full: tell its operator")]
    StorageFull,
    #[error("the database of the login server failed: tell its operator")]
    StorageFault,
    #[error("the login server is busy: try again in {} s", .0.as_secs().max(1))]
    Busy(Duration),
    #[error("this device belongs to another account: use another profile")]
    DeviceOfAnother,
}

impl Refusal {
    /// The message that carries this refusal.
    pub fn response(self) -> LoginResponse {
        let (reason, retry_after) = match self {
            Self::BadRequest => (Reason::BadRequest, None),
            Self::WrongPassword => (Reason::WrongPassword, None),
            Self::NameTaken => (Reason::NameTaken, None),
            Self::NameIllegal => (Reason::NameIllegal, None),
            Self::NameLooksAlike => (Reason::NameLooksAlike, None),
            Self::CodeWrong => (Reason::CodeWrong, None),
            Self::Closed => (Reason::Closed, None),
            Self::RateLimited(after) => (Reason::RateLimited, Some(after)),
            Self::NotAuthenticated => (Reason::NotAuthenticated, None),
            Self::DeviceRemoved => (Reason::DeviceRemoved, None),
            Self::DeviceUnknown => (Reason::DeviceUnknown, None),
            Self::TooOld => (Reason::TooOld, None),
            Self::VersionConflict => (Reason::VersionConflict, None),
            Self::TokenWrong => (Reason::TokenWrong, None),
            Self::TooManyDevices => (Reason::TooManyDevices, None),
            Self::StorageFull => (Reason::StorageFull, None),
            Self::StorageFault => (Reason::StorageFault, None),
            Self::Busy(after) => (Reason::Busy, Some(after)),
            Self::DeviceOfAnother => (Reason::DeviceOfAnother, None),
        };
        let retry_after_ms = retry_after.map_or(0, |after| after.as_millis() as u64);
        let refused = LoginRefused { reason: reason.into(), retry_after_ms };
        LoginResponse { kind: Some(Kind::Refused(refused)) }
    }
}

impl From<&LoginRefused> for Refusal {
    fn from(wire: &LoginRefused) -> Self {
        // A server cannot make us wait for more than a day.
        let after = Duration::from_millis(wire.retry_after_ms.min(86_400_000));
        match wire.reason() {
            Reason::Unspecified | Reason::BadRequest => Self::BadRequest,
            Reason::WrongPassword => Self::WrongPassword,
            Reason::NameTaken => Self::NameTaken,
            Reason::NameIllegal => Self::NameIllegal,
            Reason::NameLooksAlike => Self::NameLooksAlike,
            Reason::CodeWrong => Self::CodeWrong,
            Reason::Closed => Self::Closed,
            Reason::RateLimited => Self::RateLimited(after),
            Reason::NotAuthenticated => Self::NotAuthenticated,
            Reason::DeviceRemoved => Self::DeviceRemoved,
            Reason::DeviceUnknown => Self::DeviceUnknown,
            Reason::TooOld => Self::TooOld,
            Reason::VersionConflict => Self::VersionConflict,
            Reason::TokenWrong => Self::TokenWrong,
            Reason::TooManyDevices => Self::TooManyDevices,
            Reason::StorageFull => Self::StorageFull,
            Reason::StorageFault => Self::StorageFault,
            Reason::Busy => Self::Busy(after),
            Reason::DeviceOfAnother => Self::DeviceOfAnother,
        }
    }
}
