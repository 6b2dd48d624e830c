//! Pages of a list that changes between them. A token names the last entry of its page; the next page begins after it.
//!
//! Worked example: of units `a` to `z` with pages of three, the first is `a b c`, and its token names `c`. `b` is destroyed and
//! `ca` is submitted. The next page is `ca d e`: neither has the loss of `b` made `d` be missed, as it would have been by a
//! count, nor would it be if `c` itself had gone.

use super::{Refused, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Most entries of a page.
pub const LIMIT: usize = 100;
/// What a token's text begins with: its format.
const FORMAT: &str = "1:";

/// The token of the page after the entry of this key.
fn token(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{FORMAT}{key}"))
}

/// The key in a token.
fn key(token: &str) -> Option<String> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    text.strip_prefix(FORMAT).map(str::to_owned)
}

/// The entries after the token's, and the token of the next page if there are more.
///
/// # Errors
/// A token that is none.
pub fn page<T>(
    mut all: Vec<T>,
    key_of: impl Fn(&T) -> String,
    asked: &[String],
) -> Result<(Vec<T>, Option<String>)> {
    all.sort_by_cached_key(&key_of);
    if let Some(after) = after(asked)? {
        all.retain(|one| key_of(one) > after);
    }
    let more = all.len() > LIMIT;
    all.truncate(LIMIT);
    let next = all.last().filter(|_| more).map(|last| token(&key_of(last)));
    Ok((all, next))
}

fn after(asked: &[String]) -> Result<Option<String>> {
    match asked {
        [] => Ok(None),
        [one] => match key(one) {
            Some(key) => Ok(Some(key)),
            None => Err(Refused::invalid(
                "invalid value of nextPageToken query parameter; give it as an answer had it, or begin without one",
            )),
        },
        _ => Err(Refused::invalid(
            "nextPageToken is given more than once; give the last answer's only",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("u{n:04}")).collect()
    }

    fn walk(mut all: Vec<String>, mut change: impl FnMut(&mut Vec<String>, &str)) -> Vec<String> {
        let (mut told, mut asked) = (Vec::new(), Vec::new());
        loop {
            let (entries, next) = page(all.clone(), String::clone, &asked).unwrap();
            assert!(entries.len() <= LIMIT);
            told.extend(entries);
            match next {
                Some(next) => asked = vec![next],
                None => return told,
            }
            change(&mut all, told.last().unwrap());
        }
    }

    #[test]
    fn every_entry_once() {
        for count in [0, 1, 99, 100, 101, 200, 250] {
            let all = names(count);
            assert_eq!(walk(all.clone(), |_, _| {}), all);
        }
        let (_, next) = page(names(100), String::clone, &[]).unwrap();
        assert_eq!(next, None);
    }

    /// Whatever goes and comes between the pages, what stays is told, and once.
    #[test]
    fn what_stays_is_told_once() {
        let all = names(250);
        let told = walk(all.clone(), |all, last| {
            // The last one told and those before it go, others come before and after.
            all.retain(|n| n.as_str() > last);
            let next = all.first().unwrap();
            let after = format!("{next}x");
            all.extend(["a".to_owned(), after]);
        });
        assert_eq!(told.iter().filter(|n| n.ends_with('x')).count(), 2);
        let stayed: Vec<_> = told.iter().filter(|n| !n.ends_with('x')).cloned().collect();
        assert_eq!(stayed, all);
    }

    #[test]
    fn what_is_no_token() {
        for asked in [&["nonsense!"][..], &[""], &["eA"], &["MTph", "MTph"]] {
            let asked: Vec<String> = asked.iter().map(|t| (*t).to_owned()).collect();
            assert!(page(names(1), String::clone, &asked).is_err(), "{asked:?}");
        }
        assert_eq!(key(&token("a@1.service")).unwrap(), "a@1.service");
    }
}
