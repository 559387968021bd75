//! TLS between processes: the certificate of a port, and the authorities that a client trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use squadron_proto::{Failure, FailureKind};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// The certificate of a port, and its private key.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// Reads a certificate (with its chain, if there is one) and its private key from PEM files.
    ///
    /// # Errors
    /// `Invalid`, naming flag and file, for files that cannot be read, hold something else or do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        let chain = parse_certificates(&read("--tls-cert", certificate)?)
            .map_err(|why| invalid_file("--tls-cert", certificate, &why))?;
        let secret = PrivateKeyDer::from_pem_slice(&read("--tls-key", key)?).map_err(|_| {
            invalid_file(
                "--tls-key",
                key,
                "holds no private key in PEM form; give the file that begins with -----BEGIN PRIVATE KEY-----",
            )
        })?;
        // The only cryptography provider of this process, named so that another dependency cannot install a default.
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Failure::internal)?
            .with_no_client_auth()
            .with_single_cert(chain, secret);
        let mut config = config.map_err(|error| match error {
            Error::InconsistentKeys(_) => invalid_file(
                "--tls-key",
                key,
                &format!(
                    "is not the key of the certificate in {}; give the two files that were made together",
                    certificate.display()
                ),
            ),
            other => invalid_file(
                "--tls-cert",
                certificate,
                &format!("cannot be used ({other}); give a certificate of version 3 and its key"),
            ),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls(..)")
    }
}

/// The certificate authorities that a client trusts.
#[derive(Clone, Debug, Default)]
pub struct Trust(Option<Certificate>);

impl Trust {
    /// The public authorities that browsers trust.
    pub fn public() -> Self {
        Self::default()
    }

    /// The authorities, or the servers' own certificates, in a PEM file, and no others.
    ///
    /// # Errors
    /// `Invalid`, naming flag and file, for a file that cannot be read or holds no certificate.
    pub fn from_file(path: &Path) -> Result<Self, Failure> {
        const FLAG: &str = "--tls-ca";
        let pem = read(FLAG, path)?;
        let mut roots = RootCertStore::empty();
        for certificate in parse_certificates(&pem).map_err(|why| invalid_file(FLAG, path, &why))? {
            roots.add(certificate).map_err(|error| {
                invalid_file(
                    FLAG,
                    path,
                    &format!("holds a certificate that cannot be trusted ({error}); give that of the authority"),
                )
            })?;
        }
        Ok(Self(Some(Certificate::from_pem(pem))))
    }

    /// Adds TLS to `endpoint` if its address is `https`; other endpoints stay as they are.
    ///
    /// # Errors
    /// When the certificates cannot be used, which [`Trust::from_file`] rules out.
    pub fn secure(&self, endpoint: Endpoint) -> Result<Endpoint, tonic::transport::Error> {
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint);
        }
        let config = ClientTlsConfig::new();
        endpoint.tls_config(match &self.0 {
            Some(authority) => config.ca_certificate(authority.clone()),
            None => config.with_webpki_roots(),
        })
    }
}

/// Why there is no connection, with advice if trust or encryption is at fault. Transport errors name their cause in their
/// sources alone.
pub fn connection_failure(error: &tonic::transport::Error) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    explain(reason)
}

/// Adds advice to the reason of a failed connection, if trust or encryption is at fault.
pub fn explain(reason: String) -> String {
    let advice = if reason.contains("UnknownIssuer") || reason.contains("CaUsedAsEndEntity") {
        "its certificate is not trusted, name its authority with --tls-ca FILE"
    } else if reason.contains("not valid for name") || reason.contains("NotValidForName") {
        "its certificate is for another name, dial a name or address that stands in it"
    } else if reason.contains("InvalidContentType") {
        "it does not encrypt, dial http:// or grpc://"
    } else {
        return reason;
    };
    format!("{reason}; {advice}")
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        invalid_file(
            flag,
            path,
            &format!("cannot be read ({error}); name a readable PEM file"),
        )
    })
}

/// Parses at least one certificate. An error is the half sentence that follows the file's name.
fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("holds no certificate in PEM form; give the file that begins with -----BEGIN CERTIFICATE-----".into()),
    }
}

fn invalid_file(flag: &str, path: &Path, why: &str) -> Failure {
    Failure::new(FailureKind::Invalid, format!("{flag} {} {why}", path.display()))
}

#[cfg(test)]
pub(crate) mod testing {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// Certificate and key of `localhost`, in PEM form.
    pub(crate) fn pem() -> (String, String) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    /// A fresh self-signed certificate for `localhost`.
    pub(crate) fn identity() -> ServerTls {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let (certificate_pem, key_pem) = pem();
        std::fs::write(&certificate, certificate_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
        ServerTls::load(&certificate, &key).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_files_are_named_with_flag() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ((cert, key), (_, other_key)) = (testing::pem(), testing::pem());
        let cert = file("cert.pem", &cert);
        let key = file("key.pem", &key);
        let other_key = file("other.pem", &other_key);
        let text = file("text.pem", "hello");
        let none = folder.path().join("none.pem");
        assert!(ServerTls::load(&cert, &key).is_ok());
        for (cert, key, flag, file, says) in [
            (&none, &key, "--tls-cert", "none.pem", "cannot be read"),
            (&text, &key, "--tls-cert", "text.pem", "no certificate"),
            (&key, &key, "--tls-cert", "key.pem", "no certificate"),
            (&cert, &none, "--tls-key", "none.pem", "cannot be read"),
            (&cert, &cert, "--tls-key", "cert.pem", "no private key"),
            (&cert, &other_key, "--tls-key", "other.pem", "is not the key of"),
        ] {
            let failure = ServerTls::load(cert, key).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid);
            for part in [flag, file, says] {
                assert!(failure.message.contains(part), "{failure}");
            }
        }
        assert!(Trust::from_file(&cert).is_ok());
        for (path, says) in [(&none, "cannot be read"), (&text, "no certificate")] {
            let failure = Trust::from_file(path).unwrap_err();
            assert!(failure.message.contains("--tls-ca"), "{failure}");
            assert!(failure.message.contains(says), "{failure}");
        }
    }
}
