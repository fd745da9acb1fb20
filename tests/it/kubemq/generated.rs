//! The generated code is what the generator makes of `proto/kubemq.proto`.

use std::fs;

use crate::peers::root;

fn generated() -> String {
    let files = protox::compile(["kubemq.proto"], [root().join("proto")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".")
        .codec_path("crate::kubemq_wire::bounded::BoundedCodec")
        .client_mod_attribute("kubemq", "#[cfg(feature = \"kubemq-client\")]")
        .server_mod_attribute("kubemq", "#[cfg(feature = \"kubemq\")]")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(folder.path())
        .compile_fds(files)
        .unwrap();
    fs::read_to_string(folder.path().join("kubemq.rs")).unwrap()
}

#[test]
fn the_generated_code_is_that_of_the_proto_file() {
    let path = root().join("src/kubemq_wire/generated.rs");
    if std::env::var_os("TOWER_OUTBOX_GENERATE").is_some() {
        fs::write(&path, generated()).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == generated(),
        "run this test once with TOWER_OUTBOX_GENERATE=1"
    );
}
