//! The texts and topic names that MQTT brokers accept.

/// The longest text (MQTT 5, 1.5.4).
pub(super) const LONGEST: usize = 65_535;

/// The fault of a text, if brokers may close the connection over it (MQTT 5, 1.5.4): it is too long, or has a control character
/// or a noncharacter. mosquitto closes it over each of them.
pub(super) fn fault_of(text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return Some(format!("is {} bytes long; MQTT carries {LONGEST}: shorten it", text.len()));
    }
    let odd = text.chars().find(|c| is_odd(*c))?;
    Some(format!(
        "has the character U+{:04X}, over which MQTT brokers close the connection: remove it",
        odd as u32
    ))
}

/// The fault of the name of a topic, or of a part of one (MQTT 5, 4.7.1 and 4.7.3).
pub(super) fn fault_of_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty: write the name of a topic".to_owned());
    }
    if name.contains(['+', '#']) {
        return Some(
            "has a wildcard, + or #, which is for subscriptions: write the name of a topic".to_owned(),
        );
    }
    fault_of(name)
}

/// The fault of a topic filter (MQTT 5, 4.7.1).
pub(super) fn fault_of_filter(filter: &str) -> Option<String> {
    if filter.is_empty() {
        return Some("has an empty filter: write one such as \"order/#\"".to_owned());
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_whole =
            !level.contains(['+', '#']) || level == "+" || (level == "#" && levels.peek().is_none());
        if !is_whole {
            return Some(format!(
                "has the filter {filter:?}: a wildcard must be a whole level, and # the last one"
            ));
        }
    }
    fault_of(filter)
}

/// Whether a topic filter matches the name of a topic (MQTT 5, 4.7).
pub(super) fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut levels) = (filter.split('/'), name.split('/'));
    loop {
        match (filter.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some(wanted), Some(level)) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
}

/// The text with a blank for each character that brokers do not accept.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_odd(c) { ' ' } else { c }).collect()
}

fn is_odd(c: char) -> bool {
    c.is_control() || matches!(c, '\u{FDD0}'..='\u{FDEF}') || c as u32 & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_over_which_brokers_hang_up_is_at_fault() {
        for text in ["", "plain", "größe ☃ 🦀", &"x".repeat(LONGEST)] {
            assert_eq!(fault_of(text), None);
        }
        for text in
            ["\0", "a\nb", "\u{7f}", "\u{9f}", "\u{fdd0}", "\u{fffe}", "\u{1ffff}", &"x".repeat(LONGEST + 1)]
        {
            assert!(fault_of(text).is_some(), "{text:?}");
            assert_eq!(fault_of(&printable(&text[..text.len().min(9)])), None);
        }
        for name in ["", "a/#", "a/+/b", "a\0"] {
            assert!(fault_of_name(name).is_some(), "{name:?}");
        }
    }

    #[test]
    fn filters_match_names_as_brokers_do() {
        for (filter, name) in
            [("a/b", "a/b"), ("a/+", "a/b"), ("a/#", "a/b/c"), ("a/#", "a"), ("#", "a"), ("+/+", "/a")]
        {
            assert!(matches(filter, name), "{filter} {name}");
        }
        for (filter, name) in
            [("a/b", "a/c"), ("a/+", "a/b/c"), ("a/+", "a"), ("a", "a/"), ("#", "$SYS/a"), ("+", "$a")]
        {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }

    #[test]
    fn wildcards_are_whole_levels() {
        for filter in ["a", "a/+/b", "#", "+", "a/#", "/a", "$SYS/#"] {
            assert_eq!(fault_of_filter(filter), None, "{filter}");
        }
        for filter in ["", "a#", "a/#/b", "a+/b", "a\0"] {
            assert!(fault_of_filter(filter).is_some(), "{filter}");
        }
    }
}
