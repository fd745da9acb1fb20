//! A connection to the first broker that responds, for administration.

use std::sync::Arc;

use tokio::time::timeout;

use super::connection::{self, Connection};
use super::messenger::checked;
use super::settings::Amqp091Settings;
use crate::backends::brokers::BrokersError;
use crate::util::error::Chain;

/// The connection and the completed settings, or the reasons why no broker responds.
pub(super) async fn connect(
    settings: &Amqp091Settings,
) -> Result<Result<(Connection, Arc<Amqp091Settings>), String>, BrokersError> {
    let (settings, (urls, tls)) = checked(settings, true)?;
    let mut reasons = Vec::new();
    for url in &urls {
        match timeout(
            settings.broker.connection_timeout(),
            connection::open(&settings, tls.clone(), url, usize::MAX),
        )
        .await
        {
            Ok(Ok(connection)) => return Ok(Ok((connection, settings))),
            Ok(Err(error)) => reasons.push(format!("{url}: {}", Chain(error.as_ref()))),
            Err(_) => reasons
                .push(format!("{url}: no connection within {:?}", settings.broker.connection_timeout())),
        }
    }
    Ok(Err(reasons.join("; ")))
}
