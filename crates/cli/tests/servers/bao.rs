//! An OpenBao with derived transit keys, and its own record of what it was asked.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    post,
    process::{Server, bao},
};

/// Its root token.
pub(crate) const TOKEN: &str = "hunter2-root";

/// A server in memory. Stopped when dropped.
pub(crate) struct Bao {
    pub(crate) server: Server,
    audit: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bao {
    /// Starts one that holds these keys.
    pub(crate) fn start(keys: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, audit) = (folder.path().join("audit.hcl"), folder.path().join("audit.log"));
        // It takes no audit device by its API.
        let options = format!("options = {{ file_path = \"{}\" }}", audit.display());
        std::fs::write(&config, format!("audit \"file\" \"all\" {{ {options} }}")).unwrap();
        let server = Server::start(&bao(), |port, _| {
            let address = format!("-dev-listen-address=127.0.0.1:{port}");
            let config = format!("-config={}", config.display());
            vec!["server".into(), "-dev".into(), format!("-dev-root-token-id={TOKEN}"), address, config]
        });
        let bao = Self { server, audit, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        // It listens before it is unsealed.
        while bao.post("sys/mounts/transit", r#"{"type":"transit"}"#) != 204 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(50));
        }
        for key in keys {
            assert_eq!(bao.post(&format!("transit/keys/{key}"), r#"{"derived":true}"#), 200);
        }
        bao
    }

    fn post(&self, path: &str, body: &str) -> u16 {
        post(self.server.port, &format!("/v1/{path}"), &format!("x-vault-token: {TOKEN}\r\n"), body).0
    }

    /// The URI of one of its keys.
    pub(crate) fn root(&self, key: &str) -> String {
        format!("vault-transit:http://127.0.0.1:{}/transit/keys/{key}", self.server.port)
    }

    /// The path of every request that it has answered so far, by its audit log.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.audit).unwrap();
        let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let answers = entries.filter(|entry| entry["type"] == "response");
        answers.map(|entry| entry["request"]["path"].as_str().unwrap().to_owned()).collect()
    }
}
