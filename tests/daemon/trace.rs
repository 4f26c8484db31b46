//! The caller's trace: its id in log and audit, and with the feature `otlp` the daemon's spans as a part of it.

use tonic::transport::Channel;

use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn client(place: &Place) -> VolumeAttachClient<Channel> {
    let endpoint = Endpoint::from_static("http://localhost");
    let socket = place.path("run/volattachd.sock");
    VolumeAttachClient::new(socket::connect(endpoint, &socket).await.unwrap())
}

/// Lists as a part of that trace.
async fn list_in(client: &mut VolumeAttachClient<Channel>, parent: &str) {
    let mut request = tonic::Request::new(ListAttachmentsRequest::default());
    let parent = parent.parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    client.list_attachments(request).await.unwrap();
}

/// Adds keys to the daemon's configuration that are in no table.
fn configure(place: &Place, keys: &str) {
    let config = place.path("volattachd.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{keys}{text}")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_audit_name_the_trace_of_a_call() {
    let place = Place::new();
    let file = place.path("audit.json");
    configure(&place, &format!("audit_file = {file:?}\n"));
    let mut daemon = place.start(place.command(&[]));
    let mut client = client(&place).await;
    list_in(&mut client, PARENT).await;
    // Malformed: the call is in no trace.
    list_in(&mut client, &PARENT.to_uppercase()).await;
    daemon.signal(Signal::SIGTERM);
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
    let audited: Vec<_> = said
        .lines()
        .filter(|it| it.contains(" audit rule="))
        .collect();
    let named: Vec<_> = audited
        .iter()
        .map(|it| it.contains(&format!("trace_id=\"{TRACE}\"")))
        .collect();
    assert_eq!(named, [true, false], "{said}");
    assert!(!audited[1].contains("trace_id"), "{said}");
    let written = fs::read_to_string(&file).unwrap();
    let ids = written.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["span"]["trace_id"].as_str().map(ToOwned::to_owned)
    });
    assert_eq!(ids.collect::<Vec<_>>(), [Some(TRACE.to_owned()), None]);
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_that_exports_no_traces_refuses_a_collector() {
    let place = Place::new();
    configure(&place, "otlp_endpoint = \"http://127.0.0.1:4317\"\n");
    let checked = place.command(&[]).arg("--check-config").output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        said.contains("otlp_endpoint") && said.contains("--features otlp"),
        "{said}"
    );
}

#[cfg(feature = "otlp")]
mod collector {
    use std::net::{SocketAddr, TcpListener};

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use opentelemetry_proto::tonic::trace::v1::Span;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status};

    use super::*;

    /// Passes on what it is sent.
    struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            self.0.send(request.into_inner()).unwrap();
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    /// Collects at that address.
    async fn collect(address: SocketAddr) -> mpsc::UnboundedReceiver<ExportTraceServiceRequest> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Collector(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        receiver
    }

    fn free_address() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    /// The daemon, soon to export.
    fn start(place: &Place, collector: SocketAddr) -> Daemon {
        configure(place, &format!("otlp_endpoint = \"http://{collector}\"\n"));
        let mut command = place.command(&[]);
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
        command.env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4");
        command.env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
        place.start(command)
    }

    fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
        let resources = request.resource_spans.into_iter();
        let scopes = resources.flat_map(|it| it.scope_spans);
        scopes.flat_map(|it| it.spans).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_s_span_is_a_part_of_the_caller_s_and_has_no_secret() {
        let place = Place::new();
        let address = free_address();
        let mut collected = collect(address).await;
        let mut daemon = start(&place, address);
        let mut client = client(&place).await;
        let info = r#"{"driver_volume_type":"smbfs","data":{"export":"//127.0.0.1/vols","name":"x","options":"-o username=bob,password=hunter2,port=9"}}"#;
        let mut request = tonic::Request::new(volattach::api::v1::ConnectVolumeRequest {
            attachment_id: "c1".into(),
            volume_id: "v1".into(),
            connection_info: Some(volattach::api::v1::ConnectionInfo {
                form: Some(volattach::api::v1::connection_info::Form::CinderJson(
                    info.into(),
                )),
            }),
            ..Default::default()
        });
        request
            .metadata_mut()
            .insert("traceparent", PARENT.parse().unwrap());
        client.connect_volume(request).await.unwrap_err();
        let mut found = Vec::new();
        while !found.iter().any(|span: &Span| span.name == "request") {
            let request = tokio::time::timeout(LONG, collected.recv())
                .await
                .unwrap()
                .unwrap();
            let shown = format!("{request:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("volattachd"), "{shown}");
            found.extend(spans(request));
        }
        let of = |name: &str| found.iter().find(|span| span.name == name);
        let request = of("request").unwrap();
        assert_eq!(hex(&request.trace_id), TRACE);
        assert_eq!(hex(&request.parent_span_id), "00f067aa0ba902b7");
        let step = of("step").unwrap();
        assert_eq!(
            (&step.trace_id, &step.parent_span_id),
            (&request.trace_id, &request.span_id)
        );
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.end().0, Some(0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_dead_or_hangs_slows_no_call_and_is_told_of_once() {
        let dead = free_address();
        // It accepts, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for address in [dead, silent.local_addr().unwrap()] {
            let place = Place::new();
            let mut daemon = start(&place, address);
            let mut log = std::io::BufReader::new(daemon.0.stderr.take().unwrap());
            let mut client = client(&place).await;
            let mut said = String::new();
            // More spans than wait in the queue.
            let calls = async {
                for _ in 0..60 {
                    list_in(&mut client, PARENT).await;
                }
            };
            let answered = tokio::time::timeout(LONG, calls).await;
            answered.expect("calls wait for the collector");
            while !said.contains("traces cannot be exported") {
                assert_ne!(
                    std::io::BufRead::read_line(&mut log, &mut said).unwrap(),
                    0,
                    "{said}"
                );
            }
            for _ in 0..10 {
                list_in(&mut client, PARENT).await;
            }
            daemon.signal(Signal::SIGTERM);
            log.read_to_string(&mut said).unwrap();
            assert_eq!(
                said.matches("traces cannot be exported").count(),
                1,
                "{said}"
            );
            assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_comes_back_is_used_again() {
        let place = Place::new();
        let address = free_address();
        let mut daemon = start(&place, address);
        let mut log = std::io::BufReader::new(daemon.0.stderr.take().unwrap());
        let mut client = client(&place).await;
        list_in(&mut client, PARENT).await;
        let mut hear = |words: &str| {
            let mut line = String::new();
            while !line.contains(words) {
                line.clear();
                assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0);
            }
        };
        hear("traces cannot be exported");
        let mut collected = collect(address).await;
        until("spans come", async || {
            list_in(&mut client, PARENT).await;
            collected.try_recv().is_ok()
        })
        .await;
        hear("traces are exported again");
        daemon.signal(Signal::SIGTERM);
    }
}
