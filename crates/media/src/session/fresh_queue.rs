//! What waits for a stream (TCP, TLS): old voice is dropped, not delayed.
//!
//! A reliable stream keeps every byte that it was given, so the only place to drop is before it.
//! The shell pushes whole messages here and pops one whenever the kernel has sent nearly all that
//! it has; what became useless meanwhile never goes out. Control messages stay: they are few, and
//! their senders wait for the answer. Bound: 128 messages. Then the oldest that may be dropped
//! gives way; if there is none, the new one is lost, and its sender's timer brings it again.

use std::{collections::VecDeque, time::Instant};

/// Messages held at most (chosen: 1.2 s of voice in packets of 10 ms; what may be dropped is
/// useless long before).
const MESSAGES_MAX: usize = 128;

/// The queue.
#[derive(Debug, Default)]
pub struct FreshQueue {
    messages: VecDeque<(Vec<u8>, Option<Instant>)>,
    dropped: u64,
}

impl FreshQueue {
    /// Adds a message that is useless from a moment on, or never.
    pub fn push(&mut self, message: Vec<u8>, useless_from: Option<Instant>) {
        if self.messages.len() >= MESSAGES_MAX {
            self.dropped += 1;
            match self.messages.iter().position(|(_, useless_from)| useless_from.is_some()) {
                Some(oldest) => drop(self.messages.remove(oldest)),
                None => return,
            }
        }
        self.messages.push_back((message, useless_from));
    }

    /// The oldest message still worth sending.
    pub fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        while let Some((message, useless_from)) = self.messages.pop_front() {
            if useless_from.is_none_or(|at| now < at) {
                return Some(message);
            }
            self.dropped += 1;
        }
        None
    }

    /// Messages dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::time::Duration;

    use super::*;

    const FRESH: Duration = Duration::from_millis(60);

    #[test]
    fn a_stalled_stream_resumes_with_fresh_voice_and_all_control_messages() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = FreshQueue::default();
        queue.push(vec![200], None);
        for number in 0..50 {
            queue.push(vec![number], Some(at(u64::from(number) * 10) + FRESH));
        }
        assert_eq!(queue.pop(at(490)), Some(vec![200]));
        assert_eq!(queue.pop(at(490)), Some(vec![44]));
        assert_eq!(queue.dropped(), 44);
    }

    #[test]
    fn at_the_bound_voice_gives_way_and_control_messages_stay() {
        let start = Instant::now();
        let mut queue = FreshQueue::default();
        queue.push(vec![1], None);
        for _ in 0..MESSAGES_MAX * 2 {
            queue.push(vec![2], Some(start + FRESH));
        }
        assert_eq!(queue.dropped(), MESSAGES_MAX as u64 + 1);
        assert_eq!(queue.pop(start), Some(vec![1]));
        let control = (0..MESSAGES_MAX * 2).map(|number| vec![number as u8]);
        control.for_each(|message| queue.push(message, None));
        let left: Vec<_> = std::iter::from_fn(|| queue.pop(start)).collect();
        assert_eq!(left.len(), MESSAGES_MAX);
        assert!(left.iter().all(|message| message.len() == 1) && left[0] == vec![0]);
    }
}
