//! Patterns of names as Python's `fnmatch` has them.

/// Whether a name matches the pattern: `*` is any text, `?` any character, `[ab]`, `[a-z]` and `[!ab]` one of, or
/// none of these.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
    at(&pattern, &name)
}

fn at(pattern: &[char], name: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return name.is_empty() };
    if *first == '*' {
        return (0..=name.len()).any(|skip| at(rest, &name[skip..]));
    }
    let Some((found, name)) = name.split_first() else { return false };
    match (first, set(rest)) {
        ('?', _) => at(rest, name),
        ('[', Some((set, rest))) => contains(set, *found) && at(rest, name),
        _ => first == found && at(rest, name),
    }
}

/// The text between the brackets, and the rest. A closing bracket that comes first is one of the characters.
fn set(pattern: &[char]) -> Option<(&[char], &[char])> {
    let start = if pattern.first() == Some(&'!') { 2 } else { 1 };
    let end = start + pattern.get(start..)?.iter().position(|c| *c == ']')?;
    Some((&pattern[..end], &pattern[end + 1..]))
}

fn contains(set: &[char], c: char) -> bool {
    let (negated, mut set) = match set {
        ['!', set @ ..] => (true, set),
        set => (false, set),
    };
    let mut found = false;
    while let [first, rest @ ..] = set {
        (found, set) = match rest {
            ['-', last, rest @ ..] => (found || (*first..=*last).contains(&c), rest),
            rest => (found || *first == c, rest),
        };
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// Each as Python 3.13 answers.
    #[test]
    fn patterns_are_those_of_python() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*store", "retry.store", true),
            ("*mail*", "acme.registration.1.event.user_created.send_mail", true),
            ("acme.*.handler", "acme.a.b.handler", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a[bc]d", "acd", true),
            ("a[!bc]d", "acd", false),
            ("a[b-d]e", "ace", true),
            ("a[]]b", "a]b", true),
            ("a[b", "a[b", true),
            ("Store", "store", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
