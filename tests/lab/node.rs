//! The lab's compute node: a virtual machine, started from a saved state in which it is up and its inner guest too.
//!
//! Nothing that happens in it outlives it: its disk is thrown away, and what is cached is never written.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{
    agent, cache,
    machine::{Kind, Machine},
    process::{self, Guarded, Output, bound, quote, wait_for},
    profile::{self, Activity},
    qemu::{self, Accel, Qemu, comma},
};

/// Of the machine that is out of memory, or of whoever has had enough.
const SIGKILL: i32 = 9;

/// What a command in the node may take unless a test says otherwise.
const DEADLINE: Duration = Duration::from_secs(180);

/// The size of the disk with volattach's package. Through ssh an emulated processor would decrypt it for ten seconds.
const PACKAGE_SIZE: u64 = 256 << 20;

/// The node, up and reachable.
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Whether its KVM is by a processor that QEMU emulates.
    nests: bool,
    /// The volume of each attachment that a test has requested, by id: a disk on Xen bears the id of its attachment.
    volumes: Mutex<BTreeMap<String, String>>,
    // Ended in this order.
    login: Mutex<Guarded>,
    qemu: Mutex<Qemu>,
    key: PathBuf,
    directory: tempfile::TempDir,
}

impl Node {
    fn volumes(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the volume of an attachment.
    pub(crate) fn note(&self, attachment: &str, volume: &str) {
        self.volumes()
            .insert(attachment.to_owned(), volume.to_owned());
    }

    /// The volume of an attachment, if noted.
    pub(crate) fn volume_of(&self, attachment: &str) -> Option<String> {
        self.volumes().get(attachment).cloned()
    }

    /// Starts a fresh node, which finds the file `package` as its disk /dev/vdb. The first time ever this makes the
    /// nodes' image (one minute) and this kind's saved state (one more).
    pub(crate) fn start(kind: Kind, package: &Path) -> Result<Self> {
        profile::span(Activity::Boot, "node", || Self::start_saved(kind, package))
    }

    fn start_saved(kind: Kind, package: &Path) -> Result<Self> {
        let image = kind.image()?;
        let machine = Machine::choose(kind)?;
        let state = saved(&image, &machine)?;
        let mut start = Instant::now();
        let node = match Self::restore(&machine, &image, &state, package) {
            Ok(node) => node,
            // The emulation of a processor's virtualization is not always saved as it was: the state is of no use then.
            Err(error) => {
                eprintln!("lab: the saved node does not start, so it is made anew: {error:#}");
                fs::remove_dir_all(&state)?;
                let state = saved(&image, &machine)?;
                start = Instant::now();
                Self::restore(&machine, &image, &state, package)?
            }
        };
        // The node's clock stood still since its state was saved.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        node.sh(&format!("date -s @{now:.3} >/dev/null"))?;
        eprintln!(
            "lab: the node is up ({:.1} s, {kind:?}, {:?})",
            start.elapsed().as_secs_f64(),
            machine.accel
        );
        Ok(node)
    }

    /// Starts a machine from its saved state.
    fn restore(machine: &Machine, image: &Path, state: &Path, package: &Path) -> Result<Self> {
        let disk = format!(
            "file={},if=virtio,cache=unsafe,snapshot=on",
            comma(&state.join("disk.qcow2"))
        );
        let mut args = machine.args(image);
        args.extend(["-drive".into(), disk]);
        args.extend(qemu::incoming(&state.join("state")));
        Self::boot(machine, image, &args, Some(package), Qemu::resume)
    }

    fn boot(
        machine: &Machine,
        image: &Path,
        args: &[String],
        package: Option<&Path>,
        started: impl FnOnce(&mut Qemu) -> Result<()>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("volattach-lab").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        if let Some(package) = package {
            fs::copy(package, path("package"))?;
        }
        // A machine's saved state fits the same machine only: the disk is always there, and of one size.
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path("package"))?
            .set_len(PACKAGE_SIZE)?;
        let mut args = args.to_vec();
        args.extend([
            "-drive".into(),
            format!(
                "file={},if=virtio,format=raw,read-only=on",
                comma(&path("package"))
            ),
        ]);
        args.extend([
            "-serial".into(),
            format!("file:{}", path("console").display()),
        ]);
        let mut qemu = Qemu::start(&machine.emulator, &args, &path("qmp"), &path("qemu.log"))?;
        started(&mut qemu).with_context(|| tail(&path("qemu.log")))?;
        let port = qemu.forwarded_port()?;
        // ssh insists on a key that others cannot read, wherever the cache is.
        let key = path("key");
        fs::copy(image.join("key"), &key)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let login = log_in(port, &key, &path("ssh"), &path("console"))?;
        Ok(Self {
            kind: machine.kind,
            nests: !machine.kind.is_xen() && machine.accel == Accel::Tcg,
            volumes: Mutex::default(),
            login: Mutex::new(login),
            qemu: Mutex::new(qemu),
            key,
            directory,
        })
    }

    /// Writes the machine's state into `file` and ends it.
    fn save(self, file: &Path) -> Result<()> {
        let Self { login, qemu, .. } = self;
        drop(login);
        qemu.into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .save(file)
    }

    /// Resets the node, as by its reset button: the contents of its disk stay, its guests and servers are gone.
    pub(crate) fn reboot(&self) -> Result<()> {
        profile::span(Activity::Boot, "reboot", || self.start_anew())
    }

    fn start_anew(&self) -> Result<()> {
        self.sh("sync")?;
        let path = |name: &str| self.directory.path().join(name);
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        qemu.execute("set-action", json!({"reboot": "reset"}))?;
        qemu.execute("system_reset", json!({}))?;
        let port = qemu.forwarded_port()?;
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        // The SSH connection does not notice the reset.
        login.0.kill()?;
        login.0.wait()?;
        let _ = fs::remove_file(path("ssh"));
        *login = log_in(port, &self.key, &path("ssh"), &path("console"))?;
        Ok(())
    }

    fn ssh(&self) -> Command {
        let mut command = Command::new("ssh");
        command
            .args(["-q", "-o", "ControlMaster=no", "-S"])
            .arg(self.directory.path().join("ssh"))
            .arg("lab");
        command
    }

    /// Runs a shell script (bash, as root) with `stdin`, whatever its exit status but 255 (which
    /// is ssh's own, and that of a script killed by a signal); fails if it takes longer than `deadline`.
    pub(crate) fn run(&self, script: &str, stdin: &[u8], deadline: Duration) -> Result<Output> {
        let mut command = self.ssh();
        command.arg(script);
        profile::round_trip();
        let words: String = script.chars().take(40).collect();
        let run = || process::run(command, stdin, deadline);
        let output = profile::span(Activity::Command, &words, run)
            .with_context(|| format!("in the node: {script}"))?;
        ensure!(
            output.status.code() != Some(255),
            "no way into the node for: {script}\n{}",
            output.stderr
        );
        Ok(output)
    }

    /// Runs a shell script that must succeed within [`DEADLINE`], and returns what it wrote to stdout, without newlines at the end.
    pub(crate) fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(script, b"", DEADLINE)?;
        if !output.status.success() {
            bail!(
                "in the node: {script}\n{}, saying: {}{}",
                output.status,
                output.stdout,
                output.stderr
            );
        }
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// Writes a file of the node; its directory is made if it is not there.
    pub(crate) fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let script = format!("mkdir -p \"$(dirname {0})\" && cat >{0}", quote(path));
        let output = self.run(&script, content, DEADLINE)?;
        ensure!(
            output.status.success(),
            "writing {path} in the node: {}",
            output.stderr
        );
        Ok(())
    }

    /// Tries a shell script until it succeeds; fails, naming `what`, when `deadline` has passed.
    pub(crate) fn wait(&self, what: &str, script: &str, deadline: Duration) -> Result<()> {
        wait_for(what, deadline, || {
            Ok(self
                .run(script, b"", DEADLINE)?
                .status
                .success()
                .then_some(()))
        })
    }

    /// A socket of this machine that leads to a socket of the node.
    pub(crate) fn forward(&self, socket: &str) -> Result<PathBuf> {
        let here = self.directory.path().join("forwarded");
        if !here.exists() {
            self.add_forwarding("-L", &format!("{}:{socket}", here.display()))?;
        }
        Ok(here)
    }

    /// An address of this machine's loopback that leads to an address of the node's, until the node's end.
    pub(crate) fn forward_address(&self, there: &str) -> Result<SocketAddr> {
        // ssh does not choose a port here: it is given one that was free a moment ago.
        let here = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        self.add_forwarding("-L", &format!("{here}:{there}"))?;
        Ok(here)
    }

    /// Has a port of the node's loopback lead to the same one of this machine's, until the node's end.
    pub(crate) fn forward_back(&self, port: u16) -> Result<()> {
        self.add_forwarding("-R", &format!("127.0.0.1:{port}:127.0.0.1:{port}"))
    }

    fn add_forwarding(&self, way: &str, from_to: &str) -> Result<()> {
        let mut command = self.ssh();
        command.args(["-O", "forward", way, from_to]);
        let output = process::run(command, b"", DEADLINE)?;
        ensure!(
            output.status.success(),
            "forwarding {from_to}: {}{}",
            output.stdout,
            output.stderr
        );
        Ok(())
    }

    /// Copies what can tell why a test failed into `directory`.
    pub(crate) fn fetch_logs(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        for (file, name) in [("console", "node-console"), ("qemu.log", "qemu")] {
            fs::copy(self.directory.path().join(file), directory.join(name))?;
        }
        let mut sources = vec![
            ("journal", "journalctl --no-pager -o short-precise -b"),
            (
                "volattachd",
                "journalctl --no-pager -o json -b -u volattachd",
            ),
            (
                "libvirtd",
                "journalctl --no-pager -o short-precise -b -u libvirtd; tail -n +1 /var/log/libvirt/{qemu,libxl}/*",
            ),
            (
                "samba",
                "journalctl --no-pager -b -u 'lab-smb-*' -u 'lab-nfs-*'; tail -n +1 /srv/lab/*/log/*.log",
            ),
            ("dmesg", "dmesg"),
            ("guest-console", "cat /var/log/lab/inner.console"),
            (
                "cinder",
                "[ ! -e /srv/lab-cinder ] || cat /srv/lab-cinder/cinder.log",
            ),
            (
                "state",
                "set -x; cat /proc/mounts; virsh domblklist inner; virsh dumpxml inner; ps axf; ss -tnp; \
                 cat /proc/fs/cifs/DebugData; find /var/lib/volattach /run/volattach -ls",
            ),
        ];
        if self.kind.is_xen() {
            let script =
                "tail -n +1 /var/log/xen/{xen-hotplug,qemu-dm-*}.log; xl dmesg; xenstore-ls -f";
            sources.push(("xen", script));
        }
        for (name, script) in sources {
            let text = match self.run(&format!("{{ {script}; }} 2>&1"), b"", DEADLINE) {
                Ok(output) => output.stdout,
                Err(error) => format!("{error:#}"),
            };
            fs::write(directory.join(name), text)?;
        }
        Ok(())
    }

    /// How the machine ended, if it did: its kernel's panic and QEMU's own end come to the same.
    pub(crate) fn ended(&mut self) -> Result<Option<End>> {
        let qemu = self.qemu.get_mut();
        let Some(status) = qemu.unwrap_or_else(PoisonError::into_inner).ended()? else {
            return Ok(None);
        };
        let path = |name| self.directory.path().join(name);
        let console = tail(&path("console"));
        Ok(Some(End {
            by_emulation: self.nests && status.signal() != Some(SIGKILL) && by_emulation(&console),
            told: format!(
                "QEMU ended with {status}, saying {:?}; the node's console ends with:\n{console}",
                tail(&path("qemu.log")),
            ),
        }))
    }

    /// How to log in by hand, for whoever keeps the node running.
    pub(crate) fn login_command(&mut self) -> Result<String> {
        let qemu = self.qemu.get_mut();
        let port = qemu
            .unwrap_or_else(PoisonError::into_inner)
            .forwarded_port()?;
        Ok(format!(
            "ssh -i {} -p {port} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1",
            self.key.display()
        ))
    }
}

/// The cached state of a node that is up: its disk above the image, and the machine's memory.
fn saved(image: &Path, machine: &Machine) -> Result<PathBuf> {
    let args = machine.args(image);
    // Loading it takes a minute.
    let policy = match machine.kind {
        Kind::Selinux => agent::policy_sources()?,
        Kind::Kvm | Kind::Xen | Kind::XenHvm => String::new(),
    };
    let name = format!(
        "node-{}",
        cache::key(&[
            &args.join("\n"),
            &PACKAGE_SIZE.to_string(),
            &qemu::version(&machine.emulator)?,
            &policy,
        ])
    );
    cache::entry(image, &name, |directory| {
        eprintln!(
            "lab: booting the node for the first time (once, about a minute; {:?})",
            machine.kind
        );
        let start = Instant::now();
        let disk = directory.join("disk.qcow2");
        let created = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&image.join("disk.img"), &disk])
            .status()?;
        ensure!(created.success(), "qemu-img create: {created}");
        let mut args = args.clone();
        args.extend([
            "-drive".into(),
            format!("file={},if=virtio,cache=unsafe", comma(&disk)),
        ]);
        let node = Node::boot(machine, image, &args, None, |_| Ok(()))?;
        eprintln!(
            "lab: logged in after {:.0} s",
            start.elapsed().as_secs_f64()
        );
        node.wait(
            "the node's services",
            "! systemctl is-system-running | grep -q starting",
            Duration::from_secs(120),
        )?;
        if machine.kind == Kind::Selinux {
            let script = "cat >/root/volattach.pp && semodule -i /root/volattach.pp";
            let loaded = node.run(script, &agent::policy_module()?, Duration::from_secs(300))?;
            ensure!(loaded.status.success(), "{script}: {}", loaded.stderr);
        }
        let prepared = node.run("lab-prepare", b"", Duration::from_secs(300))?;
        ensure!(
            prepared.status.success(),
            "lab-prepare: {}{}",
            prepared.stdout,
            prepared.stderr
        );
        eprint!(
            "{}",
            prepared
                .stdout
                .lines()
                .map(|line| format!("lab: {line}\n"))
                .collect::<String>()
        );
        // The page cache is most of what a state would hold.
        node.sh("sync; echo 3 >/proc/sys/vm/drop_caches")?;
        node.save(&directory.join("state"))?;
        eprintln!(
            "lab: saved the node's state after {:.0} s",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    })
}

/// Logs in and keeps the connection open at `socket` for all commands to share: a handshake costs the node most of a second.
fn log_in(port: u16, key: &Path, socket: &Path, console: &Path) -> Result<Guarded> {
    let start = || {
        let mut command = bound("ssh");
        command
            .args(["-q", "-N", "-M", "-S"])
            .arg(socket)
            .arg("-i")
            .arg(key)
            .args(["-p", &port.to_string(), "-l", "root"])
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args([
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "ConnectTimeout=10",
                "-F",
                "none",
                "127.0.0.1",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.spawn().map(Guarded).context("starting ssh")
    };
    let mut ssh = start()?;
    wait_for("logging in to the node", Duration::from_secs(240), || {
        if socket.exists() {
            return Ok(Some(()));
        }
        if ssh.0.try_wait()?.is_some() {
            ssh = start()?;
        }
        Ok(None)
    })
    .with_context(|| format!("the node's console ends with:\n{}", tail(console)))?;
    Ok(ssh)
}

/// How a node ended by itself.
pub(crate) struct End {
    /// In words.
    pub(crate) told: String,
    /// Whether what ended it is the emulation of virtualization, and nothing that ran on the node.
    pub(crate) by_emulation: bool,
}

/// The emulated processor's virtualization now and then ends a node: by a fault in the modules of KVM, or without a word of
/// the kernel. By its last words, which begin with the first fault.
fn by_emulation(console: &str) -> bool {
    let mut faults = [
        "Oops",
        "BUG:",
        "Kernel panic",
        "general protection",
        "Power down",
        "Restarting system",
    ]
    .into_iter();
    let mut instructions = console.lines().filter(|line| line.contains("RIP: 0010:"));
    !faults.any(|fault| console.contains(fault))
        || instructions
            .next()
            .is_some_and(|line| line.contains("[kvm"))
}

/// A file's last lines.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
