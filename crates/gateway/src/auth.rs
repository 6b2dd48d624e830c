//! `etcdserverpb.Auth`: as an etcd that has authentication disabled, and no users nor roles.

use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use crate::context::Gateway;

type Answer<T> = Result<Response<T>, Status>;

fn no_user<T>() -> Answer<T> {
    Err(Status::failed_precondition(
        "etcdserver: user name not found",
    ))
}

fn no_role<T>() -> Answer<T> {
    Err(Status::failed_precondition(
        "etcdserver: role name not found",
    ))
}

/// What etcd would keep for later.
fn later<T>() -> Answer<T> {
    Err(Status::unimplemented(
        "users and roles are not kept here; who reaches this address may use it",
    ))
}

#[tonic::async_trait]
impl Auth for Gateway {
    async fn auth_enable(
        &self,
        _: Request<pb::AuthEnableRequest>,
    ) -> Answer<pb::AuthEnableResponse> {
        Err(Status::failed_precondition(
            "etcdserver: root user does not exist",
        ))
    }

    async fn auth_disable(
        &self,
        _: Request<pb::AuthDisableRequest>,
    ) -> Answer<pb::AuthDisableResponse> {
        Ok(Response::new(pb::AuthDisableResponse {
            header: self.header_now().await?,
        }))
    }

    async fn auth_status(
        &self,
        _: Request<pb::AuthStatusRequest>,
    ) -> Answer<pb::AuthStatusResponse> {
        Ok(Response::new(pb::AuthStatusResponse {
            header: self.header_now().await?,
            enabled: false,
            auth_revision: 1,
        }))
    }

    async fn authenticate(
        &self,
        _: Request<pb::AuthenticateRequest>,
    ) -> Answer<pb::AuthenticateResponse> {
        Err(Status::failed_precondition(
            "etcdserver: authentication is not enabled",
        ))
    }

    async fn user_add(
        &self,
        _: Request<pb::AuthUserAddRequest>,
    ) -> Answer<pb::AuthUserAddResponse> {
        later()
    }

    async fn user_get(
        &self,
        _: Request<pb::AuthUserGetRequest>,
    ) -> Answer<pb::AuthUserGetResponse> {
        no_user()
    }

    async fn user_list(
        &self,
        _: Request<pb::AuthUserListRequest>,
    ) -> Answer<pb::AuthUserListResponse> {
        Ok(Response::new(pb::AuthUserListResponse {
            header: self.header_now().await?,
            users: Vec::new(),
        }))
    }

    async fn user_delete(
        &self,
        _: Request<pb::AuthUserDeleteRequest>,
    ) -> Answer<pb::AuthUserDeleteResponse> {
        no_user()
    }

    async fn user_change_password(
        &self,
        _: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Answer<pb::AuthUserChangePasswordResponse> {
        no_user()
    }

    async fn user_grant_role(
        &self,
        _: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Answer<pb::AuthUserGrantRoleResponse> {
        no_user()
    }

    async fn user_revoke_role(
        &self,
        _: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Answer<pb::AuthUserRevokeRoleResponse> {
        no_user()
    }

    async fn role_add(
        &self,
        _: Request<pb::AuthRoleAddRequest>,
    ) -> Answer<pb::AuthRoleAddResponse> {
        later()
    }

    async fn role_get(
        &self,
        _: Request<pb::AuthRoleGetRequest>,
    ) -> Answer<pb::AuthRoleGetResponse> {
        no_role()
    }

    async fn role_list(
        &self,
        _: Request<pb::AuthRoleListRequest>,
    ) -> Answer<pb::AuthRoleListResponse> {
        Ok(Response::new(pb::AuthRoleListResponse {
            header: self.header_now().await?,
            roles: Vec::new(),
        }))
    }

    async fn role_delete(
        &self,
        _: Request<pb::AuthRoleDeleteRequest>,
    ) -> Answer<pb::AuthRoleDeleteResponse> {
        no_role()
    }

    async fn role_grant_permission(
        &self,
        _: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Answer<pb::AuthRoleGrantPermissionResponse> {
        no_role()
    }

    async fn role_revoke_permission(
        &self,
        _: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Answer<pb::AuthRoleRevokePermissionResponse> {
        no_role()
    }
}
