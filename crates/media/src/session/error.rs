//! What can go wrong at the boundary of a media session, by who is at fault.

/// Why a call into the session had no effect. The session's state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer sent a report that does not parse.
    #[error("the peer sent a malformed report")]
    MalformedReport,
    /// The peer's transport parameters break a rule.
    #[error("the peer's transport parameters are malformed")]
    MalformedParameters,
    /// Both sides claim the same DTLS role.
    #[error("both sides claim the same DTLS role")]
    SameDtlsRole,
    /// The peer's certificate fingerprint changed within a session.
    #[error("the peer's certificate changed within the session")]
    FingerprintChanged,
    /// A bounded table is full.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// The payload type is outside 96 to 126 or the payload too long for one datagram.
    #[error("this voice packet cannot be carried")]
    UnfitPacket,
    /// The feedback is longer than 512 bytes.
    #[error("the feedback is longer than 512 bytes")]
    FeedbackTooLong,
    /// The addresses cannot be used (unspecified, multicast, or of two families).
    #[error("this address cannot be a candidate")]
    UnusableAddress,
    /// No relay has this name.
    #[error("no such relay")]
    NoSuchRelay,
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
}
