//! Takes a picture of every page of the portal, in both languages, light and dark, on a phone and on a desk, into the folder that is named.
//!
//! `tests/screenshots` builds what this starts, and runs it.
#![expect(clippy::unwrap_used, reason = "what a picture cannot be taken without ends the program")]

use std::path::PathBuf;

use usage_gate_tests::browser::View;
use usage_gate_tests::{Browser, Tour};

#[tokio::main]
async fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "screenshots".into()));
    let tour = Tour::start().await;
    let browser = Browser::start().await;
    for language in ["en", "ja"] {
        let view = View { language: language.to_owned(), reduced_motion: true, ..View::default() };
        browser.look(&view).await;
        tour.walk(&browser, async |stop| {
            for (dark, width) in [(false, 1440), (true, 1440), (true, 390), (false, 390)] {
                browser.look(&View { dark, width, ..view.clone() }).await;
                let theme = if dark { "dark" } else { "light" };
                let place = folder.join(format!("{language}-{theme}-{width}"));
                std::fs::create_dir_all(&place).unwrap();
                std::fs::write(place.join(format!("{}.png", stop.name)), browser.screenshot().await).unwrap();
            }
            browser.look(&view).await;
        })
        .await;
    }
}
