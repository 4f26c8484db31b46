//! Kerberos against the domain controller of an Active Directory: who logs in, with whose credentials, and what is told
//! where they do not do.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    guest,
    node::Node,
    process::quote,
    servers::{SmbServer, smb_info},
};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "ad_kerberos_by_keytab_and_ticket",
    run: kerberos,
}];

const CONFIG: &str = "[smb.kerberos]\nprincipal = \"alice@LAB.TEST\"\n";
const PASSWORD: &str = "Al1ce-pass";
/// root's credential cache.
const ROOT_CACHE: &str = "/tmp/krb5cc_0";

/// Gets alice a ticket that is valid for so long, into a cache.
fn kinit(node: &Node, cache: &str, lifetime: &str) -> Result<()> {
    node.sh(&format!(
        "echo {PASSWORD} | kinit -l {lifetime} -c {cache} alice@LAB.TEST"
    ))
    .map(drop)
}

/// Each login that works, and each that does not; one server for all of them, since it takes its time to start.
fn kerberos(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, CONFIG)?;
    let dc = SmbServer::start_ad(node, &["vols"])?;
    dc.volume("vols", "v.raw", 8, "sixteen bytes...")?;
    let info = |options: &str| smb_info(&dc, "vols", "v.raw", options);
    let refused = |info: &Value| -> Result<Failure> {
        let answer = agent.connect("c1", "v", info, &[])?;
        answer.err().context("logged in")
    };

    // Nobody is anybody yet.
    let failure = refused(&info("sec=krb5"))?;
    ensure!(failure.reason == "LOGON_FAILURE", "{failure:?}");
    ensure!(
        failure.message.contains("cifs/dc1.lab.test (ENOKEY)"),
        "{failure:?}"
    );

    let plan = agent.call(
        &[
            "plan",
            "--volume",
            "v",
            "--domain",
            "inner",
            "--connection-info",
            "-",
        ],
        &info("sec=krb5").to_string(),
    )??;
    let plan = plan.to_string();
    ensure!(
        plan.contains("sec=krb5,username=alice@LAB.TEST,cruid=0,"),
        "{plan}"
    );

    // By the host's keytab: read-only, for the guest too.
    node.sh("install -m 600 /srv/ad/alice.keytab /etc/krb5.keytab")?;
    agent.attach("a1", "by-keytab", &info("sec=krb5"), &["--access", "ro"])??;
    let disk = guest::sees(node, "by-keytab")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    let mounted = node.sh("grep ' cifs ' /proc/mounts")?;
    ensure!(mounted.contains("sec=krb5,cruid=0,"), "{mounted}");
    agent.detach("a1")??;
    guest::gone(node, "by-keytab")?;

    // What fails even with credentials: no such service, another user, another share, no way to ask for a ticket.
    let mut elsewhere = info("sec=krb5");
    elsewhere["data"]["export"] = json!("//nobody.lab.test/vols");
    let failure = refused(&elsewhere)?;
    ensure!(failure.reason == "LOGON_FAILURE", "{failure:?}");
    ensure!(
        failure.message.contains("cifs/nobody.lab.test"),
        "{failure:?}"
    );
    let failure = refused(&info("sec=krb5,username=bob"))?;
    ensure!(failure.reason == "CREDENTIALS_INVALID", "{failure:?}");
    let failure = refused(&info("sec=krb5,cruid=0"))?;
    ensure!(failure.reason == "MOUNT_OPTION_REFUSED", "{failure:?}");
    let failure = refused(&smb_info(&dc, "absent", "v.raw", "sec=krb5"))?;
    ensure!(failure.reason == "SHARE_NOT_FOUND", "{failure:?}");
    node.sh("mv /sbin/request-key /sbin/request-key.away")?;
    let failure = refused(&info("sec=krb5"))?;
    node.sh("mv /sbin/request-key.away /sbin/request-key; rm /etc/krb5.keytab")?;
    ensure!(failure.reason == "MOUNT_FAILED", "{failure:?}");
    ensure!(failure.message.contains("keyutils"), "{failure:?}");

    // By a ticket, signed: read-write. One that is about to expire is none; a fresh one is all it takes.
    kinit(node, ROOT_CACHE, "80s")?;
    let failure = refused(&info("sec=krb5i"))?;
    ensure!(failure.reason == "LOGON_FAILURE", "{failure:?}");
    kinit(node, ROOT_CACHE, "1h")?;
    agent.attach("a2", "by-ticket", &info("sec=krb5i"), &[])??;
    let disk = guest::sees(node, "by-ticket")?;
    ensure!(disk.write == Ok(()), "{disk:?}");
    let mounted = node.sh("grep ' cifs ' /proc/mounts")?;
    ensure!(mounted.contains("sec=krb5i,"), "{mounted}");
    nothing_leaks(node)?;
    agent.detach("a2")??;
    guest::gone(node, "by-ticket")?;
    node.sh(&format!("rm {ROOT_CACHE}"))?;

    another_user(lab, &dc)?;
    dead_realm(lab, &dc)
}

/// Neither the key nor the password is anywhere but where it was put.
fn nothing_leaks(node: &Node) -> Result<()> {
    let listed = node.sh("klist -ekK /srv/ad/alice.keytab")?;
    let keys: Vec<_> = (listed.lines())
        .filter_map(|line| Some(line.split_once("(0x")?.1.trim_end_matches(')')))
        .collect();
    ensure!(!keys.is_empty(), "{listed}");
    let needles = json!({ "key": keys, "password": [PASSWORD] });
    let program = quote(include_str!("secret_search.py"));
    let output = node.run(
        &format!("python3 -c {program}"),
        needles.to_string().as_bytes(),
        std::time::Duration::from_secs(120),
    )?;
    ensure!(output.status.success(), "the search: {}", output.stderr);
    let found: Value = serde_json::from_str(&output.stdout)?;
    ensure!(found["hits"] == json!([]), "{}", found["hits"]);
    Ok(())
}

/// A user of its own has the credentials: a ticket in its cache, or a key in a keytab that krb5.conf names for it. root's
/// own ticket says nothing then.
fn another_user(lab: &Lab, dc: &SmbServer<'_>) -> Result<()> {
    let node = &lab.node;
    let uid = node.sh("id -u svc 2>/dev/null || { useradd -r svc && id -u svc; }")?;
    let config = format!("{CONFIG}cruid = \"svc\"\n");
    let agent = Agent::start(node, &config)?;
    let info = smb_info(dc, "vols", "v.raw", "sec=krb5i,username=alice");
    kinit(node, ROOT_CACHE, "1h")?;
    let failure = agent.connect("c1", "v", &info, &[])?.err();
    let failure = failure.context("logged in with root's ticket")?;
    ensure!(
        failure.message.contains(&format!("uid {uid}")),
        "{failure:?}"
    );
    let cache = format!("/tmp/krb5cc_{uid}");
    kinit(node, &cache, "1h")?;
    node.sh(&format!("chown svc {cache}"))?;
    agent.connect("c1", "v", &info, &[])??;
    agent.disconnect("c1")??;
    node.sh(&format!(
        "set -e
         rm {cache} {ROOT_CACHE}
         install -m 400 -o svc /srv/ad/alice.keytab /etc/krb5.{uid}.keytab
         sed -i '/libdefaults/a default_keytab_name = FILE:/etc/krb5.%{{uid}}.keytab' /etc/krb5.conf"
    ))?;
    agent.connect("c1", "v", &info, &[])??;
    agent.disconnect("c1")??;
    node.sh("sed -i /default_keytab_name/d /etc/krb5.conf; rm /etc/krb5.*.keytab")?;
    Ok(())
}

/// A realm whose servers do not answer: with a time limit on cifs.upcall, as the documentation has it, it fails in time,
/// and a mount from another server goes through.
fn dead_realm(lab: &Lab, dc: &SmbServer<'_>) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, CONFIG)?;
    let well = SmbServer::start(node, "well", 12, &["vols"], "")?;
    well.user("bob", "pw")?;
    well.volume("vols", "v.raw", 4, "sixteen bytes...")?;
    node.sh(
        "set -e
         install -m 600 /srv/ad/alice.keytab /etc/krb5.keytab
         cp /etc/krb5.conf /etc/request-key.d/cifs.spnego.conf /root
         echo 'create cifs.spnego * * /usr/bin/timeout 5 /usr/sbin/cifs.upcall %k' >/etc/request-key.d/cifs.spnego.conf
         sed -i 's/kdc = .*/kdc = 10.99.0.99/' /etc/krb5.conf
         ip neigh replace 10.99.0.99 lladdr 02:00:00:00:00:99 dev storage",
    )?;
    let ill = smb_info(dc, "vols", "v.raw", "sec=krb5");
    let login = "-o username=bob,password=pw";
    let (failed, connected) = std::thread::scope(|scope| {
        let failing = scope.spawn(|| agent.connect("ill", "ill", &ill, &[]));
        let connecting = (|| {
            node.wait(
                "the realm is asked",
                "pgrep cifs.upcall",
                std::time::Duration::from_secs(180),
            )?;
            agent.connect(
                "well",
                "well",
                &smb_info(&well, "vols", "v.raw", login),
                &[],
            )
        })();
        (failing.join(), connecting)
    });
    node.sh(
        "mv /root/krb5.conf /etc && mv /root/cifs.spnego.conf /etc/request-key.d &&
         rm /etc/krb5.keytab && ip neigh del 10.99.0.99 dev storage",
    )?;
    connected??;
    let failed = failed.map_err(|_| anyhow::anyhow!("the connect panicked"))?;
    let failure = failed?.err().context("logged in to a dead realm")?;
    ensure!(failure.reason == "LOGON_FAILURE", "{failure:?}");
    agent.disconnect("well")??;
    Ok(())
}
