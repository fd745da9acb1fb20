//! Large messages do not come into the memory all at once.

use tower_outbox::Message;
use tower_outbox::store::Filter;

use super::{Kind, Ops, on_every_store};
use crate::admin::Does;
use crate::support::messages;

on_every_store! {
    a_page_ends_with_8_mib
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
