//! The processes beside the gateway in the crash tests, which nobody kills: `upstream FILE` and `client ORDERS`, the latter as JSON.
//!
//! Both end when their standard input does, so they never outlive the test that started them.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what an actor cannot go on without ends it; it tells its address"
)]

use std::io::Read;
use std::path::Path;

use tokio::sync::watch;
use usage_gate_tests::crash::{origin, traffic};

#[tokio::main]
async fn main() {
    let mut stop = stopped();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["upstream", file] => {
            tokio::select! {
                () = origin::serve(Path::new(file), |address| println!("{address}")) => {}
                _ = stop.changed() => {}
            }
        }
        ["client", orders] => traffic::run(serde_json::from_str(orders).unwrap(), stop).await,
        _ => println!("usage: usage-gate-crash-actor upstream FILE | client ORDERS"),
    }
}

/// True once standard input has ended. A thread, because a runtime would wait for it at its end.
fn stopped() -> watch::Receiver<bool> {
    let (send, receive) = watch::channel(false);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = send.send(true);
    });
    receive
}
