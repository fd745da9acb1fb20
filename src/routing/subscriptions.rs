//! The tree of subscriptions: which subscribers a URI has.

use std::collections::HashMap;

use super::pattern::{Level, Pattern};
use super::uri::Uri;

/// Patterns with their subscribers. The subscribers of a URI are found in a time that depends on the levels of the URI and
/// on the wildcards beside its path, not on the number of subscriptions.
#[derive(Debug)]
pub(super) struct SubscriptionTree<T> {
    /// The nodes; the first one is the root. A free node is not reachable.
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Node<T> {
    exact: HashMap<Box<str>, u32>,
    /// The node behind `+`.
    one: Option<u32>,
    /// The node behind `*`.
    any: Option<u32>,
    /// Whether the node itself is behind a `*`, so that it may take further levels.
    repeats: bool,
    subscribers: Vec<T>,
}

impl<T> Node<T> {
    fn new(repeats: bool) -> Self {
        Self { exact: HashMap::new(), one: None, any: None, repeats, subscribers: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.one.is_none() && self.any.is_none() && self.subscribers.is_empty()
    }
}

const ROOT: u32 = 0;

impl<T> Default for SubscriptionTree<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::new(false)], free: Vec::new() }
    }
}

impl<T: Copy + Ord> SubscriptionTree<T> {
    /// Adds a subscriber. Adding the same one again changes nothing.
    pub(super) fn insert(&mut self, pattern: &Pattern, subscriber: T) {
        let mut at = ROOT;
        for level in pattern.levels() {
            at = match self.child(at, level) {
                Some(child) => child,
                None => self.add_child(at, level),
            };
        }
        let subscribers = &mut self.nodes[at as usize].subscribers;
        if !subscribers.contains(&subscriber) {
            subscribers.push(subscriber);
        }
    }

    /// Removes a subscriber, and the nodes that nobody needs any more.
    pub(super) fn remove(&mut self, pattern: &Pattern, subscriber: T) {
        let mut path = vec![ROOT];
        for level in pattern.levels() {
            let Some(child) = self.child(path[path.len() - 1], level) else { return };
            path.push(child);
        }
        self.nodes[path[path.len() - 1] as usize].subscribers.retain(|other| *other != subscriber);
        let levels: Vec<_> = pattern.levels().collect();
        for depth in (1..path.len()).rev() {
            if !self.nodes[path[depth] as usize].is_empty() {
                break;
            }
            let parent = &mut self.nodes[path[depth - 1] as usize];
            match levels[depth - 1] {
                Level::Exact(level) => drop(parent.exact.remove(level)),
                Level::One => parent.one = None,
                Level::Any => parent.any = None,
            }
            self.free.push(path[depth]);
        }
    }

    /// Returns the subscribers of a URI, in their order, each once.
    pub(super) fn matches(&self, uri: &Uri) -> Vec<T> {
        // The nodes that the levels so far lead to, each once.
        let (mut active, mut next) = (Vec::new(), Vec::new());
        self.enter(ROOT, &mut active);
        for level in uri.levels() {
            for at in active.drain(..) {
                let node = &self.nodes[at as usize];
                if node.repeats {
                    self.enter(at, &mut next);
                }
                let children = [node.exact.get(level).copied(), node.one];
                children.into_iter().flatten().for_each(|child| self.enter(child, &mut next));
            }
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut active, &mut next);
        }
        let mut found: Vec<T> =
            active.into_iter().flat_map(|at| self.nodes[at as usize].subscribers.iter().copied()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Adds a node, and the one that its `*` leads to without a level. There is one at most, since no `*` follows a `*`.
    fn enter(&self, at: u32, active: &mut Vec<u32>) {
        active.push(at);
        active.extend(self.nodes[at as usize].any);
    }

    fn child(&self, at: u32, level: Level<'_>) -> Option<u32> {
        let node = &self.nodes[at as usize];
        match level {
            Level::Exact(level) => node.exact.get(level).copied(),
            Level::One => node.one,
            Level::Any => node.any,
        }
    }

    fn add_child(&mut self, at: u32, level: Level<'_>) -> u32 {
        let node = Node::new(level == Level::Any);
        let child = match self.free.pop() {
            Some(free) => {
                self.nodes[free as usize] = node;
                free
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer subscriptions than 2^32")
            }
        };
        let parent = &mut self.nodes[at as usize];
        match level {
            Level::Exact(level) => drop(parent.exact.insert(level.into(), child)),
            Level::One => parent.one = Some(child),
            Level::Any => parent.any = Some(child),
        }
        child
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::model::{self, Random};

    #[test]
    fn the_tree_finds_the_same_subscribers_as_the_model() {
        let mut random = Random(3);
        for _ in 0..200 {
            let (mut tree, mut model) = (SubscriptionTree::default(), Vec::new());
            for step in 0..200_u32 {
                if random.below(3) > 0 || model.is_empty() {
                    let text = model::pattern(&mut random);
                    // Several subscribers have one pattern, and several patterns one subscriber.
                    let subscriber = step % 50;
                    tree.insert(&Pattern::new(&text).unwrap(), subscriber);
                    // The tree takes `*/*` as `*`.
                    let entry = (Pattern::new(&text).unwrap().as_str().to_owned(), subscriber);
                    if !model.contains(&entry) {
                        model.push(entry);
                    }
                } else {
                    let (text, subscriber) = model.swap_remove(random.below(model.len()));
                    tree.remove(&Pattern::new(&text).unwrap(), subscriber);
                }
                let uri = model::uri(&mut random);
                let mut wanted: Vec<_> =
                    model.iter().filter(|(text, _)| model::matches(text, &uri)).map(|(_, it)| *it).collect();
                wanted.sort_unstable();
                wanted.dedup();
                assert_eq!(tree.matches(&Uri::new(&uri).unwrap()), wanted, "{uri} {model:?}");
            }
            for (text, subscriber) in model {
                tree.remove(&Pattern::new(&text).unwrap(), subscriber);
            }
            assert_eq!(tree.len(), 1, "only the root is left");
        }
    }

    #[test]
    fn removing_a_subscription_that_is_not_there_changes_nothing() {
        let mut tree = SubscriptionTree::default();
        tree.insert(&Pattern::new("a/*").unwrap(), 1);
        tree.remove(&Pattern::new("a/+").unwrap(), 1);
        tree.remove(&Pattern::new("a/*").unwrap(), 2);
        assert_eq!(tree.matches(&Uri::new("a/b").unwrap()), [1]);
    }
}
