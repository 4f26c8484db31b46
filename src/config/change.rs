//! From one configuration to the next, in a daemon that runs.

use super::Settings;

impl Settings {
    /// What a daemon that runs by `running` can go over to: these settings, but for the keys that hold from a start to the end. Those of them
    /// that have another value here are named.
    #[must_use]
    pub fn over(mut self, running: &Self) -> (Self, Vec<&'static str>) {
        let mut waiting = Vec::new();
        let (new, old) = (&mut self, running);
        let mut keep = Keep(&mut waiting);
        // The journal is open, and its records name the directories of the mounts.
        keep.as_it_is("state_dir", &mut new.state_dir, &old.state_dir);
        keep.as_it_is("mount_base", &mut new.mount_base, &old.mount_base);
        // Sockets stay, so that no caller finds none.
        let key = "metrics_listen";
        keep.as_it_is(key, &mut new.metrics_listen, &old.metrics_listen);
        // What counts I/O keeps what it has read.
        keep.as_it_is("metrics_io", &mut new.metrics_io, &old.metrics_io);
        // What waits in the queue goes where it was to go.
        let key = "otlp_endpoint";
        keep.as_it_is(key, &mut new.otlp_endpoint, &old.otlp_endpoint);
        keep.as_it_is("listen.socket", &mut new.listen.socket, &old.listen.socket);
        keep.as_it_is("listen.group", &mut new.listen.group, &old.listen.group);
        match (&mut new.listen.tls, &old.listen.tls) {
            (Some(new), Some(old)) => {
                let key = "listen.tls.addresses";
                keep.as_it_is(key, &mut new.addresses, &old.addresses);
            }
            (new, old) => keep.as_it_is("listen.tls", new, old),
        }
        // The connection carries the events of the domains.
        keep.as_it_is("libvirt.uri", &mut new.libvirt.uri, &old.libvirt.uri);
        // Node records and sessions of the plans in the journal go by them; the record with its CHAP password would stay in the old directory.
        keep.as_it_is("iscsi.nodes", &mut new.iscsi.nodes, &old.iscsi.nodes);
        let key = "iscsi.interface";
        keep.as_it_is(key, &mut new.iscsi.interface, &old.iscsi.interface);
        // Agreed on with each client as it connects.
        let (new, old) = (&mut new.limits, &old.limits);
        keep.as_it_is("limits.streams", &mut new.streams, &old.streams);
        keep.as_it_is("limits.keepalive", &mut new.keepalive, &old.keepalive);
        (self, waiting)
    }

    /// The tables, and keys that are in none, that are not the same.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Vec<&'static str> {
        let parts = [
            ("listen", self.listen != old.listen),
            ("policy", self.policy != old.policy),
            ("audit_file", self.audit_file != old.audit_file),
            ("metrics_file", self.metrics_file != old.metrics_file),
            ("auth", self.auth != old.auth),
            ("keystone", self.keystone != old.keystone),
            ("libvirt", self.libvirt != old.libvirt),
            ("smb", self.smb != old.smb),
            ("nfs", self.nfs != old.nfs),
            ("local", self.local != old.local),
            ("detach", self.detach != old.detach),
            ("iscsi", self.iscsi != old.iscsi),
            ("nvmeof", self.nvmeof != old.nvmeof),
            ("limits", self.limits != old.limits),
        ];
        let changed = parts.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(name, _)| name).collect()
    }
}

/// The keys that wait for a start.
struct Keep<'a>(&'a mut Vec<&'static str>);

impl Keep<'_> {
    fn as_it_is<T: Clone + PartialEq>(&mut self, key: &'static str, new: &mut T, old: &T) {
        if new != old {
            new.clone_from(old);
            self.0.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::config::tests::{EVERY_KEY, settings};
    use crate::config::{ListenTls, Settings};

    #[test]
    fn keys_that_hold_until_the_end_are_kept_and_named_and_the_others_change() {
        let running = Settings::built_in();
        let new = settings(EVERY_KEY).unwrap();
        let (over, waiting) = new.clone().over(&running);
        let mut kept = new.clone();
        kept.state_dir = running.state_dir.clone();
        kept.mount_base = running.mount_base.clone();
        kept.metrics_listen = None;
        kept.metrics_io = running.metrics_io;
        kept.otlp_endpoint = None;
        kept.listen = running.listen.clone();
        kept.libvirt.uri = running.libvirt.uri.clone();
        kept.iscsi.nodes = running.iscsi.nodes.clone();
        kept.iscsi.interface = running.iscsi.interface.clone();
        kept.limits.streams = running.limits.streams;
        kept.limits.keepalive = running.limits.keepalive;
        assert_eq!(over, kept);
        let documented = include_str!("../../docs/configuration.md");
        let (_, list) = documented.split_once("Needs a restart: ").unwrap();
        let (list, _) = list.split_once(".\n").unwrap();
        let documented: BTreeSet<_> = list.split('`').skip(1).step_by(2).collect();
        let mut waiting: BTreeSet<_> = waiting.into_iter().collect();
        // Those of a table that this document has not.
        waiting.extend(["listen.tls", "listen.tls.addresses"]);
        assert_eq!(waiting, documented);
        let changed: BTreeSet<_> = over.changed_since(&running).into_iter().collect();
        let tables = EVERY_KEY
            .lines()
            .filter_map(|line| line.trim().strip_prefix('['));
        for table in tables {
            let name = table.split(['.', ']']).next().unwrap();
            assert!(name == "listen" || changed.contains(name), "{name}");
        }
        assert!(changed.contains("audit_file") && changed.contains("metrics_file"));
        assert!(over.changed_since(&over).is_empty());
    }

    #[test]
    fn tls_may_have_other_files_and_no_other_addresses() {
        let tls = |file: &str, port| ListenTls {
            addresses: vec![([127, 0, 0, 1], port).into()],
            certificate: file.into(),
            key: file.into(),
            client_ca: file.into(),
        };
        let with = |tls| {
            let mut settings = Settings::built_in();
            settings.listen.tls = Some(tls);
            settings
        };
        let (over, waiting) = with(tls("/new", 2)).over(&with(tls("/old", 1)));
        assert_eq!(over, with(tls("/new", 1)));
        assert_eq!(waiting, ["listen.tls.addresses"]);
        let (over, waiting) = Settings::built_in().over(&with(tls("/old", 1)));
        assert_eq!(over, with(tls("/old", 1)));
        assert_eq!(waiting, ["listen.tls"]);
    }
}
