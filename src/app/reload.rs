//! Reads again all that the configuration says, when SIGHUP asks for that, while calls are under way.
//!
//! ```text
//!   SIGHUP ─▶ RELOADING=1 ─▶ files ─▶ settings, certificates, policy, audit_file ─▶ all good: in use ─▶ READY=1
//!                                                                                └▶ else: as before, told in log and doctor
//! ```
//!
//! Invariants: all is read and checked before anything changes, and nothing that changes things can fail; a call that is planned goes on by
//! the settings it was planned by; what the parts know of this host (claims, locks, mounts, sessions, quarantines, tokens) stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::backends::AllBackends;
use super::logging::{Log, OpenAudit};
use super::{daemon, policy, supervisor};
use crate::admission::Admission;
use crate::api::Api;
use crate::attach::{Engine, Finding, Tuning};
use crate::auth::{Authenticator, TlsServer};
use crate::config::{ConfigError, Limits, Settings};
use crate::libvirt::Libvirt;
use crate::policy::ReadPolicy;

/// When to read the configuration again, and from where.
pub struct Reloads {
    /// The configuration's file.
    pub(super) config: PathBuf,
    pub(super) log: Log,
    pub(super) asked: Signal,
}

/// What a reload gives other settings. Clones are the same parts.
#[derive(Clone)]
pub(super) struct Adjustable {
    pub(super) engine: Engine,
    pub(super) api: Arc<Api>,
    pub(super) admission: Arc<Admission>,
    pub(super) tls: Option<Arc<TlsServer>>,
    pub(super) libvirt: Arc<Libvirt>,
    pub(super) backends: AllBackends,
    pub(super) limits: Arc<watch::Sender<Limits>>,
    pub(super) metrics_file: Arc<watch::Sender<Option<PathBuf>>>,
}

/// What was read and can be used.
struct Checked {
    settings: Settings,
    /// Keys whose values wait for a start.
    waiting: Vec<&'static str>,
    tls: Option<TlsServer>,
    authenticator: Authenticator,
    policy: ReadPolicy,
    audit: Option<OpenAudit>,
    backends: AllBackends,
}

impl Reloads {
    /// Reads again whenever that is asked for, for as long as the process gets signals.
    pub(super) async fn run(mut self, mut running: Settings, parts: Adjustable) {
        let mut waiting = Vec::new();
        while self.asked.recv().await.is_some() {
            supervisor::reloading();
            let began = (self.config.clone(), running.clone());
            let (log, adjusted) = (self.log.clone(), parts.clone());
            // Waits for the disk and for the name service.
            let reload = move || -> anyhow::Result<_> {
                let (config, running) = began;
                let checked = adjusted.check(&config, &running)?;
                Ok(adjusted.adjust(&running, checked, &log))
            };
            let reloaded = tokio::task::spawn_blocking(reload).await;
            match reloaded.unwrap_or_else(|panicked| Err(panicked.into())) {
                Ok(now) => (running, waiting) = now,
                Err(error) => parts.refused(&error, &waiting),
            }
            supervisor::reloaded();
        }
    }
}

impl Adjustable {
    /// Reads everything, and changes nothing.
    fn check(&self, config: &std::path::Path, running: &Settings) -> anyhow::Result<Checked> {
        let loaded = Settings::load(config)?;
        // The restart that keys may wait for must not fail on them.
        super::check_build(&loaded)?;
        let (settings, waiting) = loaded.clone().over(running);
        let backends = self.backends.with_settings(&settings);
        let audit = settings.audit_file.as_deref().map(OpenAudit::open);
        let audit = audit.transpose()?;
        let authenticator = daemon::authenticator(&settings, self.tls.clone())?;
        let authenticator = match settings.keystone == running.keystone {
            true => authenticator.remembering(&self.api.authenticator()),
            false => authenticator,
        };
        // Last, since their files are also watched: a change to them that came into force meanwhile must not be taken back.
        let policy = self.admission.read(policy::files(&settings)?);
        let policy =
            policy.context("cannot use the policy: correct it (volattachd policy validate)")?;
        let tls = daemon::tls(&loaded)?;
        Ok(Checked {
            waiting,
            tls,
            authenticator,
            policy,
            audit,
            backends,
            settings,
        })
    }

    /// Goes over to what was read; returns the settings that are in use now, and the keys that wait for a restart.
    fn adjust(
        &self,
        running: &Settings,
        checked: Checked,
        log: &Log,
    ) -> (Settings, Vec<&'static str>) {
        let Checked {
            settings,
            waiting,
            tls,
            authenticator,
            policy,
            audit,
            backends,
        } = checked;
        // First who may call what.
        if let (Some(running), Some(new)) = (&self.tls, tls) {
            running.replace(new);
        }
        let ends_watches = settings.auth != running.auth
            || settings.keystone != running.keystone
            || settings.listen.tls != running.listen.tls;
        self.api.set_authenticator(authenticator, ends_watches);
        self.admission
            .replace(policy, daemon::audit_role(&settings));
        self.api.set_limits(&settings.limits);
        self.limits.send_replace(settings.limits.clone());
        self.libvirt.set_call_timeout(settings.libvirt.call_timeout);
        self.engine.retune(Tuning {
            backends: backends.registry(),
            unplug_timeout: settings.detach.unplug_timeout,
            work: settings.limits.work,
        });
        self.metrics_file
            .send_replace(settings.metrics_file.clone());
        log.audit_to(audit);
        let changed = settings.changed_since(running).join(", ");
        tracing::info!(changed, "the configuration was read again and is in use");
        if !waiting.is_empty() {
            tracing::warn!(
                keys = waiting.join(", "),
                "these keys of the configuration have new values that need a restart (systemctl restart volattachd), which leaves what is \
                 attached attached"
            );
        }
        self.engine.note_standing(of_waiting(&waiting));
        (settings, waiting)
    }

    /// Reports why nothing has changed; keys that waited for a restart before still do.
    fn refused(&self, error: &anyhow::Error, waiting: &[&str]) {
        const STAYS: &str =
            "the configuration was read again and cannot be used: the one before stays in use";
        match error.downcast_ref() {
            Some(ConfigError::Invalid(problems)) => {
                for problem in problems {
                    tracing::error!(%problem, "{STAYS}");
                }
            }
            _ => tracing::error!(error = format!("{error:#}"), "{STAYS}"),
        }
        let what = format!(
            "the configuration was read again at {} and cannot be used, so that the one before stays in use: {error:#}",
            prost_types::Timestamp::from(SystemTime::now())
        );
        let mend = "volattachd --check-config; correct it, then systemctl reload volattachd";
        let mut findings = vec![Finding::warning(what, mend)];
        findings.extend(of_waiting(waiting));
        self.engine.note_standing(findings);
    }
}

fn of_waiting(keys: &[&str]) -> Vec<Finding> {
    if keys.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "the configuration has new values that need a restart to come into use: {}",
        keys.join(", ")
    );
    let mend = "systemctl restart volattachd, which leaves what is attached attached";
    vec![Finding::warning(what, mend)]
}
