//! Which volume a namespace is, by its own word: asked of each live path, fresh.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use uuid::Uuid;

use super::fabric::{Block, Controller, State};
use super::{INSPECT_TIMEOUT, NvmeBackend, nqn, path};
use crate::backend::BackendError;
use crate::connection::NvmeVolume;
use crate::model::{TargetPlan, Wwid};
use crate::sys::nvme::Namespace;
use crate::sys::worker::{Job, NamespaceJob, Reply, WorkerError};

/// The volume that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    nqn: String,
    uuid: Option<Uuid>,
    nguid: Option<Uuid>,
    nsid: Option<u32>,
    /// What it told when it was connected.
    wwid: Option<Wwid>,
}

/// The answer of a volume's paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) wwid: Wwid,
    /// Size in bytes.
    pub(super) size: u64,
}

impl Wanted {
    /// As connection info has it.
    pub(super) fn new(volume: &NvmeVolume) -> Self {
        Self {
            nqn: volume.nqn.clone(),
            uuid: volume.uuid,
            nguid: volume.nguid,
            nsid: volume.nsid,
            wwid: None,
        }
    }

    /// The one that was connected.
    pub(super) fn connected(nqn: &str, identity: Option<&Wwid>) -> Self {
        Self {
            nqn: nqn.to_owned(),
            uuid: None,
            nguid: None,
            nsid: None,
            wwid: identity.cloned(),
        }
    }

    /// Whether the kernel takes a device for it. A number counts only where nothing better is known: it may be another volume's
    /// tomorrow.
    pub(super) fn may_be(&self, block: &Block) -> bool {
        match (self.uuid, self.nguid) {
            (Some(uuid), _) => {
                // A namespace whose only identity is its NGUID is often named by that.
                let named = [
                    Wwid::nvme(Some(uuid), None, None),
                    Wwid::nvme(None, Some(uuid), None),
                ];
                named.contains(&Some(block.wwid.clone()))
            }
            (None, Some(nguid)) => block.nguid == nguid.to_string(),
            (None, None) => self.nsid == Some(block.nsid),
        }
    }

    /// What is wrong with what a namespace says of itself.
    fn objection(&self, told: &Namespace) -> Option<String> {
        let is = told.wwid()?;
        let other = |wanted: String| Some(format!("it is {is}, not {wanted}"));
        if let Some(uuid) = self.uuid
            && told.uuid != Some(uuid)
            && (told.uuid.is_some() || told.nguid != Some(uuid))
        {
            return other(format!("uuid.{uuid}"));
        }
        if let Some(nguid) = self.nguid.filter(|nguid| told.nguid != Some(*nguid)) {
            return other(format!("eui.{}", nguid.simple()));
        }
        match &self.wwid {
            Some(wwid) if *wwid != is => other(format!("{wwid}, as when it was connected")),
            _ => None,
        }
    }

    /// Why there is no device of it.
    pub(super) fn absent(&self, blocks: &[Block], within: Duration) -> BackendError {
        let number = self
            .nsid
            .and_then(|nsid| blocks.iter().find(|block| block.nsid == nsid));
        if let Some(other) = number {
            return self.refused(format!(
                "namespace {} is {}, another volume: the storage has given its number away; ask the control plane \
                 for new connection info",
                other.nsid, other.wwid
            ));
        }
        let there: Vec<&str> = blocks.iter().map(|block| block.wwid.as_str()).collect();
        BackendError::DeviceNotFound {
            volume: self.to_string(),
            within,
            why: format!(
                "the subsystem shows this host {}; map the volume to this host on the storage",
                match there.is_empty() {
                    true => "no namespace".to_owned(),
                    false => there.join(", "),
                }
            ),
        }
    }

    fn refused(&self, why: String) -> BackendError {
        BackendError::DeviceIdentity {
            volume: self.to_string(),
            why,
        }
    }

    /// What the paths' answers come to; `None`: not one of them answered.
    pub(super) fn agreed(
        &self,
        block: &Block,
        answers: Vec<(String, Result<Namespace, WorkerError>)>,
    ) -> Result<Option<Told>, BackendError> {
        let mut told: Option<(String, Told)> = None;
        for (controller, answer) in answers {
            let namespace = match answer {
                Ok(namespace) => namespace,
                Err(WorkerError::Failed {
                    errno: Errno::ENXIO,
                    ..
                }) => {
                    return Err(self.refused(format!(
                        "{controller} has no namespace {} any more; try again when this host has noticed",
                        block.nsid
                    )));
                }
                // A path that dies now: the others tell, and the kernel compares when it is back.
                Err(error) => {
                    tracing::warn!(controller, %error, "a path does not tell which volume it leads to");
                    continue;
                }
            };
            let Some(is) = namespace.wwid() else {
                return Err(self.refused(
                    "it has no identity (UUID, NGUID, EUI-64), so no other volume could be told from it".to_owned(),
                ));
            };
            if let Some(objection) = self.objection(&namespace) {
                return Err(self.refused(format!("{objection} (asked of {controller})")));
            }
            if is != block.wwid {
                return Err(self.refused(format!(
                    "it is {is}, and this host's kernel still takes it for {}: the storage has exchanged the volume; try \
                     again when this host has noticed",
                    block.wwid
                )));
            }
            match &told {
                Some((first, other)) if other.wwid != is => {
                    return Err(self.refused(format!(
                        "its paths lead to different volumes: {first} to {}, {controller} to {is}",
                        other.wwid
                    )));
                }
                Some(_) => {}
                None => {
                    let size = namespace.size;
                    told = Some((controller, Told { wwid: is, size }));
                }
            }
        }
        Ok(told.map(|(_, told)| told))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace ")?;
        match (self.uuid, self.nguid, &self.wwid, self.nsid) {
            (Some(uuid), ..) => write!(f, "uuid.{uuid}")?,
            (_, Some(nguid), ..) => write!(f, "eui.{}", nguid.simple())?,
            (_, _, Some(wwid), _) => write!(f, "{wwid}")?,
            (.., nsid) => write!(f, "{}", nsid.unwrap_or_default())?,
        }
        write!(f, " of {}", self.nqn)
    }
}

impl NvmeBackend {
    /// Asks each live path which volume the device is: all that answer must say the same, and what is wanted.
    pub(super) async fn verify(
        &self,
        target: &TargetPlan,
        wanted: &Wanted,
        block: &Block,
    ) -> Result<Told, BackendError> {
        let mut paths = self.controllers(nqn(target)?).await?;
        paths.retain(|it| it.state == State::Live && block.goes_by(it));
        let answers = self.identify(block, &paths).await;
        let unanswered = unanswered(target, &answers);
        wanted.agreed(block, answers)?.ok_or(unanswered)
    }

    /// Asks each of these controllers which volume the device is; returns their answers by the controllers' names.
    pub(super) async fn identify(
        &self,
        block: &Block,
        controllers: &[Controller],
    ) -> Vec<(String, Result<Namespace, WorkerError>)> {
        let asked = controllers.iter().map(|controller| async {
            let job = Job::IdentifyNamespace(NamespaceJob {
                controller: Path::new(super::DEVICES).join(&controller.name),
                nsid: block.nsid,
            });
            let answer = match self.workers_at(controller).run(job, INSPECT_TIMEOUT).await {
                Ok(Reply::Namespace(namespace)) => Ok(namespace),
                Ok(_) => Err(WorkerError::Failed {
                    step: "understand a worker".to_owned(),
                    errno: Errno::EPROTO,
                }),
                Err(error) => Err(error),
            };
            (controller.name.clone(), answer)
        });
        futures::future::join_all(asked).await
    }
}

/// No path answered; why.
fn unanswered(
    target: &TargetPlan,
    answers: &[(String, Result<Namespace, WorkerError>)],
) -> BackendError {
    let mut silent = false;
    for (_, answer) in answers {
        match answer {
            Err(WorkerError::Stuck { server, pids }) => {
                return BackendError::WorkersStuck(WorkerError::Stuck {
                    server: server.clone(),
                    pids: pids.clone(),
                });
            }
            Err(WorkerError::Deadline { .. }) => silent = true,
            _ => {}
        }
    }
    path::lost(target, silent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    const A: Uuid = Uuid::from_u128(0x7c9e_6679_7425_40de_944b_e07f_c1f9_0ae7);
    const B: Uuid = Uuid::from_u128(0xb);

    fn wanted(uuid: Option<Uuid>, nguid: Option<Uuid>, nsid: Option<u32>) -> Wanted {
        Wanted {
            nqn: "nqn.x".into(),
            uuid,
            nguid,
            nsid,
            wwid: None,
        }
    }

    fn told(uuid: Option<Uuid>, nguid: Option<Uuid>) -> Namespace {
        Namespace {
            uuid,
            nguid,
            eui64: None,
            size: 4096,
        }
    }

    fn block(told: &Namespace) -> Block {
        Block {
            name: "nvme0n1".into(),
            controller: None,
            nsid: 7,
            wwid: told.wwid().unwrap(),
            nguid: told
                .nguid
                .map(|nguid| nguid.to_string())
                .unwrap_or_default(),
            size: 4096,
            read_only: false,
            sequence: None,
        }
    }

    /// What comes of these answers for a device that the kernel takes for `known`.
    fn agreed(
        wanted: &Wanted,
        known: &Namespace,
        answers: Vec<Result<Namespace, Errno>>,
    ) -> Result<Option<Wwid>, Reason> {
        let answers = answers.into_iter().enumerate().map(|(number, answer)| {
            let step = "identify".to_owned();
            let answer = answer.map_err(|errno| WorkerError::Failed { step, errno });
            (format!("nvme{number}"), answer)
        });
        let agreed = wanted.agreed(&block(known), answers.collect());
        let agreed = agreed.map(|told| told.map(|told| told.wwid));
        agreed.map_err(|error| error.reason())
    }

    #[test]
    fn all_paths_must_agree_with_each_other_the_kernel_and_what_is_wanted() {
        let (a, b) = (told(Some(A), None), told(Some(B), None));
        let by_uuid = wanted(Some(A), None, Some(7));
        let by_number = wanted(None, None, Some(7));
        let refused = Err(Reason::DeviceIdentity);
        assert_eq!(
            agreed(&by_uuid, &a, vec![Ok(a.clone()), Ok(a.clone())]),
            Ok(a.wwid())
        );
        // Another volume than expected; on one path; than the kernel knows.
        assert_eq!(agreed(&by_uuid, &b, vec![Ok(b.clone())]), refused);
        assert_eq!(
            agreed(&by_number, &a, vec![Ok(a.clone()), Ok(b.clone())]),
            refused
        );
        assert_eq!(agreed(&by_number, &b, vec![Ok(a.clone())]), refused);
        // None at all; and one that nothing tells from others.
        assert_eq!(
            agreed(&by_number, &a, vec![Ok(a.clone()), Err(Errno::ENXIO)]),
            refused
        );
        assert_eq!(agreed(&by_number, &a, vec![Ok(told(None, None))]), refused);
        // Dead paths do not count, but one must live.
        assert_eq!(
            agreed(&by_uuid, &a, vec![Err(Errno::EIO), Ok(a.clone())]),
            Ok(a.wwid())
        );
        assert_eq!(agreed(&by_uuid, &a, vec![Err(Errno::EIO)]), Ok(None));
        // Connected as one, another now.
        let mut connected = by_number.clone();
        connected.wwid = a.wwid();
        assert_eq!(agreed(&connected, &b, vec![Ok(b.clone())]), refused);
    }

    #[test]
    fn only_a_deadline_that_passed_is_a_silence() {
        let target = TargetPlan {
            paths: vec![crate::model::TargetPath {
                portal: "10.0.0.1:4420".to_owned(),
                name: "nqn.x".to_owned(),
                lun: None,
            }],
            transport: "tcp".to_owned(),
            interface: None,
            expected: None,
        };
        let prompt = || {
            Err(WorkerError::Failed {
                step: "identify".to_owned(),
                errno: Errno::EIO,
            })
        };
        let late = || {
            Err(WorkerError::Deadline {
                pid: 1,
                within: Duration::from_secs(15),
                reaped: true,
            })
        };
        let stuck = || {
            Err(WorkerError::Stuck {
                server: "nvmeof 10.0.0.1:4420".to_owned(),
                pids: vec![1],
            })
        };
        for (answers, reason, silent) in [
            (vec![prompt()], Reason::ServerTimeout, false),
            (vec![prompt(), late()], Reason::ServerTimeout, true),
            (vec![late(), stuck()], Reason::WorkersStuck, false),
        ] {
            let answers = answers.into_iter().map(|it| ("nvme0".to_owned(), it));
            let error = unanswered(&target, &answers.collect::<Vec<_>>());
            assert_eq!((error.reason(), error.is_silence()), (reason, silent));
        }
    }

    #[test]
    fn an_nguid_is_held_to_too() {
        let both = told(Some(A), Some(B));
        assert_eq!(
            agreed(
                &wanted(Some(A), Some(B), None),
                &both,
                vec![Ok(both.clone())]
            ),
            Ok(both.wwid())
        );
        let refused = Err(Reason::DeviceIdentity);
        assert_eq!(
            agreed(
                &wanted(Some(A), Some(A), None),
                &both,
                vec![Ok(both.clone())]
            ),
            refused
        );
        assert_eq!(
            agreed(&wanted(None, Some(A), None), &both, vec![Ok(both.clone())]),
            refused
        );
        // A storage that has no UUID of a volume, and gives its NGUID for one.
        let nguid = told(None, Some(A));
        assert_eq!(
            agreed(
                &wanted(Some(A), None, None),
                &nguid,
                vec![Ok(nguid.clone())]
            ),
            Ok(nguid.wwid())
        );
    }

    #[test]
    fn a_device_is_found_by_the_best_that_is_known() {
        let both = block(&told(Some(A), Some(B)));
        assert!(wanted(Some(A), None, Some(9)).may_be(&both));
        assert!(wanted(None, Some(B), Some(9)).may_be(&both));
        assert!(wanted(None, None, Some(7)).may_be(&both));
        assert!(!wanted(Some(B), None, Some(7)).may_be(&both));
        assert!(!wanted(None, Some(A), Some(7)).may_be(&both));
        assert!(!wanted(None, None, Some(1)).may_be(&both));
        assert!(wanted(Some(A), None, None).may_be(&block(&told(None, Some(A)))));
    }

    #[test]
    fn a_number_that_is_another_volumes_is_told_from_no_volume() {
        let other = [block(&told(Some(B), None))];
        let within = Duration::from_secs(30);
        let reason = |wanted: &Wanted, blocks: &[Block]| wanted.absent(blocks, within).reason();
        assert_eq!(
            reason(&wanted(Some(A), None, Some(7)), &other),
            Reason::DeviceIdentity
        );
        assert_eq!(
            reason(&wanted(Some(A), None, Some(8)), &other),
            Reason::DeviceNotFound
        );
        assert_eq!(
            reason(&wanted(None, None, Some(8)), &[]),
            Reason::DeviceNotFound
        );
    }
}
