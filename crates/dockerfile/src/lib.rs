//! The Dockerfile language and `.dockerignore`: text to typed instructions. Pure: nothing here reads files or knows the machine.
//!
//! Text goes through [`node`] (lines, continuation, here-documents, words, as BuildKit's parser has it) and comes out typed from
//! [`parse`]. Variables stay as they are written; whoever builds replaces them with [`expand`], because only then are their values
//! known. What is read is the language of BuildKit's frontend `docker/dockerfile:1`.

mod error;
mod flags;
mod glob;
mod heredoc;
mod ignore;
mod instruction;
mod mount;
mod node;
mod parse;
mod pattern;
mod words;

pub use error::{DockerfileError, Warning};
pub use glob::{PatternError, is_glob, matches};
pub use heredoc::Heredoc;
pub use ignore::Ignore;
pub use instruction::{Arg, Command, Copy, Dockerfile, Healthcheck, Instruction, Kind, Run, Stage};
pub use mount::{Mount, MountKind, Sharing};
#[doc(hidden)]
pub use node::sexpr;
#[doc(hidden)]
pub use parse::{heredoc_of, heredocs_in};
pub use parse::{parse, parse_onbuild};
#[doc(hidden)]
pub use words::{Quoting, lex};
pub use words::{WordError, expand, expand_raw, expand_words};
