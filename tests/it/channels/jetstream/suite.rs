//! Each check of the suite as a test of the engine on JetStream.

use super::super::suite::every_check;

macro_rules! jetstream {
    ($($module:ident: $($check:ident)*;)*) => {
        $(mod $module { $(
            #[tokio::test]
            #[ignore = "needs brokers: ./scripts/test"]
            async fn $check() {
                let channels = crate::channels::jetstream::Channels::new();
                tower_outbox::testing::engine_conformance::$module::$check(channels.harness().await).await;
                channels.remove().await;
            }
        )* })*
    };
}

every_check!(jetstream);
