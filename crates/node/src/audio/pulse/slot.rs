//! Where one stream (record or playback) is: which device it wants, which it has.
//!
//! ```text
//!           create sent            reply
//!   Idle ───────────────▶ Asking ─────────▶ Running
//!    ▲  ◀──── refused ──────┘                  │ killed, device gone, better device there
//!    └───────────────────────────────────────────┘
//! ```
//!
//! A named device that is not there is replaced by the default one until it is back.

use std::ffi::{CStr, CString};

use crate::audio::clock::MonotonicNs;

/// After a refusal (no device at all) the next attempt (chosen).
const RETRY_NS: u64 = 500_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Asking { sequence: u32 },
    Running { channel: u32 },
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct StreamSlot {
    wanted: Option<CString>,
    device: Option<CString>,
    phase: Phase,
    retry_at_ns: MonotonicNs,
    try_default: bool,
    lookup: Option<u32>,
    /// The list of devices or the default has changed since last looked at.
    devices_changed: bool,
    /// The device changed and nobody was told yet.
    changed: bool,
}

impl StreamSlot {
    /// Wants the named device, or the default.
    pub(super) fn new(wanted: Option<CString>) -> Self {
        Self {
            wanted,
            device: None,
            phase: Phase::Idle,
            retry_at_ns: 0,
            try_default: false,
            lookup: None,
            devices_changed: false,
            changed: false,
        }
    }

    /// The stream's channel while it runs.
    pub(super) fn channel(&self) -> Option<u32> {
        match self.phase {
            Phase::Running { channel } => Some(channel),
            Phase::Idle | Phase::Asking { .. } => None,
        }
    }

    /// The device to ask for now, if it is time to; `Some(None)` is the default.
    pub(super) fn device_to_ask(&self, now_ns: MonotonicNs) -> Option<Option<CString>> {
        let due = self.phase == Phase::Idle && now_ns >= self.retry_at_ns;
        due.then(|| if self.try_default { None } else { self.wanted.clone() })
    }

    /// When to try again, while idle.
    pub(super) fn deadline_ns(&self) -> Option<MonotonicNs> {
        (self.phase == Phase::Idle).then_some(self.retry_at_ns)
    }

    /// The command to create the stream was sent.
    pub(super) fn handle_asked(&mut self, sequence: u32) {
        self.phase = Phase::Asking { sequence };
    }

    /// Whether `sequence` is this stream's creation.
    pub(super) fn is_asking(&self, sequence: u32) -> bool {
        self.phase == Phase::Asking { sequence }
    }

    /// The stream runs.
    pub(super) fn handle_created(&mut self, channel: u32, device: Option<CString>) {
        self.phase = Phase::Running { channel };
        self.try_default = false;
        self.set_device(device);
    }

    /// The creation was refused: a named device is replaced by the default at once.
    pub(super) fn handle_refused(&mut self, now_ns: MonotonicNs) {
        self.phase = Phase::Idle;
        if self.wanted.is_some() && !self.try_default {
            self.try_default = true;
            self.retry_at_ns = now_ns;
        } else {
            self.try_default = false;
            self.retry_at_ns = now_ns + RETRY_NS;
        }
    }

    /// The server moved the stream.
    pub(super) fn handle_moved(&mut self, device: CString) {
        self.set_device(Some(device));
        self.devices_changed = true;
    }

    /// The stream is no more; another is asked for at once.
    pub(super) fn handle_lost(&mut self, now_ns: MonotonicNs) {
        self.phase = Phase::Idle;
        self.retry_at_ns = now_ns;
        self.try_default = false;
        self.lookup = None;
        self.set_device(None);
    }

    /// Devices came or went, or the default changed.
    pub(super) fn handle_devices_changed(&mut self, now_ns: MonotonicNs) {
        self.devices_changed = true;
        self.retry_at_ns = self.retry_at_ns.min(now_ns);
    }

    /// The wanted name to look up, if the stream runs elsewhere and devices have changed.
    pub(super) fn take_lookup(&mut self) -> Option<CString> {
        let elsewhere = self.channel().is_some() && self.wanted != self.device;
        let due = self.devices_changed && elsewhere && self.lookup.is_none();
        if due && self.wanted.is_some() {
            self.devices_changed = false;
            return self.wanted.clone();
        }
        None
    }

    /// The lookup was sent.
    pub(super) fn handle_lookup_sent(&mut self, sequence: u32) {
        self.lookup = Some(sequence);
    }

    /// Whether `sequence` is this stream's lookup; it is over then.
    pub(super) fn take_lookup_answer(&mut self, sequence: u32) -> bool {
        let ours = self.lookup == Some(sequence);
        if ours {
            self.lookup = None;
        }
        ours
    }

    /// Whether a new default device should be moved to.
    pub(super) fn follows_default(&self, default: Option<&CStr>) -> bool {
        let running = self.channel().is_some() && self.wanted.is_none();
        running && default.is_some() && self.device.as_deref() != default
    }

    /// The device in use, once after each change.
    pub(super) fn take_change(&mut self) -> Option<Option<String>> {
        std::mem::take(&mut self.changed).then(|| self.device_name())
    }

    /// The device in use.
    pub(super) fn device_name(&self) -> Option<String> {
        self.device.as_ref().map(|device| device.to_string_lossy().into_owned())
    }

    fn set_device(&mut self, device: Option<CString>) {
        self.changed |= self.device != device;
        self.device = device;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Option<CString> {
        Some(CString::new(name).unwrap())
    }

    #[test]
    fn a_named_device_that_goes_is_replaced_and_returned_to() {
        let mut slot = StreamSlot::new(named("headset"));
        assert_eq!(slot.device_to_ask(0), Some(named("headset")));
        slot.handle_asked(1);
        slot.handle_created(7, named("headset"));
        assert_eq!(slot.take_change(), Some(Some("headset".into())));
        slot.handle_lost(100);
        assert_eq!(slot.take_change(), Some(None));
        assert_eq!(slot.device_to_ask(100), Some(named("headset")));
        slot.handle_asked(2);
        slot.handle_refused(100);
        assert_eq!(slot.device_to_ask(100), Some(None), "the default takes over at once");
        slot.handle_asked(3);
        slot.handle_created(8, named("built-in"));
        assert_eq!(slot.take_lookup(), None, "nothing has changed yet");
        slot.handle_devices_changed(200);
        assert_eq!(slot.take_lookup(), named("headset"));
        slot.handle_lookup_sent(4);
        assert!(slot.take_lookup_answer(4));
        slot.handle_lost(300);
        assert_eq!(slot.device_to_ask(300), Some(named("headset")));
    }

    #[test]
    fn without_any_device_it_tries_again_later() {
        let mut slot = StreamSlot::new(None);
        slot.handle_asked(1);
        slot.handle_refused(1_000);
        assert_eq!(slot.device_to_ask(1_000), None);
        assert_eq!(slot.deadline_ns(), Some(1_000 + RETRY_NS));
        slot.handle_devices_changed(2_000);
        assert_eq!(slot.device_to_ask(2_000), Some(None));
    }

    #[test]
    fn only_a_stream_on_the_default_follows_the_default() {
        let mut slot = StreamSlot::new(None);
        slot.handle_created(1, named("a"));
        assert!(slot.follows_default(Some(c"b")));
        assert!(!slot.follows_default(Some(c"a")));
        let mut slot = StreamSlot::new(named("a"));
        slot.handle_created(1, named("a"));
        assert!(!slot.follows_default(Some(c"b")));
    }
}
