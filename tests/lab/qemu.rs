//! One QEMU process, and the machine protocol (QMP) to it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::process::{Guarded, bound, quote, run, wait_for};

/// A running QEMU, killed when dropped.
pub(crate) struct Qemu {
    process: Guarded,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qemu {
    /// Starts the program `qemu` with `args`. `socket` is where QMP shall be; QEMU's messages go to `log`.
    pub(crate) fn start(qemu: &Path, args: &[String], socket: &Path, log: &Path) -> Result<Self> {
        let mut command = bound(qemu);
        command
            .args([
                "-display",
                "none",
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
            ])
            .args(args)
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(log)?)
            .stderr(std::fs::OpenOptions::new().append(true).open(log)?);
        let mut process = Guarded(
            command
                .spawn()
                .with_context(|| format!("starting {}", qemu.display()))?,
        );
        let stream = wait_for("QEMU's control socket", Duration::from_secs(180), || {
            if let Some(status) = process.0.try_wait()? {
                bail!(
                    "QEMU ended at once with {status}: {}",
                    std::fs::read_to_string(log)?
                );
            }
            Ok(UnixStream::connect(socket).ok())
        })?;
        stream.set_read_timeout(Some(Duration::from_secs(180)))?;
        let mut qemu = Self {
            process,
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
        };
        qemu.receive()?; // the greeting
        qemu.execute("qmp_capabilities", json!({}))?;
        Ok(qemu)
    }

    /// How QEMU ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.0.try_wait()?)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
    }

    /// Executes one command and returns its answer.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(
            self.writer,
            "{}",
            json!({"execute": command, "arguments": arguments})
        )?;
        loop {
            let mut answer = self.receive()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            // An event, of which none is of interest.
        }
    }

    /// Writes the machine's state into `file` and ends QEMU. The disks then are as the state wants them.
    pub(crate) fn save(mut self, file: &Path) -> Result<()> {
        self.execute("stop", json!({}))?;
        self.execute(
            "migrate-set-parameters",
            json!({"max-bandwidth": 1_u64 << 40}),
        )?;
        self.execute(
            "migrate",
            json!({"uri": format!("exec:cat > {}", quote(&file.to_string_lossy()))}),
        )?;
        wait_for(
            "saving the machine's state",
            Duration::from_secs(120),
            || match self.execute("query-migrate", json!({}))? {
                state if state["status"] == "completed" => Ok(Some(())),
                state if state["status"] == "failed" => {
                    bail!("saving the machine's state: {state}")
                }
                _ => Ok(None),
            },
        )?;
        // The state is whole by now; QEMU may well be gone before its answer is.
        let _ = self.execute("quit", json!({}));
        self.process.0.wait()?;
        Ok(())
    }

    /// Sets a machine going that was started with the arguments of [`incoming`].
    pub(crate) fn resume(&mut self) -> Result<()> {
        wait_for(
            "loading the machine's state",
            Duration::from_secs(180),
            || {
                Ok(
                    (self.execute("query-status", json!({}))?["status"] != "inmigrate")
                        .then_some(()),
                )
            },
        )?;
        self.execute("cont", json!({}))?;
        Ok(())
    }

    /// The port of 127.0.0.1 that QEMU chose for the one forwarding of its user network.
    pub(crate) fn forwarded_port(&mut self) -> Result<u16> {
        let answer = self.execute(
            "human-monitor-command",
            json!({"command-line": "info usernet"}),
        )?;
        let text = answer.as_str().unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.contains("HOST_FORWARD"))
            .context("no port is forwarded")?;
        Ok(line
            .split_whitespace()
            .nth(3)
            .with_context(|| format!("no port in {line:?}"))?
            .parse()?)
    }
}

/// The arguments to start from a state that [`Qemu::save`] wrote.
pub(crate) fn incoming(file: &Path) -> [String; 2] {
    [
        "-incoming".into(),
        format!("exec:cat {}", quote(&file.to_string_lossy())),
    ]
}

/// The version of the program `qemu`: one does not load another's state.
pub(crate) fn version(qemu: &Path) -> Result<String> {
    let mut command = Command::new(qemu);
    command.arg("--version");
    Ok(run(command, b"", Duration::from_secs(180))?.stdout)
}

/// How QEMU runs the node's processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accel {
    Tcg,
    Kvm,
}

impl Accel {
    /// The arguments for it. Both give the node virtualization of its own: TCG emulates AMD's. Emulated, the state that XSAVE moves
    /// at each switch of tasks and a fifth level of page tables cost a twelfth of all time, and `rep movsb` is slower than what kernels
    /// copy with where a processor does not say that it is fast.
    pub(crate) fn args(self) -> [&'static str; 4] {
        match self {
            Self::Tcg => [
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max,-xsave,-avx,-avx2,-la57,-pku,-erms,-fsrm",
            ],
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
        }
    }

    /// What `VOLATTACH_LAB_ACCEL` says (tcg, kvm or auto); auto, the default, is KVM where it proves to work.
    pub(crate) fn choose(qemu: &Path, guest: &Path) -> Result<Self> {
        match std::env::var("VOLATTACH_LAB_ACCEL").as_deref() {
            Ok("tcg") => Ok(Self::Tcg),
            Ok("kvm") => Ok(Self::Kvm),
            Ok("auto") | Err(std::env::VarError::NotPresent) => Self::probe(qemu, guest),
            other => bail!("VOLATTACH_LAB_ACCEL is {other:?}; it can be tcg, kvm or auto"),
        }
    }

    /// `/dev/kvm` may be there and hang every guest: so the inner guest is booted with it. The verdict is kept
    /// for as long as this machine runs.
    fn probe(qemu: &Path, guest: &Path) -> Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let verdict = guest.with_file_name(format!("kvm-{}", boot.trim()));
        if let Ok(known) = std::fs::read_to_string(&verdict) {
            return Ok(if known == "works" {
                Self::Kvm
            } else {
                Self::Tcg
            });
        }
        eprintln!("lab: trying whether KVM works here (once, at most 15 s)");
        let works = Self::boots(qemu, guest).unwrap_or(false);
        std::fs::write(&verdict, if works { "works" } else { "fails" })?;
        eprintln!(
            "lab: KVM {}",
            if works {
                "works"
            } else {
                "does not work here: emulating (TCG)"
            }
        );
        Ok(if works { Self::Kvm } else { Self::Tcg })
    }

    fn boots(qemu: &Path, guest: &Path) -> Result<bool> {
        let directory = tempfile::tempdir()?;
        let file = |name: &str| -> PathBuf { directory.path().join(name) };
        let console = file("console");
        let mut args: Vec<String> = Self::Kvm.args().map(String::from).into();
        args.extend(["-m", "160", "-serial"].map(String::from));
        args.push(format!("file:{}", console.display()));
        args.extend(kernel(
            guest,
            std::fs::read_to_string(guest.join("cmdline"))?.trim(),
        ));
        let _qemu = Qemu::start(qemu, &args, &file("qmp"), &file("log"))?;
        let up = wait_for("the probe's guest", Duration::from_secs(15), || {
            let text = std::fs::read(&console).unwrap_or_default();
            Ok(String::from_utf8_lossy(&text)
                .contains("GUEST up")
                .then_some(()))
        });
        Ok(up.is_ok())
    }
}

/// `path` as a value in one of QEMU's option lists.
pub(crate) fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The arguments to boot the kernel of `directory`.
pub(crate) fn kernel(directory: &Path, command_line: &str) -> Vec<String> {
    let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let args = [
        "-kernel",
        &file("vmlinuz"),
        "-initrd",
        &file("initrd.img"),
        "-append",
        command_line,
    ];
    args.map(String::from).into()
}
