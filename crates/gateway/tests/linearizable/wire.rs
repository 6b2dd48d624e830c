//! Requests and answers as etcd's API has them.

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::mvccpb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::request_op::Request as RequestUnion;
use pb::response_op::Response as ResponseUnion;
use tonic::Status;
use tonic::transport::Channel;

use super::history::*;

fn name(key: Key) -> Bytes {
    format!("k{key}").into()
}

fn text(value: u64) -> Bytes {
    value.to_string().into()
}

fn number(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).unwrap();
    text.parse().expect("a value that was put")
}

fn kv(key: Key, kv: &mvccpb::KeyValue) -> Kv {
    assert_eq!((&kv.key, kv.lease), (&name(key), 0));
    Kv {
        value: number(&kv.value),
        created: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
    }
}

fn get(key: Key) -> pb::RangeRequest {
    pb::RangeRequest {
        key: name(key),
        ..Default::default()
    }
}

fn got(key: Key, answer: &pb::RangeResponse) -> Outcome {
    assert!(answer.kvs.len() <= 1 && !answer.more, "{answer:?}");
    assert_eq!(answer.count, answer.kvs.len() as i64);
    Outcome::Got(answer.kvs.first().map(|found| kv(key, found)))
}

fn put(key: Key, value: u64, prev_kv: bool) -> pb::PutRequest {
    pb::PutRequest {
        key: name(key),
        value: text(value),
        prev_kv,
        ..Default::default()
    }
}

fn done(key: Key, answer: &pb::PutResponse) -> Outcome {
    Outcome::Put(answer.prev_kv.as_ref().map(|prev| kv(key, prev)))
}

fn delete(key: Key, prev_kv: bool) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: name(key),
        prev_kv,
        ..Default::default()
    }
}

fn deleted(key: Key, answer: &pb::DeleteRangeResponse) -> Outcome {
    assert!(answer.prev_kvs.len() <= 1, "{answer:?}");
    let prev = answer.prev_kvs.first().map(|prev| kv(key, prev));
    Outcome::Deleted(answer.deleted, prev)
}

fn compare(compare: &Compare) -> pb::Compare {
    let (key, target, union) = match *compare {
        Compare::Value(key, value) => (key, CompareTarget::Value, TargetUnion::Value(text(value))),
        Compare::Modified(key, revision) => {
            (key, CompareTarget::Mod, TargetUnion::ModRevision(revision))
        }
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: name(key),
        target_union: Some(union),
        ..Default::default()
    }
}

fn step(step: &Step) -> pb::RequestOp {
    let union = match *step {
        Step::Get(key) => RequestUnion::RequestRange(get(key)),
        Step::Put(key, value, prev) => RequestUnion::RequestPut(put(key, value, prev)),
        Step::Delete(key, prev) => RequestUnion::RequestDeleteRange(delete(key, prev)),
    };
    pb::RequestOp {
        request: Some(union),
    }
}

fn outcome(step: &Step, answer: &pb::ResponseOp) -> Outcome {
    match (*step, answer.response.as_ref().unwrap()) {
        (Step::Get(key), ResponseUnion::ResponseRange(answer)) => got(key, answer),
        (Step::Put(key, ..), ResponseUnion::ResponsePut(answer)) => done(key, answer),
        (Step::Delete(key, _), ResponseUnion::ResponseDeleteRange(answer)) => deleted(key, answer),
        _ => panic!("{step} -> {answer:?}"),
    }
}

pub async fn ask(client: &mut KvClient<Channel>, request: &Request) -> Result<Answer, Status> {
    let (header, succeeded, outcomes) = match request {
        Request::One(Step::Get(key)) => {
            let answer = client.range(get(*key)).await?.into_inner();
            (answer.header, true, vec![got(*key, &answer)])
        }
        Request::One(Step::Put(key, value, prev)) => {
            let answer = client.put(put(*key, *value, *prev)).await?.into_inner();
            (answer.header, true, vec![done(*key, &answer)])
        }
        Request::One(Step::Delete(key, prev)) => {
            let answer = client.delete_range(delete(*key, *prev)).await?.into_inner();
            (answer.header, true, vec![deleted(*key, &answer)])
        }
        Request::Txn {
            compare: compares,
            success,
            failure,
        } => {
            let txn = pb::TxnRequest {
                compare: compares.iter().map(compare).collect(),
                success: success.iter().map(step).collect(),
                failure: failure.iter().map(step).collect(),
            };
            let answer = client.txn(txn).await?.into_inner();
            let steps = request.steps(answer.succeeded);
            assert_eq!(steps.len(), answer.responses.len());
            let outcomes = steps.iter().zip(&answer.responses);
            let outcomes = outcomes.map(|(step, answer)| outcome(step, answer));
            (answer.header, answer.succeeded, outcomes.collect())
        }
    };
    Ok(Answer {
        revision: header.unwrap().revision,
        succeeded,
        outcomes,
    })
}

pub fn event(event: &mvccpb::Event) -> Event {
    let found = event.kv.as_ref().unwrap();
    let key = (0..KEYS).find(|key| name(*key) == found.key);
    let key = key.expect("one of the keys");
    let put = event.r#type() == mvccpb::event::EventType::Put;
    Event {
        key,
        revision: found.mod_revision,
        kv: put.then(|| kv(key, found)),
        prev: event.prev_kv.as_ref().map(|prev| kv(key, prev)),
    }
}
