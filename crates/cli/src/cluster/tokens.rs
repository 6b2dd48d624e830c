//! Tokens that were made: seen, and revoked. As making them, it is asked of a voter's own socket: no door has it.

use super::Cluster;
use super::admit::now;
use super::error::ClusterError;
use axum::Json;
use axum::extract::{Path, State};
use coracle_cluster::token::{TokenView, list, revoke};
use serde_json::{Value, json};
use std::sync::Arc;

/// Ids that an error names at most.
const NAMED: usize = 20;

/// The tokens that there are, the oldest first.
pub(super) async fn all(State(cluster): State<Arc<Cluster>>) -> Result<Json<Value>, ClusterError> {
    let now = now();
    let shown = |token: &TokenView| {
        json!({
            "id": token.id,
            "who": token.who,
            "issued": token.issued,
            "expires": token.expires,
            "uses": token.uses,
            "expired": now >= token.expires,
        })
    };
    let tokens = cluster.tokens().await?;
    let tokens: Vec<Value> = tokens.iter().map(shown).collect();
    Ok(Json(json!({ "tokens": tokens })))
}

/// Revokes the one with that id, or whose id alone begins so; answers its id.
pub(super) async fn end(
    State(cluster): State<Arc<Cluster>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ClusterError> {
    let tokens = cluster.tokens().await?;
    let ids: Vec<&str> = tokens.iter().map(|token| token.id.as_str()).collect();
    let found = named(&id, &ids).map_err(ClusterError::Unknown)?;
    if !revoke(&*cluster.store(), found).await? {
        return Err(ClusterError::Unknown(format!(
            "token {found} is there no more: it was used up or revoked a moment ago"
        )));
    }
    tracing::info!(token = found, "a token was revoked");
    Ok(Json(json!({ "id": found })))
}

impl Cluster {
    async fn tokens(&self) -> Result<Vec<TokenView>, ClusterError> {
        self.as_voter()?;
        let mut tokens = list(&*self.store()).await?;
        tokens.sort_by(|a, b| (a.issued, &a.id).cmp(&(b.issued, &b.id)));
        Ok(tokens)
    }
}

/// The id that is meant, or why none is. Pure.
fn named<'i>(text: &str, ids: &[&'i str]) -> Result<&'i str, String> {
    let listed = |ids: &[&str]| {
        let some: Vec<&str> = ids.iter().take(NAMED).copied().collect();
        match ids.len() {
            ..=NAMED => some.join(", "),
            all => format!("{} and {} more", some.join(", "), all - NAMED),
        }
    };
    if let Some(id) = ids.iter().find(|id| **id == text) {
        return Ok(id);
    }
    let begin: Vec<&str> = ids
        .iter()
        .filter(|id| id.starts_with(text))
        .copied()
        .collect();
    match begin.as_slice() {
        [id] => Ok(id),
        [] if ids.is_empty() => Err(format!(
            "there is no token \"{text}\": none is left, those that were made are used up, revoked, or ran out long ago"
        )),
        [] => Err(format!(
            "there is no token \"{text}\": it was used up or revoked, or was never made; there are {}",
            listed(ids)
        )),
        several => Err(format!(
            "several tokens begin with \"{text}\": {}; write more of it",
            listed(several)
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_named_by_what_is_its_own() {
        let ids = ["0a11", "0a12", "0a1", "b0"];
        assert_eq!(named("b", &ids), Ok("b0"));
        assert_eq!(named("0a12", &ids), Ok("0a12"));
        // A whole id counts, also where another one begins so.
        assert_eq!(named("0a1", &ids), Ok("0a1"));
        let several = named("0a", &ids).unwrap_err();
        assert!(several.contains("0a11, 0a12, 0a1; write more"), "{several}");
        let unknown = named("c", &ids).unwrap_err();
        assert!(
            unknown.contains("there are 0a11, 0a12, 0a1, b0"),
            "{unknown}"
        );
        assert!(named("c", &[]).unwrap_err().contains("none is left"));
        let many = vec!["0f"; NAMED + 2];
        assert!(named("c", &many).unwrap_err().contains("and 2 more"));
    }
}
