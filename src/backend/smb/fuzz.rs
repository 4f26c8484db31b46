//! What holds of any answer of an SMB server, and of any credentials file.

use super::credentials;
use super::dialect::Dialect;
use super::negotiate::{Answer, LONGEST_ANSWER, answer, answer_smb1, frame_length};
use crate::connection::SmbCredentials;

/// Any bytes as a frame and an answer: no more is read than announced and allowed, and no version is believed that was not
/// offered.
pub(crate) fn smb_negotiate(bytes: &[u8]) {
    let Some((frame, message)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    if let Ok(length) = frame_length(*frame) {
        assert!(length <= LONGEST_ANSWER);
    }
    let offered = [Dialect::Smb2(0x0311), Dialect::Smb2(0x0210)];
    if let Answer::Speaks(version) = answer(message, &offered) {
        assert!(offered.contains(&version));
    }
    let smb1 = answer_smb1(message);
    assert!(!matches!(smb1, Answer::Speaks(version) if version != Dialect::Smb1));
}

/// Any text as a credentials file: a name and a password that NTLM can carry.
pub(crate) fn smb_credentials(text: &str) {
    if let Ok(SmbCredentials::Password {
        username, password, ..
    }) = credentials::parse(text)
    {
        assert!(!username.contains('\n') && !password.expose().contains('\n'));
        assert!(password.expose().chars().count() <= 128);
    }
}
