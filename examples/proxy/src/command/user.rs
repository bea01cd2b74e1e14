//! `usage-gate user`: people of a tenant, and links by which they come to the portal.

use serde_json::{Map, Value};

use super::client::{AdminClient, Options, escape};
use super::{say, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Add a user to a tenant
    Create(Create),
    /// List the users of a tenant
    List {
        /// Whose
        #[arg(long, value_name = "ID")]
        tenant: String,
        #[command(flatten)]
        admin: Options,
    },
    /// Make a link that signs a user in to the portal: it works once, for 15 minutes
    Link(Link),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Whose
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Unique in the tenant
    #[arg(long)]
    email: String,
    /// For people; without it the part of the address before the @
    #[arg(long)]
    name: Option<String>,
    /// What they may do in the portal
    #[arg(long, value_parser = ["owner", "admin", "member", "viewer"], default_value = "member")]
    role: String,
    /// Your own id of them
    #[arg(long)]
    external_id: Option<String>,
    #[command(flatten)]
    admin: Options,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Link {
    /// Who is signed in by it
    #[arg(value_name = "ID")]
    user: String,
    /// Where the portal leads back to
    #[arg(long, value_name = "URL")]
    return_url: Option<String>,
    #[command(flatten)]
    admin: Options,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => create.run().await,
        Command::List { tenant, admin } => {
            let items = AdminClient::from_options(&admin)?.list(&users_of(&tenant)).await?;
            let columns =
                [("ID", "id"), ("EMAIL", "email"), ("NAME", "name"), ("ROLE", "role"), ("EXTERNAL ID", "external_id")];
            Ok(table::print(&items, admin.json, &columns)?)
        }
        Command::Link(link) => link.run().await,
    }
}

fn users_of(tenant: &str) -> String {
    format!("/admin/v1/tenants/{}/users", escape(tenant))
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let mut document = Map::new();
        document.insert("email".into(), self.email.into());
        document.insert("role".into(), self.role.into());
        let optional = [("name", self.name), ("external_id", self.external_id)];
        document.extend(optional.into_iter().filter_map(|(member, text)| Some((member.into(), text?.into()))));
        let user =
            AdminClient::from_options(&self.admin)?.post(&users_of(&self.tenant), &Value::Object(document)).await?;
        // Only the id, so that `user=$(usage-gate user create …)` works.
        print(&user, "id", self.admin.json)
    }
}

impl Link {
    async fn run(self) -> anyhow::Result<()> {
        let mut document = Map::new();
        document.insert("user".into(), self.user.into());
        document.extend(self.return_url.map(|url| ("return_url".into(), url.into())));
        let client = AdminClient::from_options(&self.admin)?.naming(&[("user", "ID")]);
        let link = client.post("/admin/v1/portal-sessions", &Value::Object(document)).await?;
        // Only the URL, so that `open $(usage-gate user link …)` works.
        print(&link, "url", self.admin.json)
    }
}

fn print(document: &Value, member: &str, json: bool) -> anyhow::Result<()> {
    if json {
        say(format_args!("{document:#}"))?;
    } else {
        say(document.get(member).and_then(Value::as_str).unwrap_or_default())?;
    }
    Ok(())
}
