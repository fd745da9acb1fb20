//! Edit and requeue.

use tower_outbox::Message;

use super::{Kind, Ops, attributes, on_every_store, positions};
use crate::admin::Does;

on_every_store! {
    an_edited_message_is_new_and_names_its_origin
}

async fn an_edited_message_is_new_and_names_its_origin(kind: Kind) {
    let ops = Ops::new(kind, Does::Reject).await;
    let message = Message::new("order.created", r#"{"total": "ten"}"#)
        .unwrap()
        .with_key("order-7")
        .with_header("tenant", "blue");
    let message = message.with_content_type("application/json");
    let id = message.id().to_string();
    ops.store(vec![message]).await;
    ops.until(0, 1).await;
    ops.backend.set(Does::Take);
    let position = positions(&ops.page("messages").await)[0].to_owned();
    let form = ops.page(&format!("edit?position={position}")).await;
    assert_eq!(attributes(&form, "name=\"id\" value=\""), [id.as_str()]);
    assert!(form.contains("{&quot;total&quot;: &quot;ten&quot;}</textarea>"), "{form}");
    let fields = |topic: &str| {
        format!(
            "position={position}&id={id}&topic={topic}&key=order-7&content_type=application/json&body=%7B%22total%22%3A+10%7D&drop=yes"
        )
    };
    let refused = ops.submit("edit", &fields("a+b")).await;
    assert!(refused.status.is_client_error() && refused.text.contains("topic"), "{}", refused.text);
    ops.until(0, 1).await;
    // A form of another message that was at this position.
    let other = fields("order.created").replace(&id, "00000000-0000-0000-0000-000000000000");
    assert_eq!(ops.submit("edit", &other).await.status, 404);
    ops.until(0, 1).await;
    let stored = ops.submit("edit", &fields("order.created")).await;
    assert!(stored.text.contains("The original is dropped"), "{}", stored.text);
    ops.until(0, 0).await;
    let sent = ops.sent.messages();
    let [new] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((new.body().as_ref(), new.key()), (&br#"{"total": 10}"#[..], Some("order-7")));
    assert_eq!(new.header("edited_from").map(ToString::to_string), Some(id.clone()));
    assert_eq!(new.header("tenant").map(ToString::to_string).as_deref(), Some("blue"));
    assert_ne!(new.id().to_string(), id);
    // The original has left: the form is of no use any more.
    assert_eq!(ops.submit("edit", &fields("order.created")).await.status, 404);
}

#[tokio::test]
async fn a_body_that_is_no_text_is_not_edited() {
    let ops = Ops::new(Kind::Durable, Does::Down).await;
    ops.store(vec![Message::new("a", vec![0xff, 0]).unwrap()]).await;
    let position = positions(&ops.page("messages").await)[0].to_owned();
    let shown = ops.get(&format!("edit?position={position}")).await;
    assert!(shown.status.is_client_error() && shown.text.contains("no text"), "{}", shown.text);
}
