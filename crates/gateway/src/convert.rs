//! Messages of the wire to the store's types and back.
//!
//! What can be told of a request by itself is told here, in etcd's order: of several mistakes clients see the same one.

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb::{
    self as pb, compare, range_request, request_op, response_op,
};
use coracle_etcd_proto::mvccpb;
use coracle_store::*;
use tonic::Status;

use crate::context::{Gateway, status};

/// The most steps of one transaction, as etcd.
const MAX_TXN_OPS: usize = 128;

fn not_empty(key: &Bytes) -> Result<(), Status> {
    if key.is_empty() {
        return Err(status(StoreError::EmptyKey));
    }
    Ok(())
}

pub(crate) fn range(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    use range_request::{SortOrder as Order, SortTarget as Target};
    not_empty(&request.key)?;
    let unknown = |_| Status::invalid_argument("etcdserver: invalid sort option");
    let sort_order = match Order::try_from(request.sort_order).map_err(unknown)? {
        Order::None => SortOrder::None,
        Order::Ascend => SortOrder::Ascend,
        Order::Descend => SortOrder::Descend,
    };
    let sort_target = match Target::try_from(request.sort_target).map_err(unknown)? {
        Target::Key => SortTarget::Key,
        Target::Version => SortTarget::Version,
        Target::Create => SortTarget::Create,
        Target::Mod => SortTarget::Mod,
        Target::Value => SortTarget::Value,
    };
    Ok(RangeRequest {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order,
        sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

pub(crate) fn put(request: pb::PutRequest) -> Result<PutRequest, Status> {
    not_empty(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(status(StoreError::ValueProvided));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(status(StoreError::LeaseProvided));
    }
    Ok(PutRequest {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(crate) fn delete(request: pb::DeleteRangeRequest) -> Result<DeleteRangeRequest, Status> {
    not_empty(&request.key)?;
    Ok(DeleteRangeRequest {
        key: request.key,
        range_end: request.range_end,
        prev_kv: request.prev_kv,
    })
}

pub(crate) fn txn(request: pb::TxnRequest) -> Result<TxnRequest, Status> {
    txn_within(request, MAX_TXN_OPS)
}

/// What an outer transaction takes of the most steps is not left for those inside, which bounds their depth too.
fn txn_within(request: pb::TxnRequest, max: usize) -> Result<TxnRequest, Status> {
    let branches = request.success.len().max(request.failure.len());
    let count = request.compare.len().max(branches);
    if count > max {
        return Err(status(StoreError::TooManyOps { count, max }));
    }
    let ops = |ops: Vec<pb::RequestOp>| {
        let ops = ops.into_iter().map(|one| op(one, max - count));
        ops.collect::<Result<_, _>>()
    };
    let compare = request.compare.into_iter().map(compare_of);
    Ok(TxnRequest {
        compare: compare.collect::<Result<_, _>>()?,
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    })
}

fn op(op: pb::RequestOp, max: usize) -> Result<TxnOp, Status> {
    use request_op::Request;
    Ok(match op.request {
        Some(Request::RequestRange(request)) => TxnOp::Range(range(request)?),
        Some(Request::RequestPut(request)) => TxnOp::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => TxnOp::Delete(delete(request)?),
        Some(Request::RequestTxn(request)) => TxnOp::Txn(txn_within(request, max)?),
        // What etcd says of an operation that is none.
        None => return Err(Status::invalid_argument("etcdserver: key not found")),
    })
}

fn compare_of(compare: pb::Compare) -> Result<Compare, Status> {
    use compare::{CompareResult as Result_, CompareTarget as Target, TargetUnion as Union};
    not_empty(&compare.key)?;
    let unknown = |_| Status::invalid_argument("etcdserver: invalid compare in txn request");
    let result = match Result_::try_from(compare.result).map_err(unknown)? {
        Result_::Equal => CompareResult::Equal,
        Result_::Greater => CompareResult::Greater,
        Result_::Less => CompareResult::Less,
        Result_::NotEqual => CompareResult::NotEqual,
    };
    // A target whose value is missing, or another's, is held against zero or nothing.
    let target = match Target::try_from(compare.target).map_err(unknown)? {
        Target::Version => CompareTarget::Version(match compare.target_union {
            Some(Union::Version(n)) => n,
            _ => 0,
        }),
        Target::Create => CompareTarget::Create(match compare.target_union {
            Some(Union::CreateRevision(n)) => n,
            _ => 0,
        }),
        Target::Mod => CompareTarget::Mod(match compare.target_union {
            Some(Union::ModRevision(n)) => n,
            _ => 0,
        }),
        Target::Value => CompareTarget::Value(match compare.target_union {
            Some(Union::Value(value)) => value,
            _ => Bytes::new(),
        }),
        Target::Lease => CompareTarget::Lease(match compare.target_union {
            Some(Union::Lease(n)) => n,
            _ => 0,
        }),
    };
    Ok(Compare {
        key: compare.key,
        range_end: compare.range_end,
        result,
        target,
    })
}

pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

pub(crate) fn event(event: Event) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv)),
        prev_kv: event.prev_kv.map(key_value),
    }
}

/// Answers with their headers. Inside a transaction etcd gives the step's revision only.
impl Gateway {
    pub(crate) fn range_answer(&self, answer: RangeResponse) -> pb::RangeResponse {
        pb::RangeResponse {
            header: self.header(answer.revision),
            kvs: answer.kvs.into_iter().map(key_value).collect(),
            more: answer.more,
            count: answer.count,
        }
    }

    pub(crate) fn put_answer(&self, answer: PutResponse) -> pb::PutResponse {
        pb::PutResponse {
            header: self.header(answer.revision),
            prev_kv: answer.prev_kv.map(key_value),
        }
    }

    pub(crate) fn delete_answer(&self, answer: DeleteRangeResponse) -> pb::DeleteRangeResponse {
        pb::DeleteRangeResponse {
            header: self.header(answer.revision),
            deleted: answer.deleted,
            prev_kvs: answer.prev_kvs.into_iter().map(key_value).collect(),
        }
    }

    pub(crate) fn txn_answer(&self, answer: TxnResponse) -> pb::TxnResponse {
        pb::TxnResponse {
            header: self.header(answer.revision),
            succeeded: answer.succeeded,
            responses: answer.responses.into_iter().map(|r| self.step(r)).collect(),
        }
    }

    fn step(&self, answer: TxnOpResponse) -> pb::ResponseOp {
        use response_op::Response;
        let bare = |revision| {
            Some(pb::ResponseHeader {
                revision,
                ..Default::default()
            })
        };
        let response = match answer {
            TxnOpResponse::Range(answer) => Response::ResponseRange(pb::RangeResponse {
                header: bare(answer.revision),
                ..self.range_answer(answer)
            }),
            TxnOpResponse::Put(answer) => Response::ResponsePut(pb::PutResponse {
                header: bare(answer.revision),
                ..self.put_answer(answer)
            }),
            TxnOpResponse::Delete(answer) => {
                Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                    header: bare(answer.revision),
                    ..self.delete_answer(answer)
                })
            }
            TxnOpResponse::Txn(answer) => Response::ResponseTxn(pb::TxnResponse {
                header: bare(0),
                ..self.txn_answer(answer)
            }),
        };
        pb::ResponseOp {
            response: Some(response),
        }
    }
}
