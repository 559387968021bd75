//! The server's address, in two forms: as users write it and as the HTTP/2 client dials it.

use url::Url;

/// The address that `--server` named; the command line has checked it and made `http` or `https` of its scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(Url);

impl Address {
    pub(super) fn new(server: &Url) -> Self {
        Self(server.clone())
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The URI that the client dials.
    pub(super) fn http_uri(&self) -> String {
        self.0.as_str().trim_end_matches('/').to_owned()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_encrypted() { "grpc+tls" } else { "grpc" };
        write!(f, "{scheme}://{}", self.0.host_str().unwrap_or_default())?;
        self.0
            .port_or_known_default()
            .map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_prints_grpc_and_dials_http() {
        for (given, shown, dialled) in [
            ("http://localhost:7", "grpc://localhost:7", "http://localhost:7"),
            ("http://[::1]:7/", "grpc://[::1]:7", "http://[::1]:7"),
            (
                "https://db.example:443",
                "grpc+tls://db.example:443",
                "https://db.example",
            ),
        ] {
            let address = Address::new(&Url::parse(given).unwrap());
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.http_uri(), dialled);
        }
    }
}
