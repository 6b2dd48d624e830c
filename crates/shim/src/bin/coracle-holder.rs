//! The holder: forks one shim per container and keeps listening sockets while daemons come and go.

fn main() {}
