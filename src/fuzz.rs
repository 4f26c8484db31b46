//! The door through which fuzzers come to every parser of outside input, private ones included: built for tests and with
//! the feature `fuzzing` alone.
//!
//! A target lives beside what it tries, in its layer's `fuzz.rs`, and asserts properties, not only that nothing panics. The
//! unit test here runs each over its seeds (`fuzz/seeds/TARGET`) and mutations of them; `fuzz/run` gives them to libFuzzer.

use crate::{api, backend, config, connection, host, journal, libvirt, model, policy, sys};

/// What a target takes.
#[derive(Clone, Copy)]
enum Input {
    /// Any bytes.
    Bytes(fn(&[u8])),
    /// Any text: bytes that are none are passed over.
    Text(fn(&str)),
}
use Input::{Bytes, Text};

const TARGETS: &[(&str, Input)] = &[
    ("cifs_stats", Text(sys::fuzz::cifs_stats)),
    ("cinder_json", Text(connection::fuzz::cinder_json)),
    ("disk_xml", Text(libvirt::fuzz::disk_xml)),
    ("domain_xml", Text(libvirt::fuzz::domain_xml)),
    ("grpc", Bytes(api::fuzz::grpc)),
    ("grpc_timeout", Text(api::fuzz::grpc_timeout)),
    ("host_names", Text(host::fuzz::host_names)),
    ("image", Bytes(backend::fuzz::image)),
    ("iscsi_record", Text(backend::iscsi::fuzz::iscsi_record)),
    ("iscsi_sysfs", Text(backend::iscsi::fuzz::iscsi_sysfs)),
    ("iscsiadm", Text(backend::iscsi::fuzz::iscsiadm)),
    ("journal", Bytes(journal::fuzz::journal)),
    ("mountinfo", Bytes(sys::fuzz::mountinfo)),
    ("mountstats", Text(sys::fuzz::mountstats)),
    ("multipathd", Text(backend::iscsi::fuzz::multipathd)),
    ("nfs_rpc", Bytes(backend::nfs::fuzz::nfs_rpc)),
    ("nvme_identify", Bytes(sys::fuzz::nvme_identify)),
    ("nvme_sysfs", Text(backend::nvmeof::fuzz::nvme_sysfs)),
    ("page_token", Text(api::fuzz::page_token)),
    ("policy_decide", Text(policy::fuzz::policy_decide)),
    ("policy_file", Text(policy::fuzz::policy_file)),
    ("policy_rule", Text(policy::fuzz::policy_rule)),
    ("scsi_identity", Bytes(sys::fuzz::scsi_identity)),
    ("settings", Text(config::fuzz::settings)),
    ("smb_credentials", Text(backend::smb::fuzz::smb_credentials)),
    ("smb_negotiate", Bytes(backend::smb::fuzz::smb_negotiate)),
    ("smb_options", Text(connection::fuzz::smb_options)),
    ("watch_token", Text(api::fuzz::watch_token)),
    ("words", Text(model::fuzz::words)),
    ("worker", Bytes(sys::fuzz::worker)),
    ("xenstore", Bytes(libvirt::fuzz::xenstore)),
];

/// The targets' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|(name, _)| *name)
}

/// Runs a target over an input.
///
/// # Panics
/// Where what the target asserts does not hold, and where there is none of that name.
pub fn run(target: &str, input: &[u8]) {
    let known = TARGETS.iter().find(|(name, _)| *name == target);
    assert!(known.is_some(), "no target is named {target:?}");
    match known {
        Some((_, Bytes(of))) => of(input),
        Some((_, Text(of))) => {
            if let Ok(text) = std::str::from_utf8(input) {
                of(text);
            }
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn seeds_of(target: &str) -> Vec<Vec<u8>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut seeds = Vec::new();
        for entry in fs::read_dir(root.join("fuzz/seeds").join(target)).unwrap() {
            seeds.push(fs::read(entry.unwrap().path()).unwrap());
        }
        seeds
    }

    #[test]
    fn every_target_has_seeds_and_every_seed_a_target() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        let there: BTreeSet<String> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(there, names().map(ToOwned::to_owned).collect());
        for name in names() {
            assert!(!seeds_of(name).is_empty(), "{name}");
        }
    }

    /// One change of an input: a cut, bytes put over others, a piece repeated, another seed's piece put in.
    fn mutation() -> impl Strategy<Value = (u8, prop::sample::Index, prop::sample::Index, Vec<u8>)>
    {
        let odd = prop::sample::select(
            &[
                "\0",
                "\n",
                "\r\n",
                "\x1b[2J",
                "\u{202e}",
                ",",
                "=",
                "..",
                "/",
                "//",
                "\\",
                "\"",
                "'",
                "<",
                "&",
                "]]>",
                "%(",
                ")",
                "{",
                "[",
                "ro",
                "rw",
                "not ",
                "\u{feff}",
                "-1",
                "18446744073709551616",
                "\u{ff}\u{ff}",
            ][..],
        );
        let bytes = prop_oneof![
            odd.prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..5),
        ];
        (
            0..4u8,
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            bytes,
        )
    }

    fn mutated(
        mut input: Vec<u8>,
        change: &(u8, prop::sample::Index, prop::sample::Index, Vec<u8>),
    ) -> Vec<u8> {
        let (kind, from, to, bytes) = change;
        let [a, b] = [from.index(input.len() + 1), to.index(input.len() + 1)];
        let (from, to) = (a.min(b), a.max(b));
        match kind {
            0 => input.truncate(to),
            1 => drop(input.splice(from..to.min(from + bytes.len()), bytes.iter().copied())),
            2 => drop(input.splice(from..from, bytes.iter().copied())),
            _ => {
                let piece = input[from..to.min(from + 64)].to_vec();
                drop(input.splice(to..to, piece));
            }
        }
        input
    }

    #[test]
    fn every_target_holds_over_its_seeds_and_their_mutations() {
        for name in names() {
            let seeds = seeds_of(name);
            for seed in &seeds {
                run(name, seed);
            }
            let inputs = (
                prop::sample::select(seeds),
                prop::collection::vec(mutation(), 1..6),
            );
            let mut runner = TestRunner::new(Config {
                cases: 1024,
                failure_persistence: None,
                ..Config::default()
            });
            let result = runner.run(&inputs, |(seed, changes)| {
                run(name, &changes.iter().fold(seed, mutated));
                Ok(())
            });
            if let Err(error) = result {
                panic!("{name}: {error}");
            }
        }
    }
}
