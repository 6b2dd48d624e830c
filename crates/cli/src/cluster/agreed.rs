//! What a cluster's machines agreed on when it began, held against this machine's configuration.

use super::Cluster;
use super::admit::ClusterError;
use coracle_fleet::overlay::{agree_on_pool, agreed_pool};
use coracle_network::overlay::{DEFAULT_POOL, Ipv4Net};
use coracle_store::StoreError;
use serde_json::{Value, json};

/// Keys that a machine has of a cluster of its own, and of nothing else.
pub(super) const OWN: [&str; 3] = [
    coracle_cluster::members::PREFIX,
    coracle_cluster::token::PREFIX,
    coracle_fleet::model::keys::NETWORK,
];

impl Cluster {
    /// Whether the configuration says what this machine's cluster has agreed on, as far as this machine knows that by itself.
    ///
    /// # Errors
    /// For a person, what differs and what to do.
    pub async fn fits_agreed(&self) -> Result<(), String> {
        let Some(own) = self.overlay_pool.filter(|_| self.is_founded()) else {
            return Ok(());
        };
        // A store that cannot be read is told of by whoever needs it.
        match agreed_pool(&*self.embedded).await {
            Ok(Some(agreed)) if agreed != own => Err(format!(
                "network: overlay_pool = \"{own}\": this machine is in a cluster, which takes machines' subnets from {agreed} since it began, and containers have addresses of it; take the line out, or leave the cluster first (coracle leave)"
            )),
            _ => Ok(()),
        }
    }

    /// Says what is agreed on, before there is a member; from then on it is not changed.
    pub(super) async fn agree(&self) -> Result<(), StoreError> {
        agree_on_pool(&*self.store(), self.overlay_pool).await
    }

    /// What a machine that joins is told of it.
    pub(super) async fn told(&self) -> Result<Value, StoreError> {
        let pool = agreed_pool(&*self.store()).await?;
        Ok(json!({ "overlay_pool": pool }))
    }

    /// Whether this machine's configuration says what the cluster told it when it joined.
    ///
    /// # Errors
    /// [`ClusterError::Pool`].
    pub(super) fn fits(&self, told: &Value) -> Result<(), ClusterError> {
        // A cluster of a release that says nothing has what that release had.
        let agreed = told["overlay_pool"].as_str().and_then(|t| t.parse().ok());
        let agreed: Ipv4Net = agreed.unwrap_or(DEFAULT_POOL);
        match self.overlay_pool {
            Some(own) if own != agreed => Err(ClusterError::Pool { own, agreed }),
            _ => Ok(()),
        }
    }
}
