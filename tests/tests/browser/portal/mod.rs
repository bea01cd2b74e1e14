//! The portal as its users have it: a gateway as a process, a real upstream, a browser.

mod day;
mod roles;
mod sessions;
mod stage;
mod taste;
