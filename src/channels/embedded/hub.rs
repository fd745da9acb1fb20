//! Subscribers in memory, by patterns and groups.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::channels::capacity::Capacity;
use crate::channels::name::{ChannelName, Pattern};
use crate::util::sync::lock;

/// Delivers values to the subscribers there are now.
pub(super) struct Hub<T>(Mutex<Subscribers<T>>);

struct Subscribers<T> {
    /// The subscribers of one name, by the name.
    exact: HashMap<Arc<str>, Vec<Subscriber<T>>>,
    /// The subscribers with wildcards.
    patterns: Vec<(Pattern, Subscriber<T>)>,
    last: u64,
    /// Counts deliveries, to take turns in groups.
    turn: usize,
    is_closed: bool,
}

struct Subscriber<T> {
    number: u64,
    group: Option<Arc<str>>,
    sender: mpsc::Sender<T>,
    capacity: Capacity,
}

impl<T> Subscriber<T> {
    /// Sends a value of a size; it comes back from a subscriber that does not keep up.
    fn try_send(&self, value: T, size: usize) -> Result<(), T> {
        if !self.capacity.take(size) {
            return Err(value);
        }
        self.sender.try_send(value).map_err(|error| {
            self.capacity.free(size);
            error.into_inner()
        })
    }
}

/// The result of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// The subscribers and groups that got it.
    pub(super) delivered: usize,
    /// The subscribers and groups that did not, since they do not keep up.
    pub(super) lost: usize,
}

impl<T> Default for Hub<T> {
    fn default() -> Self {
        Self(Mutex::new(Subscribers {
            exact: HashMap::new(),
            patterns: Vec::new(),
            last: 0,
            turn: 0,
            is_closed: false,
        }))
    }
}

impl<T: Send + 'static> Hub<T> {
    /// Adds a subscriber; `None` once the hub is closed.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        pattern: &Pattern,
        group: Option<&str>,
        buffer: usize,
    ) -> Option<(mpsc::Receiver<T>, Capacity, Subscribed<T>)> {
        let (sender, receiver) = mpsc::channel(buffer.max(1));
        let capacity = Capacity::default();
        let mut subscribers = lock(&self.0);
        if subscribers.is_closed {
            return None;
        }
        subscribers.last += 1;
        let number = subscribers.last;
        let subscriber =
            Subscriber { number, group: group.map(Into::into), sender, capacity: capacity.clone() };
        if pattern.is_exact() {
            subscribers.exact.entry(pattern.as_str().into()).or_default().push(subscriber);
        } else {
            subscribers.patterns.push((pattern.clone(), subscriber));
        }
        Some((receiver, capacity, Subscribed { hub: Arc::clone(self), pattern: pattern.clone(), number }))
    }

    /// Delivers what `make` makes, of a size, to each subscriber, and to one member of each group.
    pub(super) fn deliver(
        &self,
        channel: &ChannelName,
        size: usize,
        mut make: impl FnMut() -> T,
    ) -> Delivered {
        let mut subscribers = lock(&self.0);
        subscribers.turn = subscribers.turn.wrapping_add(1);
        let (turn, mut result) = (subscribers.turn, Delivered::default());
        let mut groups: HashMap<&str, Vec<&Subscriber<T>>> = HashMap::new();
        let exact = subscribers.exact.get(channel.as_str()).into_iter().flatten();
        let matching = subscribers.patterns.iter().filter(|(pattern, _)| pattern.matches(channel.as_str()));
        for subscriber in exact.chain(matching.map(|(_, subscriber)| subscriber)) {
            match &subscriber.group {
                Some(group) => groups.entry(group).or_default().push(subscriber),
                None => result.add(subscriber.try_send(make(), size).is_ok()),
            }
        }
        for members in groups.into_values() {
            let mut value = make();
            let mut has_got_it = false;
            for at in 0..members.len() {
                match members[(turn + at) % members.len()].try_send(value, size) {
                    Ok(()) => {
                        has_got_it = true;
                        break;
                    }
                    Err(back) => value = back,
                }
            }
            result.add(has_got_it);
        }
        result
    }

    /// Returns the number of subscribers whose pattern matches.
    pub(super) fn subscribers(&self, channel: &str) -> usize {
        let subscribers = lock(&self.0);
        let exact = subscribers.exact.get(channel).map_or(0, Vec::len);
        exact + subscribers.patterns.iter().filter(|(pattern, _)| pattern.matches(channel)).count()
    }

    /// Returns the names that have subscribers of their own.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        lock(&self.0).exact.keys().cloned().collect()
    }

    /// Ends all subscriptions, and refuses new ones.
    pub(super) fn close(&self) {
        let mut subscribers = lock(&self.0);
        subscribers.is_closed = true;
        subscribers.exact.clear();
        subscribers.patterns.clear();
    }

    fn unsubscribe(&self, pattern: &Pattern, number: u64) {
        let mut subscribers = lock(&self.0);
        subscribers.patterns.retain(|(_, subscriber)| subscriber.number != number);
        if let Some(of_name) = subscribers.exact.get_mut(pattern.as_str()) {
            of_name.retain(|subscriber| subscriber.number != number);
            if of_name.is_empty() {
                subscribers.exact.remove(pattern.as_str());
            }
        }
    }
}

impl Delivered {
    fn add(&mut self, has_got_it: bool) {
        if has_got_it {
            self.delivered += 1;
        } else {
            self.lost += 1;
        }
    }
}

/// A subscription; dropping it ends it.
pub(super) struct Subscribed<T: Send + 'static> {
    hub: Arc<Hub<T>>,
    pattern: Pattern,
    number: u64,
}

impl<T: Send + 'static> Drop for Subscribed<T> {
    fn drop(&mut self) {
        self.hub.unsubscribe(&self.pattern, self.number);
    }
}
