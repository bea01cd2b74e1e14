//! What the gateway says was used, as its three witnesses tell it: the journal, the request log, and the sums that bills are made of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use super::connection::ask;
use crate::gateway::binary;

/// A line of `usage-gate journal dump` that has units in it: a request, or units that were forfeited.
#[derive(Debug, Clone, Deserialize)]
pub struct Record {
    /// The process life that wrote it, or for which it was written.
    pub stream: Value,
    /// Its place there.
    pub sequence: u64,
    /// `record`, or `forfeited`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The request; none for what was forfeited.
    #[serde(default)]
    pub request_id: Option<String>,
    /// Whose it is.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The key, where there is one.
    #[serde(default)]
    pub key: Option<String>,
    /// The answer's status; 0 or none without a head.
    #[serde(default)]
    pub status: Option<u16>,
    /// How it counts.
    #[serde(default)]
    pub outcome: String,
    /// Units by meter.
    #[serde(default)]
    pub units: BTreeMap<String, u64>,
    /// What of it quotas count.
    #[serde(default)]
    pub quotas: Vec<QuotaUse>,
}

/// What a counter counts of a record.
#[derive(Debug, Clone, Deserialize)]
pub struct QuotaUse {
    /// Which counter: a limit and a subject.
    pub counter: Value,
    /// Units of it.
    pub units: i64,
}

impl Record {
    /// True if it is to be paid for.
    #[must_use]
    pub fn billed(&self) -> bool {
        matches!(self.outcome.as_str(), "billed" | "aborted")
    }
}

/// An item of the request log.
#[derive(Debug, Clone, Deserialize)]
pub struct Logged {
    /// The request; none for what was forfeited, if that is shown.
    pub request_id: Option<String>,
    /// How it counts.
    pub outcome: String,
}

/// Calls and units of an outcome, as the usage API sums them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Calls.
    pub requests: u64,
    /// Units of the meter `requests`.
    pub units: u64,
}

/// How a limit stands.
#[derive(Debug, Clone, Deserialize)]
pub struct Standing {
    /// The limit.
    pub name: String,
    /// What it counts by.
    pub counted_by: String,
    /// Its cap.
    pub limit: u64,
    /// Spent.
    pub used: u64,
    /// Leased and not spent.
    pub reserved: u64,
}

/// The admin API of a gateway that may be dead at any moment.
#[derive(Debug, Clone)]
pub struct Ledger {
    address: SocketAddr,
    token: String,
}

impl Ledger {
    /// The API at an address.
    #[must_use]
    pub fn new(address: SocketAddr, token: &str) -> Self {
        Self { address, token: format!("Bearer {token}") }
    }

    /// `GET`; none without a whole answer.
    pub async fn read(&self, path: &str) -> Option<(u16, Value)> {
        let path = format!("/admin/v1{path}");
        let header = ("authorization", self.token.as_str());
        let (status, body) = ask(self.address, &path, header, Duration::from_secs(20)).await?;
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn must(&self, path: &str) -> Result<Value, String> {
        match self.read(path).await {
            Some((200, document)) => Ok(document),
            Some((status, document)) => Err(format!("GET {path}: {status} {document}")),
            None => Err(format!("GET {path}: no answer")),
        }
    }

    /// How the quotas of a tenant stand, or those of one key. What other limits have taken is in no record.
    ///
    /// # Errors
    /// Without an answer that can be read.
    pub async fn standings(&self, tenant: &str, key: Option<&str>) -> Result<Vec<Standing>, String> {
        let of_key = key.map(|key| format!("?key={key}")).unwrap_or_default();
        let path = format!("/tenants/{tenant}/limits{of_key}");
        let mut page = self.must(&path).await?;
        if let Some(limits) = page["items"].as_array_mut() {
            limits.retain(|limit| limit["kind"] == "quota");
        }
        items(&page, &path)
    }

    /// Every served request in the log.
    ///
    /// # Errors
    /// Without answers that can be read.
    pub async fn request_log(&self) -> Result<Vec<Logged>, String> {
        let mut found: Vec<Logged> = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/requests?page_size=200{cursor}");
            let page = self.must(&path).await?;
            found.extend(items::<Logged>(&page, &path)?);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        found.retain(|logged| logged.request_id.is_some() && !logged.outcome.starts_with("refused"));
        Ok(found)
    }

    /// A tenant's sums of the present period, by outcome.
    ///
    /// # Errors
    /// Without an answer that can be read.
    pub async fn sums(&self, tenant: &str) -> Result<BTreeMap<String, Sum>, String> {
        let path = format!("/usage?tenant={tenant}&meter=requests&group_by=outcome&page_size=200");
        let usage = self.must(&path).await?;
        let mut sums = BTreeMap::<String, Sum>::new();
        for item in usage["items"].as_array().into_iter().flatten() {
            let sum = sums.entry(item["outcome"].as_str().unwrap_or_default().to_owned()).or_default();
            sum.requests += item["requests"].as_u64().unwrap_or_default();
            sum.units += item["units"].as_u64().unwrap_or_default();
        }
        Ok(sums)
    }
}

fn items<T: serde::de::DeserializeOwned>(page: &Value, path: &str) -> Result<Vec<T>, String> {
    serde_json::from_value(page["items"].clone()).map_err(|fault| format!("GET {path}: {fault}"))
}

/// Records, and how many lines there are of each type.
pub type Journal = (Vec<Record>, BTreeMap<String, u64>);

/// Every record of a data directory, and what else its journal has, by type.
///
/// # Errors
/// If the command fails, or prints what cannot be read.
pub async fn journal(data_dir: &Path) -> Result<Journal, String> {
    let (success, text, error) = command(&["journal", "dump", "--data-dir"], data_dir, &[]).await;
    if !success {
        return Err(format!("usage-gate journal dump: {error}"));
    }
    read(&text)
}

fn read(text: &str) -> Result<Journal, String> {
    let mut records = Vec::new();
    let mut types = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).map_err(|fault| format!("{fault} in {line}"))?;
        let kind = value["type"].as_str().unwrap_or_default().to_owned();
        if matches!(kind.as_str(), "record" | "forfeited") {
            records.push(serde_json::from_value(value).map_err(|fault| format!("{fault} in {line}"))?);
        }
        *types.entry(kind).or_default() += 1;
    }
    Ok((records, types))
}

/// `usage-gate verify` of a day.
///
/// # Errors
/// If it finds a difference, or cannot look.
pub async fn verify(data_dir: &Path, config: &Path, day: &str) -> Result<(), String> {
    let config = config.to_string_lossy();
    let rest = ["--config", &*config, "--period", day, "--json"];
    let (success, text, error) = command(&["verify", "--data-dir"], data_dir, &rest).await;
    let report: Value = serde_json::from_str(&text).unwrap_or_default();
    let differences = report["differences"].as_array().map_or(usize::MAX, Vec::len);
    if success && report["ok"] == Value::Bool(true) && differences == 0 {
        return Ok(());
    }
    Err(format!("usage-gate verify --period {day}: {text}{error}"))
}

async fn command(words: &[&str], data_dir: &Path, rest: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(binary("usage-gate"));
    command.args(words).arg(data_dir).args(rest).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_dump_are_read_as_the_contract_has_them() {
        let text = [
            r#"{"stream":"5f","sequence":1,"type":"record","request_id":"req_a","at":"2026-11-24T12:00:00Z","tenant":"ten_a","user":null,"key":"key_a","route":"all","status":200,"outcome":"billed","measured":"exact","units":{"requests":1},"quotas":[{"lease":"9c","counter":"0b","period":"2026-11-24T00:00:00Z","units":1}]}"#,
            r#"{"stream":"5f","sequence":4,"type":"forfeited","request_id":null,"at":"2026-11-24T12:00:01Z","tenant":"ten_a","user":null,"key":null,"route":null,"status":null,"outcome":"forfeited","measured":"exact","units":{"requests":3},"quotas":[{"lease":"9c","counter":"0b","period":"2026-11-24T00:00:00Z","units":3}]}"#,
            r#"{"stream":"5f","sequence":7,"type":"pad"}"#,
            r#"{"stream":"5f","sequence":8,"type":"seal"}"#,
        ];
        let (records, types) = read(&text.join("\n")).unwrap();
        assert_eq!(types.values().sum::<u64>(), 4);
        assert_eq!(records.len(), 2);
        assert!(records[0].billed() && records[0].status == Some(200));
        assert_eq!((records[1].kind.as_str(), records[1].quotas[0].units), ("forfeited", 3));
        assert!(read("{").is_err());
    }
}
