//! `usage-gate key`: API keys of a tenant.

use std::io::Write;

use serde_json::{Map, Value};

use super::client::{AdminClient, Options, escape};
use super::{say, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key; it is shown this once
    Create(Create),
    /// List the keys of a tenant
    List {
        /// Whose
        #[arg(long, value_name = "ID")]
        tenant: String,
        #[command(flatten)]
        admin: Options,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Whose
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// For people
    #[arg(long)]
    name: String,
    /// The user who owns it
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Real, or for tests: never billed, takes no quota
    #[arg(long, value_parser = ["live", "test"])]
    environment: Option<String>,
    /// What it may do, such as search:read; again for more
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    #[command(flatten)]
    admin: Options,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => create.run().await,
        Command::List { tenant, admin } => {
            let items = AdminClient::from_options(&admin)?.list(&keys_of(&tenant)).await?;
            let columns = [
                ("ID", "id"),
                ("NAME", "name"),
                ("KEY", "hint"),
                ("USER", "user_name"),
                ("STATUS", "status"),
                ("SCOPES", "scopes"),
                ("LAST USED", "last_used_at"),
            ];
            Ok(table::print(&items, admin.json, &columns)?)
        }
    }
}

fn keys_of(tenant: &str) -> String {
    format!("/admin/v1/tenants/{}/keys", escape(tenant))
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let mut document = Map::new();
        document.insert("name".into(), self.name.into());
        let optional = [("user", self.user), ("environment", self.environment)];
        document.extend(optional.into_iter().filter_map(|(member, text)| Some((member.into(), text?.into()))));
        if !self.scopes.is_empty() {
            document.insert("scopes".into(), self.scopes.into());
        }
        let client = AdminClient::from_options(&self.admin)?.naming(&[("scopes", "--scope")]);
        let key = client.post(&keys_of(&self.tenant), &Value::Object(document)).await?;
        if self.admin.json {
            say(format_args!("{key:#}"))?;
            return Ok(());
        }
        // Only the key, so that `key=$(usage-gate key create …)` works; the advice goes beside it.
        say(key.get("key").and_then(Value::as_str).unwrap_or_default())?;
        let id = key.get("id").and_then(Value::as_str).unwrap_or_default();
        writeln!(std::io::stderr().lock(), "made {id}; keep the key now, it is not shown again")?;
        Ok(())
    }
}
