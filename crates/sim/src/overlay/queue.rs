//! The event queue: what is due within a second lies in a heap, what is due later in a list for
//! each second. A million users whose next act is hours away so cost nothing until then: in one
//! heap they made every event of the moment a walk through 24 megabytes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::world::{Micros, SECOND};

/// Due when, put in as the how many-th, kept in which slot.
pub(super) type Entry = (Micros, u64, u32);

/// Events in the order of their time, and of putting in where that is equal.
#[derive(Default)]
pub(super) struct Queue {
    soon: BinaryHeap<Reverse<Entry>>,
    later: BTreeMap<u64, Vec<Entry>>,
    /// Everything due before this second is in the heap.
    heaped_until: u64,
}

impl Queue {
    /// Puts one in.
    pub(super) fn push(&mut self, entry: Entry) {
        let second = entry.0 / SECOND;
        if second < self.heaped_until {
            self.soon.push(Reverse(entry));
        } else {
            self.later.entry(second).or_default().push(entry);
        }
    }

    /// Takes the first out, if it is due by `end`.
    pub(super) fn pop_until(&mut self, end: Micros) -> Option<Entry> {
        while self.soon.is_empty() {
            let (second, entries) = self.later.pop_first()?;
            self.heaped_until = second + 1;
            self.soon.extend(entries.into_iter().map(Reverse));
        }
        if self.soon.peek()?.0.0 > end {
            return None;
        }
        self.soon.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_and_then_of_putting_in() {
        let mut queue = Queue::default();
        let times = [3 * SECOND, 5, 3 * SECOND, 900 * SECOND, SECOND + 1, 5];
        for (order, time) in times.into_iter().enumerate() {
            queue.push((time, order as u64, 0));
        }
        assert_eq!(queue.pop_until(SECOND), Some((5, 1, 0)));
        // What is put in for a second that has begun comes in its turn.
        queue.push((6, 9, 0));
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop_until(900 * SECOND)).collect();
        let orders: Vec<u64> = rest.iter().map(|(_, order, _)| *order).collect();
        assert_eq!(orders, [5, 9, 4, 0, 2, 3]);
    }
}
