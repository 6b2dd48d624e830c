//! The unit-file language: systemd syntax to typed units.
//!
//! Text goes through [`syntax`] (lines), [`words`] and [`specifier`] (lists and `%`), and comes out
//! typed. Nothing here reads files or knows the machine; callers pass both in.
pub mod container;
pub mod deploy;
pub mod diag;
pub mod exec;
pub mod fleet;
#[doc(hidden)]
pub mod fuzz;
mod keys;
pub mod name;
pub mod options;
mod reader;
pub mod service;
pub mod specifier;
pub mod syntax;
pub mod unit;
pub mod value;
pub mod words;

pub use diag::{Diagnostic, Diagnostics};
pub use keys::section_of;
pub use name::{UnitKind, UnitName, expand_ranges};
pub use specifier::SpecifierContext;
pub use unit::{Kind, Unit, implied_dependencies, load};
