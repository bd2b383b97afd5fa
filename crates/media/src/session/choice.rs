//! The part of a session that chooses by which path the media leaves, and which is kept warm.

use std::time::{Duration, Instant};

use super::{
    Direction, LocalPath, MediaSession, Output, SessionEvent,
    path::PathNumber,
    reporting::{FRESH_SLOW, WARM_INTERVAL},
};

/// A path whose last confirmation is older does not count as working.
const FRESH: Duration = Duration::from_millis(2_000);
/// The same where there is little room.
pub(super) const FRESH_CROWDED: Duration = Duration::from_millis(6_000);

impl MediaSession {
    pub(super) fn set_media(&mut self, now: Instant, number: Option<PathNumber>) {
        self.liveness.media = number;
        self.liveness.media_since = now;
        let Some(path) = number.and_then(|number| self.paths.get_mut(number)) else { return };
        path.next_report = now;
        if let (LocalPath::Relay(id), remote) = (path.description.local, path.description.remote)
            && let Some(relay) = self.relays.get_mut(&id)
        {
            relay.bind_channel(now, remote);
        }
    }

    /// The media moves to a path that works.
    pub(super) fn switch(&mut self, now: Instant, number: PathNumber) {
        if self.liveness.media == Some(number) {
            return;
        }
        self.set_media(now, Some(number));
        self.statistics.path_changes += 1;
        if let Some(path) = self.paths.get(number) {
            let changed = SessionEvent::PathChanged(path.description);
            self.outputs.push_back(Output::Event(changed));
        }
    }

    pub(super) fn choose_paths(&mut self, now: Instant) {
        let crowded = self.pace.is_crowded(now);
        let slow = match (self.liveness.hold, crowded) {
            (true, _) => FRESH_SLOW,
            (false, true) => FRESH_CROWDED,
            (false, false) => FRESH,
        };
        let media = self.liveness.media.filter(|number| self.paths.get(*number).is_some());
        let best = self.paths.best(now, FRESH_SLOW, media).map(|path| path.number);
        match (media, best) {
            (None, Some(best)) => self.switch(now, best),
            (None, None) => self.liveness.media = None,
            (Some(media), Some(best)) => {
                let works = self.paths.get(media).is_some_and(|path| path.is_fresh(now, slow));
                if !works {
                    self.tell_deaf(Direction::Outbound);
                    self.paths.condemn(media, now);
                    self.switch(now, best);
                } else if self.paths.is_clearly_better(
                    best,
                    media,
                    crowded || self.pace.has_queue(now),
                ) {
                    self.switch(now, best);
                }
            }
            (Some(_), None) => {}
        }
        let Some(media) = self.liveness.media else { return };
        let warm = self.paths.warm(now, FRESH_SLOW, media).map(|path| path.number);
        if warm != self.liveness.warm {
            self.liveness.warm = warm;
            if let Some(path) = warm.and_then(|number| self.paths.get_mut(number)) {
                path.next_report = path.next_report.min(now + WARM_INTERVAL);
                let path = path.description;
                if let LocalPath::Relay(id) = path.local
                    && let Some(relay) = self.relays.get_mut(&id)
                {
                    relay.bind_channel(now, path.remote);
                }
            }
        }
    }

    pub(super) fn drop_paths(&mut self, now: Instant, local: LocalPath) {
        let gone = self.paths.remove_local(local);
        let liveness = &mut self.liveness;
        liveness.warm = liveness.warm.filter(|number| !gone.contains(number));
        if liveness.media.is_some_and(|number| gone.contains(&number)) {
            liveness.media = None;
            self.choose_paths(now);
            self.hasten_reports(now);
        }
    }
}
