//! The events that this crate logs, as levels and fields: tests assert on those, so that texts can be reworded.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

thread_local! {
    static EVENTS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

/// The warnings and errors of all threads.
static ALARMS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

/// Starts to capture the events of this thread, at any level.
///
/// There is one subscriber for the process, since `tracing` caches which events the first one wanted, and one
/// buffer for each thread, since tests of one process run side by side.
pub fn listen() -> Logs {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let filter = EnvFilter::new("tower_outbox=trace,tower_http=debug");
        tracing_subscriber::registry().with(filter).with(Capture).init();
    });
    EVENTS.take();
    Logs(())
}

pub struct Logs(());

impl Logs {
    /// The events of this thread since [`listen`], oldest first.
    #[allow(clippy::unused_self, reason = "it proves that somebody listened")]
    pub fn events(&self) -> Vec<Event> {
        EVENTS.with_borrow(Clone::clone)
    }

    /// The events of this thread at this level that have all these fields.
    pub fn find(&self, level: Level, fields: &[&str]) -> Vec<Event> {
        let is_meant = |event: &Event| event.level == level && fields.iter().all(|field| event.has(field));
        self.events().into_iter().filter(is_meant).collect()
    }

    /// The messages that were not sent, one event each.
    pub fn unsent(&self) -> Vec<Event> {
        self.find(Level::ERROR, &["id", "topic", "failure", "cause"])
    }

    /// The reports of lost messages, each with a count.
    pub fn lost(&self) -> Vec<Event> {
        self.find(Level::ERROR, &["messages", "cause"])
    }

    /// The warnings and errors of all threads with this text in a field, such as a folder that only one test uses.
    #[allow(clippy::unused_self, reason = "it proves that somebody listened")]
    pub fn alarms(&self, about: &str) -> Vec<Event> {
        let alarms = ALARMS.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.iter().filter(|event| event.mentions(about)).cloned().collect()
    }
}

/// One event, or one span.
#[derive(Clone, PartialEq)]
pub struct Event {
    pub level: Level,
    /// The text, or the name of a span.
    pub text: String,
    pub fields: BTreeMap<String, String>,
    /// The spans around it, outermost first.
    pub spans: Vec<Self>,
}

impl Event {
    fn new(metadata: &Metadata<'_>) -> Self {
        let (text, spans) = (metadata.name().to_owned(), Vec::new());
        Self { level: *metadata.level(), text, fields: BTreeMap::new(), spans }
    }

    pub fn is_error(&self) -> bool {
        self.level == Level::ERROR
    }

    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The value of a field; empty if the event does not have it.
    pub fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// Whether a field holds this text.
    pub fn mentions(&self, part: &str) -> bool {
        self.fields.values().any(|value| value.contains(part))
    }
}

/// `LEVEL text field=value`, as a subscriber would write it.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.level, self.text)?;
        self.fields.iter().try_for_each(|(field, value)| write!(f, " {field}={value}"))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Visit for Event {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.text);
        } else {
            self.fields.insert(field.name().to_owned(), value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

struct Capture;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::Id,
        context: Context<'_, S>,
    ) {
        let mut span = Event::new(attributes.metadata());
        attributes.record(&mut span);
        context.span(id).unwrap().extensions_mut().insert(span);
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut captured = Event::new(event.metadata());
        event.record(&mut captured);
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            captured.spans.extend(span.extensions().get::<Event>().cloned());
        }
        if captured.level <= Level::WARN {
            ALARMS.lock().unwrap_or_else(PoisonError::into_inner).push(captured.clone());
        }
        EVENTS.with_borrow_mut(|events| events.push(captured));
    }
}
