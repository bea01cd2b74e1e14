//! The suites through a PgBouncer that gives each transaction whichever connection is free. Where it is not installed they run without, and say so.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_postgres::config::Host;
use tokio_postgres::{Config, NoTls};

use super::server::{as_postgres, finish, free_port};
use super::{Database, PostgresStore};

mod keys {
    crate::conformance::key_store_tests!(super::fresh().await);
}
mod accounts {
    crate::conformance::account_store_tests!(super::fresh().await);
}
mod sessions {
    crate::conformance::session_store_tests!(super::fresh().await);
}

/// A pooler of one test, gone afterwards.
struct Bouncer {
    folder: PathBuf,
    process: Child,
}

async fn fresh() -> (PostgresStore, (Option<Bouncer>, Database)) {
    let database = Database::new().await;
    let Some(program) = program() else {
        println!("PgBouncer is not installed: this runs WITHOUT it (tests/install-servers pgbouncer)");
        return (PostgresStore::open(&database.url()).await.unwrap(), (None, database));
    };
    let (bouncer, url) = Bouncer::start(&program, &database.url()).await;
    // More connections than the pooler has: what one leaves behind in a session another would find.
    (PostgresStore::options(&url).connections(4).open().await.unwrap(), (Some(bouncer), database))
}

fn program() -> Option<PathBuf> {
    let found = Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin command -v pgbouncer"]).output().unwrap();
    let path = str::from_utf8(&found.stdout).unwrap().trim();
    (!path.is_empty()).then(|| path.into())
}

impl Bouncer {
    /// Starts one before a database, and gives the address by which it is reached.
    async fn start(program: &Path, database: &str) -> (Self, String) {
        let config: Config = database.parse().unwrap();
        let name = config.get_dbname().unwrap();
        let user = config.get_user().unwrap();
        let [Host::Tcp(host)] = config.get_hosts() else { panic!("DATABASE_URL must name one host") };
        let password =
            config.get_password().map_or(String::new(), |word| format!(" password={}", String::from_utf8_lossy(word)));
        let (server_port, port) = (config.get_ports()[0], free_port());
        let folder = std::env::temp_dir().join(format!("usage-gate-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let settings = format!(
            "[databases]\n{name} = host={host} port={server_port} user={user}{password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 2\n"
        );
        std::fs::write(folder.join("pgbouncer.ini"), settings).unwrap();
        let mut process = as_postgres(program, &folder)
            .arg("pgbouncer.ini")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("postgres://{user}@127.0.0.1:{port}/{name}");
        let answers = async {
            while tokio_postgres::connect(&url, NoTls).await.is_err() {
                assert!(process.try_wait().unwrap().is_none(), "PgBouncer has ended");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), answers).await.expect("PgBouncer answers");
        (Self { folder, process }, url)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        finish(Command::new("kill").args(["-QUIT", &self.process.id().to_string()]));
        let _ = self.process.wait();
        // What remains of a failed removal is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
