//! `usage-gate tenant`: customer accounts.

use serde_json::{Map, Value};

use super::client::{AdminClient, Options};
use super::{say, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a tenant
    Create(Create),
    /// List tenants
    List {
        #[command(flatten)]
        admin: Options,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// For people
    #[arg(long)]
    name: String,
    /// The plan it is on
    #[arg(long, default_value = "free")]
    plan: String,
    /// Where its days and months begin, such as Europe/Berlin [default: UTC]
    #[arg(long)]
    time_zone: Option<String>,
    /// Your own id of it
    #[arg(long)]
    external_id: Option<String>,
    #[command(flatten)]
    admin: Options,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => create.run().await,
        Command::List { admin } => {
            let items = AdminClient::from_options(&admin)?.list("/admin/v1/tenants").await?;
            let columns = [
                ("ID", "id"),
                ("NAME", "name"),
                ("PLAN", "plan"),
                ("STATUS", "status"),
                ("TIME ZONE", "time_zone"),
                ("EXTERNAL ID", "external_id"),
            ];
            Ok(table::print(&items, admin.json, &columns)?)
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let mut document = Map::new();
        document.insert("name".into(), self.name.into());
        document.insert("plan".into(), self.plan.into());
        let optional = [("time_zone", self.time_zone), ("external_id", self.external_id)];
        document.extend(optional.into_iter().filter_map(|(member, text)| Some((member.into(), text?.into()))));
        let tenant =
            AdminClient::from_options(&self.admin)?.post("/admin/v1/tenants", &Value::Object(document)).await?;
        if self.admin.json {
            say(format_args!("{tenant:#}"))?;
        } else {
            // Only the id, so that `tenant=$(usage-gate tenant create …)` works.
            say(tenant.get("id").and_then(Value::as_str).unwrap_or_default())?;
        }
        Ok(())
    }
}
