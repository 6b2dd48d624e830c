//! Who is in etcd's cluster, asked and told by its own API.

use std::future::Future;
use std::time::Duration;

use coracle_etcd_proto::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;
use pb::maintenance_client::MaintenanceClient;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::MemberError;

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long to wait before the same is asked again.
const REST: Duration = Duration::from_millis(100);

/// A member's id, etcd's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// A member of etcd's cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// etcd's id for it.
    pub id: MemberId,
    /// The machine's id; empty before it was started for the first time.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// It has no vote yet.
    pub learner: bool,
}

/// How a member stands, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Itself.
    pub member: u64,
    /// The leader that it follows, or is; 0 where it knows none.
    pub leader: u64,
    /// It has no vote.
    pub learner: bool,
    /// The last entry of the log that it has done.
    pub applied: u64,
    /// The store's revision there.
    pub revision: i64,
}

impl Health {
    /// Entries that a member in step may be behind, which are on their way.
    const BEHIND: u64 = 1000;

    /// It holds what a member with that health does.
    pub fn in_step_with(&self, other: &Self) -> bool {
        self.leader != 0 && self.applied + Self::BEHIND >= other.applied
    }
}

impl From<pb::Member> for MemberInfo {
    fn from(member: pb::Member) -> Self {
        Self {
            id: MemberId(member.id),
            name: member.name,
            peer_urls: member.peer_ur_ls,
            learner: member.is_learner,
        }
    }
}

/// Asks one member, of this machine or through a voter's door.
#[derive(Clone)]
pub struct Members {
    channel: Channel,
    endpoint: String,
}

impl Members {
    /// Over a connection; `endpoint` is its name in errors.
    pub fn new(channel: Channel, endpoint: impl Into<String>) -> Self {
        Self {
            channel,
            endpoint: endpoint.into(),
        }
    }

    /// Of a member on loopback; connected when it is asked.
    ///
    /// # Errors
    /// `Refused` for something that is no URL.
    pub fn at(url: &str) -> Result<Self, MemberError> {
        let endpoint = Channel::from_shared(url.to_owned()).map_err(|e| MemberError::Refused {
            endpoint: url.to_owned(),
            what: "have a valid address",
            said: e.to_string(),
        })?;
        Ok(Self::new(endpoint.connect_lazy(), url))
    }

    fn refused(&self, what: &'static str, said: impl Into<String>) -> MemberError {
        MemberError::Refused {
            endpoint: self.endpoint.clone(),
            what,
            said: said.into(),
        }
    }

    /// Asks until it is answered or the time is over. Only what was surely not done, or may be done twice, is asked again.
    async fn ask<T, F>(
        &self,
        what: &'static str,
        limit: Duration,
        again: impl Fn(&Status) -> bool,
        ask: impl Fn(ClusterClient<Channel>) -> F,
    ) -> Result<T, MemberError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + limit;
        let mut said = format!("no answer within {} s", limit.as_secs());
        loop {
            let client = ClusterClient::new(self.channel.clone());
            match timeout_at(deadline, ask(client)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if again(&status) => said = status.message().to_owned(),
                Ok(Err(status)) => return Err(self.refused(what, status.message())),
                Err(_) => return Err(self.refused(what, said)),
            }
            if Instant::now() + REST >= deadline {
                return Err(self.refused(what, said));
            }
            sleep(REST).await;
        }
    }

    /// The members, as a majority knows them.
    ///
    /// # Errors
    /// `Refused`, also where there is no majority.
    pub async fn list(&self) -> Result<Vec<MemberInfo>, MemberError> {
        let again = |status: &Status| status.code() == Code::Unavailable;
        let ask = |mut client: ClusterClient<Channel>| async move {
            let request = pb::MemberListRequest { linearizable: true };
            client.member_list(request).await
        };
        let answer = self.ask("list its members", LIMIT, again, ask).await?;
        Ok(answer.members.into_iter().map(Into::into).collect())
    }

    /// Adds a machine that gets everything and has no vote. Answers all members: the new one has no name, and what its etcd is
    /// to be started with is [`initial_cluster`]. One that is there already is not added twice.
    ///
    /// # Errors
    /// `Refused`: one learner is let in at a time, and only while all that are there are well.
    pub async fn add_learner(
        &self,
        peer_url: &str,
    ) -> Result<(MemberId, Vec<MemberInfo>), MemberError> {
        let of = |members: &[MemberInfo]| {
            let mine = |member: &&MemberInfo| member.peer_urls.iter().any(|url| url == peer_url);
            members.iter().find(mine).map(|member| member.id)
        };
        let before = self.list().await?;
        if let Some(id) = of(&before) {
            return Ok((id, before));
        }
        let ask = |mut client: ClusterClient<Channel>| {
            let request = pb::MemberAddRequest {
                peer_ur_ls: vec![peer_url.to_owned()],
                is_learner: true,
            };
            async move { client.member_add(request).await }
        };
        // A server that has just started lets nobody in for some seconds.
        let added = self.ask("add a learner", LIMIT, unhealthy, ask).await;
        match added {
            Ok(answer) => {
                let members: Vec<_> = answer.members.into_iter().map(Into::into).collect();
                let id = answer.member.map(|member| MemberId(member.id));
                let id = id.ok_or_else(|| self.refused("add a learner", "it names none"))?;
                Ok((id, members))
            }
            // It may have been done though nobody said so.
            Err(error) => match self.list().await {
                Ok(after) => of(&after).map(|id| (id, after)).ok_or(error),
                Err(_) => Err(error),
            },
        }
    }

    /// Gives a learner its vote as soon as it holds what the leader does. One that has it already is fine.
    ///
    /// # Errors
    /// `Refused`, with etcd's words, when it is not ready in time or not there.
    pub async fn promote_when_ready(
        &self,
        id: MemberId,
        limit: Duration,
    ) -> Result<(), MemberError> {
        let again = |status: &Status| {
            let text = status.message();
            text.contains("in sync with leader")
                || unhealthy(status)
                || status.code() == Code::Unavailable
        };
        let ask = |mut client: ClusterClient<Channel>| async move {
            client
                .member_promote(pb::MemberPromoteRequest { id: id.0 })
                .await
        };
        match self.ask("promote the learner", limit, again, ask).await {
            Err(MemberError::Refused { said, .. })
                if said.contains("can only promote a learner member") && !said.contains("sync") =>
            {
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// Removes a member. One that is not there is fine.
    ///
    /// # Errors
    /// `Refused`: etcd does not remove one whose going would leave no majority of those that are well.
    pub async fn remove(&self, id: MemberId) -> Result<(), MemberError> {
        let ask = |mut client: ClusterClient<Channel>| async move {
            client
                .member_remove(pb::MemberRemoveRequest { id: id.0 })
                .await
        };
        let again = |status: &Status| status.code() == Code::Unavailable || unhealthy(status);
        match self.ask("remove the member", LIMIT, again, ask).await {
            Err(MemberError::Refused { said, .. }) if said.contains("member not found") => Ok(()),
            done => done.map(drop),
        }
    }

    /// Tells where a member's peers reach it from now on. It may be done twice, and needs a majority.
    ///
    /// # Errors
    /// `Refused`, also where another member has that URL.
    pub async fn update(&self, id: MemberId, peer_url: &str) -> Result<(), MemberError> {
        let ask = |mut client: ClusterClient<Channel>| {
            let request = pb::MemberUpdateRequest {
                id: id.0,
                peer_ur_ls: vec![peer_url.to_owned()],
            };
            async move { client.member_update(request).await }
        };
        let again = |status: &Status| status.code() == Code::Unavailable;
        self.ask("move the member", LIMIT, again, ask)
            .await
            .map(drop)
    }

    /// How the member asked stands; also a learner's answer.
    ///
    /// # Errors
    /// `Refused`, also when it does not answer within `limit`.
    pub async fn health(&self, limit: Duration) -> Result<Health, MemberError> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let asked = tokio::time::timeout(limit, client.status(pb::StatusRequest {}));
        let late = |_| self.refused("say how it stands", "no answer");
        let answer = asked.await.map_err(late)?;
        let answer = answer.map_err(|s| self.refused("say how it stands", s.message()))?;
        let answer = answer.into_inner();
        let header = answer.header.unwrap_or_default();
        Ok(Health {
            member: header.member_id,
            leader: answer.leader,
            learner: answer.is_learner,
            applied: answer.raft_applied_index,
            revision: header.revision,
        })
    }

    /// The leader, as the member asked knows it; None where there is none.
    ///
    /// # Errors
    /// `Refused`.
    pub async fn leader(&self) -> Result<Option<MemberId>, MemberError> {
        let leader = self.health(LIMIT).await?.leader;
        Ok((leader != 0).then_some(MemberId(leader)))
    }
}

/// etcd's "not now", of which nothing was done.
fn unhealthy(status: &Status) -> bool {
    let text = status.message();
    text.contains("unhealthy cluster") || text.contains("not enough started members")
}

/// What a member that was added is to be started with: everybody's name and URL, its own too.
pub fn initial_cluster(members: &[MemberInfo], own: MemberId, name: &str) -> Vec<(String, String)> {
    let named = members.iter().filter_map(|member| {
        let name = if member.id == own { name } else { &member.name };
        let url = member.peer_urls.first()?;
        // One that was never started has nothing to tell.
        (!name.is_empty()).then(|| (name.to_owned(), url.clone()))
    });
    named.collect()
}
