//! `usage-gate journal`: what this node recorded, straight from its files.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Map, Value, json};
use usage_gate_core::journal::{Entry, Item, entries};
use usage_gate_core::model::{KeyId, Meters, StreamId};
use usage_gate_core::store::{Outcome, RefusalSum, UsageRecord};

use crate::config::{self, Loaded};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print every record as a line of JSON, oldest stream first. Only reads; may run beside `serve`
    Dump(Dump),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dump {
    #[command(flatten)]
    server: Server,
    /// Only this stream, the life of one process
    #[arg(long, value_name = "ID")]
    stream: Option<StreamId>,
}

/// Which server's files are looked at.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The data directory of the server [default: ./usage-gate-data]
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// The server's configuration, if it says where its data or its database is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Server {
    /// Its configuration, and the folder of its journal.
    pub(super) fn load(self) -> anyhow::Result<(Loaded, PathBuf)> {
        let mut loaded = config::load(self.config.as_deref(), &config::overrides(std::env::vars_os()))?;
        if let Some(data_dir) = self.data_dir {
            loaded.overrule("server.data_dir", "--data-dir", |config| config.server.data_dir = data_dir);
        }
        let data_dir = &loaded.config.server.data_dir;
        let folder = data_dir.join("journal");
        anyhow::ensure!(
            folder.is_dir(),
            "{} has no journal: name the data directory of a server with --data-dir",
            data_dir.display()
        );
        Ok((loaded, folder))
    }
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    let Command::Dump(dump) = command;
    let mut out = BufWriter::new(io::stdout().lock());
    match dump.print(&mut out).and_then(|()| Ok(out.flush()?)) {
        // Whoever reads has seen enough, as `head` has.
        Err(fault) if is_closed(&fault) => Ok(()),
        outcome => outcome,
    }
}

fn is_closed(fault: &anyhow::Error) -> bool {
    fault.downcast_ref::<io::Error>().is_some_and(|fault| fault.kind() == io::ErrorKind::BrokenPipe)
}

impl Dump {
    fn print(self, out: &mut impl Write) -> anyhow::Result<()> {
        let (_, folder) = self.server.load()?;
        for entry in entries(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry.with_context(|| folder.display().to_string())?;
            if self.stream.is_some_and(|wanted| wanted != entry.stream) {
                continue;
            }
            writeln!(out, "{}", document(&entry))?;
        }
        Ok(())
    }
}

fn document(entry: &Entry) -> Value {
    let (kind, rest) = match &entry.item {
        Item::Record(record) if record.outcome == Outcome::Forfeited => ("forfeited", of_record(record, &entry.meters)),
        Item::Record(record) => ("record", of_record(record, &entry.meters)),
        Item::Refusals(refusals) => ("refusals", of_refusals(refusals)),
        // What a later version may add.
        _ => ("other", Map::new()),
    };
    let mut line = Map::new();
    line.insert("stream".into(), entry.stream.to_string().into());
    line.insert("sequence".into(), entry.sequence.into());
    line.insert("type".into(), kind.into());
    line.extend(rest);
    Value::Object(line)
}

fn of_record(record: &UsageRecord, meters: &Meters) -> Map<String, Value> {
    let units: Map<String, Value> = meters
        .iter()
        .map(|(index, name)| (name.to_owned(), record.units.of(index)))
        .filter(|(_, units)| *units > 0)
        .map(|(name, units)| (name, units.into()))
        .collect();
    let quotas: Vec<Value> = record
        .quotas
        .iter()
        .map(|one| {
            json!({
                "lease": format!("{:016x}", one.lease), "counter": format!("{:016x}", one.counter.0),
                "period": one.period.to_string(), "units": one.units,
            })
        })
        .collect();
    // Units that were forfeited belong to no request that is known.
    let request = (record.outcome != Outcome::Forfeited).then(|| record.request.to_string());
    members(json!({
        "request_id": request, "at": record.at.to_string(), "tenant": record.tenant.to_string(),
        "user": record.user.map(|user| user.to_string()), "key": key(record.key), "environment": record.environment.as_str(),
        "route": &*record.route, "status": record.status, "outcome": record.outcome.as_str(), "measured": record.measured.as_str(),
        "bucket": record.bucket.to_string(), "units": units, "quotas": quotas,
        "retry": record.retry.map(|retry| format!("{retry:032x}")),
    }))
}

fn of_refusals(sum: &RefusalSum) -> Map<String, Value> {
    members(json!({
        "tenant": sum.tenant.to_string(), "user": sum.user.map(|user| user.to_string()), "key": key(sum.key),
        "environment": sum.environment.as_str(), "route": &*sum.route, "code": &*sum.code, "limit": sum.limit.as_deref(),
        "bucket": sum.bucket.to_string(), "requests": sum.requests,
    }))
}

fn key(id: KeyId) -> Option<String> {
    (id.as_u128() != 0).then(|| id.to_string())
}

fn members(document: Value) -> Map<String, Value> {
    match document {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
