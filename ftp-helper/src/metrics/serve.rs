//! The page over HTTP.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};

use super::{Snapshot, encode};

/// Connections at most; more wait in the listener's queue.
const CONNECTIONS: usize = 16;

/// How long one request may take from the first byte to the last.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers `GET /metrics` until it is dropped. Each request has a connection of its own.
pub async fn serve<F, S>(listener: TcpListener, snapshot: F)
where
    F: Fn() -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Snapshot> + Send,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        // Never closed, so never an error.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "the metrics endpoint can't accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        let snapshot = snapshot.clone();
        tasks.spawn(async move {
            let _slot = slot;
            let service = service_fn(|request| answer(request, &snapshot));
            let mut server = http1::Builder::new();
            server.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            match timeout(PATIENCE, server.serve_connection(TokioIo::new(stream), service)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(error = %e, "a request for metrics failed"),
                Err(_) => tracing::debug!("a request for metrics took too long"),
            }
        });
    }
}

async fn answer<F, S>(request: Request<Incoming>, snapshot: &F) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn() -> S,
    S: Future<Output = Snapshot>,
{
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match encode(snapshot().await) {
            Ok(page) => (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", page),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("the metrics could not be written: {e}\n")),
        },
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, PLAIN, "the metrics are at /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD are answered\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
}

const PLAIN: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, || async { Snapshot { sessions: (5, 9), ..Snapshot::default() } }));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn metrics_and_nothing_else() {
        let page = ask("GET /metrics").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("content-type: application/openmetrics-text; version=1.0.0"), "{page}");
        assert!(page.contains("\nftp_helper_sessions 5\n"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
        assert!(ask("GET /").await.starts_with("HTTP/1.1 404 "));
        let refused = ask("POST /metrics").await;
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("allow: GET, HEAD"), "{refused}");
    }
}
