//! A network link that a test can cut, silence and slow down: a proxy between two processes on the loopback device.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

const CHUNK_BYTES: usize = 16 * 1024;

/// How a link behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Bytes pass.
    Open,
    /// Connections are broken, with what was on its way, and new ones end at once.
    Cut,
    /// Connections stay, and bytes wait until the link is open again.
    Silent,
    /// Each 16 KiB take so long.
    Slow(Duration),
}

/// A link to one address, open until it is told otherwise, and closed when this is dropped.
pub struct Link {
    address: SocketAddr,
    condition: watch::Sender<Condition>,
    broken: Arc<AtomicU64>,
    delayed: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Link {
    /// A link to the address that `target` makes of the link's own.
    ///
    /// # Panics
    /// Without a free port.
    pub async fn to(target: impl FnOnce(SocketAddr) -> SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (condition, seen) = watch::channel(Condition::Open);
        let broken = Arc::<AtomicU64>::default();
        let delayed = Arc::<AtomicU64>::default();
        let line = Line {
            target: target(address),
            condition: seen,
            broken: Arc::clone(&broken),
            delayed: Arc::clone(&delayed),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, line));
        Self {
            address,
            condition,
            broken,
            delayed,
            _tasks: tasks,
        }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the link behaves like this.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }

    /// How many connections it has broken.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// How many chunks came late, since it was slow or silent.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::Relaxed)
    }
}

/// What all connections of a link have.
#[derive(Clone)]
struct Line {
    target: SocketAddr,
    condition: watch::Receiver<Condition>,
    broken: Arc<AtomicU64>,
    delayed: Arc<AtomicU64>,
}

async fn accept(listener: TcpListener, line: Line) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connect(near, line.clone()));
    }
}

/// Carries one connection until an end closes it or the link is cut.
async fn connect(near: TcpStream, line: Line) {
    let mut cut = line.condition.clone();
    let carried = async {
        let far = TcpStream::connect(line.target).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::try_join!(
            carry(near_in, far_out, line.clone()),
            carry(far_in, near_out, line.clone())
        )
    };
    tokio::select! {
        biased;
        _ = cut.wait_for(|condition| *condition == Condition::Cut) => {
            line.broken.fetch_add(1, Ordering::Relaxed);
        }
        _ = carried => {}
    }
}

/// Carries bytes in one direction.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: Line) -> io::Result<()> {
    let mut condition = line.condition;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = from.read(&mut chunk).await?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        if matches!(*condition.borrow(), Condition::Silent | Condition::Slow(_)) {
            line.delayed.fetch_add(1, Ordering::Relaxed);
        }
        // A link that is dropped carries what it has.
        let _ = condition.wait_for(|condition| *condition != Condition::Silent).await;
        let delay = match *condition.borrow() {
            Condition::Slow(delay) => delay,
            Condition::Open | Condition::Cut | Condition::Silent => Duration::ZERO,
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        to.write_all(&chunk[..bytes]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link to a server that sends back what it gets.
    async fn echo() -> (Link, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
            }
        });
        (Link::to(|_| target).await, server)
    }

    async fn answers(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(&[7]).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn link_is_cut_silenced_slowed_and_opened_again() {
        let (link, _server) = echo().await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert_eq!(answers(&mut stream).await.unwrap(), 7);
        link.set(Condition::Slow(Duration::from_millis(50)));
        let began = std::time::Instant::now();
        assert_eq!(answers(&mut stream).await.unwrap(), 7);
        assert!(began.elapsed() >= Duration::from_millis(100), "there and back");
        link.set(Condition::Silent);
        let delayed = link.delayed();
        let silent = tokio::time::timeout(Duration::from_millis(50), answers(&mut stream)).await;
        assert!(silent.is_err() && delayed == 2 && link.delayed() == 3);
        link.set(Condition::Open);
        assert_eq!(stream.read_u8().await.unwrap(), 7, "it was only late");
        link.set(Condition::Cut);
        assert!(answers(&mut stream).await.is_err());
        let mut refused = TcpStream::connect(link.address()).await.unwrap();
        assert!(answers(&mut refused).await.is_err());
        assert!(link.broken() > 0);
        link.set(Condition::Open);
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert_eq!(answers(&mut stream).await.unwrap(), 7);
    }
}
