//! The contract of a store, for one that has an engine.

/// Makes `$store` a [`Store`](crate::store::Store), by its field `engine`.
macro_rules! store_of_engine {
    ($store:ident) => {
        impl std::fmt::Debug for $store {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let place = $crate::store::Store::location(self);
                f.debug_struct(stringify!($store)).field("place", &place).finish_non_exhaustive()
            }
        }

        #[async_trait::async_trait]
        impl $crate::store::Store for $store {
            async fn append(
                &self,
                batch: Vec<$crate::message::Message>,
            ) -> Result<(), $crate::store::Unstored> {
                self.engine.append(batch).await
            }

            async fn lease(
                &self,
                limit: usize,
            ) -> Result<Vec<$crate::store::Leased>, $crate::store::StoreError> {
                self.engine.lease(limit).await
            }

            async fn settle(
                &self,
                settled: &[($crate::store::Lease, $crate::message::Settlement)],
            ) -> Result<(), $crate::store::StoreError> {
                self.engine.settle(settled).await
            }

            async fn list(
                &self,
                filter: &$crate::store::Filter,
                after: Option<u64>,
                limit: usize,
            ) -> Result<$crate::store::Page, $crate::store::StoreError> {
                self.engine.list(filter, after, limit).await
            }

            async fn requeue(
                &self,
                positions: &[u64],
                pace: std::time::Duration,
            ) -> Result<usize, $crate::store::StoreError> {
                self.engine.requeue(positions, pace).await
            }

            async fn drop_messages(&self, positions: &[u64]) -> Result<usize, $crate::store::StoreError> {
                self.engine.drop_messages(positions).await
            }

            async fn counts(&self) -> Result<$crate::store::Counts, $crate::store::StoreError> {
                self.engine.counts().await
            }

            fn location(&self) -> String {
                $crate::store::sql::Tables::location(self.engine.tables())
            }

            fn admission(&self) -> Option<$crate::messenger::Admission> {
                Some(self.engine.admission())
            }

            async fn close(&self) {
                self.engine.close().await;
            }
        }
    };
}

pub(in crate::store) use store_of_engine;
