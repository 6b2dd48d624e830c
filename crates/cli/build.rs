//! Links the program to a fixed address: tens of thousands of relocations, each page of them a fault, would else be done at
//! every start of the client. Its libraries, its stack and its heap stay at random addresses.

fn main() {
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
