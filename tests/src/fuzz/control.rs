//! Requests to the control socket: whatever is sent, there is a request, an error that tells why, or the end.

use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll, Waker},
};

use ftp_helper::{
    api::{self, REQUEST_MAX, Request, Versioned},
    event::{Event, Kind, SessionId},
};
use ftp_helper_common::reason::Reason;

/// Reads the bytes as everything that one client sends.
///
/// # Panics
/// A request does not survive being written and read, or an error says nothing.
pub fn run(data: &[u8]) {
    let mut reader = data;
    // As many as there can be lines.
    for _ in 0..=data.iter().filter(|b| **b == b'\n').count() {
        let read = {
            let mut read = pin!(api::read_request(&mut reader));
            match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(read) => read.expect("memory can be read"),
                Poll::Pending => panic!("memory is always ready"),
            }
        };
        match read {
            None => return,
            Some(Ok(request)) => {
                let line = serde_json::to_string(&Versioned::new(&request)).expect("a request is JSON");
                assert_eq!(serde_json::from_str::<Versioned<Request>>(&line).expect("it was one").body, request);
                if let Request::Observe { filter, .. } = &request {
                    let mut event = Event::new(Kind::Refused, 1_700_000_000_000_000_000).because(Reason::LowPort);
                    let _ = filter.matches(&event);
                    event.client = "192.0.2.10:40000".parse().ok();
                    event.session = Some(SessionId(0xa1));
                    let _ = filter.matches(&event);
                }
            }
            // The server hangs up behind it.
            Some(Err(message)) => {
                assert!(!message.is_empty() && message.len() < REQUEST_MAX + 1024, "{message}");
                return;
            }
        }
    }
}
