//! A server that speaks AWS's protocols, for the examples: on a free port of this machine, stopped when dropped.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Longest start that is waited for; it takes a second on an idle machine.
const START: Duration = Duration::from_mins(1);

/// A running server.
pub(crate) struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// Starts what [`kms_servers`](super::kms_servers) installed.
    pub(crate) fn start(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target.join("kms-servers");
        let program = folder.join("bin/moto_server");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = folder.join("moto.log");
        println!("==> moto on port {port}, log in {}", log.display());
        let output = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let child = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut server = Self { child, port };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// What the AWS configuration of a program has to be to find it, whatever this machine's is.
    pub(crate) fn environment(&self) -> [(&'static str, String); 7] {
        [
            ("AWS_ENDPOINT_URL_KMS", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_REGION", "eu-west-1".into()),
            ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE".into()),
            ("AWS_SECRET_ACCESS_KEY", "for-tests-alone".into()),
            ("AWS_SESSION_TOKEN", String::new()),
            ("AWS_CONFIG_FILE", "/dev/null".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()),
        ]
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let (start, address) = (Instant::now(), SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("moto ended with {status}: see its log");
            }
            if start.elapsed() > START {
                bail!("moto did not listen within {START:?}: see its log");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
