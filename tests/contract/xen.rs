//! What only domains of Xen have.

use volattach::api::v1;
use volattach::model::ImageFormat;

use crate::cli::{failure, json};
use crate::extend::{MIB, call};
use crate::server::{Server, attach};

fn plan<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let plan = ["plan", "--domain", "web", "--connection-info", "-"];
    [&plan[..], options].concat()
}

#[tokio::test]
async fn options_are_left_out_by_name_or_refused() {
    let server = Server::start().await;
    let tuned = plan(&[
        "--dev",
        "xvdb",
        "--cache",
        "directsync",
        "--serial",
        "s3r1al",
    ]);
    let planned = json(&server, &tuned).await;
    let xml = planned["disk_xml"].to_string();
    assert!(xml.contains("xvdb") && xml.contains("phy"), "{xml}");
    assert!(
        !xml.contains("directsync") && !xml.contains("s3r1al"),
        "{xml}"
    );
    let steps = planned["steps"].to_string();
    assert!(steps.contains("without cache, serial"), "{steps}");

    for options in [["--bus", "virtio"], ["--dev", "vdb"], ["--boot-order", "1"]] {
        let (_, reason) = failure(&server, &plan(&options)).await;
        assert_eq!(reason, "DISK_OPTION_INVALID", "{options:?}");
    }
}

#[tokio::test]
async fn an_image_that_xen_does_not_serve_is_refused_before_anything_is_connected() {
    let server = Server::start().await;
    server.world.state().format = ImageFormat::Qcow2;
    // Read-write too: the server could write the name of a file of this host into the header.
    for access in ["ro", "rw"] {
        let attach = [
            "attach", "--volume", "v1", "--domain", "web", "--access", access,
        ];
        let attach = [&attach[..], &["--connection-info", "-"]].concat();
        let (_, reason) = failure(&server, &attach).await;
        assert_eq!(reason, "FORMAT_UNSUPPORTED", "{access}");
    }
    assert!(server.world.state().connections.is_empty());
}

#[tokio::test]
async fn a_guest_that_may_only_read_sees_a_new_size() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = attach("a1");
    request.access = v1::Access::ReadOnly.into();
    client.attach_volume(request).await.unwrap();
    server.world.state().stored = 2 * MIB;
    assert_eq!(call(&mut client, "a1", 0).await.unwrap(), 2 * MIB);
}
