//! Compiles the wire messages (`wire/*.proto`) without needing a system `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=wire");
    let mut files: Vec<PathBuf> = std::fs::read_dir("wire")?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    let descriptors = protox::compile(&files, ["wire"])?;
    prost_build::Config::new()
        .btree_map(["."])
        .bytes(["."])
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
