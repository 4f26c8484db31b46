//! What only domains of Xen have.

use volattach::model::ImageFormat;

use crate::cli::{failure, json};
use crate::server::Server;

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
    let attach = [
        "attach", "--volume", "v1", "--domain", "web", "--access", "ro",
    ];
    let attach = [&attach[..], &["--connection-info", "-"]].concat();
    let (_, reason) = failure(&server, &attach).await;
    assert_eq!(reason, "FORMAT_UNSUPPORTED");
    assert!(server.world.state().connections.is_empty());
}
