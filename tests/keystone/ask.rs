//! How Keystone is asked: once, at an address that answers, by TLS, with a token of the agent's own.

use std::sync::Arc;

use futures::future::join_all;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use volattach::config::HttpUrl;
use volattach::model::Reason;

use crate::fixture::{Keystone, Lifetimes, PASSWORD, dead_port, write_secret};
use crate::pki::Authority;
use crate::proxy::Proxy;
use crate::{authenticator, local, shared, who};

const UNAVAILABLE: Reason = Reason::IdentityUnavailable;

#[tokio::test(flavor = "multi_thread")]
async fn many_who_bring_one_token_make_one_question() {
    let keystone = shared();
    let proxy = Proxy::start(keystone.port(), None).await;
    let mut settings = keystone.settings();
    settings.urls = vec![local(proxy.port)];
    let authenticator = authenticator(&settings);
    let token = keystone.token("member", "demo");
    let tokens = [&*token];
    let calls = (0..50).map(|_| who(&authenticator, &tokens, &[]));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!((proxy.count("POST"), proxy.count("GET")), (1, 1));
    // And what is known is not asked again.
    assert!(who(&authenticator, &tokens, &[]).await.is_ok());
    assert_eq!(proxy.count(""), 2);
    // Nor are those who bring a bad one together.
    let calls = (0..50).map(|_| who(&authenticator, &["gAAAAA-forged"], &[]));
    assert!(join_all(calls).await.iter().all(Result::is_err));
    assert_eq!(proxy.count("GET"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_each_call_asks() {
    let keystone = shared();
    let proxy = Proxy::start(keystone.port(), None).await;
    let mut settings = keystone.settings();
    settings.urls = vec![local(proxy.port)];
    settings.cache_time = std::time::Duration::ZERO;
    let authenticator = authenticator(&settings);
    let token = keystone.token("member", "demo");
    for _ in 0..3 {
        assert!(who(&authenticator, &[&token], &[]).await.is_ok());
    }
    assert_eq!((proxy.count("POST"), proxy.count("GET")), (1, 3));
    keystone.revoke(&token);
    let refused = who(&authenticator, &[&token], &[]).await;
    assert_eq!(refused.unwrap_err(), Reason::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_is_asked_where_one_is_dead() {
    let keystone = shared();
    let mut settings = keystone.settings();
    settings.urls = vec![local(dead_port()), local(keystone.port())];
    let authenticator = authenticator(&settings);
    let token = keystone.token("member", "demo");
    assert!(who(&authenticator, &[&token], &[]).await.is_ok());
    let refused = who(&authenticator, &["gAAAAA-forged"], &[]).await;
    assert_eq!(refused.unwrap_err(), Reason::Unauthenticated);
}

fn acceptor(authority: &Authority, name: &str) -> TlsAcceptor {
    let issued = authority.issue(name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(issued.der)],
            PrivatePkcs8KeyDer::from(issued.key).into(),
        );
    Arc::new(config.unwrap()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn keystones_certificate_is_checked() {
    let keystone = shared();
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = (Authority::new(), Authority::new());
    let mut settings = keystone.settings();
    settings.ca = Some(good.write(dir.path().join("ca.pem")));
    let token = keystone.token("member", "demo");
    let mut ask = async |acceptor| {
        let proxy = Proxy::start(keystone.port(), Some(acceptor)).await;
        let url = format!("https://localhost:{}", proxy.port);
        settings.urls = vec![HttpUrl::parse(&url).unwrap()];
        let known = who(&authenticator(&settings), &[&token], &[]).await;
        (known.map(|_| ()), proxy.count(""))
    };
    assert_eq!(ask(acceptor(&good, "localhost")).await, (Ok(()), 2));
    // Nothing is sent to one whose certificate is of another authority, or for another name.
    let refused = (Err(UNAVAILABLE), 0);
    assert_eq!(ask(acceptor(&other, "localhost")).await, refused);
    assert_eq!(ask(acceptor(&good, "keystone.example.org")).await, refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_not_ask_says_so_and_recovers() {
    let keystone = shared();
    let token = keystone.token("member", "demo");
    let mut settings = keystone.settings();
    // A file of its own: others use that one.
    let dir = tempfile::tempdir().unwrap();
    settings.password_file = dir.path().join("password");
    write_secret(&settings.password_file, "wrong");
    let wrong = authenticator(&settings);
    assert_eq!(who(&wrong, &[&token], &[]).await.unwrap_err(), UNAVAILABLE);
    write_secret(&settings.password_file, &format!("{PASSWORD}\n"));
    assert!(who(&wrong, &[&token], &[]).await.is_ok());

    settings.user = "reader".into();
    settings.project = "demo".into();
    let no_role = authenticator(&settings);
    let refused = who(&no_role, &[&token], &[]).await;
    assert_eq!(refused.unwrap_err(), UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_agents_own_that_is_gone_is_replaced_once() {
    let keystone = Keystone::start(Lifetimes::default());
    let proxy = Proxy::start(keystone.port(), None).await;
    let mut settings = keystone.settings();
    settings.urls = vec![local(proxy.port)];
    let authenticator = authenticator(&settings);
    let ask = async |user| {
        let token = keystone.token(user, "demo");
        who(&authenticator, &[&token], &[]).await.map(|_| ())
    };
    assert_eq!(ask("member").await, Ok(()));
    keystone.set_password("volattach", "another");
    keystone.settle("volattach", "another", "service");
    write_secret(&settings.password_file, "another");
    assert_eq!(ask("reader").await, Ok(()));
    assert_eq!((proxy.count("POST"), proxy.count("GET")), (2, 3));
}
