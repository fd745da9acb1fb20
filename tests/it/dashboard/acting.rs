//! Requeue and drop.

use std::time::Duration;

use super::{Kind, Ops, attributes, on_every_store, positions};
use crate::admin::Does;

on_every_store! {
    selected_messages_are_requeued_after_a_question
    all_that_match_are_requeued_with_their_number
    dropped_messages_are_gone
    a_message_that_left_meanwhile_is_reported
    a_drop_can_be_undone_for_a_while
}

/// The fields of the form of a page that asks, as a browser sends them.
pub fn fields(page: &str) -> String {
    let form = page.split("action=\"act\"").nth(1).unwrap().split("</form>").next().unwrap();
    let mut fields = form_urlencoded_pairs(form);
    if form.contains("name=\"rate\"") {
        fields.push("rate=1000".to_owned());
    }
    fields.join("&")
}

fn form_urlencoded_pairs(form: &str) -> Vec<String> {
    let inputs = form.split("type=\"hidden\"").skip(1);
    let pair = |input: &str| {
        let (name, value) = (attributes(input, "name=\"")[0], attributes(input, "value=\"")[0]);
        let encoded: String = url::form_urlencoded::byte_serialize(unescaped(value).as_bytes()).collect();
        format!("{name}={encoded}")
    };
    inputs.map(pair).collect()
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

async fn selected_messages_are_requeued_after_a_question(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b", "c"]).await;
    ops.backend.set(Does::Take);
    let list = ops.page("messages?state=dead").await;
    let (first, last) = (positions(&list)[0], positions(&list)[2]);
    let question = ops.page(&format!("confirm?act=requeue&position={first}&position={last}")).await;
    assert!(question.contains("Requeue 2 messages?"), "{question}");
    ops.until(0, 3).await;
    let answer = ops.done(&fields(&question)).await;
    assert!(answer.contains("Requeued 2 messages"), "{answer}");
    ops.until(0, 1).await;
    assert_eq!(ops.sent.topics(), ["a", "c"]);
}

async fn all_that_match_are_requeued_with_their_number(kind: Kind) {
    let ops = Ops::with_dead(kind, ["user.a", "user.b", "order.a"]).await;
    ops.backend.set(Does::Take);
    let question = ops.page("confirm?act=requeue-all&topic=user.*").await;
    assert!(question.contains("Requeue 2 messages?") && question.contains("<dd>user.*</dd>"), "{question}");
    let answer = ops.done(&fields(&question)).await;
    assert!(answer.contains("Requeued 2 messages"), "{answer}");
    ops.until(0, 1).await;
    assert_eq!(ops.sent.topics(), ["user.a", "user.b"]);
}

async fn dropped_messages_are_gone(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b"]).await;
    let question = ops.page("confirm?act=drop-all&state=dead&topic=a").await;
    assert!(question.contains("Drop 1 message?"), "{question}");
    let answer = ops.done(&fields(&question)).await;
    assert!(answer.contains("Dropped 1 message"), "{answer}");
    ops.until(0, 1).await;
    let nothing = ops.page("confirm?act=drop-all&state=dead&topic=a").await;
    assert!(nothing.contains("nothing to do") && !nothing.contains("action=\"act\""), "{nothing}");
}

async fn a_message_that_left_meanwhile_is_reported(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b"]).await;
    let list = ops.page("messages").await;
    let question = format!("act=drop&position={}&position={}", positions(&list)[0], positions(&list)[1]);
    let drop = format!("act=drop&position={}", positions(&list)[0]);
    // A message that has just become a dead letter counts as one that is being sent for a moment longer.
    while !ops.done(&drop).await.contains("Dropped 1 message") {}
    ops.until(0, 1).await;
    let answer = ops.done(&question).await;
    assert!(
        answer.contains("Dropped 1 message") && answer.contains("1 of the selected were left"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_form_without_a_selection_does_nothing() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    for (fields, why) in [
        ("act=drop", "no message is selected"),
        ("position=1", "no operation"),
        ("act=drop&position=one", "cannot be"),
        ("act=requeue&position=1&rate=fast", "such as 100"),
        ("act=requeue&position=1&rate=0", "at least"),
    ] {
        let shown = ops.submit("act", fields).await;
        assert!(shown.status.is_client_error() && shown.text.contains(why), "{fields}: {}", shown.text);
    }
    ops.until(0, 1).await;
}

async fn a_drop_can_be_undone_for_a_while(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b", "c"]).await.with_undo(Duration::from_secs(600));
    let question = ops.page("confirm?act=drop-all&state=dead&topic=a").await;
    assert!(question.contains("10m"), "{question}");
    let answer = ops.done(&fields(&question)).await;
    assert!(answer.contains("1 message will be dropped"), "{answer}");
    let list = ops.page("messages").await;
    assert!(list.contains("1 message will be dropped") && positions(&list).len() == 3, "{list}");
    let id = attributes(&answer, "name=\"id\" value=\"")[0].to_owned();
    let undone = ops.submit("undo", &format!("id={id}")).await;
    assert!(undone.text.contains("Kept 1 message"), "{}", undone.text);
    assert!(!ops.page("messages").await.contains("will be dropped"));
    let late = ops.submit("undo", &format!("id={id}")).await;
    assert!(late.status.is_client_error() && late.text.contains("too late"), "{}", late.text);
    // Without an undo it happens.
    let ops = ops.with_undo(Duration::from_secs(1));
    ops.done("act=drop-all&state=dead&topic=b").await;
    ops.until(0, 2).await;
}

#[tokio::test]
async fn requeue_all_means_dead_letters_unless_told() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    ops.backend.set(Does::Down);
    ops.store(vec![crate::support::message("a")]).await;
    ops.until(1, 1).await;
    let question = ops.page("confirm?act=requeue-all&topic=a").await;
    assert!(question.contains("Requeue 1 message?"), "{question}");
}
