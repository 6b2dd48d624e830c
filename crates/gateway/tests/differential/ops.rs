//! Operations at random: few keys, so that they meet; all fields of the API.

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb::compare::TargetUnion;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A revision, seen from the newest.
#[derive(Clone, Copy, Debug)]
pub enum At {
    Zero,
    Ago(i64),
    Ahead(i64),
    Exactly(i64),
}

#[derive(Clone, Debug)]
pub struct Range {
    pub key: Bytes,
    pub end: Bytes,
    pub limit: i64,
    pub revision: At,
    pub order: i32,
    pub target: i32,
    pub keys_only: bool,
    pub count_only: bool,
    /// min mod, max mod, min create, max create.
    pub bounds: [At; 4],
}

#[derive(Clone, Debug)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: i64,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug)]
pub struct Delete {
    pub key: Bytes,
    pub end: Bytes,
    pub prev_kv: bool,
}

#[derive(Clone, Debug)]
pub struct Compare {
    pub key: Bytes,
    pub end: Bytes,
    pub result: i32,
    pub target: Target,
}

#[derive(Clone, Debug)]
pub enum Target {
    Version(i64),
    Create(At),
    Mod(At),
    Value(Bytes),
    Lease(i64),
    /// The kind of one and the value of another.
    Mixed(i32, TargetUnion),
}

#[derive(Clone, Debug)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Step>,
    pub failure: Vec<Step>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Range(Range),
    Put(Put),
    Delete(Delete),
    Txn(Txn),
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Watch {
    pub key: Bytes,
    pub end: Bytes,
    pub start: At,
    pub prev_kv: bool,
    pub filters: Vec<i32>,
    pub id: i64,
    pub fragment: bool,
}

#[derive(Clone, Debug)]
pub enum Op {
    Range(Range),
    Put(Put),
    Delete(Delete),
    Txn(Txn),
    Compact(At),
    Grant { id: i64, ttl: i64 },
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive { id: i64, keys: bool },
    Leases,
    Watch(Watch),
    Cancel(i64),
}

fn key() -> impl Strategy<Value = Bytes> {
    let keys: Vec<&[u8]> = vec![
        b"a",
        b"b",
        b"c",
        b"d",
        b"aa",
        b"ab",
        b"b\0",
        b"\0",
        b"\xff",
        b"\xff\xff",
        b"",
    ];
    // The empty one is refused, so it is seldom.
    prop_oneof![20 => select(keys[..10].to_vec()), 1 => Just(keys[10])].prop_map(Bytes::from_static)
}

fn end() -> impl Strategy<Value = Bytes> {
    let ends: Vec<&[u8]> = vec![b"\0", b"b", b"c", b"ab", b"z", b"\xff", b"a\0"];
    prop_oneof![2 => Just(Bytes::new()), 3 => select(ends).prop_map(Bytes::from_static)]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => select(vec!["", "1", "2", "10"]).prop_map(Bytes::from_static_str),
        1 => vec(any::<u8>(), 0..40).prop_map(Bytes::from),
    ]
}

trait FromStr {
    fn from_static_str(text: &'static str) -> Bytes;
}

impl FromStr for Bytes {
    fn from_static_str(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        3 => Just(At::Zero),
        3 => (0..12i64).prop_map(At::Ago),
        1 => (1..3i64).prop_map(At::Ahead),
    ]
}

/// As a bound: mostly none.
fn bound() -> impl Strategy<Value = At> {
    prop_oneof![8 => Just(At::Zero), 2 => (0..12i64).prop_map(At::Ago), 1 => Just(At::Exactly(-3))]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![5 => Just(0), 4 => 1..4i64]
}

fn range() -> impl Strategy<Value = Range> {
    let place = (key(), end(), at());
    let shape = (
        -1..4i64,
        0..3i32,
        0..5i32,
        any::<bool>(),
        prop::bool::weighted(0.2),
    );
    let bounds = [bound(), bound(), bound(), bound()];
    (place, shape, bounds).prop_map(|((key, end, revision), shape, bounds)| {
        let (limit, order, target, keys_only, count_only) = shape;
        Range {
            key,
            end,
            limit,
            revision,
            order,
            target,
            keys_only,
            count_only,
            bounds,
        }
    })
}

fn put() -> impl Strategy<Value = Put> {
    let flags = (
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    (key(), value(), lease(), flags, any::<bool>()).prop_map(|(key, value, lease, flags, fit)| {
        let (prev_kv, ignore_value, ignore_lease) = flags;
        Put {
            key,
            // Most are as etcd wants them.
            value: if ignore_value && fit {
                Bytes::new()
            } else {
                value
            },
            lease: if ignore_lease && fit { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        }
    })
}

fn delete() -> impl Strategy<Value = Delete> {
    (key(), end(), any::<bool>()).prop_map(|(key, end, prev_kv)| Delete { key, end, prev_kv })
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        4 => (0..4i64).prop_map(Target::Version),
        4 => at().prop_map(Target::Create),
        4 => at().prop_map(Target::Mod),
        4 => value().prop_map(Target::Value),
        4 => lease().prop_map(Target::Lease),
        1 => (0..5i32, 0..3i64).prop_map(|(kind, n)| Target::Mixed(kind, TargetUnion::Version(n))),
    ];
    let end = prop_oneof![3 => Just(Bytes::new()), 1 => end()];
    (key(), end, 0..4i32, target).prop_map(|(key, end, result, target)| Compare {
        key,
        end,
        result,
        target,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let plain = || {
        prop_oneof![
            6 => range().prop_map(Step::Range),
            8 => put().prop_map(Step::Put),
            4 => delete().prop_map(Step::Delete),
            1 => Just(Step::Nothing),
        ]
    };
    let flat = (vec(compare(), 0..3), vec(plain(), 0..4), vec(plain(), 0..4));
    let flat = flat.prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    });
    flat.prop_recursive(2, 12, 3, move |inner| {
        let step = prop_oneof![3 => plain(), 1 => inner.prop_map(Step::Txn)];
        let steps = vec(step, 0..4);
        let nested = (vec(compare(), 0..3), steps.boxed(), vec(plain(), 0..4));
        nested.prop_map(|(compare, success, failure)| Txn {
            compare,
            success,
            failure,
        })
    })
}

/// A transaction that puts has no deletion without an end: etcd (3.4 to 3.6) takes that for an empty range when it looks for keys
/// changed twice, and changes them twice in one revision. Ours refuses it.
fn bounded(mut txn: Txn) -> Txn {
    fn puts(txn: &Txn) -> bool {
        txn.success
            .iter()
            .chain(&txn.failure)
            .any(|step| match step {
                Step::Put(_) => true,
                Step::Txn(inner) => puts(inner),
                _ => false,
            })
    }
    fn bound(txn: &mut Txn) {
        for step in txn.success.iter_mut().chain(&mut txn.failure) {
            match step {
                Step::Delete(delete) if &delete.end[..] == b"\0" => {
                    delete.end = Bytes::from_static(b"\xff\xff\xff");
                }
                Step::Txn(inner) => bound(inner),
                _ => {}
            }
        }
    }
    if puts(&txn) {
        bound(&mut txn);
    }
    apart(&mut txn);
    txn
}

/// Of transactions beside each other none deletes: etcd lets one put what another deletes, in one of the two orders. Ours refuses it.
fn apart(txn: &mut Txn) {
    fn spare(steps: &mut Vec<Step>) {
        steps.retain(|step| !matches!(step, Step::Delete(_)));
        for step in steps {
            if let Step::Txn(inner) = step {
                spare(&mut inner.success);
                spare(&mut inner.failure);
            }
        }
    }
    for branch in [&mut txn.success, &mut txn.failure] {
        let inner = |step: &&Step| matches!(step, Step::Txn(_));
        let many = branch.iter().filter(inner).count() > 1;
        for step in branch {
            if let Step::Txn(inner) = step {
                if many {
                    spare(&mut inner.success);
                    spare(&mut inner.failure);
                }
                apart(inner);
            }
        }
    }
}

fn watch() -> impl Strategy<Value = Watch> {
    let place = (key(), end(), at());
    let filters = prop_oneof![4 => Just(vec![]), 1 => Just(vec![0]), 1 => Just(vec![1])];
    let id = prop_oneof![5 => Just(0i64), 1 => 1..6i64];
    (place, any::<bool>(), filters, id, any::<bool>()).prop_map(
        |((key, end, start), prev_kv, filters, id, fragment)| Watch {
            key,
            end,
            start,
            prev_kv,
            filters,
            id,
            fragment,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let ttl = prop_oneof![8 => 100..200i64, 1 => Just(9_000_000_001i64)];
    prop_oneof![
        8 => range().prop_map(Op::Range),
        12 => put().prop_map(Op::Put),
        5 => delete().prop_map(Op::Delete),
        10 => txn().prop_map(|txn| Op::Txn(bounded(txn))),
        2 => prop_oneof![4 => (0..12i64).prop_map(At::Ago), 1 => Just(At::Ahead(1))].prop_map(Op::Compact),
        3 => (1..4i64, ttl).prop_map(|(id, ttl)| Op::Grant { id, ttl }),
        1 => (1..5i64).prop_map(Op::Revoke),
        1 => (1..5i64).prop_map(Op::KeepAlive),
        1 => (1..5i64, any::<bool>()).prop_map(|(id, keys)| Op::TimeToLive { id, keys }),
        1 => Just(Op::Leases),
        4 => watch().prop_map(Op::Watch),
        1 => (0..6i64).prop_map(Op::Cancel),
    ]
}

pub fn sequence() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..40)
}
