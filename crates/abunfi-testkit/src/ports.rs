//! Ports and addresses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};

use crate::names::random;

/// Below the range from which systems hand out ports to outgoing connections (32768 and up on
/// Linux, 49152 and up elsewhere). A server that a test stops must find its port free again; in
/// that range a client's own connection may take it, or even connect to itself.
const LOWEST: u64 = 20_000;
const HIGHEST: u64 = 32_000;

/// Enough that only a machine without any free port runs out of them.
const ATTEMPTS: usize = 1_000;

/// A port on the loopback address that nobody listens on.
///
/// # Errors
/// When none is found.
pub fn free_port() -> Result<u16> {
    for _ in 0..ATTEMPTS {
        let port = u16::try_from(LOWEST + random() % (HIGHEST - LOWEST))
            .context("the range lies within the ports")?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }

    bail!("no free port between {LOWEST} and {HIGHEST} in {ATTEMPTS} attempts")
}

/// The same URL, pointing at another address: what a test hands to the platform when a proxy stands
/// in front of the server.
///
/// # Errors
/// When `url` has no `scheme://`.
pub fn with_address(url: &str, address: SocketAddr) -> Result<String> {
    let (scheme, rest) = url
        .split_once("://")
        .with_context(|| format!("not a URL: {url}"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let user = authority.rfind('@').map_or("", |at| &authority[..=at]);

    Ok(format!("{scheme}://{user}{address}{path}"))
}

/// The `host:port` of a URL.
///
/// # Errors
/// When `url` names no host, or several.
#[cfg(feature = "proxy")]
pub(crate) fn address_of(url: &str, default_port: u16) -> Result<String> {
    let (_, rest) = url
        .split_once("://")
        .with_context(|| format!("not a URL: {url}"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if host.is_empty() || host.contains(',') {
        bail!("a proxy stands in front of one host, and {url} does not name exactly one");
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| {
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });

    Ok(if has_port {
        host.to_owned()
    } else {
        format!("{host}:{default_port}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(url: &str) -> String {
        with_address(url, SocketAddr::from(([127, 0, 0, 1], 9))).expect("a URL")
    }

    #[test]
    fn a_free_port_can_be_bound() {
        let port = free_port().expect("a free port");

        assert!((20_000..32_000).contains(&port));
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
    }

    #[test]
    fn another_address_keeps_user_path_and_options() {
        assert_eq!(
            proxied("postgres://u:p%40@db.example:5432/name?sslmode=disable"),
            "postgres://u:p%40@127.0.0.1:9/name?sslmode=disable"
        );
        assert_eq!(proxied("redis://db.example"), "redis://127.0.0.1:9");
        assert_eq!(
            proxied("mongodb://h:1?x=a@b"),
            "mongodb://127.0.0.1:9?x=a@b"
        );
    }

    #[test]
    #[cfg(feature = "proxy")]
    fn the_address_of_a_url_has_a_port() {
        assert_eq!(
            address_of("redis://:pw@h:1/0", 6379).ok().as_deref(),
            Some("h:1")
        );
        assert_eq!(
            address_of("postgres://u@h/db", 5432).ok().as_deref(),
            Some("h:5432")
        );
        assert_eq!(
            address_of("mongodb://[::1]/", 27017).ok().as_deref(),
            Some("[::1]:27017")
        );
        assert!(address_of("mongodb://a:1,b:2/", 27017).is_err());
        assert!(address_of("sqlite::memory:", 1).is_err());
    }
}
