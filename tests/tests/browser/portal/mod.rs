//! The portal as its users have it: a gateway as a process, a real upstream, a browser.

mod cross_site;
mod day;
mod every_page;
mod keyboard;
mod plain;
mod roles;
mod sessions;
mod stage;
mod taste;
