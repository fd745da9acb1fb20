//! The functions of the app that write and read contexts.

use std::collections::HashMap;
use std::sync::OnceLock;

use tracing::Span;

use crate::message::{Message, Scalar};
use crate::util::caught::called;

/// The longest header of a message that is given to the function that reads contexts, in bytes.
const MAX_VALUE: usize = 8_192;
/// The most headers of a message that are given to it.
const MAX_HEADERS: usize = 64;

/// The relation of a span to the context that is read from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The span continues the trace of the context, as its child.
    Parent,
    /// The span belongs to another trace, or to another parent, and links to the context.
    Link,
}

type Inject = dyn Fn(&Span, &mut HashMap<String, String>) + Send + Sync;
type Extract = dyn Fn(&Span, &HashMap<String, String>, Relation) + Send + Sync;

pub(super) struct Propagation {
    pub(super) inject: Box<Inject>,
    pub(super) extract: Box<Extract>,
}

pub(super) static PROPAGATION: OnceLock<Propagation> = OnceLock::new();

/// Sets the functions that write the context of a span into the headers of a message, and read it from there. Call it once, before the
/// bus starts; later calls have no effect, and are logged.
///
/// `inject` writes the context of the span, under names in lower case. `extract` makes the context in the headers the parent or a link of the
/// span; it is called before the span is entered. After a panic in one of them the message goes on without its part.
pub fn set_propagation(
    inject: impl Fn(&Span, &mut HashMap<String, String>) + Send + Sync + 'static,
    extract: impl Fn(&Span, &HashMap<String, String>, Relation) + Send + Sync + 'static,
) {
    let propagation = Propagation { inject: Box::new(inject), extract: Box::new(extract) };
    if PROPAGATION.set(propagation).is_err() {
        tracing::warn!("ignored a second call of set_propagation; the first one counts");
    }
}

/// Whether spans are opened.
pub(crate) fn is_on() -> bool {
    PROPAGATION.get().is_some()
}

/// Makes the context of a message the parent or a link of a span.
pub(super) fn relate(span: &Span, message: &Message, relation: Relation) {
    if let Some(Propagation { extract, .. }) = PROPAGATION.get().filter(|_| !span.is_disabled()) {
        called(|| extract(span, &texts(message), relation));
    }
}

/// The headers of a message that can hold a context.
fn texts(message: &Message) -> HashMap<String, String> {
    let text = |(name, value): (&str, &Scalar)| match value {
        Scalar::String(text) if text.len() <= MAX_VALUE => {
            Some((name.to_ascii_lowercase(), text.to_string()))
        }
        _ => None,
    };
    message.headers().take(MAX_HEADERS).filter_map(text).collect()
}
