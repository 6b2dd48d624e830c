//! Bridges, addresses, firewall and names.
