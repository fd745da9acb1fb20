//! Dead letters of petisco get another life from us.

use serde_json::json;

use super::{Vhost, lasting, mail};
use crate::cli::tool;
use crate::peers::Brokers;

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_petisco_gave_up_on_it_handles_after_our_requeue() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    lasting().topology().apply(&vhost.settings()).await.unwrap();
    let dead_letters = format!("dead_letter.{}", lasting().queue_of(&mail()));
    // One retry, and it fails three times: twice before it is a dead letter, once after the requeue.
    let mut theirs = vhost.petisco_consumer(1, 3).await;
    let sent = vhost.petisco(&["publish"]).await.remove(0);
    for _ in 0..2 {
        assert_eq!(theirs.event("message").await["failed"], true);
    }
    vhost.until_in(&dead_letters, 1).await;

    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.toml");
    let text = format!(
        "[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = [{:?}]\nENVELOPE = \"petisco\"\nORGANIZATION = \"acme\"\nSERVICE = \"registration\"\n",
        vhost.url()
    );
    std::fs::write(&settings, text).unwrap();
    let requeue =
        ["--settings", settings.to_str().unwrap(), "dead-letters", "requeue", "--queue", &dead_letters];
    let dry = tool(&[&requeue[..], &["--dry-run", "--topic", "user.*"]].concat()).await;
    let to =
        format!("\"retry.acme.registration\" with the routing key \"retry.{}\"", lasting().queue_of(&mail()));
    assert_eq!(dry.ok(), format!("would requeue 1 dead letter\n  1 to the exchange {to}\n"));
    let other = tool(&[&requeue[..], &["--topic", "user.deleted", "--yes"]].concat()).await;
    assert_eq!(other.ok(), "requeued 0 dead letters\n");
    vhost.until_in(&dead_letters, 1).await;
    let meant = ["--topic", "user.created", "--header", "correlation_id=abc", "--yes"];
    assert_eq!(tool(&[&requeue[..], &meant].concat()).await.ok(), "requeued 1 dead letter\n");

    assert_eq!(theirs.event("message").await["failed"], true, "its attempts are counted anew");
    let handled = theirs.event("message").await;
    assert_eq!((&handled["failed"], &handled["id"]), (&json!(false), &sent["data"]["id"]));
    assert_eq!(
        (&handled["attributes"], &handled["meta"]),
        (&sent["data"]["attributes"], &sent["data"]["meta"])
    );
    vhost.until_in(&dead_letters, 0).await;
    vhost.delete().await;
}
