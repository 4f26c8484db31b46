//! Rewrites records of earlier versions to this version. Parts of unexpected shape stay as they are, and decoding then refuses the record.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Upgrades version 1, which named the shared connection in one text, kept plan and findings in one object, and found disks in domains by
/// alias alone.
pub(super) fn from_1(record: &mut Value) {
    let Some(host) = record.get_mut("host").and_then(Value::as_object_mut) else {
        return;
    };
    let path = host.get("path").cloned().unwrap_or_default();
    let claims = match host.remove("shared").as_ref().and_then(Value::as_str) {
        Some(shared) => claims(shared, host.get("target")),
        None if host.get("kind").is_some_and(|kind| kind == "block") => {
            vec![json!({"device": path})]
        }
        None => Vec::new(),
    };
    host.insert("claims".to_owned(), json!(claims));
    let parts = ["mount", "target"].map(|name| host.remove(name).unwrap_or_default());
    let (connection, found) = match parts {
        [Value::Null, Value::Null] => (json!("none"), json!({})),
        [Value::Null, mut target] => {
            let verified = target.as_object_mut().and_then(|it| it.remove("verified"));
            let device = verified
                .filter(|identity| !identity.is_null())
                .map(|identity| json!({"path": path, "identity": identity}));
            let of_nvme = host.get("protocol").is_some_and(|it| it == "nvmeof");
            let kind = if of_nvme { "nvme" } else { "iscsi" };
            (json!({kind: target}), json!({"device": device}))
        }
        [mount, _] => (json!({"mount": mount}), json!({})),
    };
    host.insert("connection".to_owned(), connection);
    let plan = Value::Object(std::mem::take(host));
    record["host"] = json!({"plan": plan, "found": found});
    if let Some(disk) = record.get_mut("disk").and_then(Value::as_object_mut) {
        // Not always the volume's path: a reconnected volume may have another name.
        let source = disk.get("xml").and_then(Value::as_str).and_then(source);
        disk.insert("source".to_owned(), source.map_or(path, Value::String));
    }
}

/// Finds the source in a disk's XML as this daemon writes it: `<source file="…">` or `<source dev="…">`.
fn source(xml: &str) -> Option<String> {
    let (_, rest) = xml.split_once("<source ")?;
    let rest = ["file=", "dev="]
        .iter()
        .find_map(|key| rest.strip_prefix(key))?;
    let quote = rest.chars().next()?;
    let (value, _) = rest.get(1..)?.split_once(quote)?;
    let mut plain = value.to_owned();
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ] {
        plain = plain.replace(entity, character);
    }
    Some(plain)
}

fn claims(shared: &str, target: Option<&Value>) -> Vec<Value> {
    let paths = target.and_then(|target| target.get("paths")?.as_array());
    if let Some(nqn) = shared.strip_prefix("nvmeof:") {
        let portals = paths.into_iter().flatten();
        let mut portals: Vec<&str> = portals
            .filter_map(|path| path.get("portal")?.as_str())
            .collect();
        portals.sort_unstable();
        portals.dedup();
        let controllers = portals
            .into_iter()
            .map(|portal| json!({"controller": {"subsystem": nqn, "portal": portal}}));
        return std::iter::once(json!({"subsystem": nqn}))
            .chain(controllers)
            .collect();
    }
    if !shared.starts_with("iscsi:") {
        return vec![json!({"mount": shared})];
    }
    // In the order of a plan's claims: locks are taken in this order, and equal lists are equal connections.
    let luns: BTreeSet<(&str, Option<u64>)> = paths
        .into_iter()
        .flatten()
        .filter_map(|path| Some((path.get("name")?.as_str()?, path.get("lun")?.as_u64())))
        .collect();
    luns.into_iter()
        .map(|(target, lun)| json!({"lun": {"target": target, "lun": lun}}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Claim;

    #[test]
    fn the_luns_of_several_targets_are_claimed_in_the_order_of_a_plan() {
        let path = |name: &str, portal: &str, lun: u64| json!({"name": name, "portal": portal, "lun": lun});
        let target = json!({"paths": [
            path("iqn.b", "10.0.0.1:3260", 1),
            path("iqn.a", "10.0.0.2:3260", 10),
            path("iqn.a", "10.0.0.2:3260", 9),
            path("iqn.b", "10.0.0.3:3260", 1),
        ]});
        let claims = claims("iscsi:x", Some(&target));
        let claims: Vec<Claim> = serde_json::from_value(Value::Array(claims)).unwrap();
        assert_eq!(claims.len(), 3);
        assert!(claims.is_sorted(), "{claims:?}");
    }

    #[test]
    fn the_source_is_what_the_domain_was_given() {
        for (xml, expected) in [
            (
                r#"<disk type="block"><source dev="/dev/sdb"/></disk>"#,
                Some("/dev/sdb"),
            ),
            (
                "<disk><source file='/mnt/a&amp;b&quot;'/><target/></disk>",
                Some("/mnt/a&b\""),
            ),
            ("<disk><source/></disk>", None),
            ("<disk><source file='/mnt", None),
            ("", None),
        ] {
            assert_eq!(source(xml).as_deref(), expected, "{xml}");
        }
        let mut record = json!({
            "host": {"protocol": "iscsi", "path": "/dev/sdc", "shared": "iscsi:x"},
            "disk": {"xml": r#"<disk><source dev="/dev/sdb"/></disk>"#},
        });
        from_1(&mut record);
        assert_eq!(record["disk"]["source"], "/dev/sdb");
    }
}
