//! The backend `routing`: a router for sites in the app's own process.

#[cfg(feature = "routing")]
use std::sync::Arc;

#[cfg(feature = "routing")]
use async_trait::async_trait;

#[cfg(feature = "routing")]
use super::driver::{Backend, LocalSources, fault};
use super::driver::{Driver, Feature};
#[cfg(feature = "routing")]
use crate::messenger::Messenger;
#[cfg(feature = "routing")]
use crate::routing::{Routing, RoutingConsumerSettings, RoutingSettings, SiteRouter};
#[cfg(feature = "routing")]
use crate::settings::{BackendTable, SettingsError};

#[cfg(not(feature = "routing"))]
pub(super) const ROUTING: Result<&dyn Driver, Feature> = Err("routing");
#[cfg(feature = "routing")]
pub(super) const ROUTING: Result<&dyn Driver, Feature> = Ok(&RoutingDriver);

#[cfg(feature = "routing")]
struct RoutingDriver;

#[cfg(feature = "routing")]
#[async_trait]
impl Driver for RoutingDriver {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        let settings: RoutingSettings = keys.parse()?;
        let namespace = settings.namespace().map_err(|error| fault(name, error))?;
        let (routing, messenger): (Routing, Arc<dyn Messenger>) = match &settings.config {
            None => {
                let router = SiteRouter::open(settings.router()).await;
                let routing = Routing::new(router.map_err(|error| fault(name, error))?, namespace);
                (routing.clone(), Arc::new(routing))
            }
            Some(_) if !settings.has_defaults() => {
                let twice = "CONFIG names a file with the folder and the limits: leave the other keys out, but NAMESPACE";
                return Err(fault(name, twice));
            }
            #[cfg(feature = "wavemq")]
            Some(file) => {
                let served = super::served_router::ServedRouter::start(file, namespace).await;
                let (routing, served) = served.map_err(|error| fault(name, error))?;
                (routing, Arc::new(served))
            }
            #[cfg(not(feature = "wavemq"))]
            Some(_) => {
                return Err(SettingsError::NotCompiled { name: "CONFIG".to_owned(), feature: "wavemq" });
            }
        };
        let name: Arc<str> = name.into();
        #[cfg(feature = "admin")]
        let parts = crate::admin::Parts { routing: Some(routing.clone()), ..Default::default() };
        let sources: LocalSources = Arc::new(move |keys| {
            let source = keys.parse::<RoutingConsumerSettings>()?.source(&routing);
            source.map(|source| Arc::new(source) as _).map_err(|error| fault(&name, error))
        });
        Ok(Backend {
            sources: Some(sources),
            #[cfg(feature = "admin")]
            parts,
            ..Backend::custom(messenger)
        })
    }

    fn check_source(&self, name: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<RoutingConsumerSettings>()?.check().map_err(|error| fault(name, error))
    }
}
