//! Requests and replies as content of a channel, which other programs can read and write.
//!
//! | of a message or reply | in the content |
//! |---|---|
//! | id | id |
//! | topic, content type, status | the tags [`TOPIC`], [`CONTENT_TYPE`], [`STATUS`] |
//! | headers | tags |
//! | status | executed if it is 2xx; otherwise the error has the status and the start of a text body |
//!
//! A request without the tag [`TOPIC`] has the name of its channel as its topic. A reply without the tag [`STATUS`] is 200 if it was executed, and
//! otherwise 500 with the error as its body, unless it has a body.

use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::CONTENT_TYPE as HTTP_CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::channels::content::Content;
use crate::channels::name::ChannelName;
use crate::channels::request_types;
use crate::message::headers::{CONTENT_TYPE, MOST, STATUS, TOPIC, start_of};
use crate::message::{Message, Topic, TopicError, id_of};
use crate::reply::Reply;
use crate::util::error::BoxError;

/// The header with the metadata of a request or reply of another program.
const METADATA: &str = "metadata";
/// How many bytes of a body are shown as the error.
const ERROR: usize = 300;

/// Returns the content of a request.
pub(super) fn content(request: &Message) -> Content {
    let headers = request.headers().map(|(name, value)| (name.to_owned(), value.to_string()));
    let own = [(TOPIC, request.topic().as_str()), (CONTENT_TYPE, request.content_type())];
    Content {
        id: request.id().to_string(),
        client: String::new(),
        // Not empty: KubeMQ rejects a request with neither metadata nor body.
        metadata: request.topic().to_string(),
        body: request.body().clone(),
        tags: own
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .chain(headers)
            .collect(),
    }
}

/// Reads a request.
pub(super) fn message(channel: &ChannelName, content: &Content) -> Result<Message, BoxError> {
    let topic = match content.tag(TOPIC) {
        Some(topic) => Topic::new(topic.to_owned()),
        None => Topic::new(channel.as_str().to_owned()),
    };
    let topic = topic.map_err(|error: TopicError| error)?;
    let content_type = content.tag(CONTENT_TYPE).or_else(|| content.tag(HTTP_CONTENT_TYPE.as_str()));
    let content_type = Cow::Owned(content_type.unwrap_or("application/octet-stream").to_owned());
    let (id, body) = (id_of(&content.id), content.body.clone());
    let mut message = Message::restore(id, topic, body, content_type, SystemTime::now());
    for (name, value) in &content.tags {
        if !matches!(name.as_str(), TOPIC | CONTENT_TYPE) {
            message.set_received(name.clone(), value.clone())?;
        }
    }
    if content.tag(TOPIC).is_none() && !content.metadata.is_empty() {
        message.set_received(METADATA, content.metadata.clone())?;
    }
    Ok(message)
}

/// Returns a reply as an answer.
pub(super) fn answer(reply: Reply) -> request_types::Reply {
    let (parts, body) = reply.into_parts();
    let executed = parts.status.is_success();
    let status = (STATUS.to_owned(), parts.status.as_u16().to_string());
    let headers = parts.headers.iter().filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    });
    request_types::Reply {
        client: String::new(),
        executed,
        error: if executed { String::new() } else { error(parts.status, &body) },
        metadata: String::new(),
        tags: std::iter::once(status).chain(headers).collect(),
        body,
    }
}

fn error(status: StatusCode, body: &Bytes) -> String {
    match std::str::from_utf8(&body[..body.len().min(ERROR)]) {
        Ok(text) if !text.is_empty() => format!("{status}: {}", start_of(text, ERROR)),
        _ => status.to_string(),
    }
}

/// Reads an answer.
pub(super) fn reply(answer: request_types::Reply) -> Result<Reply, BoxError> {
    if answer.tags.len() > MOST {
        return Err(format!("it has more than {MOST} tags").into());
    }
    let tag =
        |name: &str| answer.tags.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let status = match tag(STATUS) {
        Some(status) => status.parse().ok().filter(|status| (200..600).contains(status)),
        None => Some(if answer.executed { 200 } else { 500 }),
    };
    let status = StatusCode::from_u16(status.ok_or("its status is none of HTTP")?)?;
    let is_foreign = tag(STATUS).is_none();
    let body = match answer.body.is_empty() && is_foreign && !answer.executed {
        true => Bytes::from(answer.error),
        false => answer.body,
    };
    let mut reply = Reply::new(body);
    *reply.status_mut() = status;
    let metadata = (METADATA.to_owned(), answer.metadata);
    for (name, value) in
        answer.tags.into_iter().chain((is_foreign && !metadata.1.is_empty()).then_some(metadata))
    {
        if name == STATUS {
            continue;
        }
        let name = if name == CONTENT_TYPE { HTTP_CONTENT_TYPE.as_str() } else { &name };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::try_from(value))
        {
            reply.headers_mut().append(name, value);
        }
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_fields() {
        let request = Message::new("order.quote", "body")
            .unwrap()
            .with_content_type("text/plain")
            .with_header("x-who", "Jo");
        let read = message(&ChannelName::new("orders").unwrap(), &content(&request)).unwrap();
        assert_eq!(read, request.clone().with_time(read.time()));
    }

    #[test]
    fn a_request_of_another_program_has_the_topic_of_its_channel() {
        let tags = vec![("x-who".to_owned(), "Jo".to_owned())];
        let content = Content { metadata: "about".into(), body: "body".into(), tags, ..Content::default() };
        let read = message(&ChannelName::new("orders.quote").unwrap(), &content).unwrap();
        assert_eq!(
            (read.topic().as_str(), read.content_type()),
            ("orders.quote", "application/octet-stream")
        );
        let header = |name| read.header(name).and_then(|value| value.as_str());
        assert_eq!((header("x-who"), header("metadata")), (Some("Jo"), Some("about")));
        let odd = Content { tags: vec![(TOPIC.to_owned(), "a b".to_owned())], ..Content::default() };
        assert!(message(&ChannelName::new("orders").unwrap(), &odd).is_err());
    }

    #[test]
    fn a_reply_keeps_status_headers_and_body() {
        let mut sent = Reply::new(Bytes::from_static(b"no such order"));
        *sent.status_mut() = StatusCode::NOT_FOUND;
        for value in ["a=1", "b=2"] {
            sent.headers_mut().append("set-cookie", HeaderValue::from_static(value));
        }
        let answer = answer(sent.clone());
        assert_eq!((answer.executed, answer.error.as_str()), (false, "404 Not Found: no such order"));
        let read = reply(answer).unwrap();
        assert_eq!(
            (read.status(), read.headers(), read.body()),
            (sent.status(), sent.headers(), sent.body())
        );
    }

    #[test]
    fn an_answer_of_another_program_has_a_status() {
        let foreign = |executed, body: &'static str| request_types::Reply {
            executed,
            error: "no stock".into(),
            metadata: "about".into(),
            body: body.into(),
            ..request_types::Reply::default()
        };
        for (answer, status, body) in [
            (foreign(true, "5 EUR"), 200, "5 EUR"),
            (foreign(false, ""), 500, "no stock"),
            (foreign(false, "because"), 500, "because"),
            (foreign(true, ""), 200, ""),
        ] {
            let read = reply(answer).unwrap();
            assert_eq!((read.status().as_u16(), &read.body()[..]), (status, body.as_bytes()));
            assert_eq!(read.headers()["metadata"], "about");
        }
        for status in ["101", "700", "ok", ""] {
            let tags = vec![(STATUS.to_owned(), status.to_owned())];
            assert!(reply(request_types::Reply { tags, ..foreign(true, "") }).is_err(), "{status}");
        }
    }
}
