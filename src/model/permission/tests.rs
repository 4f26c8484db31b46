use proptest::prelude::*;

use super::*;
use crate::model::{Identity, Via};

const ME: &str = "me";

/// One of me, of my groups `g` and `p`.
fn me() -> Asker {
    Asker {
        user_id: ME.into(),
        groups: vec!["g".into(), "p".into()],
    }
}

fn rights(permissions: &str, user: &str, group: &str) -> VolumeRights {
    let some = |id: &str| (!id.is_empty()).then(|| id.to_owned());
    VolumeRights {
        owner: VolumeOwner {
            user_id: some(user),
            group_id: some(group),
            ..VolumeOwner::default()
        },
        permissions: permissions.parse().ok(),
        set_here: false,
    }
}

fn used(user: &str, access: Access) -> Use {
    Use {
        user_id: user.into(),
        access,
    }
}

fn ask(asker: &Asker, rights: &VolumeRights, uses: &[Use]) -> Result<Access, AccessDenied> {
    let decided = AccessQuestion {
        asker,
        rights,
        uses,
        boot: false,
        require_rw: false,
        read_only_by: Vec::new(),
    }
    .decide();
    decided.map(|decision| decision.access)
}

fn refused(decided: Result<Access, AccessDenied>) -> bool {
    matches!(decided, Err(AccessDenied::Permissions { .. }))
}

use Access::{ReadOnly, ReadWrite};

#[test]
fn attached_read_write_by_me() {
    let uses = [used(ME, ReadWrite)];
    assert_eq!(ask(&me(), &rights("", "", ""), &uses), Ok(ReadWrite));
    assert_eq!(ask(&me(), &rights("640", ME, ""), &uses), Ok(ReadWrite));
    // It lifts the one rule, not the permissions.
    assert_eq!(ask(&me(), &rights("440", ME, ""), &uses), Ok(ReadOnly));
}

#[test]
fn attached_by_another() {
    for permissions in ["", "777"] {
        let rights = rights(permissions, ME, "g");
        for uses in [
            vec![used("you", ReadWrite)],
            vec![used("", ReadWrite)],
            vec![used(ME, ReadWrite), used("you", ReadWrite)],
        ] {
            assert_eq!(ask(&me(), &rights, &uses), Ok(ReadOnly), "{uses:?}");
        }
        let readers = [used("you", ReadOnly), used("", ReadOnly)];
        assert_eq!(ask(&me(), &rights, &readers), Ok(ReadWrite));
    }
    let unknown = Asker::default();
    let uses = [used("", ReadWrite)];
    assert_eq!(ask(&unknown, &rights("", "", ""), &uses), Ok(ReadOnly));
}

#[test]
fn owner_6_and_4() {
    assert_eq!(ask(&me(), &rights("600", ME, ""), &[]), Ok(ReadWrite));
    assert_eq!(ask(&me(), &rights("400", ME, ""), &[]), Ok(ReadOnly));
    // The owner's digit alone counts, also where others have more.
    assert_eq!(ask(&me(), &rights("466", ME, "g"), &[]), Ok(ReadOnly));
    assert!(refused(ask(&me(), &rights("266", ME, "g"), &[])));
}

#[test]
fn others_4_6_and_0() {
    assert_eq!(ask(&me(), &rights("004", "you", "h"), &[]), Ok(ReadOnly));
    assert_eq!(ask(&me(), &rights("006", "you", "h"), &[]), Ok(ReadWrite));
    assert!(refused(ask(&me(), &rights("770", "you", "h"), &[])));
    // An owner who is not known is nobody.
    assert!(refused(ask(&me(), &rights("770", "", ""), &[])));
    let mut nobody = rights("770", "", "");
    nobody.owner.user_id = Some(String::new());
    assert!(refused(ask(&Asker::default(), &nobody, &[])));
}

#[test]
fn group() {
    assert_eq!(ask(&me(), &rights("640", "you", "g"), &[]), Ok(ReadOnly));
    assert_eq!(ask(&me(), &rights("664", "you", "p"), &[]), Ok(ReadWrite));
    assert!(refused(ask(&me(), &rights("606", "you", "g"), &[])));
}

#[test]
fn the_project_counts_as_a_group() {
    let actor = Actor {
        via: Via::Keystone,
        user: Some(Identity {
            user_id: ME.into(),
            project_id: Some("p".into()),
            groups: vec!["g".into()],
            ..Identity::default()
        }),
        service: None,
        until: None,
    };
    assert_eq!(Asker::from(&actor), me());
}

#[test]
fn booting_needs_x() {
    let boot = |permissions| {
        AccessQuestion {
            asker: &me(),
            rights: &rights(permissions, ME, ""),
            uses: &[],
            boot: true,
            require_rw: false,
            read_only_by: Vec::new(),
        }
        .decide()
    };
    assert_eq!(boot("700").unwrap().access, ReadWrite);
    assert_eq!(boot("500").unwrap().access, ReadOnly);
    assert_eq!(boot("").unwrap().access, ReadWrite);
    assert_eq!(
        boot("600").unwrap_err().to_string(),
        "the volume's permissions 600 do not let its owner boot from it: have its owner or an administrator change them"
    );
}

#[test]
fn who_requires_read_write_is_told_why_not() {
    let decided = AccessQuestion {
        asker: &me(),
        rights: &rights("640", "you", "g"),
        uses: &[used("you", ReadWrite)],
        boot: false,
        require_rw: true,
        read_only_by: vec![AccessSource::AccessMode],
    }
    .decide();
    assert_eq!(
        decided.unwrap_err().to_string(),
        "the volume can only be attached read-only, and read-write is required: the connection info's access_mode is ro; \
         user you has the volume attached read-write; the volume's permissions 640 do not let its group write"
    );
}

fn users() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", ME, "you", "g", "p"]).prop_map(str::to_owned)
}

prop_compose! {
    fn any_rights()(digits in prop::array::uniform3(0..8u8), known: bool, user in users(), group in users()) -> VolumeRights {
        let permissions = known.then(|| digits.map(|digit| digit.to_string()).concat());
        rights(&permissions.unwrap_or_default(), &user, &group)
    }
}

fn any_uses() -> impl Strategy<Value = Vec<Use>> {
    let access = prop::bool::ANY.prop_map(|write| if write { ReadWrite } else { ReadOnly });
    let one = (users(), access).prop_map(|(user, access)| used(&user, access));
    prop::collection::vec(one, 0..4)
}

fn rank(decided: &Result<AccessDecision, AccessDenied>) -> u8 {
    match decided {
        Err(_) => 0,
        Ok(decision) if decision.access.is_read_only() => 1,
        Ok(_) => 2,
    }
}

proptest! {
    /// What is decided is what the rules say, each asked by itself.
    #[test]
    fn no_rule_is_passed_by(
        rights in any_rights(), uses in any_uses(), boot: bool, require_rw: bool, said: bool, user in users(),
    ) {
        let asker = Asker { user_id: user, ..me() };
        let read_only_by = if said { vec![AccessSource::Request] } else { vec![] };
        let decided = AccessQuestion {
            asker: &asker, rights: &rights, uses: &uses, boot, require_rw, read_only_by,
        }.decide();
        let digit = rights.permissions.map_or(7, |permissions| {
            let id = Some(asker.user_id.clone()).filter(|id| !id.is_empty());
            if id.is_some() && rights.owner.user_id == id {
                permissions.owner()
            } else if rights.owner.group_id.as_ref().is_some_and(|group| asker.groups.contains(group)) {
                permissions.group()
            } else {
                permissions.others()
            }
        });
        let foreign = uses.iter().any(|other| {
            other.access == ReadWrite && (other.user_id.is_empty() || other.user_id != asker.user_id)
        });
        let allowed = digit & 4 != 0 && (!boot || digit & 1 != 0);
        let writes = allowed && digit & 2 != 0 && !foreign && !said;
        let expected = match (allowed, writes, require_rw) {
            (true, true, _) => 2,
            (true, false, false) => 1,
            _ => 0,
        };
        prop_assert_eq!(rank(&decided), expected, "{:?}", decided);
    }

    /// Less permission, one more writer, or one more who says read-only never gives more.
    #[test]
    fn less_never_gives_more(
        rights in any_rights(), uses in any_uses(), boot: bool, require_rw: bool, place in 0..9u32, more in users(),
    ) {
        let asker = me();
        let ask = |rights: &VolumeRights, uses: &[Use], read_only_by| rank(&AccessQuestion {
            asker: &asker, rights, uses, boot, require_rw, read_only_by,
        }.decide());
        let before = ask(&rights, &uses, vec![]);
        let mut less = rights.clone();
        less.permissions = rights.permissions.map(|permissions| {
            let mut digits = [permissions.owner(), permissions.group(), permissions.others()];
            digits[place as usize / 3] &= !(1 << (place % 3));
            digits.map(|digit| digit.to_string()).concat().parse().unwrap()
        });
        prop_assert!(ask(&less, &uses, vec![]) <= before);
        let mut one_more = uses.clone();
        one_more.push(used(&more, ReadWrite));
        prop_assert!(ask(&rights, &one_more, vec![]) <= before);
        prop_assert!(ask(&rights, &uses, vec![AccessSource::Configuration]) <= before);
    }
}
