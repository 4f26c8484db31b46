//! The figures of the real daemon: over a loopback address and in a file.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use volattach::api::v1;

use super::*;

/// Sends this to the listener, and takes all that comes until it closes; nothing where nobody listens yet.
fn scrape(address: SocketAddr) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).unwrap();
        stream.read_to_string(&mut answer).unwrap();
    }
    answer
}

/// An address that nobody has.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Names of samples, each once, in their order.
fn names(text: &str) -> Vec<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<_> = samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    names.dedup();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_daemon_is_scraped_while_a_server_hangs_and_libvirt_is_absent() {
    let place = Place::new();
    let (address, file) = (free_address(), place.path("volattach.prom"));
    // It accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let config = place.path("volattachd.toml");
    let text = fs::read_to_string(&config).unwrap();
    let added = format!("metrics_listen = \"{address}\"\nmetrics_file = {file:?}\n");
    let text = format!("{added}{text}[smb]\nprobe_timeout = \"60s\"\n");
    fs::write(&config, text).unwrap();
    let mut daemon = place.start(place.command(&[]));
    let socket = place.path("run/volattachd.sock");
    let hanging = tokio::spawn({
        let socket = socket.clone();
        async move {
            let endpoint = Endpoint::from_static("http://localhost");
            let channel = socket::connect(endpoint, &socket).await.unwrap();
            let info = format!(
                r#"{{"driver_volume_type":"smbfs","data":{{"export":"//127.0.0.1/vols","name":"x","options":"-o username=bob,password=hunter2,port={port}"}}}}"#
            );
            let request = v1::ConnectVolumeRequest {
                attachment_id: "precious".into(),
                volume_id: "v1".into(),
                connection_info: Some(v1::ConnectionInfo {
                    form: Some(v1::connection_info::Form::CinderJson(info)),
                }),
                ..Default::default()
            };
            VolumeAttachClient::new(channel)
                .connect_volume(request)
                .await
        }
    });
    let (mut asked, _) = tokio::task::spawn_blocking(move || silent.accept())
        .await
        .unwrap()
        .unwrap();
    let parts = [
        "HTTP/1.1 200 OK\r\n",
        "\nvolattach_libvirt_connected 0\n",
        "\nvolattach_journal_failing 0\n",
        "\nvolattach_calls_running 1\n",
        "\nvolattach_work_running 1\n",
        "\nvolattach_reconcile_rounds_total 1\n",
        "\nvolattach_attachments{backend=\"smbfs\",state=\"connecting\",access=\"rw\"} 1\n",
    ];
    let mut scraped = String::new();
    until(
        "the call is at work, its intent in the journal, and a round done",
        async || {
            scraped = scrape(address);
            // The record is shown before it is on the disk.
            let committed =
                !scraped.contains("\nvolattach_journal_commit_duration_seconds_count 0\n");
            committed && parts.iter().all(|part| scraped.contains(part))
        },
    )
    .await;
    // All that while its server has not said a word.
    assert!(!hanging.is_finished());
    for name in ["precious", "127.0.0.1", "hunter2", "vols"] {
        assert!(!scraped.contains(name), "{name}: {scraped}");
    }
    // The file has the same figures.
    let body = scraped.split_once("\r\n\r\n").unwrap().1;
    until("the file is written again", async || {
        fs::read_to_string(&file).is_ok_and(|text| names(&text) == names(body))
    })
    .await;
    // The server answers nonsense at last, and the call ends.
    let _ = asked.write_all(b"nonsense");
    drop(asked);
    assert!(hanging.await.unwrap().is_err());
    daemon.signal(Signal::SIGTERM);
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn figures_are_refused_to_other_hosts() {
    let place = Place::new();
    let config = place.path("volattachd.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("metrics_listen = \"0.0.0.0:9642\"\n{text}"),
    )
    .unwrap();
    let mut refused = Daemon(place.command(&[]).spawn().unwrap());
    let (code, said) = refused.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("metrics_listen: expected") && said.contains("no other host may reach them"),
        "{said}"
    );
}

#[tokio::test]
async fn an_address_that_is_taken_keeps_the_daemon_from_nothing() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = place.path("volattachd.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("metrics_listen = \"{address}\"\n{text}")).unwrap();
    let mut daemon = place.start(place.command(&[]));
    call(&place.path("run/volattachd.sock")).await.unwrap();
    daemon.signal(Signal::SIGTERM);
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("(metrics_listen)"), "{said}");
}
