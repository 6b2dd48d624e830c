//! The Dockerfile language and `.dockerignore`: text to typed instructions. Pure: nothing here reads files or knows the machine.
//!
//! Text goes through [`lines`] (directives, comments, continuation) and [`node`] (keyword, flags and arguments of each instruction, as
//! BuildKit's parser has them), and comes out typed from [`parse`]. Variables stay as they are written; whoever builds replaces them
//! with [`expand`], because only then are their values known. What is read is the language of BuildKit's frontend
//! `docker/dockerfile:1`.

mod copy;
mod csv;
mod duration;
mod error;
mod flags;
mod glob;
mod health;
mod heredoc;
mod ignore;
mod instruction;
mod keyword;
mod kind;
mod lines;
mod mount;
mod node;
mod parse;
mod pattern;
#[doc(hidden)]
pub mod probe;
mod sexpr;
mod split;
mod words;

pub use error::{DockerfileError, Warning};
pub use glob::{PatternError, is_glob, matches};
pub use heredoc::Heredoc;
pub use ignore::Ignore;
pub use instruction::{Arg, Command, Copy, Dockerfile, Healthcheck, Instruction, Kind, Run, Stage};
pub use mount::{Mount, MountKind, Sharing};
pub use parse::{parse, parse_onbuild};
#[doc(hidden)]
pub use sexpr::sexpr;
pub use words::{WordError, expand, expand_raw, expand_words, names_used};
