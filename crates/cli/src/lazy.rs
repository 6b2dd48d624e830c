//! Flags that are made when their verb is asked for. All verbs' flags together cost more time than most verbs take.

use clap::builder::Resettable;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Subcommand};
use std::cell::Cell;
use std::ops::Deref;

/// The flags or verbs of `T`, behind a verb.
#[derive(Debug)]
pub struct Lazy<T>(pub T);

thread_local! {
    static WHOLE: Cell<bool> = const { Cell::new(false) };
}

/// What `make` makes has all flags of all verbs from the start. For those who look at all of them.
pub fn whole<T>(make: impl FnOnce() -> T) -> T {
    let before = WHOLE.replace(true);
    let made = make();
    WHOLE.set(before);
    made
}

/// Adds flags now, or when the verb is asked for. What the verb says of itself counts more than what its flags say.
fn later(verb: Command, add: fn(Command) -> Command) -> Command {
    if WHOLE.get() {
        add(verb)
    } else {
        verb.defer(add)
    }
}

/// Adds something to a verb that keeps its own words.
fn keeping_words(verb: Command, add: fn(Command) -> Command) -> Command {
    let about = verb.get_about().cloned();
    let long_about = verb.get_long_about().cloned();
    let after_help = verb.get_after_help().cloned();
    let mut verb = add(verb);
    if let Some(about) = about {
        verb = verb.about(about).long_about(Resettable::from(long_about));
    }
    if let Some(after_help) = after_help {
        verb = verb.after_help(after_help);
    }
    verb
}

impl<T> Deref for Lazy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: FromArgMatches> FromArgMatches for Lazy<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl<T: Args> Args for Lazy<T> {
    fn augment_args(verb: Command) -> Command {
        later(verb, |verb| keeping_words(verb, T::augment_args))
    }

    fn augment_args_for_update(verb: Command) -> Command {
        T::augment_args_for_update(verb)
    }
}

impl<T: Subcommand> Subcommand for Lazy<T> {
    fn augment_subcommands(verb: Command) -> Command {
        later(verb, |verb| keeping_words(verb, T::augment_subcommands))
    }

    fn augment_subcommands_for_update(verb: Command) -> Command {
        T::augment_subcommands_for_update(verb)
    }

    fn has_subcommand(name: &str) -> bool {
        T::has_subcommand(name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    fn helps(mut command: Command, path: &str, found: &mut Vec<(String, String)>) {
        command.build();
        found.push((path.to_owned(), command.render_long_help().to_string()));
        for verb in command.get_subcommands() {
            helps(verb.clone(), &format!("{path} {}", verb.get_name()), found);
        }
    }

    #[test]
    fn what_is_made_later_is_the_same() {
        let (mut now, mut then) = (Vec::new(), Vec::new());
        helps(whole(Cli::command), "coracle", &mut now);
        helps(Cli::command(), "coracle", &mut then);
        assert!(now.len() > 80, "{}", now.len());
        assert_eq!(now.len(), then.len());
        for (now, then) in now.iter().zip(&then) {
            assert_eq!(now, then);
        }
    }

    #[test]
    fn what_nobody_asked_for_is_not_made() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        assert_eq!(run.get_arguments().count(), 0);
    }
}
