//! Traces by OTLP: the spans of requests and of reconcile go to a collector (feature `otlp`, `otlp_endpoint`).
//!
//! Invariants: no call waits for the collector: spans wait in a queue of bounded length, and are dropped where it is full; the collector's
//! trouble is told once, and once more when it is over; what is exported is what the log has, in which there are no secrets.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::model::{chain, visible};

/// How long an export may take.
const EXPORT: Duration = Duration::from_secs(5);

/// How long the last one may take when the daemon ends.
const LAST: Duration = Duration::from_secs(2);

/// The way of spans to the collector, once there is one. Clones are the same.
#[derive(Clone)]
pub(super) struct Spans {
    queue: Queue,
    /// Whose drop ends the export.
    provider: SdkTracerProvider,
}

/// A processor that takes nothing until there is a collector.
#[derive(Clone, Debug, Default)]
struct Queue(Arc<OnceLock<BatchSpanProcessor>>);

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(batches) = self.0.get() {
            batches.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.get().map_or(Ok(()), SpanProcessor::force_flush)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let batches = self.0.get();
        batches.map_or(Ok(()), |it| it.shutdown_with_timeout(timeout))
    }
}

impl Spans {
    pub(super) fn new() -> Self {
        let queue = Queue::default();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue.clone())
            .build();
        Self { queue, provider }
    }

    /// What hands spans and warnings over, once there is a collector.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'s> LookupSpan<'s>,
    {
        let queue = self.queue.0.clone();
        let is_on = dynamic_filter_fn(move |it, _| is_exported(it) && queue.get().is_some())
            .with_callsite_filter(|it| match is_exported(it) {
                true => Interest::sometimes(),
                false => Interest::never(),
            });
        let tracer = self.provider.tracer("volattachd");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(is_on)
    }

    /// Exports to the collector at this address from now on. Must be called within a tokio runtime, and touches no network.
    ///
    /// # Errors
    /// Where the address cannot be used.
    pub(super) fn export_to(&self, endpoint: &str) -> anyhow::Result<()> {
        let exporter = OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT)
            .build()
            .with_context(|| format!("cannot export traces to {endpoint} (otlp_endpoint)"))?;
        let mut batches = BatchSpanProcessor::builder(Telling {
            exporter,
            endpoint: endpoint.to_owned(),
            is_failing: AtomicBool::new(false),
        })
        .build();
        let host = nix::sys::utsname::uname();
        let host = host.as_ref().ok().and_then(|it| it.nodename().to_str());
        let attributes = [
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("host.name", host.unwrap_or_default()),
        ];
        let attributes = attributes.map(|(key, value)| KeyValue::new(key, value.to_owned()));
        let resource = Resource::builder()
            .with_service_name("volattachd")
            .with_attributes(attributes);
        batches.set_resource(&resource.build());
        // Set once: the key needs a restart.
        let _ = self.queue.0.set(batches);
        Ok(())
    }

    /// Exports what waits, and no more.
    pub(super) async fn end(self) {
        let end = move || self.provider.shutdown_with_timeout(LAST);
        // What the collector does not take by then is lost.
        let _ = tokio::task::spawn_blocking(end).await;
    }
}

/// Our spans, and what the log warns of within them.
fn is_exported(it: &Metadata<'_>) -> bool {
    let ours = it.target().starts_with("volattach");
    ours && (it.is_span() || *it.level() <= Level::WARN)
}

/// An exporter whose trouble is told once.
struct Telling {
    exporter: OtlpExporter,
    endpoint: String,
    is_failing: AtomicBool,
}

impl fmt::Debug for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telling").finish_non_exhaustive()
    }
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !was_failing => tracing::warn!(
                endpoint = self.endpoint,
                error = visible(&chain(error)).as_ref(),
                "traces cannot be exported, and are lost until the collector takes them again: see to it that it runs \
                 (otlp_endpoint)"
            ),
            Ok(()) if was_failing => {
                tracing::info!(endpoint = self.endpoint, "traces are exported again");
            }
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
