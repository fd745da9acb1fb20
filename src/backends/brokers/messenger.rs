//! The messenger of every backend with several brokers.

/// Makes a newtype of a `Transport` with fail-over a [`Messenger`](crate::messenger::Messenger), with `new` and `Debug`.
macro_rules! broker_messenger {
    ($name:ident, $settings:ty) => {
        impl $name {
            /// Reads and checks the settings and their files. It connects with the first message.
            ///
            /// # Errors
            /// [`BrokersError`](super::BrokersError) names the wrong setting or file, and the cure.
            pub fn new(settings: &$settings) -> Result<Self, super::BrokersError> {
                Transport::new(settings).map(Self)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("urls", &self.0.urls).finish_non_exhaustive()
            }
        }

        #[async_trait::async_trait]
        impl crate::messenger::Messenger for $name {
            async fn send(
                &self,
                batch: Vec<crate::message::Message>,
            ) -> Result<(), crate::messenger::Unsent> {
                self.0.failover.send(batch).await
            }

            fn check(&self, message: &crate::message::Message) -> Result<(), crate::util::error::BoxError> {
                self.0.check(message)
            }

            async fn health(&self) -> crate::messenger::Health {
                self.0.failover.health().await
            }

            async fn close(&self, deadline: std::time::Duration) {
                self.0.failover.close(deadline).await;
            }
        }

        #[cfg(feature = "cli")]
        #[async_trait::async_trait]
        impl crate::messenger::probe::Probe for $name {
            async fn brokers(&self) -> Vec<(String, crate::messenger::Health)> {
                self.0.failover.brokers().await
            }
        }
    };
}

pub(in crate::backends) use broker_messenger;
