//! The composite decision: each caller, each call, and the mistakes that must not let anybody in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::{Admission, Denied, Object};
use crate::model::{Actor, Identity, Reason, Via, VolumeOwner};
use crate::policy::fuzz::now;
use crate::policy::{Fault, PolicyFiles, PolicyStore, Privilege, Question, Remote, Rpc};

const AUDITS: &str = "volume-auditor";

fn with_policy(text: &str) -> Admission {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, text).unwrap();
    let files = PolicyFiles {
        file,
        ..PolicyFiles::default()
    };
    let policy = PolicyStore::open(files, |_| {}).unwrap();
    // The file is gone after this, and the policy that was read goes on.
    Admission::new(policy, Some(AUDITS.to_owned()))
}

fn half(user: &str, project: &str, roles: &[&str]) -> Option<Identity> {
    Some(Identity {
        user_id: user.to_owned(),
        project_id: Some(project.to_owned()),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..Identity::default()
    })
}

fn keystone(user: Option<Identity>, service: Option<Identity>) -> Actor {
    Actor {
        via: Via::Keystone,
        user,
        service,
        until: None,
    }
}

fn of_project(project: &str) -> Object {
    Object {
        owner: VolumeOwner {
            project_id: Some(project.to_owned()),
            ..VolumeOwner::default()
        },
        ..Object::default()
    }
}

fn may(admission: &Admission, actor: &Actor, rpc: Rpc, about: &Object) -> bool {
    let caller = Arc::new(now(admission.caller(actor.clone())));
    let admitted = now(caller.admit(rpc, None, vec![about.clone()], ()));
    if let Err(denied) = &admitted {
        assert_eq!(denied.reason(), Reason::PermissionDenied);
    }
    admitted.is_ok()
}

fn nova() -> Option<Identity> {
    half("nova", "services", &["service"])
}

#[test]
fn what_goes_on_is_decided_by_the_policy_of_its_moment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    let write = |rule: &str| {
        let text = format!("'volume:attachment_watch': '{rule}'\n");
        std::fs::write(&file, text).unwrap();
    };
    write("role:member");
    let files = PolicyFiles {
        file: file.clone(),
        ..PolicyFiles::default()
    };
    let admission = Admission::new(PolicyStore::open(files, |_| {}).unwrap(), None);
    let caller = Arc::new(now(
        admission.caller(keystone(half("u", "p", &["member"]), None))
    ));
    let about = of_project("p");
    let admitted = now(caller.admit(Rpc::WatchAttachments, None, vec![about.clone()], ()));
    let mut grant = admitted.unwrap().grant().clone();
    for (rule, seen) in [("role:other", false), ("role:member ", true)] {
        write(rule);
        admission.refresh();
        admission.refresh();
        grant = now(admission.renewed(grant));
        assert_eq!(now(grant.sees(&about)), Ok(seen), "{rule}");
        assert_eq!(grant.actor().via, Via::Keystone);
    }
}

#[test]
fn connect_and_disconnect_need_both_halves_whatever_the_policy_says() {
    let open = with_policy(
        "'volume_extension:volume_actions:initialize_connection': '@'\n\
         'volume_extension:volume_actions:terminate_connection': '@'\n",
    );
    let closed = with_policy(
        "'volume_extension:volume_actions:initialize_connection': '!'\n\
         'volume_extension:volume_actions:terminate_connection': '!'\n",
    );
    let member = half("u", "p", &["member"]);
    let both = keystone(member.clone(), nova());
    let user = keystone(member, None);
    let admin = keystone(half("u", "p", &["admin", "service"]), None);
    for rpc in [Rpc::ConnectVolume, Rpc::DisconnectVolume] {
        let about = of_project("p");
        assert!(may(&open, &both, rpc, &about));
        assert!(!may(&open, &user, rpc, &about));
        // A user's own role of that name is no service's.
        assert!(!may(&open, &admin, rpc, &about));
        assert!(!may(&closed, &both, rpc, &about));
    }
}

#[test]
fn forgetting_needs_both_halves_and_an_administrator() {
    let about = of_project("p");
    let both = |role| keystone(half("u", "p", &[role]), nova());
    let alone = keystone(half("u", "p", &["admin"]), None);
    let rpc = Rpc::ForgetAttachment;
    let admission = with_policy("");
    assert!(may(&admission, &both("admin"), rpc, &about));
    assert!(!may(&admission, &both("member"), rpc, &about));
    // Of a record that cannot be read, nothing tells whose it is.
    assert!(may(&admission, &both("admin"), rpc, &Object::default()));
    let open = with_policy("'volume:host_forget': '@'\n");
    assert!(may(&open, &both("member"), rpc, &about));
    assert!(!may(&open, &alone, rpc, &about));
}

#[test]
fn force_needs_both_halves_and_a_rule_of_its_own() {
    let force = |policy: &str, user: &[&str], service| {
        let caller = Arc::new(now(
            with_policy(policy).caller(keystone(half("u", "p", user), service))
        ));
        let privilege = Some(Privilege::Force);
        let about = vec![of_project("p")];
        now(caller.admit(Rpc::DetachVolume, privilege, about, ())).is_ok()
    };
    let open = "'volume_extension:volume_admin_actions:force_detach': '@'\n";
    assert!(force("", &["admin"], nova()));
    assert!(!force("", &["admin"], None));
    assert!(!force("", &["member"], nova()));
    assert!(force(open, &["member"], nova()));
    assert!(!force(open, &["member"], None));
    assert!(
        !force(open, &["reader"], nova()),
        "the call's own rule holds too"
    );
}

#[test]
fn where_keystone_is_not_asked_there_is_no_such_floor() {
    let admission = with_policy("");
    let local = Via::LocalPeer {
        uid: 0,
        gid: 0,
        pid: None,
    };
    for via in [local, Via::Certificate("nova.example".to_owned())] {
        let actor = Actor {
            via,
            user: half("uid:0", "", &["admin"]),
            service: None,
            until: None,
        };
        assert!(may(
            &admission,
            &actor,
            Rpc::ConnectVolume,
            &of_project("p")
        ));
        assert!(now(admission.caller(actor)).may_vouch());
    }
}

#[test]
fn a_services_own_volume_needs_both_halves_for_every_call() {
    let open = with_policy("default: '@'\n'volume:attachment_get': '@'\n'volume:extend': '@'\n");
    let mut about = of_project("p");
    about.owner.service_owned = true;
    let admin = half("u", "p", &["admin"]);
    for rpc in [Rpc::GetAttachment, Rpc::ExtendVolume] {
        assert!(may(&open, &keystone(admin.clone(), nova()), rpc, &about));
        assert!(!may(&open, &keystone(admin.clone(), None), rpc, &about));
        assert!(!may(&open, &keystone(None, nova()), rpc, &about));
    }
}

#[test]
fn a_service_alone_may_do_nothing_and_one_that_audits_may_read() {
    let open = with_policy("'volume:extend': '@'\n'volume:attachment_get': '!'\n");
    let alone = keystone(None, nova());
    let auditor = keystone(None, half("eve", "audits", &[AUDITS]));
    // As a user's role it means nothing.
    let user = keystone(half("eve", "audits", &[AUDITS]), None);
    let about = of_project("p");
    for rpc in [
        Rpc::GetAttachment,
        Rpc::ListAttachments,
        Rpc::WatchAttachments,
        Rpc::GetConnector,
        Rpc::Diagnose,
    ] {
        assert!(may(&open, &auditor, rpc, &about), "{rpc:?}");
        assert!(!may(&open, &alone, rpc, &about), "{rpc:?}");
        assert!(!may(&open, &user, rpc, &about), "{rpc:?}");
    }
    for rpc in [
        Rpc::ExtendVolume,
        Rpc::PlanAttach,
        Rpc::AttachVolume,
        Rpc::DetachVolume,
        Rpc::ForgetAttachment,
    ] {
        assert!(!may(&open, &auditor, rpc, &about), "{rpc:?}");
    }
}

#[test]
fn without_an_audit_role_nobody_audits() {
    let policy = PolicyStore::open(PolicyFiles::default(), |_| {}).unwrap();
    let admission = Admission::new(policy, None);
    let auditor = keystone(None, half("eve", "audits", &[AUDITS, ""]));
    assert!(!may(
        &admission,
        &auditor,
        Rpc::GetAttachment,
        &Object::default()
    ));
}

#[test]
fn the_project_must_match_and_a_missing_one_matches_nothing() {
    let admission = with_policy("");
    let member = keystone(half("u", "p", &["member"]), nova());
    assert!(may(
        &admission,
        &member,
        Rpc::AttachVolume,
        &of_project("p")
    ));
    assert!(!may(
        &admission,
        &member,
        Rpc::AttachVolume,
        &of_project("q")
    ));
    assert!(!may(
        &admission,
        &member,
        Rpc::AttachVolume,
        &Object::default()
    ));
    let mut nowhere = keystone(half("u", "p", &["member"]), nova());
    if let Some(user) = &mut nowhere.user {
        user.project_id = None;
    }
    for about in [Object::default(), of_project("None"), of_project("")] {
        assert!(!may(&admission, &nowhere, Rpc::AttachVolume, &about));
    }
}

#[test]
fn who_may_vouch_for_a_volume() {
    let admission = with_policy("");
    let vouches = |user, service| now(admission.caller(keystone(user, service))).may_vouch();
    assert!(vouches(half("u", "p", &["member"]), nova()));
    assert!(!vouches(half("u", "p", &["admin"]), None));
    assert!(!vouches(half("u", "p", &["member", "service"]), None));
    assert!(!vouches(None, nova()));
}

#[test]
fn all_that_a_request_is_about_is_decided() {
    let admission = with_policy("");
    let member = keystone(half("u", "p", &["member"]), nova());
    let caller = Arc::new(now(admission.caller(member)));
    let admit = |about| now(caller.admit(Rpc::AttachVolume, None, about, ()));
    assert!(admit(vec![of_project("p")]).is_ok());
    assert!(admit(vec![of_project("q"), of_project("p")]).is_err());
    assert!(admit(vec![of_project("p"), of_project("q")]).is_err());
    assert!(admit(vec![]).is_err(), "about nothing is about nobody's");
    let admitted = admit(vec![of_project("p")]).unwrap();
    let grant = admitted.grant();
    let volume = |id: &str| id.parse().unwrap();
    assert!(grant.covers(&of_project("p").owner, &volume("v1")));
    assert!(!grant.covers(&of_project("q").owner, &volume("v1")));
    assert!(now(grant.sees(&of_project("p"))).unwrap());
    assert!(!now(grant.sees(&of_project("q"))).unwrap());
    let of_volume = Object {
        volume: Some(volume("v1")),
        ..of_project("p")
    };
    let admitted = admit(vec![of_volume]).unwrap();
    assert!(
        admitted
            .grant()
            .covers(&of_project("p").owner, &volume("v1"))
    );
    assert!(
        !admitted
            .grant()
            .covers(&of_project("p").owner, &volume("v2"))
    );
}

#[test]
fn what_cannot_be_evaluated_is_told_apart_from_a_no() {
    let admission = with_policy("'volume:attachment_get_all': '@ and not class:x'\n");
    let admin = keystone(half("u", "p", &["admin"]), nova());
    let caller = Arc::new(now(admission.caller(admin)));
    let denied = now(caller.admit(Rpc::ListAttachments, None, vec![], ())).unwrap_err();
    assert!(matches!(denied, Denied::Undecided { .. }), "{denied}");
    // Nor may anything follow from it: that this is no administrator, for one.
    let admission =
        with_policy("context_is_admin: class:x\n'volume:extend': 'not is_admin:True'\n");
    let member = keystone(half("u", "p", &["member"]), nova());
    assert!(!may(
        &admission,
        &member,
        Rpc::ExtendVolume,
        &of_project("p")
    ));
}

/// A server that allows once, and then is gone.
#[derive(Debug, Default)]
struct Once(AtomicBool);

#[async_trait]
impl Remote for Once {
    async fn ask(&self, _: &Question) -> Result<bool, Fault> {
        match self.0.swap(true, Ordering::Relaxed) {
            false => Ok(true),
            true => Err(Fault("it is gone".to_owned())),
        }
    }
}

#[test]
fn what_nobody_answers_for_is_not_left_out_of_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, "'volume:attachment_get_all': http://h/\n").unwrap();
    let files = PolicyFiles {
        file,
        remote: Some(Arc::new(Once::default())),
        ..PolicyFiles::default()
    };
    let admission = Admission::new(PolicyStore::open(files, |_| {}).unwrap(), None);
    let member = keystone(half("u", "p", &["member"]), None);
    let caller = Arc::new(now(admission.caller(member)));
    let admitted = now(caller.admit(Rpc::ListAttachments, None, vec![of_project("p")], ()));
    let seen = now(admitted.unwrap().grant().sees(&of_project("p")));
    assert!(matches!(seen, Err(Denied::Undecided { .. })), "{seen:?}");
}

#[test]
fn the_audit_has_who_what_on_what_the_decision_and_by_which_rule() {
    let admission = with_policy("");
    let about = Object {
        attachment: Some("a1".parse().unwrap()),
        volume: Some("v1".parse().unwrap()),
        domain: Some("web".to_owned()),
        ..of_project("p")
    };
    let entry = |actor: &Actor, rpc: Rpc| {
        let caller = now(admission.caller(actor.clone()));
        let decided = now(caller.decide(rpc, &about));
        format!("{:?}", caller.entry(rpc.rule(), &about, &decided))
    };
    let both = keystone(half("u", "p", &["member"]), nova());
    let stranger = keystone(half("x", "q", &["member"]), None);
    let told = [
        entry(&both, Rpc::DetachVolume),
        entry(&stranger, Rpc::DetachVolume),
        entry(&stranger, Rpc::DisconnectVolume),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    Entry { rule: "volume:attachment_delete", user: Some("u/p"), service: Some("nova/services"), volume: Some("v1"), attachment: Some("a1"), domain: Some("web"), owner_project: Some("p"), decision: "allow", by: "rule \"volume:attachment_delete\" says so" }
    Entry { rule: "volume:attachment_delete", user: Some("x/q"), service: None, volume: Some("v1"), attachment: Some("a1"), domain: Some("web"), owner_project: Some("p"), decision: "deny", by: "rule \"volume:attachment_delete\" says so" }
    Entry { rule: "volume_extension:volume_actions:terminate_connection", user: Some("x/q"), service: None, volume: Some("v1"), attachment: Some("a1"), domain: Some("web"), owner_project: Some("p"), decision: "deny", by: "volume_extension:volume_actions:terminate_connection is for services that call for a user, whatever the policy says: call with a user's token and a service's" }
    "#);
}
