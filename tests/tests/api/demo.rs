//! `usage-gate demo`: it opens onto pages with something on them, and what it prints works; a second time on the same data too.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use usage_gate_tests::{Client, Folder, binary};

/// Starts it, and gives what it printed up to its last line.
async fn demo(data_dir: &Path) -> (Child, Vec<String>) {
    let mut command = Command::new(binary("usage-gate"));
    command.arg("demo").arg("--data-dir").arg(data_dir).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let printed = async {
        let mut printed = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            let ends = line.starts_with("Ctrl-C");
            printed.push(line);
            if ends {
                break;
            }
        }
        printed
    };
    let printed = tokio::time::timeout(Duration::from_secs(60), printed).await.unwrap();
    (child, printed)
}

/// The first word that begins so, in any line.
fn word<'p>(printed: &'p [String], begins: &str) -> &'p str {
    let words = printed.iter().flat_map(|line| line.split([' ', '\'']));
    words.into_iter().find(|word| word.starts_with(begins)).unwrap()
}

async fn check(data_dir: &Path) {
    let (mut child, printed) = demo(data_dir).await;
    let client = Client::new();
    let links: Vec<&String> = printed.iter().filter(|line| line.contains("/enter/")).collect();
    assert!(links[0].contains("Ann Sato, owner") && links[1].contains("Chiyo Mori, member"), "{links:?}");
    let link = links[0].split_whitespace().next().unwrap();
    let entered = client.get(link, "").await;
    assert!(entered.status.is_redirection() || entered.status == 200, "{}", entered.status);

    let url = word(&printed, "http://").split("/usage-gate/").next().unwrap();
    let key = word(&printed, "ug_live_");
    for path in ["/v1/search?q=tea", "/v1/items/7", "/v1/echo", "/usage-gate/v1/me"] {
        assert_eq!(client.get(&format!("{url}{path}"), key).await.status, 200, "{path}");
    }
    let small = printed.iter().find(|line| line.contains("seq 20")).unwrap();
    let small = small.split('\'').find_map(|word| word.strip_prefix("x-api-key: ")).unwrap();
    let mut codes = Vec::new();
    for item in 0..20 {
        codes.push(client.get(&format!("{url}/v1/items/{item}"), small).await.code());
    }
    assert!(codes.contains(&"rate_limited".to_owned()), "{codes:?}");

    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = tokio::time::timeout(Duration::from_secs(40), child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn what_it_prints_works_and_works_again_on_the_same_data() {
    let folder = Folder::new();
    let data_dir = folder.path().join("data");
    check(&data_dir).await;
    check(&data_dir).await;
}
