//! volattach in the node: its Debian package, the daemon under its systemd unit, and the
//! operator's command line.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    machine::Kind,
    node::Node,
    process::{quote, wait_for},
    profile::{self, Activity},
};

/// An address for `metrics_listen`.
pub(crate) const FIGURES: &str = "127.0.0.1:9177";

/// Where the Debian package is in the node, after [`UNPACK`].
pub(crate) const PACKAGE: &str = "/var/cache/lab/volattach.deb";

/// Makes `directory`/package.tar, which holds the Debian package.
pub(crate) fn package(directory: &Path) -> Result<PathBuf> {
    let binaries = Path::new(env!("CARGO_BIN_EXE_volattachd"))
        .parent()
        .context("a binary without directory")?;
    let profile = binaries
        .file_name()
        .context("a directory without name")?
        .to_string_lossy();
    let archive = directory.join("package.tar");
    let script = format!(
        "set -e
         make -s lab-package profile={profile} directory={directory}/deb >&2
         tar -c --owner=0 --group=0 -f {archive} -C {directory}/deb --transform s,.*,.{PACKAGE}, $(ls {directory}/deb)
         rm -r {directory}/deb",
        directory = quote(&directory.to_string_lossy()),
        archive = quote(&archive.to_string_lossy()),
    );
    let status = Command::new("sh")
        .args(["-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    ensure!(status.success(), "packaging volattach: {status}");
    Ok(archive)
}

/// Copies the Debian package into the node's file system.
pub(crate) const UNPACK: &str = "tar -x --no-overwrite-dir -C / -f /dev/vdb";
/// Labels what the package has brought and made, and starts it anew.
const RESTORECON: &str = "restorecon -RFi /usr/sbin/volattachd /usr/sbin/volattachd-worker \
    /usr/lib/systemd/system/volattachd.* /etc/volattach /etc/iscsi /run/volattach /var/lib/volattach && \
    systemctl restart volattachd.socket volattachd.service";

const DROP_INS: &str = "/run/systemd/system/volattachd.service.d";

/// Adds lines to the unit's `[Service]` from its next start on, in place of those added before.
pub(crate) fn drop_in(node: &Node, lines: &str) -> Result<()> {
    let text = format!("[Service]\n{lines}\n");
    node.write(&format!("{DROP_INS}/test.conf"), text.as_bytes())?;
    node.sh("systemctl daemon-reload").map(drop)
}

/// Takes those lines away, and the directory with them.
pub(crate) fn no_drop_in(node: &Node) -> Result<()> {
    node.sh(&format!("rm -r {DROP_INS} && systemctl daemon-reload"))
        .map(drop)
}

/// What the module for SELinux is made from.
pub(crate) fn policy_sources() -> Result<String> {
    let sources = ["te", "fc", "if"].map(|end| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("selinux/volattach.{end}"));
        std::fs::read_to_string(path)
    });
    Ok(sources.into_iter().collect::<Result<_, _>>()?)
}

/// The module for SELinux, compiled.
pub(crate) fn policy_module() -> Result<Vec<u8>> {
    let module = "target/selinux/volattach.pp";
    let made = Command::new("make")
        .args(["-s", module])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(std::process::Stdio::null())
        .status()?;
    ensure!(made.success(), "make {module}: {made}");
    Ok(std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join(module),
    )?)
}

/// The daemon, running in the node.
pub(crate) struct Agent<'node> {
    node: &'node Node,
}

/// Why a command of `volattach` failed.
#[derive(Debug, thiserror::Error)]
#[error("{reason} (exit code {exit_code}): {message}")]
pub(crate) struct Failure {
    /// Such as `LOGON_FAILURE`; docs/errors.md lists them.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) exit_code: i32,
}

impl<'node> Agent<'node> {
    /// Installs the package if it is not, and starts the daemon afresh with `config` as its configuration, over that of a node
    /// whose servers are as slow as itself.
    pub(crate) fn start(node: &'node Node, config: &str) -> Result<Self> {
        profile::span(Activity::Agent, "start", || Self::start_fresh(node, config))
    }

    fn start_fresh(node: &'node Node, config: &str) -> Result<Self> {
        let hypervisor = match node.kind {
            Kind::Kvm | Kind::Selinux => "",
            Kind::Xen | Kind::XenHvm => "[libvirt]\nuri = \"xen:///system\"\n",
        };
        // As docs/selinux.md has it.
        let label = match node.kind {
            Kind::Selinux => RESTORECON,
            Kind::Kvm | Kind::Xen | Kind::XenHvm => "true",
        };
        let config = format!("{config}\n{hypervisor}");
        node.write(
            "/etc/volattach/volattachd.toml.d/test.toml",
            config.as_bytes(),
        )?;
        // A fast node gets through more starts in ten seconds than systemd allows, until it forgets them.
        node.sh(&format!(
            "for backend in smb nfs iscsi nvmeof; do
                 printf '[%s]\\nprobe_timeout = \"8s\"\\n' $backend
             done >/etc/volattach/volattachd.toml.d/lab.toml &&
             if ! [ -e /usr/sbin/volattachd ]; then
                 {UNPACK} && dpkg -i {PACKAGE} && {label} && systemctl is-active -q volattachd.service
             else
                 systemctl -q restart volattachd.service ||
                     {{ systemctl reset-failed volattachd.service && systemctl restart volattachd.service; }}
             fi"
        ))
            .with_context(|| {
                let log = node.sh("journalctl --no-pager -n 30 -u volattachd");
                format!(
                    "volattachd does not start; its log: {}",
                    log.unwrap_or_default()
                )
            })?;
        Ok(Self { node })
    }

    /// The daemon that a test has installed and started.
    pub(crate) fn installed(node: &'node Node) -> Self {
        Self { node }
    }

    /// Runs `volattach -o json ARGS` with `stdin`: its answer, or why it failed.
    pub(crate) fn call(&self, args: &[&str], stdin: &str) -> Result<Result<Value, Failure>> {
        self.call_as("root", args, stdin)
    }

    /// The same, as that user of the node.
    pub(crate) fn call_as(
        &self,
        user: &str,
        args: &[&str],
        stdin: &str,
    ) -> Result<Result<Value, Failure>> {
        let words: Vec<String> = args.iter().map(|arg| quote(arg)).collect();
        let mut script = format!("volattach -o json {}", words.join(" "));
        if user != "root" {
            script = format!("runuser -u {user} -- {script}");
        }
        // Neither an option nor the number that is its value.
        let verb = args.iter().find(|arg| arg.starts_with(char::is_alphabetic));
        let output = profile::span(Activity::Agent, verb.unwrap_or(&""), || {
            self.node
                .run(&script, stdin.as_bytes(), Duration::from_secs(150))
        })?;
        let Ok(mut answer) = serde_json::from_str::<Value>(&output.stdout) else {
            bail!(
                "{script} ended with {} and no answer: {}{}",
                output.status,
                output.stdout,
                output.stderr
            );
        };
        if output.status.success() {
            return Ok(Ok(answer));
        }
        let error = answer["error"].take();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        let exit_code = output.status.code().unwrap_or_default();
        Ok(Err(Failure {
            reason: text("reason"),
            message: text("message"),
            exit_code,
        }))
    }

    /// Attaches `volume` to the inner guest under the id `id`. `options` are further arguments, such as `--access ro`.
    pub(crate) fn attach(
        &self,
        id: &str,
        volume: &str,
        connection_info: &Value,
        options: &[&str],
    ) -> Result<Result<Value, Failure>> {
        self.attach_to("inner", id, volume, connection_info, options)
    }

    /// The same, to the guest of this domain.
    pub(crate) fn attach_to(
        &self,
        domain: &str,
        id: &str,
        volume: &str,
        connection_info: &Value,
        options: &[&str],
    ) -> Result<Result<Value, Failure>> {
        let command = ["attach", "--domain", domain];
        self.make(&command, id, volume, connection_info, options)
    }

    /// Connects `volume` to the node alone.
    pub(crate) fn connect(
        &self,
        id: &str,
        volume: &str,
        connection_info: &Value,
        options: &[&str],
    ) -> Result<Result<Value, Failure>> {
        self.make(&["connect"], id, volume, connection_info, options)
    }

    fn make(
        &self,
        command: &[&str],
        id: &str,
        volume: &str,
        connection_info: &Value,
        options: &[&str],
    ) -> Result<Result<Value, Failure>> {
        self.node.note(id, volume);
        let common = ["--id", id, "--volume", volume, "--connection-info", "-"];
        let args = [command, &common, options].concat();
        self.call(&args, &connection_info.to_string())
    }

    /// Extends to `bytes`, or (0) to what there is: the size in bytes that is seen then.
    pub(crate) fn extend(&self, id: &str, bytes: u64) -> Result<Result<u64, Failure>> {
        let answer = self.call(&["extend", id, "--size", &bytes.to_string()], "")?;
        answer
            .map(|answer| answer["size_bytes"].as_u64().context("no size"))
            .map_or_else(|failure| Ok(Err(failure)), |size| size.map(Ok))
    }

    /// Runs `volattach ARGS` to its end, whatever that is, and the command `act` as soon as the daemon's log has a line with `line`.
    pub(crate) fn at_line(&self, line: &str, act: &str, args: &str) -> Result<()> {
        let script = format!(
            r#"cursor=$(journalctl -q -n 0 --show-cursor | sed -n 's/^-- cursor: //p')
            coproc LOG {{ exec journalctl -q -f -o cat -u volattachd --after-cursor="$cursor"; }}
            volattach {args} >/dev/null 2>&1 &
            caller=$!
            while read -t 60 -r line <&"${{LOG[0]}}"; do
                case $line in *{line}*) {act}; acted=1; break ;; esac
            done
            kill "$LOG_PID"
            wait $caller
            [ -n "$acted" ]"#,
            line = quote(line),
        );
        let output = self.node.run(&script, b"", Duration::from_secs(200))?;
        ensure!(output.status.success(), "{line} was not said: {args}");
        Ok(())
    }

    /// Waits until no server is quarantined.
    pub(crate) fn released(&self) -> Result<()> {
        // Findings are no failure; a daemon that does not answer is.
        let script = "found=$(volattach doctor); case $? in 0|9) ! echo \"$found\" | grep -q 'has not answered since';; *) false;; esac";
        let patience = Duration::from_secs(90); // a probe comes each minute at least
        let what = "no server is quarantined";
        self.node.wait(what, script, patience)
    }

    /// Waits until attachment `id` shows an error of `reason`: a daemon is ready before its first look at what it has on record.
    pub(crate) fn shows(&self, id: &str, reason: &str) -> Result<()> {
        let deadline = Duration::from_secs(180); // a look comes each minute at least
        wait_for(&format!("{id} shows {reason}"), deadline, || {
            let shown = self.call(&["show", id], "")??;
            Ok((shown["error"]["reason"] == reason).then_some(()))
        })
    }

    /// The figures of the daemon, which serves them at [`FIGURES`].
    pub(crate) fn figures(&self) -> Result<String> {
        let script = format!(
            "exec 3<>/dev/tcp/{} && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
            FIGURES.replace(':', "/")
        );
        self.node.sh(&format!("bash -c {}", quote(&script)))
    }

    /// Waits until that daemon has looked at all that it has on record.
    pub(crate) fn has_looked(&self) -> Result<()> {
        wait_for("the first look", Duration::from_secs(180), || {
            let figures = self.figures()?;
            let mut looks = figures.lines().filter_map(|line| {
                line.strip_prefix("volattach_reconcile_look_duration_seconds_count ")
            });
            Ok(looks.any(|looks| looks != "0").then_some(()))
        })
    }

    /// Detaches.
    pub(crate) fn detach(&self, id: &str) -> Result<Result<Value, Failure>> {
        self.end(&["detach", id])
    }

    /// Disconnects.
    pub(crate) fn disconnect(&self, id: &str) -> Result<Result<Value, Failure>> {
        self.end(&["disconnect", id])
    }

    /// Asks again while the daemon itself goes on with what failed before: when that is depends on how fast the node is.
    fn end(&self, args: &[&str]) -> Result<Result<Value, Failure>> {
        wait_for("the daemon is done", Duration::from_secs(120), || {
            Ok(match self.call(args, "")? {
                Err(failure) if failure.reason == "OPERATION_IN_PROGRESS" => None,
                ended => Some(ended),
            })
        })
    }
}
