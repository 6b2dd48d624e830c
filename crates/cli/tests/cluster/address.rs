//! Where a machine is, which may change.

use super::{Machine, network};
use std::sync::atomic::Ordering;

impl Machine {
    pub fn address(&self) -> String {
        network::address(self.at.load(Ordering::SeqCst))
    }

    pub fn address6(&self) -> String {
        network::address6(self.at.load(Ordering::SeqCst))
    }

    /// Gives it other addresses, at once if it is on: `192.0.2.<to>`. A daemon that runs is not told; the next one is.
    pub fn move_to(&self, to: usize) {
        let from = self.at.swap(to, Ordering::SeqCst);
        if let Some(boot) = &self.power().boot {
            network::Network::renumber(boot, from, to);
        }
        self.note(&format!("has the address {}", self.address()));
    }
}
