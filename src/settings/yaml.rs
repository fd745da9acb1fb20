//! Whether a text in YAML can be read within bounds: the library that reads it goes into tables by recursion, and copies what
//! an alias stands for.

use std::collections::HashMap;

use yaml_rust2::Event;
use yaml_rust2::parser::Parser;

/// How deep tables and lists may be in each other.
const MAX_DEPTH: usize = 64;

/// How many bytes and values it may have, with what its aliases repeat.
const MAX_SIZE: usize = 64 << 20;

/// What else is wrong with the text, its reader says.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut parser = Parser::new_from_str(text);
    let mut size = 0_usize;
    // Of each anchor its size; of each table that is open its anchor, and the size before it.
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
            return fault("its tables are in each other more than 64 deep");
        }
        if size > MAX_SIZE {
            return fault("its aliases repeat more than 64 MiB");
        }
    }
    Ok(())
}
