//! This host, as control planes and storage want to know it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use sysinfo::{Product, System};

/// What this host can connect to: the connector properties of os-brick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connector {
    /// The host's name.
    pub host: String,
    /// The address by which other hosts reach it; empty where no route leads anywhere.
    pub ip: String,
    /// The machine, such as `x86_64`.
    pub platform: String,
    /// The operating system, such as `linux`.
    pub os_type: String,
    /// The machine's UUID; empty where the firmware tells none.
    pub system_uuid: String,
}

impl Connector {
    /// Asks this host. To be called once: nothing of it changes while a host is up, and it reads /sys.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self {
            host: System::host_name().unwrap_or_default(),
            ip: address().unwrap_or_default(),
            platform: std::env::consts::ARCH.to_owned(),
            os_type: std::env::consts::OS.to_owned(),
            system_uuid: Product::uuid().unwrap_or_default(),
        }
    }
}

/// The address that this host has on the way to elsewhere: the kernel chooses it when a datagram socket is connected,
/// which sends nothing. The addresses asked for are of no host (RFC 5737, RFC 3849).
fn address() -> Option<String> {
    let ways = [
        (
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9)),
        ),
        (
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9)),
        ),
    ];
    ways.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback() && !ip.is_unspecified()).then(|| ip.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_told() {
        let connector = Connector::of_this_host();
        assert_eq!(connector, Connector::of_this_host());
        let name = nix::sys::utsname::uname().unwrap();
        assert_eq!(connector.host, name.nodename().to_str().unwrap());
        assert_eq!(connector.platform, name.machine().to_str().unwrap());
        assert_eq!(connector.os_type, "linux");
        if !connector.ip.is_empty() {
            let ip: std::net::IpAddr = connector.ip.parse().unwrap();
            // Only an address of this host can be bound.
            UdpSocket::bind((ip, 0)).unwrap();
        }
    }
}
