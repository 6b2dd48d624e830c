//! `etcdserverpb.Cluster`: this machine, which is all that an app needs to know of.

use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use crate::context::Gateway;

type Answer<T> = Result<Response<T>, Status>;

impl Gateway {
    fn membership<T>(&self) -> Answer<T> {
        Err(match self.operator("membership") {
            Err(refused) => refused,
            Ok(()) => Status::unimplemented(
                "members come and go with the machines of the cluster, not by this API",
            ),
        })
    }
}

#[tonic::async_trait]
impl Cluster for Gateway {
    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        self.membership()
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Answer<pb::MemberRemoveResponse> {
        self.membership()
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Answer<pb::MemberUpdateResponse> {
        self.membership()
    }

    async fn member_list(
        &self,
        _: Request<pb::MemberListRequest>,
    ) -> Answer<pb::MemberListResponse> {
        let member = pb::Member {
            id: self.identity.member,
            name: self.name.to_string(),
            client_ur_ls: self.urls.to_vec(),
            ..Default::default()
        };
        Ok(Response::new(pb::MemberListResponse {
            header: self.header_now().await?,
            members: vec![member],
        }))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Answer<pb::MemberPromoteResponse> {
        self.membership()
    }
}
