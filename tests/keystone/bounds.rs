//! How long a token counts: to its end, within the window, while Keystone is down, after it was revoked.

use std::time::{Duration, SystemTime};

use volattach::model::Reason;

use crate::fixture::{Keystone, Lifetimes};
use crate::{authenticator, becomes, shared, who};

const REFUSED: Result<(), Reason> = Err(Reason::Unauthenticated);

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_counts_beside_a_services_within_the_window() {
    let keystone = Keystone::start(Lifetimes {
        expiration: 6,
        allow_expired_window: 12,
    });
    let window = Duration::from_secs(12);
    let mut settings = keystone.settings();
    settings.allow_expired_window = window;
    let mut impatient = settings.clone();
    impatient.allow_expired_window = Duration::ZERO;
    let (patient, impatient) = (authenticator(&settings), authenticator(&impatient));
    let user = keystone.token("member", "demo");
    let user = [&*user];
    let before = who(&patient, &user, &[]).await.unwrap();
    assert!(before.until.unwrap() > SystemTime::now());
    // The cache of a minute does not outlive the token.
    becomes(&patient, &user, &[], REFUSED).await;
    assert!(before.until.unwrap() <= SystemTime::now());

    let service = keystone.token("nova", "service");
    let late = who(&patient, &user, &[&service]).await.unwrap();
    let actual = late.user.unwrap();
    assert_eq!(actual.user_id, keystone.id("member"));
    let refused = who(&impatient, &user, &[&service]).await.map(|_| ());
    assert_eq!(refused, REFUSED);
    let alone = who(&patient, &user, &[]).await.map(|_| ());
    assert_eq!(alone, REFUSED);
    // That a service's token has expired is never overlooked.
    becomes(&patient, &user, &[&service], REFUSED).await;

    // Nor does the cache outlive the window.
    let end = before.until.unwrap() + window;
    loop {
        let service = keystone.token("nova", "service");
        let asked = SystemTime::now();
        match who(&patient, &user, &[&service]).await {
            Ok(_) => assert!(asked <= end, "it counts after its window"),
            Err(reason) => break assert_eq!(reason, Reason::Unauthenticated),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_counts_no_longer_than_it_is_kept() {
    let keystone = shared();
    let mut settings = keystone.settings();
    let minute = authenticator(&settings);
    settings.cache_time = Duration::from_secs(1);
    let second = authenticator(&settings);
    let token = keystone.token("member", "demo");
    let token = [&*token];
    for authenticator in [&minute, &second] {
        assert!(who(authenticator, &token, &[]).await.is_ok());
    }
    keystone.revoke(token[0]);
    becomes(&second, &token, &[], REFUSED).await;
    assert!(who(&minute, &token, &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_keystone_is_down_those_who_are_known_go_on_to_their_bound() {
    let keystone = Keystone::start(Lifetimes::default());
    let mut settings = keystone.settings();
    let minute = authenticator(&settings);
    settings.cache_time = Duration::from_secs(2);
    let seconds = authenticator(&settings);
    let (known, unknown) = (
        keystone.token("member", "demo"),
        keystone.token("reader", "demo"),
    );
    for authenticator in [&minute, &seconds] {
        assert!(who(authenticator, &[&known], &[]).await.is_ok());
    }
    keystone.stop();
    assert!(who(&minute, &[&known], &[]).await.is_ok());
    let unavailable = Err(Reason::IdentityUnavailable);
    let asked = who(&minute, &[&unknown], &[]).await.map(|_| ());
    assert_eq!(asked, unavailable);
    let beside = who(&minute, &[&known], &[&unknown]).await.map(|_| ());
    assert_eq!(beside, unavailable);
    becomes(&seconds, &[&known], &[], unavailable).await;

    keystone.start_again();
    assert!(who(&seconds, &[&known], &[]).await.is_ok());
    assert!(who(&minute, &[&unknown], &[]).await.is_ok());
}
