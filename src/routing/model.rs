//! A naive matcher of patterns, and random patterns and URIs, for tests.

/// A generator of numbers that are the same in each run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

pub(super) fn uri(random: &mut Random) -> String {
    let levels: Vec<_> = (0..=random.below(5)).map(|_| ["a", "b", "c"][random.below(3)]).collect();
    levels.join("/")
}

pub(super) fn pattern(random: &mut Random) -> String {
    let levels: Vec<_> =
        (0..=random.below(5)).map(|_| ["a", "b", "c", "+", "*", "*"][random.below(6)]).collect();
    levels.join("/")
}

/// As the definition says, in exponential time.
pub(super) fn matches(pattern: &str, uri: &str) -> bool {
    fn go(pattern: &[&str], uri: &[&str]) -> bool {
        match (pattern, uri) {
            ([], []) => true,
            (["*", rest @ ..], _) => (0..=uri.len()).any(|skipped| go(rest, &uri[skipped..])),
            (["+", rest @ ..], [_, uri @ ..]) => go(rest, uri),
            ([level, rest @ ..], [next, uri @ ..]) => level == next && go(rest, uri),
            _ => false,
        }
    }
    go(&pattern.split('/').collect::<Vec<_>>(), &uri.split('/').collect::<Vec<_>>())
}
