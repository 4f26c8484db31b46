//! Certificates for tests.

#![allow(dead_code)] // each target uses a part

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: Vec<u8>,
}

/// A certificate and its key, in DER.
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            der,
        }
    }

    /// A certificate for that name: a URI if it looks like one, else a DNS name.
    pub(crate) fn issue(&self, name: &str) -> Certificate {
        self.issue_until(name, 2100)
    }

    /// One that is good until the beginning of that year.
    pub(crate) fn issue_until(&self, name: &str, year: i32) -> Certificate {
        let name = name.to_owned().try_into().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match AsRef::<str>::as_ref(&name).contains("://") {
            true => SanType::URI(name),
            false => SanType::DnsName(name),
        }];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Certificate {
            der: params.signed_by(&key, &self.issuer).unwrap().der().to_vec(),
            key: key.serialize_der(),
        }
    }

    /// Writes its certificate.
    pub(crate) fn write(&self, path: PathBuf) -> PathBuf {
        write_pem(&path, "CERTIFICATE", &self.der);
        path
    }
}

/// Writes a PEM file that its owner alone may read.
pub(crate) fn write_pem(path: &Path, label: &str, der: &[u8]) {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let text = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
