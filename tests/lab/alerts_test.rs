//! A real Prometheus scrapes the daemon while servers die and come back: the alerts fire and clear, and no scrape fails meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Lab, Test,
    agent::{Agent, FIGURES},
    process::wait_for,
    prometheus::{Prometheus, SCRAPE_TIMEOUT},
    servers::{SmbServer, smb_info},
    targets::{Targets, multipath_info},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "prometheus_alerts_fire_and_clear",
    run: alerts,
}];

const DASHBOARD: &str = include_str!("../../dist/usr/share/volattach/grafana/volattach.json");

/// Expressions of the dashboard that give nothing where all is well.
const NOTHING_IS_WRONG: [&str; 5] = [
    "state=~\"lost|failed\"",
    "result=\"failed\"}[5m]",
    "volattach_stuck_workers{instance=~\".*\"}) > 0",
    "volattach_libvirt_connected{instance=~\".*\"} == 0",
    "volattach_policy_broken{instance=~\".*\"} == 1",
];

/// How long an alert may take to fire or to clear: a quarantined server is probed each minute at least.
const PATIENCE: Duration = Duration::from_secs(180);

fn alerts(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(
        node,
        &format!(
            "metrics_listen = \"{FIGURES}\"\nmetrics_io = \"attachments\"\n[smb]\nprobe_timeout = \"2s\"\n[iscsi]\nprobe_timeout = \"2s\"\n"
        ),
    )?;
    let prometheus = Prometheus::start(node.forward_address(FIGURES)?)?;
    let server = SmbServer::start(node, "ill", 11, &["vols"], "")?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    // Other options, another mount.
    let share = |number: u32| {
        let options = format!("-o username=bob,password=pw,actimeo={number}");
        smb_info(&server, "vols", "v.raw", &options)
    };
    let targets = Targets::new(node, &["va", "vb"])?;
    targets.target("t", &[21, 22], &[(1, "va"), (2, "vb")])?;
    targets.run(&["multipathd"])?;
    let lun = |lun| multipath_info(&[(21, "t"), (22, "t")], lun);
    agent.connect("smb", "smb", &share(0), &[])??;
    prometheus.has_scraped()?;
    expect(&prometheus, &[])?;

    // A portal and a server fall silent, each for two calls.
    targets.run(&["silence", "22"])?;
    agent.attach("va", "va", &lun(1), &[])??;
    agent.connect("vb", "vb", &lun(2), &[])??;
    server.pause()?;
    for number in 1..3 {
        let late = agent.connect("late", "late", &share(number), &[])?;
        let failure = late.err().context("connected to a silent server")?;
        ensure!(failure.reason == "SERVER_TIMEOUT", "{failure:?}");
    }
    expect(
        &prometheus,
        &[
            ("VolattachPathsMissing", 2.0),
            ("VolattachServerQuarantined", 2.0),
        ],
    )?;

    targets.run(&["unsilence", "22"])?;
    server.resume()?;
    expect(&prometheus, &[])?;

    ensure!(
        prometheus.number("min_over_time(up[1h])")? == 1.0,
        "a scrape failed"
    );
    let longest = prometheus.number("max_over_time(scrape_duration_seconds[1h])")?;
    ensure!(longest < f64::from(SCRAPE_TIMEOUT), "{longest}");
    let scrapes = prometheus.number("count_over_time(up[1h])")?;
    println!("alerts: the longest of {scrapes} scrapes took {longest:.2} s");
    dashboard(&prometheus)?;

    agent.detach("va")??;
    agent.disconnect("vb")??;
    agent.disconnect("smb")??;
    Ok(())
}

/// Waits until exactly these alerts are firing, in the order of their names, each with its value, and none is pending.
fn expect(prometheus: &Prometheus, alerts: &[(&str, f64)]) -> Result<()> {
    let firing = |(name, value): &(&str, f64)| ((*name).to_owned(), "firing".to_owned(), *value);
    let expected: Vec<_> = alerts.iter().map(firing).collect();
    let mut last = Vec::new();
    wait_for("the alerts", PATIENCE, || {
        last = prometheus.alerts()?;
        Ok((last == expected).then_some(()))
    })
    .with_context(|| format!("{expected:?} expected, {last:?} found"))
}

/// Each expression of the dashboard is one to Prometheus, and gives data unless it is of what is wrong.
fn dashboard(prometheus: &Prometheus) -> Result<()> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array());
    let mut seen = 0;
    for target in targets.flatten() {
        let expression = target["expr"].as_str().context("no expression")?;
        let expression = expression.replace("$instance", ".*");
        let data = prometheus.query(&expression)?;
        let may_be_empty = NOTHING_IS_WRONG
            .iter()
            .any(|part| expression.contains(part));
        ensure!(may_be_empty || !data.is_empty(), "{expression}: no data");
        seen += 1;
    }
    ensure!(
        seen >= panels.len(),
        "{seen} expressions of {} panels",
        panels.len()
    );
    Ok(())
}
