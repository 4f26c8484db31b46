//! Which tokens make whom.

use std::time::SystemTime;

use volattach::model::{Reason, Via};

use crate::proxy::Proxy;
use crate::{authenticator, local, shared, who};

const REFUSED: Reason = Reason::Unauthenticated;

#[tokio::test(flavor = "multi_thread")]
async fn a_users_token_makes_the_users_half() {
    let keystone = shared();
    let authenticator = authenticator(&keystone.settings());
    let token = keystone.token("member", "demo");
    let actor = who(&authenticator, &[&token], &[]).await.unwrap();
    assert_eq!((actor.via, actor.service), (Via::Keystone, None));
    let user = actor.user.unwrap();
    assert_eq!(user.user_id, keystone.id("member"));
    assert_eq!(user.user_name, "member");
    assert_eq!(user.user_domain_id.as_deref(), Some("default"));
    assert_eq!(user.project_id.as_deref(), Some(keystone.id("demo")));
    assert_eq!(user.project_domain_id.as_deref(), Some("default"));
    assert_eq!((user.domain_id, user.system), (None, false));
    assert!(!user.is_admin_project && user.groups.is_empty());
    assert!(
        user.roles.contains(&"member".to_owned()),
        "{:?}",
        user.roles
    );
    assert!(actor.until.unwrap() > SystemTime::now());

    let token = keystone.system_token();
    let actor = who(&authenticator, &[&token], &[]).await.unwrap();
    let user = actor.user.unwrap();
    assert!(user.system && user.project_id.is_none());
    assert!(user.roles.contains(&"admin".to_owned()), "{:?}", user.roles);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_halves_are_kept_apart() {
    let keystone = shared();
    let authenticator = authenticator(&keystone.settings());
    let (user, service) = (
        keystone.token("stranger", "other"),
        keystone.token("nova", "service"),
    );
    let actor = who(&authenticator, &[&user], &[&service]).await.unwrap();
    let (user, service) = (actor.user.unwrap(), actor.service.unwrap());
    assert_eq!(user.project_id.as_deref(), Some(keystone.id("other")));
    assert_eq!(service.project_id.as_deref(), Some(keystone.id("service")));
    assert!(!user.roles.contains(&"service".to_owned()));
    assert_eq!(service.roles, ["service"]);
    assert_eq!(service.user_id, keystone.id("nova"));

    // A user's own role of that name is the user's.
    let pretender = keystone.token("pretender", "demo");
    let actor = who(&authenticator, &[&pretender], &[]).await.unwrap();
    assert!(actor.user.unwrap().roles.contains(&"service".to_owned()));
    assert_eq!(actor.service, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_token_is_enough_to_be_refused() {
    let keystone = shared();
    let authenticator = authenticator(&keystone.settings());
    let user = keystone.token("member", "demo");
    let admin = keystone.token("admin", "other");
    let service = keystone.token("nova", "service");
    for (user, service) in [
        // Bad tokens, also on a socket on which the peer would be let in without.
        (vec!["gAAAAA-forged"], vec![]),
        (vec![], vec!["gAAAAA-forged"]),
        (vec![&*user], vec!["gAAAAA-forged"]),
        (vec!["gAAAAA-forged"], vec![&*service]),
        // The token of one who is no service, were it an administrator, and the user itself.
        (vec![&*user], vec![&*admin]),
        (vec![&*user], vec![&*user]),
        // A service's alone.
        (vec![], vec![&*service]),
        // More than one.
        (vec![&*user, &*user], vec![]),
        (vec![&*user], vec![&*service, &*service]),
    ] {
        let refused = who(&authenticator, &user, &service).await;
        assert_eq!(refused.unwrap_err(), REFUSED);
    }
    assert!(who(&authenticator, &[&user], &[&service]).await.is_ok());
    let nobody = who(&authenticator, &[], &[]).await.unwrap();
    assert!(matches!(nobody.via, Via::LocalPeer { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_role_comes_alone_where_it_is_configured() {
    let keystone = shared();
    let token = keystone.token("auditor", "service");
    let service = keystone.token("nova", "service");
    let without = authenticator(&keystone.settings());
    assert_eq!(who(&without, &[], &[&token]).await.unwrap_err(), REFUSED);

    let mut settings = keystone.settings();
    settings.audit_role = Some("auditor".into());
    let with = authenticator(&settings);
    let actor = who(&with, &[], &[&token]).await.unwrap();
    assert_eq!(actor.user, None);
    assert_eq!(actor.service.unwrap().roles, ["auditor"]);
    // Only that role does, and it makes no service of its bearer.
    assert_eq!(who(&with, &[], &[&service]).await.unwrap_err(), REFUSED);
    let user = keystone.token("member", "demo");
    let beside = who(&with, &[&user], &[&token]).await;
    assert_eq!(beside.unwrap_err(), REFUSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_service_roles_is_enough() {
    let keystone = shared();
    let mut settings = keystone.settings();
    settings.service_token_roles = vec!["absent".into(), "auditor".into()];
    let authenticator = authenticator(&settings);
    let user = keystone.token("member", "demo");
    let good = keystone.token("auditor", "service");
    let bad = keystone.token("nova", "service");
    assert!(who(&authenticator, &[&user], &[&good]).await.is_ok());
    let refused = who(&authenticator, &[&user], &[&bad]).await;
    assert_eq!(refused.unwrap_err(), REFUSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_token_is_not_asked_about() {
    let keystone = shared();
    let proxy = Proxy::start(keystone.port(), None).await;
    let mut settings = keystone.settings();
    settings.urls = vec![local(proxy.port)];
    let authenticator = authenticator(&settings);
    let long = "x".repeat(8 * 1024 + 1);
    for token in ["", " ", "a b", "tökn", "a\r\nX-Evil: 1", &long] {
        for (user, service) in [(vec![token], vec![]), (vec!["x"], vec![token])] {
            let refused = who(&authenticator, &user, &service).await;
            assert_eq!(refused.unwrap_err(), REFUSED);
        }
    }
    assert_eq!(proxy.count(""), 0);
    let refused = who(&authenticator, &[&long[..8000]], &[]).await;
    assert_eq!(refused.unwrap_err(), REFUSED);
    assert_eq!(proxy.count("GET"), 1);
}
