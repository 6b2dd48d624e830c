//! Messages that come in any number of frames.

use bytes::Bytes;
use prost::Message as _;
use tonic::Code;

use super::raw::call_in;
use crate::{alone, get, kv, put};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_pieces() {
    let (_alone, ours) = alone().await;
    let path = "/etcdserverpb.KV/Put";
    for (n, size) in [1, 300, 40_000, 1 << 20].into_iter().enumerate() {
        let key = format!("pieces{n}");
        let message = put(key.clone(), vec![b'x'; size]).encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let whole = Bytes::from([&[0][..], &length, &message].concat());
        for (kind, piece) in [
            ("application/grpc", whole.len()),
            ("application/grpc", whole.len().div_ceil(50)),
            ("application/grpc+proto", whole.len().div_ceil(2)),
        ] {
            let pieces = (0..whole.len()).step_by(piece);
            let pieces = pieces.map(|at| whole.slice(at..whole.len().min(at + piece)));
            let answer = call_in(ours.address, path, kind, pieces.collect()).await;
            assert_eq!(
                answer,
                (Code::Ok, String::new()),
                "{size} by {piece}, {kind}"
            );
        }
        let found = kv(ours.address).await.range(get(key)).await.unwrap();
        let kvs = found.into_inner().kvs;
        assert_eq!((kvs[0].version, kvs[0].value.len()), (3, size));
    }
}
