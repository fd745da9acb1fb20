//! A clock that jumps.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tower_outbox::Message;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, Store, Wait};

use super::{PART, StoreFolder, again, part};
use crate::support::stores::{assert_nothing_due, confirm, find, lease_all, list, open, retry, settle};

const WAIT: Duration = Duration::from_secs(2);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Runs this test as another process, whose clock is wrong by `offset`; returns its output.
fn at(offset: &str, test: &str, part: &str) -> String {
    let this = again(test, part);
    let mut command = Command::new("faketime");
    command.args(["-f", offset]).arg(this.get_program()).args(this.get_args());
    // The clock is offset, but does not run faster or slower.
    command.env(PART, part).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("faketime cannot be run: {error}; apt-get install faketime, as ./scripts/test does")
    });
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
    output
}

/// Stores a message that waits for a retry, a delayed one, and one behind the first by its key.
async fn fill(path: &Path) {
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(path)).await.unwrap();
    let keyed = |topic: &'static str| Message::new(topic, "").unwrap().with_key("k");
    let delayed = Message::new("delayed", "").unwrap().with_delay(WAIT);
    store.append(vec![keyed("retried"), delayed]).await.unwrap();
    let out = lease_all(&store, 1).await;
    settle(&store, &out, retry(WAIT)).await;
    store.append(vec![keyed("retried")]).await.unwrap();
    store.close().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    println!("\nfilled at {}", now.as_secs());
}

/// Opens the store, and returns the time until all messages are confirmed.
async fn leave(folder: &StoreFolder) -> Duration {
    let begun = Instant::now();
    let store = open(&folder.settings).await.unwrap();
    let out = lease_all(&store, 3).await;
    confirm(&store, &out).await;
    begun.elapsed()
}

async fn filled_at(offset: &str, test: &str) -> Option<StoreFolder> {
    if let Some(path) = part() {
        fill(Path::new(&path)).await;
        return None;
    }
    let folder = StoreFolder::new();
    let said = at(offset, test, folder.path().to_str().unwrap());
    let filled: u64 =
        said.lines().find_map(|line| line.strip_prefix("filled at ")?.parse().ok()).expect(&said);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(now.as_secs().abs_diff(filled) > YEAR.as_secs(), "the clock of the other was wrong");
    Some(folder)
}

#[tokio::test]
#[ignore = "needs faketime: ./scripts/test"]
async fn a_clock_that_jumps_back_does_not_lengthen_waits() {
    let test = "faults::clock::a_clock_that_jumps_back_does_not_lengthen_waits";
    let Some(folder) = filled_at("+10y", test).await else { return };
    let took = leave(&folder).await;
    assert!(took >= WAIT && took < WAIT + Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
#[ignore = "needs faketime: ./scripts/test"]
async fn a_clock_that_jumps_ahead_makes_waiting_messages_due() {
    let test = "faults::clock::a_clock_that_jumps_ahead_makes_waiting_messages_due";
    let Some(folder) = filled_at("-10y", test).await else { return };
    let took = leave(&folder).await;
    assert!(took < WAIT, "{took:?}");
}

/// The clock of a process jumps while it waits.
#[tokio::test]
#[ignore = "needs faketime: ./scripts/test"]
async fn a_clock_that_jumps_during_a_wait_does_not_lengthen_it() {
    let test = "faults::clock::a_clock_that_jumps_during_a_wait_does_not_lengthen_it";
    let Some(folder) = part() else {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("time"), "+0").unwrap();
        let clock = folder.path().join("time");
        let this = again(test, folder.path().to_str().unwrap());
        let mut command = Command::new("faketime");
        // The offset in the file counts, without the cache of one second.
        command.args(["-f", "+0", "env", "-u", "FAKETIME", "FAKETIME_NO_CACHE=1"]);
        command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()));
        command.arg(this.get_program()).args(this.get_args());
        command.env(PART, folder.path()).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let output = command.output().unwrap_or_else(|error| {
            panic!("faketime cannot be run: {error}; apt-get install faketime, as ./scripts/test does")
        });
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("confirmed in time"), "{said}");
        return;
    };
    let folder = Path::new(&folder);
    for offset in ["-10y", "+10y"] {
        std::fs::write(folder.join("time"), "+0").unwrap();
        let store = open(&EmbeddedStoreSettings::new(folder.join(offset))).await.unwrap();
        let message = Message::new("a", "").unwrap();
        store.append(vec![message.clone()]).await.unwrap();
        let out = lease_all(&store, 1).await;
        settle(&store, &out, retry(WAIT)).await;
        let (begun, before) = (Instant::now(), SystemTime::now());
        std::fs::write(folder.join("time"), offset).unwrap();
        let jumped = match SystemTime::now().duration_since(before) {
            Ok(ahead) => ahead,
            Err(back) => back.duration(),
        };
        assert!(jumped > YEAR, "the clock has jumped");
        if offset == "-10y" {
            assert_nothing_due(&store).await;
            let wait = find(&store, message.id()).await.wait;
            let Some(Wait::Retry { until }) = wait else { panic!("{wait:?}") };
            assert!(until.duration_since(SystemTime::now()).unwrap() <= WAIT, "the entry has the true time");
        }
        let out = lease_all(&store, 1).await;
        assert!(begun.elapsed() < WAIT + Duration::from_secs(3), "{:?}", begun.elapsed());
        confirm(&store, &out).await;
        assert!(list(&store).await.is_empty());
    }
    println!("confirmed in time");
}
