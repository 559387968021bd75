//! Accepts connections of other processes: TCP, or TLS over it, each with a number of its own.
//!
//! ```text
//! accept ──────────────────────────────────────────────> Connection      a port without TLS
//!    └──> first byte: a TLS handshake? ──> handshake ──> Connection      a port with TLS
//!                          └─ no ──────────────────────> Connection, whose requests are refused with advice
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tracing::debug;

use super::calls::{Calls, IdleLimits, IdleTimer};
use super::tls::ServerTls;

/// How long a peer may take from the connection to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many handshakes may run at once; for further peers the oldest are given up.
const MAX_HANDSHAKES: usize = 1024;
/// How long the listener pauses after an error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The first byte of a TLS handshake: its record type.
const TLS_HANDSHAKE: u8 = 22;

/// The number of the next connection of this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The connection of a request; every request has it among its extensions.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// A number that, unlike the peer's address, is never used again.
    pub id: u64,
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The peer does not encrypt, though the port requires TLS.
    is_plaintext: bool,
    pub(super) calls: Arc<Calls>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    info: ConnectionInfo,
    idle: Option<IdleTimer>,
}

type Transport = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The connections of `listener`, encrypted if there is `tls`. Never ends and never fails. With `idle`,
/// connections without calls are closed; their server must count the calls ([`super::count_calls::CountCalls`]).
pub fn incoming(
    listener: TcpListener,
    tls: Option<&ServerTls>,
    idle: Option<IdleLimits>,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let incoming = Incoming {
        listener,
        idle,
        tls: tls.map(ServerTls::acceptor),
        handshakes: JoinSet::new(),
        oldest: VecDeque::new(),
    };
    futures::stream::unfold(incoming, |mut incoming| async move {
        let mut connection = incoming.next().await;
        connection.idle = incoming.idle.map(IdleTimer::new);
        Some((Ok(connection), incoming))
    })
}

/// Refuses the requests of peers that do not encrypt though the port requires TLS. For every server on [`incoming`].
///
/// # Errors
/// InvalidArgument for such a peer.
pub fn refuse_plaintext(request: Request<()>) -> Result<Request<()>, Status> {
    let connection = request.extensions().get::<ConnectionInfo>();
    match connection {
        Some(ConnectionInfo { is_plaintext: true, .. }) => Err(Status::invalid_argument(
            "this port speaks TLS; connect with grpc+tls:// (or https://), or turn encryption on in the driver",
        )),
        _ => Ok(request),
    }
}

struct Incoming {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    idle: Option<IdleLimits>,
    handshakes: JoinSet<io::Result<Connection>>,
    /// Those of `handshakes` that may still be going on, the oldest first.
    oldest: VecDeque<AbortHandle>,
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => if let Some(connection) = self.accept(stream, peer) {
                        return connection;
                    },
                    Err(error) => {
                        debug!(%error, "a connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
                    Err(error) => debug!(%error, "TLS handshake ended early"),
                },
            }
        }
    }

    /// Gives up the oldest handshake when there are too many: peers that say nothing do not keep out those that do.
    fn make_room(&mut self) {
        self.oldest.retain(|handshake| !handshake.is_finished());
        if self.oldest.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
    }

    fn accept(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection ended at once");
            return None;
        }
        let info = ConnectionInfo {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            peer,
            is_plaintext: false,
            calls: Arc::default(),
        };
        let Some(tls) = self.tls.clone() else {
            return Some(Connection {
                transport: Either::Left(stream),
                info,
                idle: None,
            });
        };
        self.make_room();
        let work = async move { tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tls, stream, info)).await? };
        self.oldest.push_back(self.handshakes.spawn(work));
        None
    }
}

async fn handshake(tls: TlsAcceptor, stream: TcpStream, info: ConnectionInfo) -> io::Result<Connection> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first != [TLS_HANDSHAKE] {
        return Ok(Connection {
            transport: Either::Left(stream),
            info: ConnectionInfo {
                is_plaintext: true,
                ..info
            },
            idle: None,
        });
    }
    Ok(Connection {
        transport: Either::Right(Box::new(tls.accept(stream).await?)),
        info,
        idle: None,
    })
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(read) = Pin::new(&mut this.transport).poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        let is_expired = this
            .idle
            .as_mut()
            .is_some_and(|idle| idle.poll_expired(&this.info.calls, cx));
        match is_expired {
            // As if the peer had closed its side: the server ends the connection in good order.
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::tls::testing::identity;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn send_request(info: ConnectionInfo) -> Result<Request<()>, Status> {
        let mut request = Request::new(());
        request.extensions_mut().insert(info);
        refuse_plaintext(request)
    }

    #[tokio::test]
    async fn connections_get_unique_numbers() {
        let (listener, address) = listener().await;
        let mut incoming = Box::pin(incoming(listener, None, None));
        let mut infos = Vec::new();
        for _ in 0..3 {
            let client = TcpStream::connect(address).await.unwrap();
            let info = incoming.next().await.unwrap().unwrap().connect_info();
            assert_eq!(info.peer, client.local_addr().unwrap());
            infos.push(info.id);
            assert!(send_request(info).is_ok());
        }
        infos.sort_unstable();
        infos.dedup();
        assert_eq!(infos.len(), 3);
    }

    #[tokio::test]
    async fn plaintext_peer_is_told_to_encrypt() {
        let (listener, address) = listener().await;
        let tls = identity();
        let mut incoming = Box::pin(incoming(listener, Some(&tls), None));
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        let mut read = [0; 3];
        connection.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"PRI", "the peer's first bytes are still there");
        let status = send_request(connection.connect_info()).unwrap_err();
        assert!(status.message().contains("grpc+tls://"), "{status}");
    }
}
