//! Where a worker listens, and the address under which the server and other workers reach it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use squadron_proto::{Failure, FailureKind};
use url::{Host, Url};

/// A bound port and the address that is advertised for it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: TcpListener,
    /// `host:port` as the server and other workers dial it.
    pub(crate) advertised: String,
}

/// Why no port is bound.
#[derive(Debug)]
pub(crate) enum BindError {
    /// There is no route to the server yet; a later try may succeed.
    Unreachable(String),
    /// The options ask for an address that cannot be bound or advertised.
    Invalid(Failure),
}

/// Binds `listen`, else a free port of the local address from which `server` is reached. So a worker beside its server
/// listens on loopback only, and any other worker only on the network that leads to the server.
pub(crate) async fn bind(
    listen: Option<SocketAddr>,
    advertise: Option<&str>,
    server: &Url,
) -> Result<Bound, BindError> {
    let unreachable = |error: io::Error| BindError::Unreachable(format!("no way to the server: {error}"));
    let address = match listen {
        Some(address) => address,
        None => SocketAddr::new(route_to(server).await.map_err(unreachable)?, 0),
    };
    let (listener, bound) = open_listener(address).map_err(|error| {
        BindError::Invalid(Failure::new(
            FailureKind::Invalid,
            format!("cannot listen on {address}: {error}; name another address with --listen"),
        ))
    })?;
    let advertised = match advertise {
        Some(text) => parse_advertised(text, bound.port()).map_err(BindError::Invalid)?,
        None if bound.ip().is_unspecified() => {
            let ip = route_to(server).await.map_err(unreachable)?;
            SocketAddr::new(ip, bound.port()).to_string()
        }
        None => bound.to_string(),
    };
    Ok(Bound { listener, advertised })
}

fn open_listener(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// The local address from which packets to the server leave. Finding it sends no packet.
async fn route_to(server: &Url) -> io::Result<IpAddr> {
    let host = server.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = server.port_or_known_default().unwrap_or_default();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in tokio::net::lookup_host((host, port)).await? {
        match local_address(address).await {
            Ok(ip) => return Ok(ip),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn local_address(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
    socket.connect(remote).await?;
    Ok(socket.local_addr()?.ip())
}

/// `scheme://host:port` of a server, the port always named.
pub(crate) fn origin(server: &Url) -> String {
    let host = server.host_str().unwrap_or_default();
    let port = server.port_or_known_default().unwrap_or_default();
    format!("{}://{host}:{port}", server.scheme())
}

/// Parses `HOST` or `HOST:PORT`; a host without a port gets `port`, the bound one.
fn parse_advertised(text: &str, port: u16) -> Result<String, Failure> {
    let text = match text.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => text.to_owned(),
    };
    let with_port = Url::parse(&format!("http://{text}"))
        .ok()
        .filter(|url| url.path() == "/" && url.username().is_empty() && url.query().is_none())
        .and_then(|url| {
            let host = match url.host()? {
                Host::Ipv4(ip) if ip.is_unspecified() => return None,
                Host::Ipv6(ip) if ip.is_unspecified() => return None,
                host => host.to_string(),
            };
            // A parsed URL drops the scheme's own port, so the port is read from the text.
            let given = text.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            Some(format!("{host}:{}", given.filter(|given| *given != 0).unwrap_or(port)))
        });
    with_port.ok_or_else(|| {
        Failure::new(
            FailureKind::Invalid,
            format!("--advertise {text:?} is no address that others can dial; write it like HOST or HOST:PORT"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test]
    async fn local_server_binds_loopback_only() {
        let bound = bind(None, None, &server("http://127.0.0.1:1")).await.unwrap();
        let address = bound.listener.local_addr().unwrap();
        assert!(address.ip().is_loopback());
        assert_eq!(bound.advertised, address.to_string());
    }

    #[tokio::test]
    async fn unspecified_address_advertises_route_to_server() {
        let everywhere = Some("0.0.0.0:0".parse().unwrap());
        let bound = bind(everywhere, None, &server("http://127.0.0.1:1")).await.unwrap();
        let port = bound.listener.local_addr().unwrap().port();
        assert_eq!(bound.advertised, format!("127.0.0.1:{port}"));
    }

    #[tokio::test]
    async fn taken_port_error_names_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let outcome = bind(Some(address), None, &server("http://127.0.0.1:1")).await;
        let Err(BindError::Invalid(failure)) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(failure.message.contains("--listen"), "{failure}");
        assert!(failure.message.contains(&address.to_string()), "{failure}");
    }

    #[test]
    fn advertised_host_defaults_to_bound_port() {
        for (text, expected) in [
            ("db1.example", "db1.example:7"),
            ("db1.example:80", "db1.example:80"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("::1", "[::1]:7"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(parse_advertised(text, 7).unwrap(), expected);
        }
        for text in ["", "a b", "host/path", "0.0.0.0", "user@host:1"] {
            assert!(parse_advertised(text, 7).is_err(), "{text}");
        }
    }
}
