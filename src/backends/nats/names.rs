//! The names and subjects that NATS accepts.

/// The fault of the name of a stream, a consumer or a domain.
pub(super) fn fault_of_name(name: &str) -> Option<String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    if name.is_empty() || name.len() > 255 || name.contains(odd) {
        return Some("must have 1 to 255 bytes, and no blank, dot, *, >, / or \\".to_owned());
    }
    None
}

/// The fault of a subject; with wildcards that of a filter.
pub(super) fn fault_of_subject(subject: &str, wildcards: bool) -> Option<String> {
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() {
            return Some(format!("has an empty part: {subject:?}"));
        }
        if token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            continue;
        }
        if token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Some(format!("has a blank or control character: {subject:?}"));
        }
        if token.contains(['*', '>']) {
            if !wildcards {
                return Some(format!("has a wildcard: {subject:?}"));
            }
            if token.len() > 1 || (token == ">" && tokens.peek().is_some()) {
                return Some(format!(
                    "has a wildcard that is no whole part, or > before the end: {subject:?}"
                ));
            }
        }
    }
    if subject.starts_with('$') || subject.starts_with("_INBOX.") {
        return Some(format!("begins as the subjects of the server itself do: {subject:?}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_that_a_server_refuses_are_at_fault() {
        for good in ["a", "a.b", "größe.☃"] {
            assert_eq!(fault_of_subject(good, false), None, "{good}");
        }
        for bad in ["", "a..b", ".a", "a.", "a b", "a\0", "$JS.API.x", "_INBOX.x", "a.*", ">"] {
            assert!(fault_of_subject(bad, false).is_some(), "{bad:?}");
        }
        for good in ["a.*", "a.>", ">", "*.b"] {
            assert_eq!(fault_of_subject(good, true), None, "{good}");
        }
        for bad in ["a*", "a.>.b", "a>"] {
            assert!(fault_of_subject(bad, true).is_some(), "{bad:?}");
        }
        for bad in ["", "a.b", "a b", "a/b", "*"] {
            assert!(fault_of_name(bad).is_some(), "{bad:?}");
        }
    }
}
