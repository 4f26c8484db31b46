//! Debian's Prometheus on this machine: it scrapes the node's daemon, evaluates the rules that are shipped, and answers by its HTTP API.

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::{net::TcpStream, runtime};

use super::{
    cache,
    process::{Guarded, bound, wait_for},
};

const RULES: &str = include_str!("../../dist/usr/share/volattach/prometheus/volattach.rules.yml");

/// How long a scrape may take, in seconds, and how often one begins. Prometheus' own defaults are 10 and 60.
pub(crate) const SCRAPE_TIMEOUT: u32 = 5;

/// How long Prometheus may take to start and to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Prometheus, killed when dropped.
pub(crate) struct Prometheus {
    _process: Guarded,
    address: SocketAddr,
    runtime: runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target`, a daemon's address.
    pub(crate) fn start(target: SocketAddr) -> Result<Self> {
        let program = cache::script("prometheus.sh", &[])?.join("prometheus");
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        fs::write(path("rules.yml"), quick(RULES)?)?;
        let config = format!(
            "global: {{scrape_interval: {SCRAPE_TIMEOUT}s, scrape_timeout: {SCRAPE_TIMEOUT}s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             - {{job_name: volattach, static_configs: [{{targets: ['{target}']}}]}}\n"
        );
        fs::write(path("prometheus.yml"), config)?;
        let log = path("log");
        let mut command = bound(program);
        command
            .arg(format!(
                "--config.file={}",
                path("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let mut process = Guarded(command.spawn().context("starting Prometheus")?);
        let address = wait_for("Prometheus listens", PATIENCE, || {
            let said = fs::read_to_string(&log)?;
            if let Some(status) = process.0.try_wait()? {
                bail!("Prometheus ended with {status}: {said}");
            }
            let (_, rest) = said.split_once("msg=\"Listening on\" address=").unzip();
            Ok(rest.and_then(|rest| rest.split_once('\n')?.0.parse().ok()))
        })?;
        Ok(Self {
            _process: process,
            address,
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            _directory: directory,
        })
    }

    /// Waits until the daemon was scraped.
    pub(crate) fn has_scraped(&self) -> Result<()> {
        wait_for("the first scrape", PATIENCE, || {
            Ok((self.number("up").ok() == Some(1.0)).then_some(()))
        })
    }

    /// Asks the API, and returns the data of its answer.
    fn get(&self, path: &str) -> Result<Value> {
        let exchange = async {
            let stream = TcpStream::connect(self.address).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::get(format!("/api/v1/{path}"))
                .header(HOST, "localhost")
                .body(Empty::<Bytes>::new())?;
            let answer = sender.send_request(request).await?;
            anyhow::Ok(answer.into_body().collect().await?.to_bytes())
        };
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, exchange).await });
        let mut answer: Value = serde_json::from_slice(&answer??)?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].take())
    }

    /// The series that an expression gives now.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let encoded = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let mut data = self.get(&format!("query?query={encoded}"))?;
        match data["result"].take() {
            Value::Array(series) => Ok(series),
            other => bail!("{expression}: {other}"),
        }
    }

    /// The value of an expression that gives one series.
    pub(crate) fn number(&self, expression: &str) -> Result<f64> {
        let series = self.query(expression)?;
        let [only] = series.as_slice() else {
            bail!("{expression}: {series:?}");
        };
        let value = only["value"][1].as_str().context("no value")?;
        Ok(value.parse()?)
    }

    /// The alerts that are pending or firing, in the order of their names, each with its state and its value: a rule has one for each set of
    /// labels. Fails if a rule cannot be evaluated.
    pub(crate) fn alerts(&self) -> Result<Vec<(String, String, f64)>> {
        let groups = self.get("rules")?;
        let groups = groups["groups"].as_array().context("no groups")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array());
        for rule in rules.flatten() {
            ensure!(rule["health"] != "err", "{rule}");
        }
        let alerts = self.get("alerts")?;
        let alerts = alerts["alerts"].as_array().context("no alerts")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = alerts.iter().map(|alert| {
            let value = text(&alert["value"]).parse()?;
            let name = text(&alert["labels"]["alertname"]);
            anyhow::Ok((name, text(&alert["state"]), value))
        });
        let mut found = found.collect::<Result<Vec<_>>>()?;
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }
}

/// The rules with seconds for the minutes that a state must last before its alert fires, and otherwise as they are shipped.
fn quick(rules: &str) -> Result<String> {
    let mut quickened = 0;
    let lines = rules.lines().map(|line| match line.strip_suffix('m') {
        Some(minutes) if line.trim_start().starts_with("for: ") => {
            quickened += 1;
            format!("{minutes}s\n")
        }
        _ => format!("{line}\n"),
    });
    let quick: String = lines.collect();
    let alerts = rules.matches("- alert:").count();
    ensure!(
        quickened == alerts,
        "{quickened} of {alerts} rules last minutes"
    );
    Ok(quick)
}
