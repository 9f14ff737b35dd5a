//! The command with root keys in services, configured as an operator does it: by URI and environment.
#![cfg(all(feature = "aws", feature = "vault", feature = "gcp"))]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

// One way to start servers, not two.
#[path = "../../../kms/tests/servers/process.rs"]
mod process;

mod bao;
mod replay;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
};

use bao::{Bao, TOKEN};
use process::{Server, free_port, installed};
use serde_json::Value;

const SECRET: &[u8] = b"4111 1111 1111 1111";

/// Runs the command in `folder` with `variables`, and nothing else of this machine's credentials.
fn keystrata(folder: &Path, variables: &[(&str, String)], arguments: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_keystrata"));
    command.current_dir(folder).args(arguments).env_clear().env("HOME", folder);
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    command
}

fn makes_seals_and_opens(root: &str, id: &str, variables: &[(&str, String)]) {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| keystrata(folder.path(), variables, arguments);
    let facts = run(&["init", "--json", "--root", root, "--kms-rate", "200", "--kms-burst", "20"]).unwrap().stdout;
    let facts: Value = serde_json::from_slice(&facts).unwrap();
    assert_eq!((&facts["root"]["location"], &facts["root"]["id"]), (&Value::from(root), &Value::from(id)));
    assert_eq!(facts["root"]["made"], false);
    let kms = &facts["kms"];
    assert_eq!((&kms["rate"], &kms["burst"]), (&200.into(), &20.into()));
    // Five to try it out, and with Vault one that asks whether the key is derived. An alias is looked up before any counts.
    let is_aws = id.starts_with("aws-kms:");
    assert_eq!(kms["calls"], if is_aws { 5 } else { 6 });
    assert_eq!(kms["estimated_usd"].as_f64().map(|usd| (usd * 1e9).round()), is_aws.then_some(15_000.0));
    // Without --root and the rest from here on: the settings file has them.
    let sealed = run(&["seal", "--account", "acme"]).write_stdin(SECRET).unwrap().stdout;
    assert_eq!(run(&["open", "--account", "acme"]).write_stdin(sealed).unwrap().stdout, SECRET);
    let shown = run(&["account", "show", "acme", "--json"]).unwrap().stdout;
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["keks"][0]["wrapped_by"][0], id);

    let json = |output: &std::process::Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let verified = json(&run(&["root", "verify", "--json"]).unwrap());
    assert_eq!((&verified["roots"][0]["works"], &verified["roots"][0]["id"]), (&true.into(), &id.into()));
    assert!(verified["roots"][0]["kms"]["calls"].as_u64() >= Some(5), "{verified}");
    // Calls cost money: they are counted, and not made before somebody said so.
    let refused = run(&["store", "check", "--unwrap"]).output().unwrap();
    let line = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.contains("--yes"), "{line}");
    let checked = json(&run(&["store", "check", "--unwrap", "--yes", "--json"]).unwrap());
    assert_eq!((&checked["clean"], &checked["root_wraps"]), (&true.into(), &1.into()), "{checked}");
    assert_eq!(checked["unwrap"]["unwrapped"], 1);
    // With Vault the first call asks whether the key is derived.
    assert_eq!(checked["unwrap"]["kms_calls"], if is_aws { 1 } else { 2 });
    moves_away(run, root, folder.path());
}

/// From the root key in the service to one in a file: a call for each KEK, and none to retire.
fn moves_away(run: impl Fn(&[&str]) -> assert_cmd::Command, root: &str, folder: &Path) {
    keystrata_kms::LocalRootKey::create(folder.join("near.key")).unwrap();
    let moving = ["--root", "local:near.key", "--former-root", root, "--json"];
    let json = |arguments: &[&str]| {
        let output = run(&[arguments, &moving[..]].concat()).unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let plan = json(&["reroot", "--add", "--dry-run"]);
    assert_eq!((&plan["added"], &plan["kms"]["calls"]), (&1.into(), &0.into()), "{plan}");
    let added = json(&["reroot", "--add", "--from", root, "--checkpoint", "job"]);
    // With Vault the first call asks whether the key is derived.
    let calls = added["kms"]["calls"].as_u64().unwrap();
    assert_eq!((&added["added"], &added["failed"]), (&1.into(), &0.into()), "{added}");
    assert!((1..=2).contains(&calls), "{added}");
    let retired = json(&["reroot", "--retire", "--yes-i-mean", "local:near.key"]);
    assert_eq!((&retired["dropped"], &retired["kms"]["calls"]), (&1.into(), &0.into()), "{retired}");
}

/// What the command says when it fails: one line.
fn refusal(variables: &[(&str, String)], root: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output =
        keystrata(folder.path(), variables, &["init", "--root", root, "--kms-rate", "200", "--kms-burst", "20"])
            .output()
            .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    text
}

/// One request by hand; the answer's status and body.
fn post(port: u16, path: &str, headers: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn moto() -> Server {
    Server::start(&installed("moto_server"), |port, _| {
        ["-H", "127.0.0.1", "-p", &port.to_string()].map(String::from).into()
    })
}

#[test]
#[ignore = "needs moto, which `cargo xtask test` installs"]
fn aws_is_configured_by_its_usual_variables() {
    let moto = moto();
    let headers = "x-amz-target: TrentService.CreateKey\r\ncontent-type: application/x-amz-json-1.1\r\n\
        authorization: AWS4-HMAC-SHA256 Credential=x/20260101/eu-west-1/kms/aws4_request\r\n";
    let (status, key) = post(moto.port, "/", headers, "{}");
    assert_eq!(status, 200);
    let arn = key["KeyMetadata"]["Arn"].as_str().unwrap();
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2".into()),
        ("AWS_REGION", "eu-west-1".into()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", moto.port)),
    ];
    makes_seals_and_opens(&format!("aws-kms:{arn}?timeout_ms=20000"), &format!("aws-kms:{arn}"), &variables);
    let by_id = arn.rsplit('/').next().unwrap();
    makes_seals_and_opens(&format!("aws-kms:{by_id}?timeout_ms=20000"), &format!("aws-kms:{arn}"), &variables);

    let line = refusal(&variables, "aws-kms:alias/nowhere?timeout_ms=20000");
    assert!(line.contains("knows no key"), "{line}");
    let line = refusal(&variables[..2], "aws-kms:alias/nowhere");
    assert!(line.contains("AWS_REGION"), "{line}");
}

#[test]
#[ignore = "needs OpenBao, which `cargo xtask test` installs"]
fn vault_takes_its_token_from_the_environment() {
    let bao = Bao::start(&["keystrata"]);
    let root = bao.root("keystrata");
    let variables = [("VAULT_TOKEN", TOKEN.to_owned())];
    makes_seals_and_opens(&root, "vault-transit:transit/keys/keystrata", &variables);

    let line = refusal(&[], &root);
    assert!(line.contains("VAULT_TOKEN"), "{line}");
    let line = refusal(&[("VAULT_TOKEN", "hunter2-wrong".into())], &root);
    assert!(line.contains("ended or was revoked"), "{line}");
    let line = refusal(&variables, &format!("vault-transit:http://127.0.0.1:{}/transit/keys/k", free_port()));
    assert!(line.contains("cannot be reached"), "{line}");
}

/// Every command that a store on a server has to serve, on `store` and on `other`, neither of which is there yet. `secret`
/// is a part of the store's URI that is not to be shown.
#[cfg(any(feature = "postgres", feature = "dynamodb"))]
fn serves_every_command(store: &str, other: &str, secret: &str, credentials: &[(&str, String)]) {
    let folder = tempfile::tempdir().unwrap();
    let own = [("KEYSTRATA_STORE", store.to_owned()), ("KEYSTRATA_ROOT", "local:root.key".to_owned())];
    let variables = [&own, credentials].concat();
    let run = |arguments: &[&str]| keystrata(folder.path(), &variables, arguments);
    let json = |arguments: &[&str]| serde_json::from_slice::<Value>(&run(arguments).unwrap().stdout).unwrap();
    keystrata(folder.path(), &[], &["init", "--root", "local:root.key"]).unwrap();

    for (dry_run, from) in [(&["--dry-run"][..], 0), (&[], 0), (&[], 1)] {
        let migrated = json(&[&["store", "migrate", "--json"], dry_run].concat());
        assert_eq!((&migrated["from"], &migrated["to"]), (&from.into(), &1.into()), "{migrated}");
        assert_eq!(migrated["steps"].as_array().unwrap().is_empty(), from == 1);
        assert!(secret.is_empty() || !migrated["store"].as_str().unwrap().contains(secret), "{migrated}");
    }
    let sealed = run(&["seal", "--account", "acme"]).write_stdin(SECRET).unwrap().stdout;
    for command in
        [&["account", "rotate", "acme"][..], &["account", "create", "globex"], &["account", "create", "gone"]]
    {
        run(command).unwrap();
    }
    run(&["account", "shred", "gone", "--yes-i-mean", "gone"]).unwrap();
    let checked = json(&["store", "check", "--unwrap", "--json"]);
    assert_eq!((&checked["clean"], &checked["accounts"]), (&true.into(), &3.into()), "{checked}");

    // Every state, and all accounts under another root key.
    for (state, status) in [("open-only", "open-only"), ("disable", "disabled"), ("enable", "enabled")] {
        let changed = json(&["account", state, "globex", "--json"]);
        assert_eq!((&changed["status"], &changed["changed"]), (&status.into(), &true.into()), "{changed}");
    }
    let given_up = json(&["account", "min-version", "globex", "--version", "1", "--json"]);
    assert_eq!(given_up["changed"], false, "{given_up}");
    keystrata_kms::LocalRootKey::create(folder.path().join("new.key")).unwrap();
    let moving = ["--root", "local:new.key", "--former-root", "local:root.key", "--json"];
    let added = json(&[&["reroot", "--add", "--checkpoint", "job"], &moving[..]].concat());
    assert_eq!((&added["accounts"], &added["added"]), (&2.into(), &3.into()), "{added}");
    let retire = ["reroot", "--verify-and-retire", "--yes-i-mean", "local:root.key", "--json"];
    assert_eq!(json(&retire)["dropped"], 3);
    std::fs::write(folder.path().join("envelope"), &sealed).unwrap();
    assert_eq!(json(&["rewrap", "--account", "acme", "envelope", "--json"])["changed"], 1);
    assert_eq!(run(&["open", "--account", "acme", "envelope"]).unwrap().stdout, SECRET);
    let plan = json(&["account", "rotate", "--older-than", "0s", "--dry-run", "--json"]);
    assert_eq!((&plan["changed"], &plan["kms"]), (&2.into(), &Value::Null), "{plan}");

    // Out of it, and back into another.
    for (from, to) in [(store, "sqlite:copy.db"), ("sqlite:copy.db", other)] {
        for copied in [3, 0] {
            let copy = json(&["store", "copy", "--from", from, "--to", to, "--json"]);
            assert_eq!((&copy["copied"], &copy["same"]), (&copied.into(), &(3 - copied).into()), "{copy}");
        }
    }
    let open = run(&["open", "--account", "acme", "--store", other]).write_stdin(sealed).unwrap();
    assert_eq!(open.stdout, SECRET);
    let refused = run(&["store", "backup", "backup.db"]).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("backed up with its own tools"));
}

#[test]
#[cfg(feature = "postgres")]
#[ignore = "needs PostgreSQL, which `cargo xtask test` starts"]
fn postgres_is_named_by_its_url() {
    let server = std::env::var("KEYSTRATA_TEST_POSTGRES").expect("`cargo xtask test` starts a server and sets it");
    let server = server.rsplit_once('/').unwrap().0.to_owned();
    let url = format!("{server}/postgres?sslmode=disable&schema=command_{}", std::process::id());
    let password = server.split(['/', ':', '@']).nth(4).unwrap();
    serves_every_command(&url, &url.replace("command_", "command_other_"), password, &[]);
}

#[test]
#[cfg(feature = "dynamodb")]
#[ignore = "needs moto, which `cargo xtask test` installs"]
fn dynamodb_is_named_by_its_table() {
    let moto = moto();
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2".into()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
    ];
    let parameters = format!("region=eu-west-1&endpoint=http://127.0.0.1:{}&call_timeout=120", moto.port);
    let uri = format!("dynamodb:keystrata?{parameters}");
    serves_every_command(&uri, &uri.replace("keystrata", "other"), "endpoint", &credentials);
}
