//! Requests at random, in the app's terms. Revisions are given as places in the history of the app's own writes, which both stores
//! have under numbers of their own.

use bytes::Bytes;
use coracle_store::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A revision.
#[derive(Clone, Copy, Debug)]
pub enum At {
    Zero,
    Below(i64),
    /// That many of the app's writes ago.
    Ago(usize),
    /// Not there yet.
    Ahead(i64),
    /// Long compacted, or of another store that the keys were in before.
    Forgotten(i64),
}

/// A request's revisions: of it, its bounds, or its compare.
#[derive(Clone, Debug)]
pub struct Range {
    pub request: RangeRequest,
    pub at: At,
    pub bounds: [At; 4],
}

#[derive(Clone, Debug)]
pub struct Condition {
    pub compare: Compare,
    /// In place of the number of a create or a mod revision.
    pub at: At,
}

#[derive(Clone, Debug)]
pub struct Txn {
    pub compare: Vec<Condition>,
    pub success: Vec<Step>,
    pub failure: Vec<Step>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Range(Range),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(Txn),
}

#[derive(Clone, Debug)]
pub enum Op {
    Range(Range),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(Txn),
    Compact(At),
    Grant {
        ttl: i64,
        id: LeaseId,
    },
    Revoke(LeaseId),
    KeepAlive(LeaseId),
    TimeToLive {
        id: LeaseId,
        keys: bool,
    },
    Leases,
    Watch {
        request: WatchRequest,
        at: At,
    },
    /// The machine writes beside the app: the number says what.
    Outside(u8),
}

/// A lease of the machine's own, which is there.
pub const OWN: LeaseId = OWN_LEASE | 5;

fn key() -> impl Strategy<Value = Bytes> {
    let keys: Vec<&[u8]> = vec![
        b"a",
        b"b",
        b"aa",
        b"a\0",
        b"\0",
        b"/",
        b"/coracle/v1/apps/a",
        b"0",
        b"\xff",
        b"\xff\xff",
        b"..",
        b"/discoverz",
    ];
    prop_oneof![20 => select(keys).prop_map(Bytes::from_static), 1 => Just(Bytes::new())]
}

fn end() -> impl Strategy<Value = Bytes> {
    let ends: Vec<&[u8]> = vec![
        b"\0",
        b"\0",
        b"\0\0",
        b"a\0",
        b"b",
        b"0",
        b"/",
        b"z",
        b"\xff",
        b"\xff\xff\xff",
        b"/coracle/v2",
    ];
    prop_oneof![2 => Just(Bytes::new()), 4 => select(ends).prop_map(Bytes::from_static)]
}

fn value() -> impl Strategy<Value = Bytes> {
    select(vec!["", "1", "2", "10"]).prop_map(|text| Bytes::from_static(text.as_bytes()))
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        6 => Just(At::Zero),
        6 => (0..12usize).prop_map(At::Ago),
        1 => (-3..0i64).prop_map(At::Below),
        1 => (1..3i64).prop_map(At::Ahead),
        1 => (1..4i64).prop_map(At::Forgotten),
    ]
}

fn bound() -> impl Strategy<Value = At> {
    prop_oneof![8 => Just(At::Zero), 2 => at()]
}

/// The app's, one that is not there, and the machine's.
fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![6 => Just(0), 6 => 1..4i64, 1 => Just(OWN)]
}

fn range() -> impl Strategy<Value = Range> {
    let order = select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]);
    let target = select(vec![
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ]);
    let bounds = [bound(), bound(), bound(), bound()];
    let flags = (any::<bool>(), prop::bool::weighted(0.2));
    (key(), end(), -1..4i64, order, target, flags, at(), bounds).prop_map(
        |(key, range_end, limit, sort_order, sort_target, flags, at, bounds)| {
            let (keys_only, count_only) = flags;
            let request = RangeRequest {
                key,
                range_end,
                limit,
                sort_order,
                sort_target,
                keys_only,
                count_only,
                ..Default::default()
            };
            Range {
                request,
                at,
                bounds,
            }
        },
    )
}

/// Within a transaction `lease` is no machine's: for one the whole is refused, as a put alone is, though its branch is not taken.
fn put(lease: impl Strategy<Value = LeaseId>) -> impl Strategy<Value = PutRequest> {
    let seldom = || prop::bool::weighted(0.1);
    let flags = (any::<bool>(), seldom(), seldom());
    (key(), value(), lease, flags).prop_map(|(key, value, lease, flags)| {
        let (prev_kv, ignore_value, ignore_lease) = flags;
        // Of several mistakes one is told, and not the same.
        let well = lease != OWN;
        PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value: ignore_value && well,
            ignore_lease: ignore_lease && well,
        }
    })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    let target = prop_oneof![
        (0..4i64).prop_map(CompareTarget::Version),
        Just(CompareTarget::Create(0)),
        Just(CompareTarget::Mod(0)),
        value().prop_map(CompareTarget::Value),
        lease().prop_map(CompareTarget::Lease),
    ];
    let result = select(vec![
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
    ]);
    (key(), end(), result, target, at()).prop_map(|(key, range_end, result, target, at)| {
        let compare = Compare {
            key,
            range_end,
            result,
            target,
        };
        Condition { compare, at }
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let plain = || {
        prop_oneof![
            3 => range().prop_map(Step::Range),
            4 => put(0..4i64).prop_map(Step::Put),
            3 => delete().prop_map(Step::Delete),
        ]
    };
    let flat = (
        vec(condition(), 0..3),
        vec(plain(), 0..4),
        vec(plain(), 0..4),
    );
    let flat = flat.prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    });
    flat.prop_recursive(3, 16, 3, move |inner| {
        let step = prop_oneof![2 => plain(), 1 => inner.prop_map(Step::Txn)];
        let (success, failure) = (vec(step, 0..4), vec(plain(), 0..3));
        let nested = (vec(condition(), 0..2), success, failure);
        nested.prop_map(|(compare, success, failure)| Txn {
            compare,
            success,
            failure,
        })
    })
}

fn watch() -> impl Strategy<Value = Op> {
    let seldom = || prop::bool::weighted(0.2);
    (key(), end(), any::<bool>(), seldom(), seldom(), at()).prop_map(
        |(key, range_end, prev_kv, no_put, no_delete, at)| {
            let request = WatchRequest {
                key,
                range_end,
                prev_kv,
                no_put,
                no_delete,
                ..Default::default()
            };
            Op::Watch { request, at }
        },
    )
}

pub fn sequence() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => range().prop_map(Op::Range),
        8 => put(lease()).prop_map(Op::Put),
        4 => delete().prop_map(Op::Delete),
        8 => txn().prop_map(Op::Txn),
        1 => at().prop_map(Op::Compact),
        2 => (100..1000i64, prop_oneof![4 => 1..4i64, 1 => Just(OWN)]).prop_map(|(ttl, id)| Op::Grant { ttl, id }),
        1 => lease().prop_map(Op::Revoke),
        1 => lease().prop_map(Op::KeepAlive),
        2 => (lease(), any::<bool>()).prop_map(|(id, keys)| Op::TimeToLive { id, keys }),
        1 => Just(Op::Leases),
        2 => watch(),
        4 => any::<u8>().prop_map(Op::Outside),
    ];
    vec(op, 1..40)
}
