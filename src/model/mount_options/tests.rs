use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const TABLES: [(&str, &Table); 2] = [("## Mount options", &SMB), ("## NFS mount options", &NFS)];

fn names(table: &Table) -> Vec<&'static str> {
    table.allowed.iter().map(|spec| spec.name).collect()
}

#[test]
fn the_reference_lists_exactly_what_is_allowed() {
    let text = include_str!("../../../docs/connection-info.md");
    for (heading, table) in TABLES {
        let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap();
        let section = rest
            .split_once("\n## ")
            .map_or(rest, |(section, _)| section);
        let documented: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once(" |"))
            .flat_map(|(options, _)| options.split(['`', ',', ' ']))
            .filter(|word| !word.is_empty())
            .collect();
        assert_eq!(documented, names(table).into_iter().collect(), "{heading}");
        for dropped in table.dropped {
            assert!(section.contains(&format!("`{dropped}`")), "{dropped}");
        }
    }
}

#[test]
fn no_option_is_on_two_lists_and_what_is_replaced_is_known() {
    for (heading, table) in TABLES {
        let mut all = names(table);
        all.extend(table.deployer.iter().map(|spec| spec.name));
        all.extend(table.dropped);
        all.extend(table.refused.iter().flat_map(|(names, _)| names.iter()));
        let once: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), once.len(), "{heading}");
        for spec in table.allowed {
            for replaced in spec.replaces {
                assert!(names(table).contains(replaced), "{replaced}");
            }
        }
    }
}

#[test]
fn a_deployer_may_use_a_little_more_and_no_credentials() {
    let check = |name, value, author| SMB.check(name, Some(value), author).is_ok();
    assert!(check("srcaddr", "10.0.0.1", Author::Deployer));
    assert!(check("srcaddr", "fd00::1", Author::Deployer));
    assert!(!check("srcaddr", "nas", Author::Deployer));
    assert!(!check("srcaddr", "10.0.0.1", Author::ConnectionInfo));
    for name in ["username", "password", "credentials", "sec", "vers"] {
        assert!(!check(name, "krb5", Author::Deployer), "{name}");
    }
}

proptest! {
    #[test]
    fn what_is_spelled_is_spelled_the_same_again(
        index in 0..SMB.allowed.len(),
        value in proptest::option::of("[0-9]{1,9}|none|utf8|3\\.02|ntlmssp"),
    ) {
        let name = SMB.allowed[index].name;
        if let Ok(Some((name, value))) = SMB.check(name, value.as_deref(), Author::ConnectionInfo) {
            let again = SMB.check(&name, value.as_deref(), Author::ConnectionInfo);
            prop_assert_eq!(again, Ok(Some((name, value))));
        }
    }

    #[test]
    fn merging_leaves_no_contradiction_and_the_last_word_to_the_last(
        first in prop::collection::vec(0..SMB.allowed.len(), 0..12),
        last in prop::collection::vec(0..SMB.allowed.len(), 1..6),
    ) {
        let layer = |indexes: &[usize]| -> Vec<MountOption> {
            indexes.iter().map(|i| (SMB.allowed[*i].name.to_owned(), None)).collect()
        };
        let (first, last) = (layer(&first), layer(&last));
        let merged = SMB.merge([(Origin::Default, &*first), (Origin::Mandatory, &*last)]);
        let names: BTreeSet<&str> = merged.iter().map(|option| option.name.as_str()).collect();
        prop_assert_eq!(names.len(), merged.len());
        for (at, option) in merged.iter().enumerate() {
            let spec = SMB.allowed.iter().find(|spec| spec.name == option.name).unwrap();
            for earlier in &merged[..at] {
                prop_assert!(!spec.replaces.contains(&earlier.name.as_str()));
            }
        }
        let (name, _) = last.last().unwrap();
        let found = merged.iter().find(|option| option.name == *name);
        prop_assert_eq!(found.map(|option| option.origin), Some(Origin::Mandatory));
    }
}
