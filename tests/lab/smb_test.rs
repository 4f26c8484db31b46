//! SMB volumes on the inner guest: what the guest sees, and that nothing is left when they are gone.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    guest, leftovers,
    process::quote,
    servers::SmbServer,
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "smb_read_only",
        run: read_only,
    },
    Test {
        name: "smb_read_write",
        run: read_write,
    },
    Test {
        name: "smb_wrong_password",
        run: wrong_password,
    },
];

/// Connection info as Cinder's SMB driver makes it.
pub(crate) fn connection_info(
    server: &SmbServer<'_>,
    share: &str,
    file: &str,
    user: &str,
    password: &str,
) -> Value {
    json!({
        "driver_volume_type": "smbfs",
        "data": {
            "export": format!("//{}/{share}", server.address),
            "name": file,
            "format": "raw",
            "options": format!("-o username={user},password={password}"),
        },
    })
}

/// What the call answered; a failure of it fails the test.
pub(crate) fn done(what: &str, answer: Result<Value, Failure>) -> Result<Value> {
    match answer {
        Ok(value) => Ok(value),
        Err(Failure {
            reason,
            message,
            exit_code,
        }) => {
            anyhow::bail!("{what} failed with {reason} (exit code {exit_code}): {message}")
        }
    }
}

/// Why the call failed; its success fails the test.
pub(crate) fn refused(what: &str, answer: Result<Value, Failure>) -> Result<Failure> {
    answer.err().with_context(|| format!("{what} succeeded"))
}

fn checksum(lab: &Lab, path: &str) -> Result<String> {
    lab.node.sh(&format!("sha256sum <{}", quote(path)))
}

fn read_only(lab: &Lab) -> Result<()> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["volumes"], "")?;
    server.user("alice", "secret")?;
    server.volume("volumes", "one.raw", 16, "a volume's head.")?;
    let before = checksum(lab, &server.path("volumes", "one.raw"))?;
    let agent = Agent::start(&lab.node, "")?;

    let info = connection_info(&server, "volumes", "one.raw", "alice", "secret");
    let attached = done(
        "attach",
        agent.attach("a1", "vol-one", &info, &["--access", "ro"])?,
    )?;
    ensure!(
        attached["state"] == "attached" && attached["access"] == "ro",
        "{attached}"
    );
    let disk = guest::sees(&lab.node, "vol-one")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    ensure!(
        disk.sectors == 16 * 2048 && disk.head == "6120766f6c756d65277320686561642e",
        "{disk:?}"
    );

    done("detach", agent.detach("a1")?)?;
    // Before anything else: a detach that is answered has left nothing.
    ensure!(
        leftovers::find(&lab.node)?.is_empty(),
        "left over: {:?}",
        leftovers::find(&lab.node)?
    );
    guest::gone(&lab.node, "vol-one")?;
    ensure!(
        checksum(lab, &server.path("volumes", "one.raw"))? == before,
        "the volume was changed"
    );
    Ok(())
}

fn read_write(lab: &Lab) -> Result<()> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["volumes"], "")?;
    server.user("alice", "secret")?;
    server.volume("volumes", "one.raw", 16, "")?;
    let agent = Agent::start(&lab.node, "")?;

    let info = connection_info(&server, "volumes", "one.raw", "alice", "secret");
    done(
        "attach",
        agent.attach("a1", "vol-one", &info, &["--access", "rw"])?,
    )?;
    let disk = guest::sees(&lab.node, "vol-one")?;
    ensure!(!disk.read_only && disk.write.is_ok(), "{disk:?}");
    done("detach", agent.detach("a1")?)?;
    guest::gone(&lab.node, "vol-one")?;

    let pattern = disk.pattern();
    let path = quote(&server.path("volumes", "one.raw"));
    let written = lab.node.sh(&format!(
        "tail -c +{} {path} | head -c {}",
        guest::WRITTEN_AT + 1,
        pattern.len()
    ))?;
    ensure!(
        written == pattern.trim_end(),
        "the volume holds {written:?}"
    );
    Ok(())
}

fn wrong_password(lab: &Lab) -> Result<()> {
    let server = SmbServer::start(&lab.node, "nas", 10, &["volumes"], "")?;
    server.user("alice", "secret")?;
    server.volume("volumes", "one.raw", 16, "")?;
    let agent = Agent::start(&lab.node, "")?;
    let info = connection_info(&server, "volumes", "one.raw", "alice", "another");
    let failure = refused("attach", agent.attach("a1", "vol-one", &info, &[])?)?;
    ensure!(failure.reason == "LOGON_FAILURE", "{failure:?}");
    ensure!(
        !failure.message.contains("another"),
        "the password is in {failure:?}"
    );
    Ok(())
}
