//! A proxy between one gateway and one store that does to their connections what networks do: it delays, cuts, loses one direction, or swallows everything. One for each gateway
//! and store, so that a single node can be cut off from both.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::servers::free_port;

const CHUNK: usize = 16_384;
/// What a connection says that listens.
const LISTEN: &[u8] = b"LISTEN ";

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// What is sent arrives so much later, either way; up to twice as much while more is under way.
    Delay(Duration),
    /// Those that are open are reset, further ones refused: as a server that is not running.
    Cut,
    /// What the gateway sends arrives, on further connections too; nothing of what the store says does, not even that it closes. A connection that has lost something stays silent
    /// when the fault is over.
    HalfOpen,
    /// Nothing arrives either way. Further connections are accepted, and nobody answers. When the fault is over, what was sent meanwhile arrives, as TCP sends it again.
    BlackHole,
    /// As `HalfOpen`, but only for connections that listen for notifications of PostgreSQL: a push is lost, everything else goes on.
    Deaf,
}

/// How things stand, as connections see it.
#[derive(Debug, Clone, Copy)]
struct Standing {
    fault: Fault,
    target: SocketAddr,
    /// Counts the times at which all connections were reset.
    resets: u64,
}

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    url: String,
    standing: watch::Sender<Standing>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts one in front of the server of an address.
    ///
    /// # Panics
    /// If the address has no IP address and port, or there is no port to listen on.
    pub async fn in_front_of(url: &str) -> Self {
        let mut own = url::Url::parse(url).unwrap();
        let target = target_of(url);
        // Not of the range that connections get their ports from: while nobody listens there, one that asks for it could be given it, and talk to itself.
        let (listener, address) = loop {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Ok(listener) = listen(address) {
                break (listener, address);
            }
        };
        own.set_port(Some(address.port())).unwrap();
        let (standing, seen) = watch::channel(Standing { fault: Fault::Pass, target, resets: 0 });
        let task = tokio::spawn(accept(listener, address, seen));
        Self { url: own.into(), standing, task }
    }

    /// The store's address by way of this proxy.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        self.standing.send_modify(|standing| {
            standing.fault = fault;
            standing.resets += u64::from(fault == Fault::Cut);
        });
    }

    /// Another server takes over: connections to the former one are reset.
    ///
    /// # Panics
    /// If the address has no IP address and port.
    pub fn lead_to(&self, url: &str) {
        let target = target_of(url);
        self.standing.send_modify(|standing| (standing.target, standing.resets) = (target, standing.resets + 1));
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn target_of(url: &str) -> SocketAddr {
    let url = url::Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1_024)
}

async fn accept(listener: TcpListener, address: SocketAddr, mut seen: watch::Receiver<Standing>) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let fault = seen.borrow_and_update().fault;
        if fault == Fault::Cut {
            // Nobody listens: the system itself refuses.
            listener = None;
            if seen.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            listener = Some(listen(address).unwrap());
        }
        let Some(open) = &listener else { continue };
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(connection(client, seen.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, seen: watch::Receiver<Standing>) {
    let began = seen.borrow().resets;
    let mut reset = seen.clone();
    let passed = tokio::select! {
        ended = pass(&mut client, seen) => ended.is_ok(),
        _ = reset.wait_for(|standing| standing.resets != began) => false,
    };
    if !passed {
        // Without it the other side would be told of an orderly end.
        let _ = client.set_zero_linger();
    }
}

/// Passes on what either side says until one of them closes, which has said all that it wants to.
async fn pass(client: &mut TcpStream, mut seen: watch::Receiver<Standing>) -> std::io::Result<()> {
    let target = through(&mut seen).await.target;
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let listens = AtomicBool::new(false);
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::select! {
        ended = requests(from_client, to_server, seen.clone(), &listens) => ended,
        ended = answers(from_server, to_client, seen, &listens) => ended,
    }
}

/// How things stand once something gets through.
async fn through(seen: &mut watch::Receiver<Standing>) -> Standing {
    let standing = seen.wait_for(|standing| standing.fault != Fault::BlackHole).await.map(|standing| *standing);
    match standing {
        Ok(standing) => standing,
        // The proxy ends, and this connection with it.
        Err(_) => std::future::pending().await,
    }
}

async fn requests(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut seen: watch::Receiver<Standing>,
    listens: &AtomicBool,
) -> std::io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        let read = from.read(&mut bytes).await?;
        let standing = through(&mut seen).await;
        let Some(said @ [_, ..]) = bytes.get(..read) else { return Ok(()) };
        if said.windows(LISTEN.len()).any(|part| part == LISTEN) {
            listens.store(true, Ordering::Relaxed);
        }
        standing.late().await;
        to.write_all(said).await?;
    }
}

async fn answers(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut seen: watch::Receiver<Standing>,
    listens: &AtomicBool,
) -> std::io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    let mut lost = false;
    loop {
        let read = from.read(&mut bytes).await;
        let standing = through(&mut seen).await;
        lost |= match standing.fault {
            Fault::HalfOpen => true,
            Fault::Deaf => listens.load(Ordering::Relaxed),
            Fault::Pass | Fault::Delay(_) | Fault::Cut | Fault::BlackHole => false,
        };
        let said = bytes.get(..read?).unwrap_or_default();
        match (lost, said.is_empty()) {
            (false, false) => {
                standing.late().await;
                to.write_all(said).await?;
            }
            (false, true) => return Ok(()),
            (true, false) => {}
            (true, true) => std::future::pending().await,
        }
    }
}

impl Standing {
    async fn late(&self) {
        if let Fault::Delay(time) = self.fault {
            tokio::time::sleep(time).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says everything back, and a connection to it by way of a proxy.
    async fn world() -> (FaultProxy, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", server.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let proxy = FaultProxy::in_front_of(&url).await;
        let mut stream = connect(&proxy).await.unwrap();
        assert_eq!(says_back(&mut stream, b"hello").await, Ok(true));
        (proxy, stream)
    }

    async fn connect(proxy: &FaultProxy) -> std::io::Result<TcpStream> {
        TcpStream::connect(target_of(&proxy.url())).await
    }

    /// Whether it comes back soon; an error if the connection is closed.
    async fn says_back(stream: &mut TcpStream, said: &[u8]) -> Result<bool, ()> {
        stream.write_all(said).await.map_err(drop)?;
        comes(stream, said).await
    }

    async fn comes(stream: &mut TcpStream, said: &[u8]) -> Result<bool, ()> {
        let mut heard = vec![0; said.len()];
        match tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut heard)).await {
            Ok(Ok(_)) => Ok(heard == said),
            Ok(Err(_)) => Err(()),
            Err(_) => Ok(false),
        }
    }

    #[tokio::test]
    async fn a_cut_resets_and_refuses_until_it_is_over() {
        let (proxy, mut stream) = world().await;
        proxy.set(Fault::Cut);
        assert_eq!(comes(&mut stream, b"nothing").await, Err(()));
        assert_eq!(connect(&proxy).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        proxy.set(Fault::Pass);
        let again = async {
            loop {
                match connect(&proxy).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let mut stream = tokio::time::timeout(Duration::from_secs(5), again).await.unwrap();
        assert_eq!(says_back(&mut stream, b"again").await, Ok(true));
    }

    #[tokio::test]
    async fn a_black_hole_keeps_what_was_sent_for_later() {
        let (proxy, mut stream) = world().await;
        proxy.set(Fault::BlackHole);
        let mut other = connect(&proxy).await.unwrap();
        assert_eq!((says_back(&mut stream, b"one").await, says_back(&mut other, b"two").await), (Ok(false), Ok(false)));
        proxy.set(Fault::Pass);
        assert_eq!((comes(&mut stream, b"one").await, comes(&mut other, b"two").await), (Ok(true), Ok(true)));
    }

    #[tokio::test]
    async fn a_half_open_connection_is_silent_for_ever_and_a_new_one_is_well() {
        let (proxy, mut stream) = world().await;
        proxy.set(Fault::HalfOpen);
        assert_eq!(says_back(&mut stream, b"lost").await, Ok(false));
        proxy.set(Fault::Pass);
        assert_eq!(says_back(&mut stream, b"silent").await, Ok(false));
        assert_eq!(says_back(&mut connect(&proxy).await.unwrap(), b"new").await, Ok(true));
    }

    #[tokio::test]
    async fn only_who_listens_is_deaf() {
        let (proxy, mut stream) = world().await;
        let mut listener = connect(&proxy).await.unwrap();
        assert_eq!(says_back(&mut listener, b"LISTEN usage_gate").await, Ok(true));
        proxy.set(Fault::Deaf);
        assert_eq!(
            (says_back(&mut stream, b"one").await, says_back(&mut listener, b"two").await),
            (Ok(true), Ok(false))
        );
    }

    #[tokio::test]
    async fn what_is_delayed_comes_later_either_way() {
        let (proxy, mut stream) = world().await;
        proxy.set(Fault::Delay(Duration::from_millis(60)));
        let began = tokio::time::Instant::now();
        assert_eq!(says_back(&mut stream, b"late").await, Ok(true));
        assert!(began.elapsed() >= Duration::from_millis(120));
    }
}
