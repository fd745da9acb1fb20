//! Dead letters over AMQP 1.0.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use crate::cli::{Run, command, tool};
use crate::peers::{Brokers, RabbitQueue, unique};

const LONG: Duration = Duration::from_secs(20);
/// Long enough to show that nothing comes.
const SHORT: Duration = Duration::from_millis(500);

/// An address, and that of its dead letters.
struct Addresses {
    folder: TempDir,
    url: String,
    address: String,
    dead: String,
}

impl Addresses {
    async fn at_each(test: &str) -> Vec<Self> {
        let brokers = Brokers::running();
        let made = |url: &str, address: String, dead: String| Self {
            folder: tempfile::tempdir().unwrap(),
            url: brokers.get(url).to_owned(),
            address,
            dead,
        };
        let name = unique("work");
        let rabbit = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &name).await.address();
        let dead = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &format!("{name}.dead")).await.address();
        let mut all = vec![made("RABBIT1_AMQP", rabbit, dead)];
        if !brokers.without_activemq(test) {
            let queue = format!("queue://{}", unique("work"));
            all.push(made("ACTIVEMQ_AMQP", queue.clone(), format!("{queue}.dead")));
        }
        all
    }

    /// Makes dead letters of these bodies by a consumer.
    async fn give_up(&self, bodies: impl Iterator<Item = u32>) {
        let mut settings = Amqp10Settings::new([&self.url]);
        settings.address = Some(self.address.clone());
        let messenger = Amqp10::new(&settings).unwrap();
        let message =
            |n: u32| Message::json("user.created", &n).unwrap().with_header("even", n.is_multiple_of(2));
        let batch: Vec<_> = bodies.map(message).collect();
        let mut left = batch.len();
        messenger.send(batch).await.unwrap();
        let subscription = Amqp10Subscription::new(&self.address).with_dead_letter_address(&self.dead);
        let source = Amqp10Source::new(&settings, &subscription).unwrap();
        while left > 0 {
            for unsettled in timeout(LONG, source.receive(left)).await.unwrap().unwrap() {
                unsettled.reject("it said no").await.unwrap();
                left -= 1;
            }
        }
        source.close(LONG).await;
        messenger.close(LONG).await;
    }

    fn args<'a>(&'a self, settings: &'a str, command: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        let Self { url, address, dead, .. } = self;
        let text = format!(
            "[MESSAGE_BUS]\nBACKEND = \"amqp10\"\nURLS = [{url:?}]\n[MESSAGE_BUS.CONSUMERS.work]\nADDRESS = {address:?}\n\
             DEAD_LETTER_ADDRESS = {dead:?}\n"
        );
        std::fs::write(settings, text).unwrap();
        [&["--settings", settings, "dead-letters", command, "--queue", &self.dead][..], args].concat()
    }

    fn settings(&self) -> String {
        self.folder.path().join("settings.toml").display().to_string()
    }

    async fn run(&self, command: &str, args: &[&str]) -> Run {
        tool(&self.args(&self.settings(), command, args)).await
    }

    /// The bodies at an address, which is empty then.
    async fn bodies(&self, address: &str) -> Vec<Value> {
        let settings = Amqp10Settings::new([&self.url]);
        let source = Amqp10Source::new(&settings, &Amqp10Subscription::new(address)).unwrap();
        let mut bodies = Vec::new();
        let mut patience = Duration::from_secs(3);
        while let Ok(received) = timeout(patience, source.receive(100)).await {
            for unsettled in received.unwrap() {
                bodies.push(serde_json::from_slice(unsettled.view().unwrap().message().body()).unwrap());
                unsettled.ack().await.unwrap();
            }
            patience = SHORT;
        }
        source.close(LONG).await;
        bodies
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_list_over_amqp_1_0_leaves_all_as_it_was() {
    for it in Addresses::at_each("cli::dead_letters::addresses::a_list").await {
        it.give_up(0..150).await;
        for _ in 0..2 {
            let listed = it.run("list", &["--json", "--limit", "200"]).await.json_lines();
            assert_eq!(listed.len(), 150, "{}", it.address);
            assert_eq!(listed[0]["explain"], "it said no");
            assert_eq!((&listed[0]["topic"], &listed[0]["attempts"]), (&json!("user.created"), &json!(1)));
        }
        let listed = it.run("list", &["--header", "even=true", "--limit", "3"]).await;
        assert_eq!(listed.out.lines().count(), 4, "{listed:?}");
        assert!(listed.err.contains("listed the first 3"), "{listed:?}");
        assert_eq!(it.bodies(&it.dead).await, (0..150).map(Value::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn dead_letters_go_back_to_their_address_and_others_stay() {
    for it in Addresses::at_each("cli::dead_letters::addresses::go_back").await {
        it.give_up(0..6).await;
        let dry = it.run("requeue", &["--dry-run", "--header", "even=true"]).await.ok();
        let to = format!("would requeue 3 dead letters\n  3 to the address {:?}\n", it.address);
        assert_eq!(dry, to);
        let done = it.run("requeue", &["--yes", "--header", "even=true"]).await;
        assert_eq!(done.ok(), "requeued 3 dead letters\n");
        assert_eq!(it.run("drop", &["--yes", "--limit", "1"]).await.ok(), "dropped 1 dead letter\n");
        assert_eq!(it.bodies(&it.dead).await, [3, 5]);
        assert_eq!(it.bodies(&it.address).await, [0, 2, 4]);
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_command_killed_in_the_middle_over_amqp_1_0_loses_nothing() {
    for it in Addresses::at_each("cli::dead_letters::addresses::killed").await {
        it.give_up(0..5).await;
        let settings = it.settings();
        let args = it.args(&settings, "requeue", &["--header", "even=false", "--yes", "--wait", "1h"]);
        let mut killed = command(&args).spawn().unwrap();
        // It has passed the first message, requeued the second, and waits.
        let requeued =
            Amqp10Source::new(&Amqp10Settings::new([&it.url]), &Amqp10Subscription::new(&it.address))
                .unwrap();
        let mut first = timeout(LONG, requeued.receive(1)).await.unwrap().unwrap();
        first.remove(0).ack().await.unwrap();
        killed.kill().await.unwrap();
        requeued.close(LONG).await;
        // Killed between the confirm of the copy and its own settlement, the requeued one is there too.
        let mut left = it.bodies(&it.dead).await;
        left.retain(|body| body != 1);
        assert_eq!(left, [0, 2, 3, 4], "{}", it.address);
    }
}
