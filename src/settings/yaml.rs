//! Bounds for YAML: the library that parses it recurses into tables, and copies the value of an alias.

use std::collections::HashMap;

use yaml_rust2::Event;
use yaml_rust2::parser::Parser;

/// How deep tables and lists may be nested.
const MAX_DEPTH: usize = 64;

/// How many bytes and values the text may have, including repetitions by aliases.
const MAX_SIZE: usize = 64 << 20;

/// Checks the bounds. Other faults are reported by the parser.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut parser = Parser::new_from_str(text);
    let mut size = 0_usize;
    // The size of each anchor; the anchor of each open table, and the size before it.
    let (mut anchors, mut open) = (HashMap::new(), Vec::new());
    while let Ok((event, marker)) = parser.next_token() {
        match event {
            Event::StreamEnd => break,
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                open.push((anchor, size));
                size += 1;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((anchor, before)) = open.pop() {
                    anchors.insert(anchor, size - before);
                }
            }
            Event::Scalar(text, _, anchor, _) => {
                size += 1 + text.len();
                anchors.insert(anchor, 1 + text.len());
            }
            Event::Alias(anchor) => size += anchors.get(&anchor).copied().unwrap_or(1),
            _ => {}
        }
        let fault = |problem| Err(format!("line {}: {problem}", marker.line()));
        if open.len() > MAX_DEPTH {
            return fault("tables are nested more than 64 deep");
        }
        if size > MAX_SIZE {
            return fault("aliases repeat more than 64 MiB");
        }
    }
    Ok(())
}
