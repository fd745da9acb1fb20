//! The streams and consumers at NATS.

use super::findings::{CheckLevel, Findings};
use crate::backends::nats::{BrokerSettings, NatsSettings, NatsSubscription, NatsTopology};
use crate::settings::{Settings, SettingsError};

/// Looks at a server that responds. That one does not is found before.
pub(super) async fn check(settings: &Settings, findings: &mut Findings) {
    let Ok(Some((nats, consumers))) = nats(settings) else { return };
    for (name, subscription) in consumers {
        let Ok(topology) = NatsTopology::new(&nats, [subscription]) else { continue };
        let Ok(plan) = topology.plan().await else { continue };
        let mut add =
            |level, text| findings.add(level, "CONSUMERS", format!("{}: {text}", name.to_uppercase()));
        for missing in &plan.missing {
            let text = format!(
                "{missing} does not exist yet: the consumer creates it, and messages sent before that do not get there"
            );
            add(CheckLevel::Warning, text);
        }
        for (item, difference) in &plan.differing {
            add(CheckLevel::Warning, format!("{item} {difference}"));
        }
        for (item, fault) in &plan.refused {
            add(CheckLevel::Failed, format!("{item} {fault}"));
        }
        if plan.is_empty() {
            add(
                CheckLevel::Ok,
                "its stream, its consumer and the stream of its dead letters exist".to_owned(),
            );
        }
    }
}

type Consumers = (NatsSettings, Vec<(String, NatsSubscription)>);

fn nats(settings: &Settings) -> Result<Option<Consumers>, SettingsError> {
    if settings.backend != "nats" {
        return Ok(None);
    }
    let (broker, mut nats): (BrokerSettings, NatsSettings) = settings.backend_keys.parse_both()?;
    nats.broker = broker;
    let tables = settings.consumers.iter();
    let consumers = tables.map(|(name, table)| Ok((name.clone(), table.source_keys.parse()?)));
    Ok(Some((nats, consumers.collect::<Result<_, SettingsError>>()?)))
}
