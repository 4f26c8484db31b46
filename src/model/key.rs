//! The host's key: hashes that name a thing without telling what it is.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// 32 random bytes that never leave the host.
///
/// A mount point's name and a request's fingerprint depend on passwords. A plain hash of them, visible to every user
/// in /proc/mounts, would let anyone test guesses; one keyed by this does not.
#[derive(Clone)]
pub struct HostKey(Zeroizing<[u8; 32]>);

impl HostKey {
    /// Takes the key's bytes over.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// HMAC-SHA256 (RFC 2104) over the parts, each preceded by its length so that no two lists of parts look alike,
    /// cut to 128 bits, in hexadecimal.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> String {
        // `new` takes the 64-byte block that a shorter key is padded to (RFC 2104, section 2): so it cannot fail.
        let mut block = Zeroizing::new([0; 64]);
        block[..32].copy_from_slice(self.0.as_slice());
        let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let digest = mac.finalize().into_bytes();
        digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_depends_on_the_key_and_on_how_the_parts_are_cut() {
        let key = HostKey::new([7; 32]);
        let tag = key.tag(&[b"ab", b"c"]);
        assert_eq!(tag.len(), 32);
        assert_eq!(tag, key.tag(&[b"ab", b"c"]));
        assert_ne!(tag, key.tag(&[b"a", b"bc"]));
        assert_ne!(tag, HostKey::new([8; 32]).tag(&[b"ab", b"c"]));
    }
}
