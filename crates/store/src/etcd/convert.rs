//! The store's types as etcd's messages and back.

use coracle_etcd_proto::etcdserverpb::{
    self as pb, compare, range_request, request_op, response_op,
};
use coracle_etcd_proto::mvccpb;
use tonic::{Code, Status};

use crate::error::StoreError;
use crate::types::*;

pub(super) fn range(request: RangeRequest) -> pb::RangeRequest {
    use range_request::{SortOrder as Order, SortTarget as Target};
    let sort_order = match request.sort_order {
        SortOrder::None => Order::None,
        SortOrder::Ascend => Order::Ascend,
        SortOrder::Descend => Order::Descend,
    };
    let sort_target = match request.sort_target {
        SortTarget::Key => Target::Key,
        SortTarget::Version => Target::Version,
        SortTarget::Create => Target::Create,
        SortTarget::Mod => Target::Mod,
        SortTarget::Value => Target::Value,
    };
    pb::RangeRequest {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        // A read sees every write answered before it began.
        serializable: false,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    }
}

pub(super) fn put(request: PutRequest) -> pb::PutRequest {
    pb::PutRequest {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

pub(super) fn delete(request: DeleteRangeRequest) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: request.key,
        range_end: request.range_end,
        prev_kv: request.prev_kv,
    }
}

pub(super) fn txn(request: TxnRequest) -> pb::TxnRequest {
    let ops = |ops: Vec<TxnOp>| ops.into_iter().map(op).collect();
    pb::TxnRequest {
        compare: request.compare.into_iter().map(compare_of).collect(),
        success: ops(request.success),
        failure: ops(request.failure),
    }
}

fn op(op: TxnOp) -> pb::RequestOp {
    use request_op::Request;
    pb::RequestOp {
        request: Some(match op {
            TxnOp::Range(request) => Request::RequestRange(range(request)),
            TxnOp::Put(request) => Request::RequestPut(put(request)),
            TxnOp::Delete(request) => Request::RequestDeleteRange(delete(request)),
            TxnOp::Txn(request) => Request::RequestTxn(txn(request)),
        }),
    }
}

fn compare_of(compare: Compare) -> pb::Compare {
    use compare::{CompareResult as Result, CompareTarget as Target, TargetUnion as Union};
    let result = match compare.result {
        CompareResult::Equal => Result::Equal,
        CompareResult::Greater => Result::Greater,
        CompareResult::Less => Result::Less,
        CompareResult::NotEqual => Result::NotEqual,
    };
    let (target, union) = match compare.target {
        CompareTarget::Version(n) => (Target::Version, Union::Version(n)),
        CompareTarget::Create(n) => (Target::Create, Union::CreateRevision(n)),
        CompareTarget::Mod(n) => (Target::Mod, Union::ModRevision(n)),
        CompareTarget::Value(value) => (Target::Value, Union::Value(value)),
        CompareTarget::Lease(n) => (Target::Lease, Union::Lease(n)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: compare.key,
        range_end: compare.range_end,
        target_union: Some(union),
    }
}

pub(super) fn revision(header: &Option<pb::ResponseHeader>) -> Revision {
    header.as_ref().map_or(0, |header| header.revision)
}

fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

pub(super) fn event(event: mvccpb::Event) -> Event {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    Event {
        kind,
        kv: event.kv.map(key_value).unwrap_or_default(),
        prev_kv: event.prev_kv.map(key_value),
    }
}

pub(super) fn range_answer(answer: pb::RangeResponse) -> RangeResponse {
    RangeResponse {
        revision: revision(&answer.header),
        kvs: answer.kvs.into_iter().map(key_value).collect(),
        more: answer.more,
        count: answer.count,
    }
}

pub(super) fn put_answer(answer: pb::PutResponse) -> PutResponse {
    PutResponse {
        revision: revision(&answer.header),
        prev_kv: answer.prev_kv.map(key_value),
    }
}

pub(super) fn delete_answer(answer: pb::DeleteRangeResponse) -> DeleteRangeResponse {
    DeleteRangeResponse {
        revision: revision(&answer.header),
        deleted: answer.deleted,
        prev_kvs: answer.prev_kvs.into_iter().map(key_value).collect(),
    }
}

pub(super) fn txn_answer(answer: pb::TxnResponse) -> TxnResponse {
    use response_op::Response;
    let step = |step: pb::ResponseOp| {
        // etcd answers every step it did.
        Some(match step.response? {
            Response::ResponseRange(answer) => TxnOpResponse::Range(range_answer(answer)),
            Response::ResponsePut(answer) => TxnOpResponse::Put(put_answer(answer)),
            Response::ResponseDeleteRange(answer) => TxnOpResponse::Delete(delete_answer(answer)),
            Response::ResponseTxn(answer) => TxnOpResponse::Txn(txn_answer(answer)),
        })
    };
    TxnResponse {
        revision: revision(&answer.header),
        succeeded: answer.succeeded,
        responses: answer.responses.into_iter().filter_map(step).collect(),
    }
}

/// What a request was about, for errors that etcd tells without it.
#[derive(Clone, Debug, Default)]
pub(super) struct Of {
    revision: Revision,
    lease: LeaseId,
    ttl: i64,
    key: bytes::Bytes,
}

impl Of {
    pub(super) fn revision(revision: Revision) -> Self {
        Self {
            revision,
            ..Self::default()
        }
    }

    pub(super) fn lease(lease: LeaseId) -> Self {
        Self {
            lease,
            ..Self::default()
        }
    }

    pub(super) fn grant(lease: LeaseId, ttl: i64) -> Self {
        Self {
            lease,
            ttl,
            ..Self::default()
        }
    }

    pub(super) fn put(put: &PutRequest) -> Self {
        Self {
            lease: put.lease,
            key: put.key.clone(),
            ..Self::default()
        }
    }

    /// Of the first put, and the first read of the past.
    pub(super) fn txn(txn: &TxnRequest) -> Self {
        let mut of = Self::default();
        for op in txn.success.iter().chain(&txn.failure) {
            let inner = match op {
                TxnOp::Put(put) => Self::put(put),
                TxnOp::Range(range) => Self::revision(range.revision),
                TxnOp::Txn(inner) => Self::txn(inner),
                TxnOp::Delete(_) => continue,
            };
            of.lease = if of.lease == 0 { inner.lease } else { of.lease };
            of.revision = of.revision.max(inner.revision);
            if of.key.is_empty() {
                of.key = inner.key;
            }
        }
        of
    }
}

/// etcd's refusal as one of ours, by its text. `sent` is about what may have been done though it answers this.
pub(super) fn error(status: Status, of: Of, url: &str, sent: bool) -> StoreError {
    let text = status.message();
    let known = |part: &str| text.ends_with(part);
    match status.code() {
        Code::OutOfRange if known("has been compacted") => StoreError::Compacted {
            requested: of.revision,
            compacted: 0,
        },
        Code::OutOfRange if known("is a future revision") => StoreError::FutureRevision {
            requested: of.revision,
            current: 0,
        },
        Code::OutOfRange if known("too large lease TTL") => StoreError::LeaseTtlTooLarge(of.ttl),
        Code::NotFound if known("lease not found") => StoreError::LeaseNotFound(of.lease),
        Code::FailedPrecondition if known("lease already exists") => {
            StoreError::LeaseExists(of.lease)
        }
        Code::ResourceExhausted if known("database space exceeded") => StoreError::NoSpace {
            path: url.into(),
            used: 0,
            quota: 0,
        },
        Code::InvalidArgument if known("duplicate key given in txn request") => {
            StoreError::DuplicateKey(of.key)
        }
        Code::InvalidArgument if known("key is not provided") => StoreError::EmptyKey,
        Code::InvalidArgument if known("key not found") => StoreError::KeyNotFound(of.key),
        Code::InvalidArgument if known("value is provided") => StoreError::ValueProvided,
        Code::InvalidArgument if known("lease is provided") => StoreError::LeaseProvided,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => StoreError::Unreachable {
            why: format!("{url}: {text}"),
            // A leader that is lost on the way may have had it.
            sent: sent || !(known("no leader") || known("not supported for learner")),
        },
        code => StoreError::Refused {
            endpoint: url.to_owned(),
            code: code as i32,
            text: text.to_owned(),
        },
    }
}
