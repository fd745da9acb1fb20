//! Large messages do not come into the memory all at once, and a long search does not take long.

use tower_outbox::Message;
use tower_outbox::store::Filter;

use super::{Kind, Ops, on_every_store, positions};
use crate::admin::Does;
use crate::support::{message, messages};

on_every_store! {
    a_page_ends_with_8_mib
    a_search_ends_a_page_before_it_has_read_all
}

async fn a_page_ends_with_8_mib(kind: Kind) {
    let ops = Ops::new(kind, Does::Down).await;
    for _ in 0..4 {
        ops.store((0..5).map(|_| Message::new("large", vec![b'x'; 1 << 20]).unwrap()).collect()).await;
        ops.store(messages(["small", "small", "small"])).await;
    }
    for (topic, expected) in [(None, 32), (Some("large"), 20), (Some("small"), 12)] {
        let mut filter = Filter::default();
        filter.topic = topic.map(str::to_owned);
        let (mut found, mut after) = (0, None);
        loop {
            let page = ops.outbox().list(&filter, after, 1_000).await.unwrap();
            let bodies = page.entries.iter().filter_map(|entry| entry.message.as_ref());
            let bytes: usize = bodies.map(|message| message.body().len()).sum();
            assert!(bytes < 9 << 20, "{bytes} {topic:?}");
            found += page.entries.len();
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(found, expected, "{topic:?}");
    }
}

async fn a_search_ends_a_page_before_it_has_read_all(kind: Kind) {
    let ops = Ops::new(kind, Does::Down).await;
    for _ in 0..21 {
        ops.store((0..1_000).map(|_| message("a")).collect()).await;
    }
    ops.store(messages(["last"])).await;
    let mut filter = Filter::default();
    filter.topic = Some("last".to_owned());
    let first = ops.outbox().list(&filter, None, 50).await.unwrap();
    assert!(first.entries.is_empty() && first.next.is_some(), "{first:?}");
    assert_eq!(ops.outbox().count(&filter).await.unwrap(), 1);
    assert_eq!(ops.outbox().find(&filter).await.unwrap().unwrap().message.unwrap().topic().as_str(), "last");
    // A page that had no time to find it says so, and leads on.
    let page = ops.page("messages?topic=last").await;
    let is_cut =
        page.contains("The search was cut short before the first match") && page.contains(">Search on<");
    assert!(positions(&page).len() == 1 || is_cut, "{page}");
}
