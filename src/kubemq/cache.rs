//! Answers to queries, kept by key for a time.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use prost::Message;
use tokio::time::Instant;

use super::limits;
use crate::kubemq_wire::Response;
use crate::util::sync::lock;

/// Answers to queries, by channel and key: at most 64 MiB, the oldest go first.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    answers: HashMap<Key, Cached>,
    /// The keys in the order in which they were kept, each with the number of its answer.
    order: VecDeque<(Key, u64)>,
    bytes: u64,
    kept: u64,
}

type Key = (String, String);

#[derive(Debug)]
struct Cached {
    answer: Response,
    until: Instant,
    number: u64,
    size: u64,
}

impl Cache {
    /// Returns the answer that is kept for a key.
    pub(super) fn answer(&self, channel: &str, key: &str) -> Option<Response> {
        let mut inner = lock(&self.0);
        let key = (channel.to_owned(), key.to_owned());
        if inner.answers.get(&key)?.until <= Instant::now() {
            inner.remove(&key);
            return None;
        }
        inner.answers.get(&key).map(|cached| cached.answer.clone())
    }

    /// Keeps an answer for `seconds`, unless it is larger than 1 MiB.
    pub(super) fn keep(&self, channel: &str, key: &str, seconds: i32, answer: &Response) {
        let size = answer.encoded_len() + channel.len() + key.len();
        if size > limits::CACHED {
            return;
        }
        // The size of a node of the maps.
        let size = size as u64 + 512;
        let until = Instant::now() + Duration::from_secs(u64::from(seconds.unsigned_abs()));
        let key = (channel.to_owned(), key.to_owned());
        let mut inner = lock(&self.0);
        inner.remove(&key);
        while inner.bytes + size > limits::CACHE_BYTES
            && let Some((oldest, number)) = inner.order.pop_front()
        {
            if inner.answers.get(&oldest).is_some_and(|cached| cached.number == number) {
                inner.remove(&oldest);
            }
        }
        inner.kept += 1;
        inner.bytes += size;
        let number = inner.kept;
        inner.order.push_back((key.clone(), number));
        inner.answers.insert(key, Cached { answer: answer.clone(), until, number, size });
        inner.tidy();
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        if let Some(cached) = self.answers.remove(key) {
            self.bytes -= cached.size;
        }
    }

    /// Drops the places of answers that were replaced, before they are more than the answers.
    fn tidy(&mut self) {
        if self.order.len() > 2 * self.answers.len() + 64 {
            let answers = &self.answers;
            self.order
                .retain(|(key, number)| answers.get(key).is_some_and(|cached| cached.number == *number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(metadata: &str) -> Response {
        Response { metadata: metadata.to_owned(), ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_time() {
        let cache = Cache::default();
        cache.keep("prices", "a", 2, &answer("1"));
        assert_eq!(cache.answer("prices", "a"), Some(answer("1")));
        assert_eq!(cache.answer("orders", "a"), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(cache.answer("prices", "a"), None);
    }

    #[tokio::test]
    async fn a_full_cache_drops_its_oldest_answers() {
        let cache = Cache::default();
        let text = "x".repeat(900 << 10);
        for key in 0..200 {
            cache.keep("prices", &key.to_string(), 60, &answer(&text));
            // Replaced again and again, it takes one place.
            cache.keep("prices", "same", 60, &answer("1"));
        }
        let inner = lock(&cache.0);
        assert!(inner.bytes <= limits::CACHE_BYTES && inner.answers.len() > 60);
        assert!(inner.order.len() <= 2 * inner.answers.len() + 64);
        drop(inner);
        assert!(cache.answer("prices", "199").is_some() && cache.answer("prices", "0").is_none());
        assert!(cache.answer("prices", "same").is_some());
    }
}
