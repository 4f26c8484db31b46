//! Compiles the API's proto without `protoc`, and keeps the descriptor for server reflection.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "volattach/v1/volattach.proto";
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile([proto], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("volattach.v1.bin"))
        .skip_debug(["volattach.v1.SmbCredentials"])
        .compile_fds(descriptors)?;
    Ok(())
}
