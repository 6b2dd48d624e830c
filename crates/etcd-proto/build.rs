//! Makes Rust of the protocol's files, in Rust alone: no `protoc` is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "etcdserverpb.proto",
        "v3lockpb.proto",
        "v3electionpb.proto",
        "leasepb.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::env::var("OUT_DIR")?;
    let bytes = prost::Message::encode_to_vec(&descriptors);
    std::fs::write(Path::new(&out).join("descriptors.bin"), bytes)?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
