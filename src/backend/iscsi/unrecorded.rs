//! Sessions that no record of the journal has, as after its loss.

use std::io;

use super::login::{Initiator, at};
use crate::backend::{BackendError, Unrecorded, mount};
use crate::model::{Connection, HostVolume, TargetPath};

impl Initiator {
    /// Finds sessions by node records of this agent that none of the volumes has.
    pub(super) fn unrecorded(
        &self,
        recorded: &[HostVolume],
    ) -> Result<Vec<Unrecorded>, BackendError> {
        let nodes = &self.settings.nodes;
        let targets = match std::fs::read_dir(nodes) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let looking = || format!("look for node records in {}", nodes.display());
        let mut found = Vec::new();
        for target in targets.map_err(mount::host(looking))? {
            let name = target.file_name().to_string_lossy().into_owned();
            for session in self.sysfs.sessions(&name) {
                let path = TargetPath {
                    portal: session.portal.to_string(),
                    name: name.clone(),
                    lun: None,
                };
                let record = self.record(&path, session.portal, None);
                let known = recorded.iter().any(|volume| has(volume, &path));
                if !known
                    && record.file(nodes).exists()
                    && self.record_of_others(&record)?.is_none()
                {
                    found.push(Unrecorded {
                        what: format!("session {} with {}", session.id, at(&path)),
                        mend: format!("iscsiadm -m session -r {} --logout", session.id),
                        own: true,
                    });
                }
            }
        }
        Ok(found)
    }
}

/// Whether the volume goes by a session with that target at that portal.
fn has(volume: &HostVolume, path: &TargetPath) -> bool {
    let planned: &[TargetPath] = match &volume.plan.connection {
        Connection::Iscsi(target) => &target.paths,
        _ => &[],
    };
    let mut paths = planned.iter().chain(&volume.found.paths);
    paths.any(|it| (&it.portal, &it.name) == (&path.portal, &path.name))
}
