//! The daemon put together: the one place that names concrete types.
//!
//! ```text
//!   log ─▶ settings ─▶ journal, key ─▶ backends, libvirt ─▶ engine ─▶ api ─▶ socket ─▶ READY=1
//!                                                             │
//!                                                             └─▶ reconcile, now and from time to time
//!   SIGHUP ─▶ RELOADING=1 ─▶ what may change while it runs is read again ─▶ READY=1
//!   SIGTERM ─▶ STOPPING=1 ─▶ no new work ─▶ sagas end (at most a minute) ─▶ connections end ─▶ exit 0
//! ```
//!
//! Invariants: one daemon has a state directory (its open journal is the lock); the daemon is ready whether or not
//! libvirt and the storage servers are; whatever is under way when it stops is either finished or in the journal.

mod backends;
mod daemon;
mod health;
mod listen;
mod logging;
pub mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
mod policy;
mod privileges;
mod reload;
mod remote;
mod state;
mod supervisor;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};

use self::logging::OpenAudit;
pub use self::reload::Reloads;
use crate::config::{DEFAULT_PATH, Settings};
use crate::sys::worker::Workers;

/// How long blocking work, such as a call to a libvirtd that is stuck, may hold up the end of the process.
const BLOCKING_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// Attaches volumes to the virtual machines of this host, for callers on its unix socket or over TLS.
///
/// SIGHUP has it read its configuration, policy and certificates again; calls under way go on. SIGTERM ends it when they have ended.
///
/// VOLATTACH_LOG sets what is logged, such as "debug" or "info,volattach::libvirt=trace"; the default is "info".
/// Exit codes: 0 stopped as asked, or the configuration is valid; 1 cannot start or go on, or the configuration is
/// invalid; 2 the command line is malformed.
#[derive(Debug, Parser)]
#[command(name = "volattachd", version, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// The configuration; the drop-ins FILE.d/*.toml are read after it, in the order of their names
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Checks the configuration, and ends
    #[arg(long)]
    check_config: bool,
    /// Writes the man pages into a directory, and ends: for those who package
    #[arg(long, value_name = "DIR", hide = true)]
    man: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Policy(policy::PolicyArgs),
}

/// The whole life of a daemon, from its command line to its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let mut options = Options::parse();
    if let Some(Command::Policy(args)) = options.command.take() {
        return policy::run(args);
    }
    let result = match &options.man {
        Some(dir) => write_man(dir),
        None => start(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // To standard error whatever the log's filter says: under systemd that is the journal too.
            eprintln!("volattachd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One page a command, in the section of daemons.
fn write_man(dir: &Path) -> anyhow::Result<()> {
    let mut command = Options::command().disable_help_subcommand(true);
    command.build();
    let mut commands = vec![command];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().cloned());
        clap_mangen::Man::new(command)
            .section("8")
            .generate_to(dir)
            .with_context(|| format!("cannot write the man pages into {}", dir.display()))?;
    }
    Ok(())
}

/// Refuses settings that need another build.
fn check_build(settings: &Settings) -> anyhow::Result<()> {
    if settings.otlp_endpoint.is_some() && !cfg!(feature = "otlp") {
        bail!(
            "otlp_endpoint: this volattachd exports no traces: take the key out of the configuration, or build with --features otlp"
        );
    }
    Ok(())
}

fn start(options: &Options) -> anyhow::Result<()> {
    // Whatever file is made is its owner's alone, unless the place that makes it says more.
    umask(Mode::from_bits_truncate(0o077));
    // Passwords pass through memory: no core file, and no other process of the same user looks in.
    set_dumpable(false).context("cannot forbid core files")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core files")?;
    let log = logging::init()?;
    let settings = Settings::load(&options.config)?;
    check_build(&settings)?;
    if options.check_config {
        let tls = daemon::tls(&settings)?.map(Arc::new);
        daemon::authenticator(&settings, tls)?;
        policy::check(&settings)?;
        println!("{}: the configuration is valid", options.config.display());
        return Ok(());
    }
    let audit = settings.audit_file.as_deref().map(OpenAudit::open);
    log.audit_to(audit.transpose()?);
    // Before there are threads, each of which has capabilities of its own.
    privileges::drop_others().context("cannot drop the capabilities that are not needed")?;
    privileges::check();
    let passed = crate::sys::inherited_sockets()
        .context("cannot take the sockets that systemd passed on")?;
    // One thread waits for everything, and whatever may block has another: a call then goes from task to task without waking
    // a second one, which is a tenth of what an attach costs over libvirt's own, and where a defect holds the thread up the watchdog
    // gets no sign of life, rather than half the callers no answer.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let hang_up = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let reloads = Reloads {
            config: options.config.clone(),
            log: log.clone(),
            asked: hang_up,
        };
        #[cfg(feature = "otlp")]
        if let Some(endpoint) = &settings.otlp_endpoint {
            log.spans.export_to(&endpoint.to_string())?;
        }
        let workers = Workers::installed()?;
        let served = serve(&settings, workers, passed, Some(reloads), stop).await;
        #[cfg(feature = "otlp")]
        log.spans.end().await;
        served
    });
    runtime.shutdown_timeout(BLOCKING_GRACE);
    result
}

/// Serves calls as the settings say until `stop`, which tells what made it stop; then drains. `reloads`: `None` for never.
///
/// # Errors
/// Where it cannot start, or cannot go on serving.
pub async fn serve(
    settings: &Settings,
    workers: Workers,
    passed: Vec<(String, OwnedFd)>,
    reloads: Option<Reloads>,
    stop: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    // The journal before the socket: the first thing that a second daemon on the same state meets.
    let daemon = daemon::Daemon::new(settings, workers).await?;
    let socket = listen::open(&settings.listen, passed)?;
    let metrics = settings.metrics_listen.as_ref();
    // Whoever else has the address keeps nobody's volumes waiting.
    let metrics = metrics.and_then(|listen| match metrics::MetricsSocket::open(listen) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::error!("no figures until the next start: {error:#}");
            None
        }
    });
    daemon.serve(socket, metrics, reloads, stop).await
}
