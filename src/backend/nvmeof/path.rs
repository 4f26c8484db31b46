//! The ways to a subsystem: a controller for each portal.

use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

use super::fabric::{Controller, State};
use super::made::Which;
use super::{NvmeBackend, PROTOCOL, portals, probe};
use crate::backend::mount::host;
use crate::backend::mount::probe::Outcome;
use crate::backend::{Attempt, BackendError};
use crate::config;
use crate::connection::NvmeVolume;
use crate::host::NvmeHost;
use crate::model::{Server, TargetPlan};
use crate::sys::worker::{Job, WorkerError};

/// Why a portal does not do.
#[derive(Debug)]
pub(super) enum Fault {
    /// No connection; why.
    Unreachable(String),
    /// It said nothing in time; what it was asked.
    Silent(String),
    /// It was silent before, and is not asked; since when.
    Quarantined(String),
    /// It answers, and does not let this host in; why.
    Refused(String),
    /// This host cannot ask it.
    Here(BackendError),
}

/// How a portal came to be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connect {
    /// By this connect.
    Made,
    /// Before, or meanwhile by somebody else.
    Found,
}

impl NvmeBackend {
    /// Connects every portal that is not connected, all at once. One that does will do. Connects of other volumes to other portals, and those
    /// that wait for their namespaces, keep none of this waiting: only a connect to the same portal does.
    pub(super) async fn connect_paths(
        &self,
        volume: &NvmeVolume,
        own: &NvmeHost,
    ) -> Result<(), BackendError> {
        let connects = volume
            .portals
            .iter()
            .map(|&portal| self.connect_path(&volume.nqn, portal, own));
        let outcomes = futures::future::join_all(connects).await;
        let good = outcomes.iter().any(Result::is_ok);
        let faults: Vec<(SocketAddr, Fault)> = volume
            .portals
            .iter()
            .zip(outcomes)
            .filter_map(|(portal, outcome)| Some((*portal, outcome.err()?)))
            .collect();
        if good {
            for (portal, fault) in faults {
                tracing::warn!(%portal, ?fault, "a path is missing");
            }
            return Ok(());
        }
        Err(worst(&volume.nqn, faults))
    }

    /// The controller at the portal under this host's own name, unless the controller goes away.
    async fn controller_at(
        &self,
        nqn: &str,
        portal: SocketAddr,
        own: &NvmeHost,
    ) -> Result<Option<Controller>, Fault> {
        let known = self.controllers(nqn).await.map_err(Fault::Here)?;
        let at = |it: &Controller| {
            it.portal == Some(portal) && it.state != State::Ending && it.is_by(&own.nqn)
        };
        Ok(known.into_iter().find(at))
    }

    /// Connects the portal, if no controller under this host's own name is connected there. Callers queue for a portal that hangs: each
    /// looks again at its turn whether the portal is quarantined by now.
    pub(super) async fn connect_path(
        &self,
        nqn: &str,
        portal: SocketAddr,
        own: &NvmeHost,
    ) -> Result<Connect, Fault> {
        if let Some(controller) = self.controller_at(nqn, portal, own).await? {
            if !self.made.has(nqn, &controller) {
                tracing::warn!(
                    %portal,
                    controller = controller.name,
                    "others made this path, and it stays theirs: how long I/O waits for a server that is dead is theirs to say"
                );
            }
            return Ok(Connect::Found);
        }
        self.ask(portal).await?;
        let _turn = self.connects.lock((nqn.to_owned(), portal)).await;
        // Another volume's connect may have made the controller meanwhile.
        match self.controller_at(nqn, portal, own).await? {
            Some(_) => Ok(Connect::Found),
            None => {
                let making = self.make_controller(nqn, portal, own);
                self.watch(portal, making).await
            }
        }
    }

    /// Asks the portal for a sign of life, unless the portal is quarantined.
    pub(super) async fn ask(&self, portal: SocketAddr) -> Result<(), Fault> {
        self.watch(portal, self.probe(portal)).await
    }

    /// Runs what needs the portal, unless the portal is quarantined: the volume may have others.
    async fn watch<T>(
        &self,
        portal: SocketAddr,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let server = Server::at(PROTOCOL, &portal.to_string());
        if let Err(error) = self.quarantine.check(std::slice::from_ref(&server)) {
            return Err(Fault::Quarantined(match error {
                BackendError::Quarantined { since, .. } => {
                    format!("quarantined since {}", prost_types::Timestamp::from(since))
                }
                other => other.to_string(),
            }));
        }
        let began = Instant::now();
        let outcome = work.await;
        match &outcome {
            Ok(_) => self.quarantine.answered(&server, false),
            Err(Fault::Silent(why)) => {
                let error = silent(&server.portal(), portal, why.clone());
                self.quarantine.silent(&server, began, &error, false);
            }
            Err(_) => {}
        }
        outcome
    }

    async fn probe(&self, portal: SocketAddr) -> Result<(), Fault> {
        let within = self.settings.probe_timeout;
        match probe::probe(portal, within).await {
            Outcome::Speaks(()) => Ok(()),
            Outcome::Unreachable(why) | Outcome::Refused(why) => Err(Fault::Unreachable(why)),
            Outcome::Silent => Err(Fault::Silent(no_answer(within))),
        }
    }

    /// Has the kernel connect to the portal, and notes which controller this made. The caller has the portal's turn.
    async fn make_controller(
        &self,
        nqn: &str,
        portal: SocketAddr,
        own: &NvmeHost,
    ) -> Result<Connect, Fault> {
        let options = options(&self.settings, nqn, portal, own);
        let within = self.settings.connect_timeout;
        // Note this first, as the call may be given up meanwhile.
        let before = self.made.note(nqn, portal, Which::Next);
        let workers = self
            .workers
            .of(&Server::at(PROTOCOL, &portal.to_string()).to_string());
        let connected = workers.run(Job::ConnectNvme(options), within).await;
        self.settle((nqn, portal), &connected, before).await;
        match connected {
            Ok(_) => {
                tracing::info!(nqn, %portal, "path connected");
                Ok(Connect::Made)
            }
            // Another program has connected there meanwhile: its controller serves as well.
            Err(WorkerError::Failed {
                errno: Errno::EALREADY,
                ..
            }) => Ok(Connect::Found),
            Err(WorkerError::Failed { step, errno }) => Err(meaning(&step, errno)),
            // What the kernel has begun it may still bring to its end: the undo waits for that, and takes it down.
            Err(WorkerError::Deadline { .. }) => Err(Fault::Silent(no_answer(within))),
            Err(error) => Err(Fault::Here(host(|| format!("connect to {portal}"))(error))),
        }
    }
}

/// Whether a portal initializes a connection, or refuses promptly.
///
/// # Errors
/// Where it does neither in time.
pub(super) async fn sign_of_life(server: &Server, within: Duration) -> Result<(), BackendError> {
    let portal = server.portal();
    let address = portal.parse::<SocketAddr>();
    let address = address.map_err(host(|| format!("use the portal {portal:?}")))?;
    match probe::probe(address, within).await {
        Outcome::Silent => Err(silent(&portal, address, no_answer(within))),
        Outcome::Speaks(()) | Outcome::Refused(_) | Outcome::Unreachable(_) => Ok(()),
    }
}

fn silent(host: &str, address: SocketAddr, why: String) -> BackendError {
    worst(host, vec![(address, Fault::Silent(why))])
}

fn no_answer(within: Duration) -> String {
    format!("no answer within {} s", within.as_secs_f64())
}

/// What the kernel is to connect to and how (drivers/nvme/host/fabrics.c, `nvmf_parse_options`).
pub(super) fn options(
    settings: &config::Nvmeof,
    nqn: &str,
    portal: SocketAddr,
    own: &NvmeHost,
) -> String {
    // nvme-tcp begins to count only when a keep-alive has failed. Below 0, it reconnects for ever.
    let ctrl_loss_tmo = settings
        .ctrl_loss_tmo
        .map_or_else(|| "-1".to_owned(), |it| it.as_secs().to_string());
    [
        "transport=tcp".to_owned(),
        format!("traddr={}", portal.ip()),
        format!("trsvcid={}", portal.port()),
        format!("nqn={nqn}"),
        format!("hostnqn={}", own.nqn),
        format!("hostid={}", own.id),
        format!("keep_alive_tmo={}", settings.keep_alive_tmo.as_secs()),
        format!("reconnect_delay={}", settings.reconnect_delay.as_secs()),
        format!("fast_io_fail_tmo={}", settings.fast_io_fail_tmo.as_secs()),
        format!("ctrl_loss_tmo={ctrl_loss_tmo}"),
    ]
    .join(",")
}

/// What an error of the kernel's connect means; measured with Linux 6.1.
fn meaning(step: &str, errno: Errno) -> Fault {
    let here = |why: &str| {
        Fault::Here(BackendError::Host {
            action: format!("{step} for NVMe/TCP"),
            source: format!("{} ({errno:?}): {why}", errno.desc().to_lowercase()).into(),
        })
    };
    match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EHOSTUNREACH | Errno::ENETUNREACH => {
            Fault::Unreachable(errno.desc().to_lowercase())
        }
        // EAGAIN: no answer to the connection request; EINTR: none to the first command.
        Errno::ETIMEDOUT | Errno::EHOSTDOWN | Errno::EAGAIN | Errno::EINTR => {
            Fault::Silent(format!("no answer to the kernel ({errno:?})"))
        }
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            here("load the kernel's module nvme-tcp (modprobe nvme-tcp)")
        }
        Errno::EPERM | Errno::EACCES => {
            here("volattachd needs /dev/nvme-fabrics, which its confinement keeps from it")
        }
        Errno::EINVAL => here("the kernel refuses an option and tells which in its log (dmesg)"),
        errno => Fault::Refused(format!("{} ({errno:?})", errno.desc().to_lowercase())),
    }
}

/// Why no portal does, by the most telling of them.
pub(super) fn worst(nqn: &str, faults: Vec<(SocketAddr, Fault)>) -> BackendError {
    let (mut attempts, mut refused, mut silent) = (Vec::new(), None, false);
    for (address, fault) in faults {
        let mut waited = false;
        let outcome = match fault {
            Fault::Here(error) => return error,
            Fault::Unreachable(why) => why,
            Fault::Silent(why) => {
                waited = true;
                silent = true;
                why
            }
            Fault::Quarantined(why) => {
                silent = true;
                why
            }
            Fault::Refused(why) => {
                refused = Some(format!("{address} answers {why}"));
                why
            }
        };
        attempts.push(Attempt {
            address,
            outcome,
            silent: waited,
        });
    }
    let host = nqn.to_owned();
    match refused {
        Some(answer) => BackendError::LoginFailed {
            target: host,
            why: format!(
                "{answer}: it has no subsystem of that name, or does not let this host in; check the NQN, and that \
                 the storage allows the one in /etc/nvme/hostnqn (the kernel's log, dmesg, may tell more)"
            ),
        },
        None if silent => BackendError::Silent { host, attempts },
        None => BackendError::Unreachable { host, attempts },
    }
}

/// Every path of the target is there, and none is alive; `silent`: one of them let a deadline pass.
pub(super) fn lost(target: &TargetPlan, silent: bool) -> BackendError {
    let attempts = portals(&target.paths).map(|address| Attempt {
        address,
        outcome: "connected, but lost: the kernel tries to reconnect".to_owned(),
        silent,
    });
    BackendError::Silent {
        host: target
            .paths
            .first()
            .map(|path| path.name.clone())
            .unwrap_or_default(),
        attempts: attempts.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn faults(faults: Vec<Fault>) -> Reason {
        let at = |fault| ("10.0.0.1:4420".parse().unwrap(), fault);
        worst("nqn.x", faults.into_iter().map(at).collect()).reason()
    }

    #[test]
    fn the_most_telling_portal_decides() {
        let (refused, silent) = (
            || Fault::Refused("no".into()),
            || Fault::Silent("nothing".into()),
        );
        let unreachable = || Fault::Unreachable("no route".into());
        assert_eq!(
            faults(vec![silent(), refused(), unreachable()]),
            Reason::LoginFailed
        );
        assert_eq!(faults(vec![unreachable(), silent()]), Reason::ServerTimeout);
        assert_eq!(faults(vec![unreachable()]), Reason::ServerUnreachable);
        assert_eq!(
            faults(vec![refused(), meaning("open", Errno::ENOENT)]),
            Reason::Internal
        );
    }

    #[test]
    fn every_errno_has_its_reason() {
        for (errno, reason) in [
            (Errno::ECONNREFUSED, Reason::ServerUnreachable),
            (Errno::ETIMEDOUT, Reason::ServerTimeout),
            (Errno::EAGAIN, Reason::ServerTimeout),
            (Errno::EIO, Reason::LoginFailed),
            (Errno::EPERM, Reason::Internal),
        ] {
            assert_eq!(faults(vec![meaning("connect", errno)]), reason, "{errno}");
        }
    }
}
