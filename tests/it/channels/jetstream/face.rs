//! The face of KubeMQ on JetStream: its own tests, in a process of its own.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::Channels;

/// Longer than they take.
const LONG: Duration = Duration::from_secs(300);

/// The tests whose engine is the embedded one in any case, or whose messages are larger than a NATS server takes by default.
const NOT_HERE: [&str; 2] = ["kubemq::serve::", "a_message_of_20_mib_arrives"];

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_tests_of_the_face_hold_on_nats() {
    let mut channels = Channels::new();
    channels.prefix.truncate(20);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["kubemq::", "--include-ignored", "--test-threads=2"]);
    for skipped in NOT_HERE {
        command.args(["--skip", skipped]);
    }
    // A test of nextest runs alone; here they are threads.
    command.env_remove("NEXTEST_EXECUTION_MODE").env(crate::kubemq::ON_NATS, &channels.prefix);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LONG, command.output()).await.expect("they hang").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("kubemq::readme::"), "the tests of the SDK are among them");
    channels.remove().await;
}
