//! A load generator that costs little: prepared requests over kept connections, one at a time on each.
//!
//! It speaks just enough HTTP/1.1 for this service (a length in every answer), so that on two cores, which
//! it shares with what it measures, most of the time is the server's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Gives the next request of connection `connection`, the `n`-th on it.
pub(crate) type Requests = dyn Fn(usize, u64) -> Vec<u8> + Send + Sync;

/// What one run gave.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) per_second: u64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
    /// Requests that were answered, well or not.
    pub(crate) answered: u64,
    pub(crate) errors: u64,
}

impl Measured {
    /// What `latencies` in `elapsed` come to.
    pub(crate) fn of(mut latencies: Vec<Duration>, elapsed: Duration, errors: u64) -> Result<Self> {
        latencies.sort_unstable();
        let answered = u64::try_from(latencies.len())?;
        let at = |part: usize| {
            latencies
                .get(latencies.len() * part / 1_000)
                .copied()
                .unwrap_or_default()
        };
        let per_second = u128::from(answered) * 1_000_000 / elapsed.as_micros().max(1);
        Ok(Self {
            per_second: u64::try_from(per_second)?,
            p50: at(500),
            p99: at(990),
            p999: at(999),
            answered,
            errors,
        })
    }
}

/// Runs `connections` clients against `address` for `span`. Any status outside 2xx is an error.
pub(crate) async fn run(
    address: SocketAddr,
    connections: usize,
    span: Duration,
    requests: Arc<Requests>,
) -> Result<Measured> {
    let start = Instant::now();
    let end = start + span;
    let clients: Vec<_> = (0..connections)
        .map(|connection| {
            let requests = Arc::clone(&requests);
            tokio::spawn(async move { client(address, connection, end, &*requests).await })
        })
        .collect();
    let mut latencies = Vec::new();
    let mut errors = 0_u64;
    for client in clients {
        let (some, failed) = client.await??;
        latencies.extend(some);
        errors += failed;
    }
    Measured::of(latencies, start.elapsed(), errors)
}

async fn client(
    address: SocketAddr,
    connection: usize,
    end: Instant,
    requests: &Requests,
) -> Result<(Vec<Duration>, u64)> {
    let mut stream = TcpStream::connect(address)
        .await
        .context("cannot connect")?;
    stream.set_nodelay(true)?;
    let mut latencies = Vec::with_capacity(100_000);
    let mut errors = 0;
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut n = 0;
    while Instant::now() < end {
        let request = requests(connection, n);
        n += 1;
        let sent = Instant::now();
        stream.write_all(&request).await?;
        if !(200..300).contains(&answer(&mut stream, &mut buffer).await?) {
            errors += 1;
        }
        latencies.push(sent.elapsed());
    }
    Ok((latencies, errors))
}

/// Sends one request on a connection of its own and gives status and body.
pub(crate) async fn once(address: SocketAddr, request: &[u8]) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    let mut buffer = Vec::new();
    stream.write_all(request).await?;
    let status = answer(&mut stream, &mut buffer).await?;
    let body = body_start(&buffer)
        .and_then(|start| buffer.get(start..))
        .unwrap_or_default()
        .to_vec();
    Ok((status, body))
}

/// Reads one answer into `buffer`; its status.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<u16> {
    buffer.clear();
    let mut whole = None;
    loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        if whole.is_none()
            && let Some(start) = body_start(buffer)
        {
            whole = Some(start + content_length(buffer.get(..start).unwrap_or_default())?);
        }
        if whole.is_some_and(|whole| buffer.len() >= whole) {
            let status = buffer.get(9..12).context("no status")?;
            return Ok(std::str::from_utf8(status)?.parse()?);
        }
    }
}

fn body_start(buffer: &[u8]) -> Option<usize> {
    buffer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn content_length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or("0", |(_, length)| length.trim());
    Ok(length.parse()?)
}
