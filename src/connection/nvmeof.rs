//! `nvmeof`: a namespace of an NVMe/TCP subsystem, in both of os-brick's shapes: one portal in keys of its own, or a list.
//!
//! Invariants: nothing here can end an option of the kernel's connect string and begin another (an NQN holds no comma); a
//! volume without any identity is refused; so is what asks for an authentication that nobody could see take place.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use uuid::Uuid;

use super::cinder::{Fields, number};
use super::{Common, ConnectionError, ConnectionInfo, NvmeVolume, Protocol, few_paths, format};

/// The longest NQN, in bytes (NVM Express Base Specification 2.0c, 4.5.1).
const MAX_NQN: usize = 223;
/// The namespace id that means all of them (NVM Express Base Specification 2.0c, 3.2.1.2).
const ALL_NAMESPACES: u64 = 0xffff_ffff;

const NQN: &str = "an NQN such as nqn.2014-08.org.nvmexpress:uuid:…";
const ADDRESS: &str = "an IPv4 or IPv6 address";
const PORT: &str = "a port from 1 to 65535, such as 4420";
const PORTALS: &str = "a list of [address, port, \"tcp\"], at least one";
const NSID: &str = "a namespace id from 1 to 4294967294";
const IDENTITY: &str = "16 bytes in hexadecimal that are not all zero, as a UUID is written";
const VOLUME: &str = "what tells the volume from others: vol_uuid, volume_nguid or ns_id";

/// A namespace as typed fields describe it, not yet checked. Empty and 0: not given.
#[derive(Debug, Clone, Default)]
pub struct NvmeFields {
    /// The subsystem's NQN.
    pub nqn: String,
    /// Addresses and ports.
    pub portals: Vec<(String, u32)>,
    /// The namespace's UUID.
    pub uuid: String,
    /// The namespace's NGUID.
    pub nguid: String,
    /// The namespace's number.
    pub nsid: u32,
    /// The host that it was made for.
    pub host_nqn: String,
    /// The image's format.
    pub format: String,
}

impl ConnectionInfo {
    /// A namespace of an NVMe/TCP subsystem, from typed fields.
    ///
    /// # Errors
    /// Where a field does not fit.
    pub fn nvme(fields: &NvmeFields, common: Common) -> Result<Self, ConnectionError> {
        common.check("properties.")?;
        let mut portals = Vec::new();
        for (number, (address, port)) in fields.portals.iter().enumerate() {
            let at = format!("portals[{number}]");
            let portal = portal(
                &format!("{at}.address"),
                address,
                &format!("{at}.port"),
                u64::from(*port),
            )?;
            portals.push(portal);
        }
        let given = |text: &'static str, value: &str| -> Result<Option<Uuid>, ConnectionError> {
            match value {
                "" => Ok(None),
                value => identity(text, value).map(Some),
            }
        };
        let volume = NvmeVolume {
            nqn: nqn("nqn", &fields.nqn)?,
            portals: each_once("portals", portals)?,
            uuid: given("uuid", &fields.uuid)?,
            nguid: given("nguid", &fields.nguid)?,
            nsid: match fields.nsid {
                0 => None,
                number => Some(nsid("nsid", u64::from(number))?),
            },
            host_nqn: match fields.host_nqn.as_str() {
                "" => None,
                name => Some(nqn("host_nqn", name)?),
            },
            format: format::parse("format", Some(&fields.format))?,
        };
        Ok(Self {
            common,
            protocol: Protocol::Nvme(volume.told_apart("uuid")?),
        })
    }
}

impl NvmeVolume {
    /// Reads Cinder's keys.
    pub(super) fn from_cinder(data: &Fields<'_>) -> Result<Self, ConnectionError> {
        refuse(data)?;
        let (name, portals) = if data.has("target_nqn") || data.has("portals") {
            ("target_nqn", listed(data)?)
        } else {
            ("nqn", vec![single(data)?])
        };
        let named = data.text(name, NQN)?;
        let uuids = |key: &str| -> Result<Option<Uuid>, ConnectionError> {
            let text = data.text(key, IDENTITY)?.filter(|text| !text.is_empty());
            text.map(|text| identity(&data.key(key), text)).transpose()
        };
        let number = data.number("ns_id")?;
        let host = data.text("host_nqn", NQN)?.filter(|name| !name.is_empty());
        let volume = Self {
            nqn: nqn(
                &data.key(name),
                named.ok_or_else(|| data.missing(name, NQN))?,
            )?,
            portals: each_once(&data.key("portals"), portals)?,
            uuid: uuids("vol_uuid")?,
            nguid: uuids("volume_nguid")?,
            nsid: number
                .map(|number| nsid(&data.key("ns_id"), number))
                .transpose()?,
            host_nqn: host
                .map(|name| nqn(&data.key("host_nqn"), name))
                .transpose()?,
            format: format::parse(
                &data.key("format"),
                data.text("format", "the image format's name")?,
            )?,
        };
        volume.told_apart(&data.key("vol_uuid"))
    }

    /// Refuses a volume that nothing tells from others.
    fn told_apart(self, key: &str) -> Result<Self, ConnectionError> {
        if self.uuid.is_none() && self.nguid.is_none() && self.nsid.is_none() {
            return Err(ConnectionError::Missing {
                key: key.to_owned(),
                expected: VOLUME,
            });
        }
        Ok(self)
    }
}

/// Refuses what cannot be kept: a volume made of several, and a secret.
///
/// Linux before 6.0, and kernels built without NVMe authentication, as Debian 12's, accept a DH-HMAC-CHAP secret and ignore it;
/// others use it only where the target asks (drivers/nvme/host/fabrics.c, `nvmf_connect_admin_queue`) and do not tell. So
/// what was to be authenticated may not be.
fn refuse(data: &Fields<'_>) -> Result<(), ConnectionError> {
    let given = |value: &Value| !matches!(value, Value::Null) && value.as_str() != Some("");
    if data.object.get("volume_replicas").is_some_and(given) {
        return Err(data.invalid(
            "volume_replicas",
            "makes one volume of several, which volattach does not do",
            "a volume without replicas",
        ));
    }
    let secret = data
        .object
        .iter()
        .find(|(key, value)| key.to_lowercase().contains("dhchap") && given(value));
    match secret {
        None => Ok(()),
        Some((key, _)) => Err(ConnectionError::Credentials {
            key: data.key(key),
            problem: "they are for DH-HMAC-CHAP, which this host cannot prove to take place: the kernel may accept the \
                      secret, ignore it and connect unauthenticated; export the volume without authentication, to this \
                      host's NQN alone",
        }),
    }
}

/// The portal in keys of its own.
fn single(data: &Fields<'_>) -> Result<SocketAddr, ConnectionError> {
    let address = data
        .text("target_portal", ADDRESS)?
        .ok_or_else(|| data.missing("target_portal", ADDRESS))?;
    let port = data
        .number("target_port")?
        .ok_or_else(|| data.missing("target_port", PORT))?;
    let transport = data
        .text("transport_type", "tcp")?
        .ok_or_else(|| data.missing("transport_type", "tcp"))?;
    tcp(data.key("transport_type"), transport)?;
    portal(
        &data.key("target_portal"),
        address,
        &data.key("target_port"),
        port,
    )
}

/// The list of portals.
fn listed(data: &Fields<'_>) -> Result<Vec<SocketAddr>, ConnectionError> {
    let list = match data.object.get("portals") {
        None | Some(Value::Null) => return Err(data.missing("portals", PORTALS)),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(data.invalid("portals", "is not a list", PORTALS)),
    };
    let mut portals = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let key = data.key(&format!("portals[{index}]"));
        let malformed = |problem| ConnectionError::Invalid {
            key: key.clone(),
            problem,
            expected: "[address, port, \"tcp\"]",
        };
        let Some([address, port, transport]) = item.as_array().map(Vec::as_slice) else {
            return Err(malformed("is not a list of three"));
        };
        let (Some(address), Some(transport)) = (address.as_str(), transport.as_str()) else {
            return Err(malformed(
                "has an address or transport that is not a string",
            ));
        };
        tcp(format!("{key}[2]"), transport)?;
        let port = number(port).ok_or_else(|| malformed("has a port that is not a number"))?;
        portals.push(portal(
            &format!("{key}[0]"),
            address,
            &format!("{key}[1]"),
            port,
        )?);
    }
    Ok(portals)
}

fn tcp(key: String, transport: &str) -> Result<(), ConnectionError> {
    if transport.eq_ignore_ascii_case("tcp") {
        return Ok(());
    }
    Err(ConnectionError::Transport {
        key,
        transport: transport.chars().take(32).collect(),
    })
}

fn portal(
    address_key: &str,
    address: &str,
    port_key: &str,
    port: u64,
) -> Result<SocketAddr, ConnectionError> {
    let invalid = |key: &str, problem, expected| ConnectionError::Invalid {
        key: key.to_owned(),
        problem,
        expected,
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let ip: IpAddr = bare
        .parse()
        .map_err(|_| invalid(address_key, "is not an IP address", ADDRESS))?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(invalid(address_key, "is no server's address", ADDRESS));
    }
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(invalid(port_key, "is not a port", PORT)),
    }
}

fn each_once(key: &str, portals: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, ConnectionError> {
    few_paths(key, portals.len())?;
    let mut once: Vec<SocketAddr> = Vec::new();
    for portal in portals {
        if !once.contains(&portal) {
            once.push(portal);
        }
    }
    if once.is_empty() {
        return Err(ConnectionError::Missing {
            key: key.to_owned(),
            expected: PORTALS,
        });
    }
    Ok(once)
}

/// A comma ends an option of the kernel's connect string (drivers/nvme/host/fabrics.c, `nvmf_parse_options`).
fn nqn(key: &str, name: &str) -> Result<String, ConnectionError> {
    let invalid = |problem| ConnectionError::Invalid {
        key: key.to_owned(),
        problem,
        expected: NQN,
    };
    if name.len() > MAX_NQN {
        return Err(invalid("is longer than 223 bytes"));
    }
    if !name.starts_with("nqn.") {
        return Err(invalid("is not an NQN"));
    }
    if name.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) {
        return Err(invalid("holds a comma, a space or a control character"));
    }
    Ok(name.to_owned())
}

fn nsid(key: &str, number: u64) -> Result<u32, ConnectionError> {
    u32::try_from(number)
        .ok()
        .filter(|_| number != 0 && number != ALL_NAMESPACES)
        .ok_or_else(|| ConnectionError::Invalid {
            key: key.to_owned(),
            problem: "is no namespace id",
            expected: NSID,
        })
}

/// 16 bytes, as a UUID is written: with hyphens or without, in either case.
fn identity(key: &str, text: &str) -> Result<Uuid, ConnectionError> {
    let invalid = |problem| ConnectionError::Invalid {
        key: key.to_owned(),
        problem,
        expected: IDENTITY,
    };
    let uuid = Uuid::try_parse(text).map_err(|_| invalid("is not 16 bytes in hexadecimal"))?;
    if uuid.is_nil() {
        return Err(invalid("is all zero, which names nothing"));
    }
    Ok(uuid)
}

#[cfg(test)]
mod tests;
