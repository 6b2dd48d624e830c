//! The unit-file language: systemd syntax to typed units.
