//! What holds for any options string.

use proptest::prelude::*;

use super::{login, told, with_options};
use crate::connection::ConnectionInfo;

/// A value in double quotes: any text can be written so.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A value without quotes, everything special escaped: any text can be written so.
fn escaped(text: &str) -> String {
    let mut written = String::new();
    for c in text.chars() {
        if matches!(c, ',' | '\\' | '\'' | '"' | '%' | ' ') {
            written.push('\\');
        }
        written.push(c);
    }
    written
}

proptest! {
    #[test]
    fn credentials_survive_writing_and_reading(
        username in r"[^\p{Cc}\\/]{1,40}",
        password in r#"([^\p{Cc}]|[,"'\\ %=]|-o ){0,30}"#,
        domain in proptest::option::of(r"[^\p{Cc}\\/]{1,20}"),
        groups: bool,
        quotes: [bool; 3],
    ) {
        let write = |quote: bool, text: &str| if quote { quoted(text) } else { escaped(text) };
        let between = if groups { " -o " } else { "," };
        let mut options = format!(
            "-o username={}{between}password={}",
            write(quotes[0], &username), write(quotes[1], &password)
        );
        if let Some(domain) = &domain {
            options = format!("{options}{between}domain={}", write(quotes[2], domain));
        }
        prop_assert_eq!(login(&options), (username, password, domain));
    }

    #[test]
    fn a_password_with_its_commas_doubled_is_the_kernels(password in r"[a-z,][a-z ,=%]{0,20}[a-z,]") {
        let options = format!("username=bob,password={}", password.replace(',', ",,"));
        prop_assert_eq!(login(&options).1, password);
    }

    #[test]
    fn reading_is_total(options in r#"([a-z]{0,5}|username|password|=|,|-o| |"|'|\\|%|.){0,40}"#) {
        if let Err(error) = with_options(&options) {
            prop_assert!(!told(&error).is_empty());
        }
    }

    #[test]
    fn no_error_and_no_debug_output_holds_a_secret(
        secret in "[a-z0-9]{12,20}",
        comma in proptest::option::of(1usize..11),
        before in prop_oneof![
            Just("username=bob,password="), Just("username=bob%"), Just("pass="), Just("username=a,username=b,password="),
            Just("credentials=/x,password="), Just("sec=krb5,password="), Just("password="), Just("password=\""), Just("password='"),
        ],
        after in r#"(|,seal|,vers=|,suid|,frob|"|'|,ro=| -o x|,password=y|\n| =){0,3}"#,
    ) {
        // Also with a comma that somebody forgot to write twice: neither half may show.
        let (head, tail) = secret.split_at(comma.unwrap_or(0));
        let written = if comma.is_some() { format!("{head},{tail}") } else { secret.clone() };
        let options = format!("-o {before}{written}{after}");
        let shown = match with_options(&options) {
            Ok(volume) => format!("{volume:?} {volume:#?}"),
            Err(error) => format!("{} {error:?}", told(&error)),
        };
        prop_assert!(!shown.contains(&secret), "{}", shown);
        if tail.len() >= 8 {
            prop_assert!(!shown.contains(tail), "{}", shown);
        }
        let document = format!(r#"{{"driver_volume_type":"smbfs","export":"//n/s","name":"v","options":"{secret}"#);
        let error = ConnectionInfo::from_cinder_json(&document).unwrap_err();
        prop_assert!(!told(&error).contains(&secret));
    }
}
