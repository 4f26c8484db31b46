//! Abilities of the running kernel's CIFS client.

/// Whether the running kernel is Linux 6.1 or later. An older one refuses a mount with `closetimeo`.
pub(super) fn knows_closetimeo() -> bool {
    let release = nix::sys::utsname::uname().ok();
    release
        .as_ref()
        .and_then(|name| name.release().to_str())
        .is_some_and(|release| since(release, (6, 1)))
}

/// Whether a kernel release, such as `6.1.0-56-amd64`, is that version or later.
fn since(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        for newer in ["6.1.0-56-amd64", "6.18.44", "10.0-rc1"] {
            assert!(since(newer, (6, 1)), "{newer}");
        }
        for older in ["6.0.19", "5.15.0-91-generic", "", "x"] {
            assert!(!since(older, (6, 1)), "{older}");
        }
    }
}
