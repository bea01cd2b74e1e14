//! What a crash does to usage: processes that write down what they see, a gateway that is killed among them, and the comparison at the end.
//!
//! Three counters know nothing of each other: the clients' files, the upstream's file, and what the gateway kept. Clients and upstream are
//! processes of their own, which nobody kills (the binary `usage-gate-crash-actor`).

mod actor;
mod connection;
mod event;
mod held_store;
mod ledger_view;
pub mod oracle;
pub mod origin;
mod paced;
mod random;
mod servers;
mod stage;
mod tmpfs;
pub mod traffic;
mod victim;

pub use actor::Actor;
pub use connection::ask;
pub use event::{End, Ending, EventLog, Sight, read};
pub use held_store::HeldStore;
pub use ledger_view::{Journal, Ledger, Logged, QuotaUse, Record, Standing, Sum, journal, verify};
pub use random::Random;
pub use servers::{Fallen, Falls, Servers};
pub use stage::{Day, Stage, TenantSetup};
pub use tmpfs::{Filler, Tmpfs};
pub use victim::Victim;
