//! etcd's v3 API on the wire: messages, services for both sides, and the descriptors by which messages become JSON.
//!
//! Made of the files in `proto/` when it is built; names are etcd's own.

/// Generated code carries no documentation of ours; what a field means is said where it is used.
#[allow(missing_docs, clippy::all)]
mod generated {
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod leasepb {
        tonic::include_proto!("leasepb");
    }
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }
}

pub use generated::{authpb, etcdserverpb, leasepb, mvccpb, v3electionpb, v3lockpb};

/// A `google.protobuf.FileDescriptorSet` of all of it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
