//! Connections from a lab's host.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use ftp_helper::lab::Host;

use crate::gateway::PATIENCE;

/// Connects from a host, by one of its addresses. Reading waits for [`PATIENCE`] at most.
///
/// # Errors
/// When nobody answers within `limit`, or the connection is refused.
///
/// # Panics
/// When the host's namespace can't be entered.
pub fn connect(from: &Host, by: IpAddr, to: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    let attempt = || -> std::io::Result<TcpStream> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let socket = if to.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
            socket.bind(SocketAddr::new(by, 0))?;
            let stream = tokio::time::timeout(limit, socket.connect(to)).await??.into_std()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    };
    from.run_in(attempt).expect("the host's namespace")
}
