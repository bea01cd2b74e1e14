//! The official Python clients of OpenAI and Anthropic through the gateway, against a local server that speaks like both.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use usage_gate_tests::{Gateway, Setup};

const ROUTES: &str = r#"
    [[routes]]
    name = "chat"
    path = "/v1/chat/completions"
    tokens = "openai"
    [[routes]]
    name = "responses"
    path = "/v1/responses"
    tokens = "openai"
    [[routes]]
    name = "embeddings"
    path = "/v1/embeddings"
    tokens = "openai"
    [[routes]]
    name = "messages"
    path = "/v1/messages"
    tokens = "anthropic"
"#;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

async fn succeed(command: &mut Command) -> String {
    let output = command.kill_on_drop(true).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A Python that has the clients: a virtual environment below the target directory, made once for a list of requirements.
async fn python() -> PathBuf {
    let requirements = scripts().join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).unwrap();
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-clients");
    let python = place.join("bin/python");
    // Written last: what was made half is made again.
    let made = place.join("made-of.txt");
    if std::fs::read_to_string(&made).ok().as_deref() != Some(&wanted) {
        let system = std::env::var_os("USAGE_GATE_PYTHON").unwrap_or_else(|| "python3".into());
        succeed(Command::new(system).args(["-m", "venv", "--clear"]).arg(&place)).await;
        let install =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
        succeed(Command::new(&python).args(install).arg(&requirements)).await;
        std::fs::write(&made, &wanted).unwrap();
    }
    python
}

/// The local server; ended when dropped.
async fn models(python: &Path) -> (Child, String) {
    let mut command = Command::new(python);
    command.arg(scripts().join("models.py")).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().unwrap();
    (child, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn official_clients_are_served_and_their_tokens_are_counted() {
    let python = python().await;
    let (_models, upstream) = models(&python).await;
    let gateway = Gateway::start(Setup { config: ROUTES.into(), upstream: Some(upstream) }).await;
    let admin = gateway.admin();
    let clients = scripts().join("clients.py");

    let (tenant, key) = admin.tenant_with_key("large", json!([]), "UTC", &[]).await;
    succeed(Command::new(&python).arg(&clients).args(["served", &gateway.url, &key])).await;
    for (route, input, output) in
        [("chat", 3 * 21, 3 * 13), ("responses", 2 * 31, 2 * 7), ("embeddings", 5, 0), ("messages", 2 * 17, 2 * 6)]
    {
        for (meter, units) in [("input_tokens", input), ("output_tokens", output)] {
            let usage = admin.read(&format!("/usage?tenant={tenant}&meter={meter}&route={route}&outcome=billed")).await;
            assert_eq!(usage["items"][0]["units"].as_u64().unwrap_or(0), units, "{meter} of {route}: {usage}");
        }
    }

    // Four tokens for each of the two formats.
    let limits = json!([
        {"name": "chat", "kind": "quota", "meter": "output_tokens", "units": 4, "per": "month", "routes": ["chat"]},
        {"name": "messages", "kind": "quota", "meter": "output_tokens", "units": 4, "per": "month", "routes": ["messages"]},
    ]);
    let (tenant, key) = admin.tenant_with_key("small", limits, "UTC", &[]).await;
    succeed(Command::new(&python).arg(&clients).args(["cut", &gateway.url, &key])).await;
    assert_eq!(admin.usage(&tenant, "output_tokens").await, [("billed".to_owned(), 8, 2)]);
}
