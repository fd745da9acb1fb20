//! The names of channels as words of subjects, and as parts of the names of streams.

use std::fmt::Write;

use crate::channels::error::EngineError;
use crate::channels::info::ChannelKind;
use crate::channels::name::ChannelName;

/// The longest name of a channel in a stream, encoded. The server makes a folder of it.
const LONGEST: usize = 180;

/// The fault of a prefix.
pub(super) fn fault_of_prefix(prefix: &str) -> Option<&'static str> {
    let odd = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_';
    let is_bad = prefix.is_empty() || prefix.len() > 48 || prefix.starts_with('_') || prefix.contains(odd);
    is_bad.then_some("must have 1 to 48 letters, digits, - and _, and not begin with _: write \"channels\"")
}

/// Encodes a name as one word: a dot is `~`, and a byte that is no ASCII letter, digit, `-` or `_` is `=` with two hexadecimal digits.
pub(super) fn encode(name: &str) -> String {
    let mut word = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'.' => word.push('~'),
            byte if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' => word.push(byte.into()),
            byte => _ = write!(word, "={byte:02X}"),
        }
    }
    word
}

/// Encodes the name of a queue or stream.
pub(super) fn encode_channel(channel: &ChannelName) -> Result<String, EngineError> {
    let word = encode(channel.as_str());
    if word.len() > LONGEST {
        return Err(EngineError::Invalid(format!(
            "the name of the channel has {} bytes as the name of a stream of NATS, and {LONGEST} are possible: shorten it",
            word.len()
        )));
    }
    Ok(word)
}

/// Returns the name that was encoded.
pub(super) fn decode(word: &str) -> Option<ChannelName> {
    let (mut name, mut bytes) = (Vec::with_capacity(word.len()), word.bytes());
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'~' => b'.',
            b'=' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    ChannelName::new(String::from_utf8(name).ok()?).ok()
}

/// The word of a kind of channels without streams.
pub(super) fn word_of(kind: ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Commands => "command",
        ChannelKind::Queries => "query",
        _ => "event",
    }
}

/// Encodes a name or a pattern as the words of a subject. An empty word is `=`.
pub(super) fn subject(name: &str, is_pattern: bool) -> String {
    let words: Vec<&str> = name.split('.').collect();
    let mut subject = String::with_capacity(name.len() + 8);
    for (at, word) in words.iter().enumerate() {
        if at > 0 {
            subject.push('.');
        }
        match *word {
            "*" if is_pattern => subject.push('*'),
            ">" if is_pattern && at + 1 == words.len() => subject.push('>'),
            "" => subject.push('='),
            word => subject.extend(
                word.chars()
                    .map(|c| match c {
                        '*' | '>' | '=' => Err(c),
                        c => Ok(c),
                    })
                    .flat_map(|c| match c {
                        Ok(c) => c.to_string().chars().collect::<Vec<_>>(),
                        Err(c) => format!("={:02X}", c as u32).chars().collect(),
                    }),
            ),
        }
    }
    subject
}

/// Returns the name of a channel in a subject.
pub(super) fn of_subject(subject: &str) -> Option<ChannelName> {
    let mut name = String::with_capacity(subject.len());
    for (at, word) in subject.split('.').enumerate() {
        if at > 0 {
            name.push('.');
        }
        if word == "=" {
            continue;
        }
        let mut rest = word;
        while let Some(at) = rest.find('=') {
            name.push_str(&rest[..at]);
            let code = rest.get(at + 1..at + 3)?;
            name.push(u8::from_str_radix(code, 16).ok()?.into());
            rest = &rest[at + 3..];
        }
        name.push_str(rest);
    }
    ChannelName::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_from_streams_and_subjects() {
        for name in ["a", "a.b", ".a", "a..b", "größe.☃", "a=b", "~a", "A-b_c/d\\e", "=.="] {
            let channel = ChannelName::new(name).unwrap();
            let word = encode_channel(&channel).unwrap();
            assert!(!word.contains(['.', '*', '>', '/', '\\', ' ']), "{word}");
            assert_eq!(decode(&word), Some(channel.clone()));
            let subject = subject(name, false);
            assert!(subject.split('.').all(|word| !word.is_empty()), "{subject}");
            assert_eq!(of_subject(&subject), Some(channel), "{subject}");
        }
        assert_ne!(encode("a.b"), encode("a~b"));
        assert!(encode_channel(&ChannelName::new("x".repeat(181)).unwrap()).is_err());
        for bad in ["=", "=G0", "a=", "=FF"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        for bad in ["a=2", "a=é", "=G0"] {
            assert_eq!(of_subject(bad), None, "{bad}");
        }
    }

    #[test]
    fn wildcards_stay_wildcards_in_patterns_only() {
        for (pattern, wanted) in
            [("a.*", "a.*"), ("a.>", "a.>"), ("a.>.b", "a.=3E.b"), ("a*", "a=2A"), (">", ">")]
        {
            assert_eq!(subject(pattern, true), wanted);
        }
        assert_eq!(fault_of_prefix("channels"), None);
        for bad in ["", "a.b", "_INBOX", "$JS", "a b"] {
            assert!(fault_of_prefix(bad).is_some(), "{bad}");
        }
    }
}
