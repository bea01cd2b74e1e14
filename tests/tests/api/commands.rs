//! What the commands say when something is wrong: each fault once, by what said it, and `check` before `serve`.

use usage_gate_tests::{Folder, Gateway, Setup, binary, run};

/// A command of the gate's to a running one.
async fn manage(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String, String) {
    let data_dir = gateway.data_dir().display().to_string();
    run(&[arguments, &["--admin-url", &gateway.admin_url, "--data-dir", &data_dir]].concat()).await
}

#[tokio::test]
async fn a_fault_is_printed_once_and_by_its_option() {
    let upstream = Some("http://127.0.0.1:1".to_owned());
    let gateway = Gateway::start(Setup { config: String::new(), upstream }).await;
    let (_, tenant, _) = manage(&gateway, &["tenant", "create", "--name", "Acme"]).await;
    let tenant = tenant.trim();
    let user = ["user", "create", "--tenant", tenant, "--email", "ann@acme.test"];
    let (_, ann, _) = manage(&gateway, &user).await;
    let link_back = ["user", "link", ann.trim(), "--return-url", "nowhere"];
    for (arguments, expected) in [
        (&["user", "link", "foo"][..], "error: ID: not an id that starts with `usr_`\n".to_owned()),
        (&user[..], "error: --email: is taken by another: choose one that is not\n".to_owned()),
        (&["tenant", "create", "--name", "B", "--plan", "no"][..], "error: --plan: there is no plan".to_owned()),
        (&link_back[..], "error: --return-url: must be".to_owned()),
        (&["key", "create", "--tenant", tenant, "--name", "a", "--scope", "a b"][..], "error: --scope: ".to_owned()),
        (
            &["key", "list", "--tenant", "nope"][..],
            format!("error: {} answered 404 Not Found: there is no tenant here with this id\n", gateway.admin_url),
        ),
    ] {
        let (status, _, error) = manage(&gateway, arguments).await;
        assert_eq!(status, Some(1), "{error}");
        assert!(error.starts_with(&expected), "{error}\nexpected {expected}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    let wrong = gateway.data_dir().join("wrong-token");
    std::fs::write(&wrong, "a-token-of-another-gate").unwrap();
    let wrong = wrong.display().to_string();
    let (_, _, error) = manage(&gateway, &["tenant", "list", "--token-file", &wrong]).await;
    assert!(error.contains(&format!("the token is from {wrong}; --token-file")), "{error}");
}

#[tokio::test]
async fn check_refuses_the_secrets_that_serve_refuses() {
    let folder = Folder::new();
    let short = folder.path().join("short");
    std::fs::write(&short, "short").unwrap();
    let (short, missing) = (short.display().to_string(), folder.path().join("missing").display().to_string());
    let file = folder.path().join("gate.toml");
    let data_dir = folder.path().join("data");
    let served = format!("[server]\ndata_dir = {data_dir:?}\n[upstream]\nurl = \"http://127.0.0.1:1\"\n");
    for (section, expected) in [
        (format!("[admin]\ntoken_file = {short:?}\n"), format!("6:1: admin.token_file: {short} has 5 characters")),
        (format!("[admin]\ntoken_file = {missing:?}\n"), format!("6:1: admin.token_file: {missing} is not there")),
        (
            format!("[keys]\npepper_file = {short:?}\n"),
            format!("6:1: keys.pepper_file: pepper file {short}: has fewer than 32 characters"),
        ),
        (
            format!("[keys]\npepper_file = {:?}\n", folder.path()),
            format!("6:1: keys.pepper_file: pepper file {}: cannot be read", folder.path().display()),
        ),
    ] {
        std::fs::write(&file, format!("{served}{section}")).unwrap();
        for command in ["check", "serve"] {
            let (status, _, error) = run(&[command, "--config", file.to_str().unwrap()]).await;
            assert_eq!(status, Some(1), "{command}: {error}");
            assert!(error.contains(&expected), "{command}: {error}\nexpected {expected}");
        }
    }
    assert!(!data_dir.exists(), "nothing is made before everything is known to be good");

    std::fs::write(&file, served).unwrap();
    let mut command = tokio::process::Command::new(binary("usage-gate"));
    command.args(["check", "--config"]).arg(&file).env("USAGE_GATE__ADMIN__TOKEN_FILE", &short);
    let output = command.output().await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: environment: USAGE_GATE__ADMIN__TOKEN_FILE: "), "{error}");
}

#[tokio::test]
async fn a_fault_of_the_command_line_is_not_the_file_s() {
    let folder = Folder::new();
    let file = folder.path().join("gate.toml");
    std::fs::write(&file, "[upstream]\nurl = \"http://127.0.0.1:1\"\n").unwrap();
    let arguments = ["serve", "--config", file.to_str().unwrap(), "--upstream", "https://x.test"];
    let (status, _, error) = run(&arguments).await;
    assert_eq!(status, Some(1));
    assert!(error.starts_with("error: --upstream: https to an upstream is not built yet"), "{error}");
}

#[tokio::test]
async fn a_sample_that_cannot_be_made_makes_nothing() {
    let folder = Folder::new();
    let (file, data_dir) = (folder.path().join("gate.toml"), folder.path().join("data"));
    std::fs::write(&file, "").unwrap();
    let arguments = ["sample", "--config", file.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    let (status, _, error) = run(&arguments).await;
    assert_eq!(status, Some(1));
    assert!(error.contains("add [meters.exports]") && !data_dir.exists(), "{error}");
}
