//! Whose session an attach may use.

use std::fs;

use super::*;
use crate::connection::Chap;
use crate::model::Secret;

#[test]
fn a_session_is_joined_by_its_own_credentials_alone() {
    let kernel = kernel();
    let backend = backend(kernel.path());
    let plan = backend.plan(&two_paths(), Access::ReadWrite).unwrap();
    let session = backend.initiator.session(&first_path(&plan)).unwrap();
    let chap = |username: &str, password: &str, target: Option<(&str, &str)>| {
        Some(Chap {
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
            target: target.map(|(name, word)| (name.to_owned(), Secret::new(word.to_owned()))),
        })
    };
    let logins = [
        None,
        chap("u", "p", None),
        chap("u", "q", None),
        chap("v", "p", None),
        chap("u", "p", Some(("t", "r"))),
        chap("u", "p", Some(("t", "s"))),
        chap("u", "p", Some(("w", "r"))),
    ];
    for (number, made) in logins.iter().enumerate() {
        let target = made.as_ref().and_then(|chap| chap.target.as_ref());
        for (file, value) in [
            ("username", made.as_ref().map(|chap| &*chap.username)),
            ("password", made.as_ref().map(|chap| chap.password.expose())),
            ("username_in", target.map(|target| &*target.0)),
            ("password_in", target.map(|target| target.1.expose())),
        ] {
            let file = kernel
                .path()
                .join("class/iscsi_session/session7")
                .join(file);
            fs::write(file, format!("{}\n", value.unwrap_or("(null)"))).unwrap();
        }
        for (other, asked) in logins.iter().enumerate() {
            let joined = login::made_by(&session, asked.as_ref()).unwrap();
            assert_eq!(joined, number == other, "{asked:?} of {made:?}");
        }
    }
}
