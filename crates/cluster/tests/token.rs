//! Tokens: as text, and in the store.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use coracle_cluster::members::{self, Standing};
use coracle_cluster::token::{Redeem, RedeemError, Token, TokenError, issue, list, redeem, revoke};
use coracle_store::EmbeddedStore;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_token_is_one_word_that_can_be_copied() {
    let token = Token::random(print(7)).unwrap();
    let text = token.to_string();
    assert!(
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
        "{text}"
    );
    assert_eq!(text.len(), 10 + 103);
    assert_eq!(text.parse::<Token>().unwrap(), token);
    // As a terminal or a mail breaks it.
    let broken = format!("  {}\n  {}\n", &text[..50], &text[50..]);
    assert_eq!(broken.parse::<Token>().unwrap(), token);
    assert!(!format!("{token:?}").contains(&token.secret.to_hex()));
}

#[test]
fn slips_are_told_from_other_things() {
    let token = Token::random(print(7)).unwrap().to_string();
    for at in 10..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_eq!(changed.parse::<Token>(), Err(TokenError::Typo), "{at}");
        assert_eq!(token[..at].parse::<Token>(), Err(TokenError::Typo), "{at}");
    }
    for other in ["", "hello", "coracle", "coracl_1_abc", "coracle_x_abc"] {
        let refused = other.parse::<Token>().unwrap_err();
        assert_eq!(refused, TokenError::Malformed, "{other}");
    }
    let newer = token.replace("coracle_1_", "coracle_2_").parse::<Token>();
    assert_eq!(newer, Err(TokenError::Newer("2".to_owned())));
}

struct Book {
    _dir: tempfile::TempDir,
    store: Arc<EmbeddedStore>,
    token: Token,
}

async fn book(uses: u32) -> Book {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let token = Token::random(print(7)).unwrap();
    issue(&*store, &token, HOUR, uses, "me", 1000)
        .await
        .unwrap();
    Book {
        _dir: dir,
        store,
        token,
    }
}

impl Book {
    fn shown(&self, machine: char, key: u8) -> Redeem {
        Redeem {
            id: self.token.id.clone(),
            secret: self.token.secret.clone(),
            machine: id(machine),
            key: print(key),
        }
    }

    async fn redeem(
        &self,
        machine: char,
        key: u8,
        now: u64,
    ) -> Result<members::Member, RedeemError> {
        redeem(&*self.store, &self.shown(machine, key), now).await
    }

    async fn standing(&self, machine: char) -> Option<Standing> {
        members::list(&*self.store)
            .await
            .unwrap()
            .standing(&id(machine))
    }
}

#[tokio::test]
async fn it_lets_one_machine_in_once() {
    let book = book(1).await;
    let listed = list(&*book.store).await.unwrap();
    assert_eq!((listed[0].uses, listed[0].expires), (1, 4600));
    let member = book.redeem('b', 1, 2000).await.unwrap();
    assert_eq!(
        (member.key, member.voter, member.joined),
        (print(1), false, 2000)
    );
    assert_eq!(book.standing('b').await, Some(Standing::Machine));
    assert!(list(&*book.store).await.unwrap().is_empty());
    // The same machine with the same key, whose answer was lost, is answered again; for as long as the token would count.
    assert_eq!(book.redeem('b', 1, 4599).await.unwrap(), member);
    assert!(matches!(
        book.redeem('b', 1, 4600).await,
        Err(RedeemError::Expired)
    ));
    assert!(matches!(
        book.redeem('b', 2, 2000).await,
        Err(RedeemError::Unknown)
    ));
    assert!(matches!(
        book.redeem('c', 1, 2000).await,
        Err(RedeemError::Unknown)
    ));
    assert_eq!(book.standing('c').await, None);
    // A machine that was removed does not come back with it.
    assert!(members::remove(&*book.store, &id('b')).await.unwrap());
    assert!(matches!(
        book.redeem('b', 1, 2000).await,
        Err(RedeemError::Unknown)
    ));
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_uses_nothing_up() {
    let book = book(1).await;
    let mut wrong = book.shown('b', 1);
    wrong.secret = Token::random(print(7)).unwrap().secret;
    assert!(matches!(
        redeem(&*book.store, &wrong, 2000).await,
        Err(RedeemError::Unknown)
    ));
    for odd in ["", "../x", "0123456789abcdeg", "0123456789abcdef0"] {
        let mut wrong = book.shown('b', 1);
        wrong.id = odd.to_owned();
        assert!(matches!(
            redeem(&*book.store, &wrong, 2000).await,
            Err(RedeemError::Unknown)
        ));
    }
    assert!(matches!(
        book.redeem('b', 1, 4600).await,
        Err(RedeemError::Expired)
    ));
    members::found(&*book.store, &id('a'), print(9), 1)
        .await
        .unwrap();
    // Another machine's id.
    assert!(matches!(
        book.redeem('a', 1, 2000).await,
        Err(RedeemError::OtherKey(_))
    ));
    book.redeem('b', 1, 2000).await.unwrap();
    assert!(!revoke(&*book.store, &book.token.id).await.unwrap());
}

#[tokio::test]
async fn a_member_whose_certificate_ran_out_comes_again_with_a_new_token() {
    let book = book(1).await;
    members::found(&*book.store, &id('a'), print(1), 1)
        .await
        .unwrap();
    let member = book.redeem('a', 1, 2000).await.unwrap();
    assert!(member.voter && member.joined == 1);
    assert!(list(&*book.store).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_token_may_have_several_uses_and_can_be_revoked() {
    let book = book(3).await;
    book.redeem('b', 1, 2000).await.unwrap();
    // Asked again, it costs no use.
    book.redeem('b', 1, 2000).await.unwrap();
    book.redeem('c', 2, 2000).await.unwrap();
    assert_eq!(list(&*book.store).await.unwrap()[0].uses, 1);
    assert!(revoke(&*book.store, &book.token.id).await.unwrap());
    assert!(matches!(
        book.redeem('d', 3, 2000).await,
        Err(RedeemError::Unknown)
    ));
    // Who came in stays a member, and is told so once more; removed, it does not come back.
    book.redeem('b', 1, 2000).await.unwrap();
    assert!(members::remove(&*book.store, &id('b')).await.unwrap());
    assert!(matches!(
        book.redeem('b', 1, 2000).await,
        Err(RedeemError::Unknown)
    ));
    book.redeem('c', 2, 2000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_as_many_come_in_as_may() {
    let book = Arc::new(book(3).await);
    let all = "0123456789abcdef"
        .chars()
        .enumerate()
        .map(|(key, machine)| {
            let book = book.clone();
            tokio::spawn(async move { book.redeem(machine, key as u8, 2000).await })
        });
    let mut came = 0;
    for task in all.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(_) => came += 1,
            Err(error) => assert!(matches!(error, RedeemError::Unknown), "{error}"),
        }
    }
    assert_eq!(came, 3);
    assert_eq!(members::list(&*book.store).await.unwrap().iter().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_members_is_followed() {
    let book = book(2).await;
    let known = tokio::sync::watch::Sender::default();
    let mut seen = known.subscribe();
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(members::follow(book.store.clone(), known, stop.clone()));
    book.redeem('b', 1, 2000).await.unwrap();
    let has = |machine, standing| move |m: &members::Members| m.standing(&id(machine)) == standing;
    let member = has('b', Some(Standing::Machine));
    soon("a member", seen.wait_for(member)).await.unwrap();
    assert!(
        members::set_standing(&*book.store, &id('b'), Standing::Voter)
            .await
            .unwrap()
    );
    let voter = has('b', Some(Standing::Voter));
    soon("a voter", seen.wait_for(voter)).await.unwrap();
    assert!(members::remove(&*book.store, &id('b')).await.unwrap());
    soon("nobody", seen.wait_for(has('b', None))).await.unwrap();
    assert!(
        !members::set_standing(&*book.store, &id('b'), Standing::Voter)
            .await
            .unwrap()
    );
    stop.cancel();
    soon("its end", task).await.unwrap();
}
