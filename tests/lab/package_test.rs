//! The Debian package on the node, under its systemd: the first attach as the README has it, removal, purge, upgrade, and secrets as
//! credentials.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, PACKAGE, UNPACK},
    cache, guest,
    node::Node,
    pki::{self, Authority},
    process::{Output, quote},
    secret_test,
    servers::{SmbServer, smb_info},
    targets::{Targets, iscsi_info},
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "package_from_installation_to_purge",
        run: from_installation_to_purge,
    },
    Test {
        name: "package_secrets_as_credentials",
        run: credentials,
    },
];

pub(crate) const SOAK: &[Test] = &[Test {
    name: "package_upgrade_from_an_earlier_build",
    run: upgrade,
}];

const README: &str = include_str!("../../README.md");
const CREDENTIALS: &str =
    include_str!("../../dist/usr/share/doc/volattach/examples/credentials.conf");

/// The highest exposure by `systemd-analyze security`, of 10: docs/decisions/004-sandboxing.md.
const EXPOSURE: f64 = 4.7;

/// What dpkg and apt may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes the node one that never had the package, which then is at [`PACKAGE`].
fn fresh(node: &Node) -> Result<()> {
    node.sh(&format!(
        "{UNPACK} && dpkg -P volattach 2>&1 && {{ ! getent group volattach || groupdel volattach; }}"
    ))
    .map(drop)
}

/// Runs a command, and gives all that it printed.
fn printed(node: &Node, command: &str) -> Result<(bool, String)> {
    let Output { status, stdout, .. } = node.run(&format!("{command} 2>&1"), b"", PATIENCE)?;
    Ok((status.success(), stdout))
}

/// The same of a command that must succeed.
fn done(node: &Node, command: &str) -> Result<String> {
    let (success, output) = printed(node, command)?;
    ensure!(success, "{command}: {output}");
    Ok(output)
}

/// How often the guest has reported a disk of this volume: once more if it lost the disk meanwhile.
fn reports(node: &Node, volume: &str) -> Result<String> {
    guest::sees(node, volume)?;
    node.sh(&format!(
        "grep -c 'GUEST disk=.* serial={volume} ' /var/log/lab/inner.console"
    ))
}

/// The README's first attach: the connection info, the commands, and the line of the list, for the guest's domain.
fn first_attach() -> Result<(String, Vec<String>, String)> {
    let (_, section) = README
        .split_once("\n## A first attach on a real node\n")
        .context("no section")?;
    let (section, _) = section.split_once("\n## ").context("no next section")?;
    let (_, info) = section
        .split_once("$ cat vol-1.json\n")
        .context("no connection info")?;
    let (info, _) = info.split_once("```").context("no end of it")?;
    let commands = section
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .filter(|line| line.starts_with("volattach "))
        .map(|line| line.replace("--domain web", "--domain inner"))
        .collect();
    let listed = section.lines().find(|line| line.starts_with("first "));
    // The guest has no disk yet, and the README's has its system on one.
    let listed = listed.context("no list")?.replace("web", "inner");
    Ok((info.to_owned(), commands, listed.replace("vdb", "vda")))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn from_installation_to_purge(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let server = SmbServer::start(node, "files", 10, &["vols"], "")?;
    server.user("bob", "secret")?;
    server.volume("vols", "vol-1.raw", 8, "")?;
    fresh(node)?;
    node.sh("echo '10.99.0.10 files.example.org' >>/etc/hosts && useradd -m member")?;
    let result = first_attach_and_removal(node);
    node.sh("sed -i /files.example.org/d /etc/hosts; userdel -r member 2>/dev/null; true")?;
    result
}

fn first_attach_and_removal(node: &Node) -> Result<()> {
    // The node reaches no mirror.
    done(node, &format!("apt-get install -y {PACKAGE}"))?;
    let (info, commands, listed) = first_attach()?;
    let [plan, attach, list, detach] = commands.as_slice() else {
        anyhow::bail!("the README's commands are {commands:?}");
    };
    let member = |command: &str| {
        format!(
            "runuser -u member -- sh -c {}",
            quote(&format!("cd && {command}"))
        )
    };
    let (success, refused) = printed(node, &member(list))?;
    ensure!(
        !success && refused.contains("PERMISSION_DENIED"),
        "{refused}"
    );
    node.sh("usermod -a -G volattach member")?;
    node.write("/home/member/vol-1.json", info.as_bytes())?;
    node.sh("chown member /home/member/vol-1.json && chmod 600 /home/member/vol-1.json")?;
    done(node, &member(plan))?;
    done(node, &member(attach))?;
    let table = done(node, &member(list))?;
    ensure!(
        table.lines().any(|line| words(line) == words(&listed)),
        "the README has {listed}, and there is {table}"
    );
    let disk = guest::sees(node, "vol-1")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    exposure(node)?;

    // A removal leaves the volume, and a purge is refused.
    let seen = reports(node, "vol-1")?;
    done(node, "dpkg -r volattach")?;
    let left = "systemctl is-active volattachd.service volattachd.socket; pgrep -x volattachd; \
                ls /run/volattach/volattachd.sock /usr/sbin/volattachd 2>/dev/null; grep -c ' cifs ' /proc/mounts";
    let left = node.sh(left)?;
    ensure!(left == "inactive\ninactive\n1", "{left}");
    let (purged, why) = printed(node, "dpkg -P volattach")?;
    ensure!(
        !purged && why.contains("not purged: volumes are attached"),
        "{why}"
    );
    ensure!(reports(node, "vol-1")? == seen);

    // The next installation goes on from there.
    done(node, &format!("dpkg -i {PACKAGE}"))?;
    let table = done(node, &member(list))?;
    ensure!(
        table.lines().any(|line| words(line) == words(&listed)),
        "{table}"
    );
    ensure!(reports(node, "vol-1")? == seen);
    done(node, &member(detach))?;
    guest::gone(node, "vol-1")?;
    done(node, "dpkg -P volattach")?;
    let left = node.sh(
        "find /etc /usr /run /var/lib -xdev -name '*volattach*'; pgrep -a volattach; grep volattach /proc/mounts; true",
    )?;
    ensure!(left.is_empty(), "after the purge: {left}");
    Ok(())
}

/// Prints what systemd makes of the unit's confinement, and holds its sum to a bound.
fn exposure(node: &Node) -> Result<()> {
    let security = node.sh("systemd-analyze security --no-pager volattachd.service")?;
    let overall = "Overall exposure level for volattachd.service: ";
    let line = security.lines().find(|line| line.contains(overall));
    let line = line.with_context(|| security.clone())?;
    println!("        {line}");
    let level = line
        .rsplit(overall)
        .next()
        .and_then(|it| it.split(' ').next());
    let level: f64 = level.context("no level")?.parse()?;
    ensure!(level <= EXPOSURE, "over {EXPOSURE}: {security}");
    Ok(())
}

const DROP_IN: &str = "/etc/systemd/system/volattachd.service.d/credentials.conf";
const TLS: &str = "/etc/volattach/tls";
const STORE: &str = "/etc/credstore.encrypted";
const LOADED: &str = "/run/credentials/volattachd.service";

/// The private key of the daemon's certificate as a credential that is encrypted for the host, and the certificate as one of a plain file:
/// by the shipped example of a drop-in, which is for another secret.
fn credentials(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let directory = tempfile::tempdir()?;
    let pem = |label: &str, der: &[u8]| -> Result<String> {
        let path = directory.path().join("pem");
        pki::write_pem(&path, label, der);
        Ok(fs::read_to_string(path)?)
    };
    let authority = Authority::new();
    let (daemon, caller) = (authority.issue("node.lab"), authority.issue("ctl.lab"));
    let key = pem("PRIVATE KEY", &daemon.key)?;
    let certificate = pem("CERTIFICATE", &daemon.der)?;
    for (name, text) in [
        ("cert", &certificate),
        ("ca", &pem("CERTIFICATE", &authority.der)?),
        ("ctl", &pem("CERTIFICATE", &caller.der)?),
        ("ctl.key", &pem("PRIVATE KEY", &caller.key)?),
    ] {
        node.write(&format!("{TLS}/{name}"), text.as_bytes())?;
    }
    node.sh(&format!(
        "chmod 600 {TLS}/* && echo '127.0.0.1 node.lab' >>/etc/hosts
         mkdir -p -m 700 {STORE} /srv/credentials && truncate -s 8M /srv/credentials/v.raw"
    ))?;
    let encrypt = format!("systemd-creds encrypt --name=tls-key - {STORE}/tls-key");
    let encrypted = node.run(&encrypt, key.as_bytes(), PATIENCE)?;
    ensure!(encrypted.status.success(), "{}", encrypted.stderr);
    let example = CREDENTIALS.replace("=keystone:", "=tls-cert:");
    let drop_in = example
        .replace(
            "Encrypted=tls-cert:/etc/credstore.encrypted/keystone",
            &format!("Encrypted=tls-key:{STORE}/tls-key"),
        )
        .replace(
            "#LoadCredential=tls-cert:/etc/volattach/keystone.password",
            &format!("LoadCredential=tls-cert:{TLS}/cert"),
        );
    node.write(DROP_IN, drop_in.as_bytes())?;
    node.sh("systemctl daemon-reload")?;

    let result = called_by_tls(node).and_then(|()| {
        // Behind the name of the key's kind, and of the signature.
        let needles = json!({
            "key": [letters(key.lines().nth(1).and_then(|line| line.get(48..90)))?],
            "certificate": [letters(certificate.lines().nth(1).and_then(|line| line.get(line.len() - 60..)))?],
        });
        let (found, _) = secret_test::search(node, &needles)?;
        ensure!(found == [format!("certificate: {TLS}/cert (plain)")], "{found:?}");
        Ok(())
    });
    node.sh(&format!(
        "rm -rf {TLS} $(dirname {DROP_IN}) {STORE}/tls-key /srv/credentials
         sed -i /node.lab/d /etc/hosts; systemctl daemon-reload"
    ))?;
    result
}

/// The longest part of base64 text that is letters and digits.
fn letters(text: Option<&str>) -> Result<&str> {
    let pieces = text.context("a short file")?.split(['+', '/', '=']);
    pieces.max_by_key(|piece| piece.len()).context("no piece")
}

/// Starts the daemon, and calls it by TLS, as `volattach web` does.
fn called_by_tls(node: &Node) -> Result<()> {
    let config = format!(
        "[local]\nroots = [\"/srv/credentials\"]\n[listen.tls]\naddresses = [\"127.0.0.1:7443\"]\n\
         certificate = \"{LOADED}/tls-cert\"\nkey = \"{LOADED}/tls-key\"\nclient_ca = \"{TLS}/ca\"\n\
         [auth.certificates]\n\"ctl.lab\" = [\"admin\"]\n"
    );
    let agent = Agent::start(node, &config)?;
    let modes = node.sh(&format!("stat -c '%a %U' {LOADED}/*"))?;
    ensure!(modes == "400 root\n400 root", "{modes}");
    let volume =
        json!({"driver_volume_type": "local", "data": {"device_path": "/srv/credentials/v.raw"}});
    agent.connect("by-tls", "vol-by-tls", &volume, &[])??;
    node.sh(&format!(
        "systemd-run -q --collect --unit=lab-page volattach web --listen 127.0.0.1:7480 --ca {TLS}/ca \
         --certificate {TLS}/ctl --key {TLS}/ctl.key --host node=https://node.lab:7443"
    ))?;
    let page = "exec 3<>/dev/tcp/127.0.0.1/7480 && printf 'GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n' >&3 &&
        grep -q vol-by-tls <&3";
    let shown = node.wait("the page shows the volume", page, PATIENCE);
    node.sh("systemctl stop lab-page 2>/dev/null; true")?;
    shown?;
    agent.disconnect("by-tls")??;
    Ok(())
}

/// From the build of an earlier commit, whose journals are of another version: its volumes stay attached, and the new one detaches
/// them.
fn upgrade(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    fresh(node)?;
    let earlier = cache::script("earlier.sh", &[])?.join("package.tar");
    let unpack = "tar -x --no-overwrite-dir -C /";
    let unpacked = node.run(unpack, &fs::read(earlier)?, PATIENCE)?;
    ensure!(unpacked.status.success(), "{}", unpacked.stderr);
    let slow = "[smb]\nprobe_timeout = \"8s\"\n[iscsi]\nprobe_timeout = \"8s\"\n";
    node.write("/etc/volattach/volattachd.toml.d/lab.toml", slow.as_bytes())?;
    node.sh("systemd-sysusers && systemctl daemon-reload && systemctl -q enable --now volattachd.service")?;
    let agent = Agent::installed(node);

    let server = SmbServer::start(node, "nas", 10, &["vols"], "")?;
    server.user("bob", "pw")?;
    server.volume("vols", "v.raw", 8, "")?;
    Targets::new(node, &["va"])?.target("t", &[21], &[(1, "va")])?;
    let smb = smb_info(&server, "vols", "v.raw", "-o username=bob,password=pw");
    let lun = iscsi_info(21, "t", 1);
    let calls: [(&str, &str, &Value, &[&str]); 2] = [
        ("a", "v", &smb, &[]),
        ("b", "va", &lun, &["--access", "ro"]),
    ];
    let mut seen = Vec::new();
    for (id, volume, info, options) in calls {
        agent.attach(id, volume, info, options)??;
        seen.push(reports(node, volume)?);
    }
    node.sh("grep -aq '\"version\":1' /var/lib/volattach/journal.redb")?;

    done(node, &format!("dpkg -i {PACKAGE}"))?;
    let program = "readlink /proc/$(systemctl show -p MainPID --value volattachd.service)/exe";
    ensure!(node.sh(program)? == "/usr/sbin/volattachd");
    let found = done(node, "volattach doctor")?;
    println!("        doctor: {found}");
    for ((id, volume, info, options), seen) in calls.into_iter().zip(seen) {
        let shown = agent.call(&["show", id], "")??;
        ensure!(
            shown["state"] == "attached" && shown["error"].is_null(),
            "{shown}"
        );
        ensure!(reports(node, volume)? == seen, "the guest lost {volume}");
        // The same request is answered as before.
        let same = agent.attach(id, volume, info, options)??;
        ensure!(same["state"] == "attached", "{same}");
        agent.detach(id)??;
        guest::gone(node, volume)?;
    }
    Ok(())
}
