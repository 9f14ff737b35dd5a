//! A PostgreSQL server for the tests of stores: on a free port of this machine, with TLS, stopped when dropped.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::step;

/// Where Debian and its relatives put the programs of each version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A running server; its folder goes with it.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes a database cluster and starts it. Takes about five seconds.
    pub(crate) fn start() -> Result<Self> {
        let programs = programs()?;
        // Not the target folder: the server runs as another user, who may not be able to enter that.
        let folder = std::env::temp_dir().join(format!("keystrata-postgres-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let server = Self { programs, folder, port };
        server.set_up()?;
        Ok(server)
    }

    /// What the tests look for: the URL of the superuser, and the authority that the server's certificate is by.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("KEYSTRATA_TEST_POSTGRES", self.url().into()),
            ("KEYSTRATA_TEST_POSTGRES_CA", self.folder.join("ca.pem").into()),
        ]
    }

    /// What the examples look for.
    pub(crate) fn environment_of_examples(&self) -> [(&'static str, String); 1] {
        [("KEYSTRATA_EXAMPLE_POSTGRES", format!("{}?sslmode=disable", self.url()))]
    }

    fn url(&self) -> String {
        format!("postgres://postgres:{PASSWORD}@localhost:{}/postgres", self.port)
    }

    fn set_up(&self) -> Result<()> {
        certificates(&self.folder)?;
        fs::write(self.folder.join("password"), PASSWORD)?;
        if is_root()? {
            step::run("give the server its folder", Command::new("chown").args(["-R", "postgres"]).arg(&self.folder))?;
        }
        let data = self.data();
        step::run(
            "initdb",
            self.program("initdb")
                .args(["--username=postgres", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
                .arg(format!("--pwfile={}", self.folder.join("password").display()))
                .arg("--pgdata")
                .arg(&data)
                .stdout(Stdio::null()),
        )?;
        let folder = self.folder.display();
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={folder} -c max_connections=100 \
             -c ssl=on -c ssl_cert_file={folder}/server.pem -c ssl_key_file={folder}/server.key",
            self.port
        );
        step::run(
            "PostgreSQL",
            self.program("pg_ctl")
                .args(["start", "--wait", "--silent", "--pgdata"])
                .arg(&data)
                .arg("--log")
                .arg(self.folder.join("log"))
                .args(["--options", &options]),
        )
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// One of the server's programs, which refuse to run as root.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root().unwrap_or(false) {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(&self.folder);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        stop.args(["stop", "--mode=immediate", "--silent", "--pgdata"]).arg(self.data());
        if let Err(error) = step::run("stop PostgreSQL", &mut stop) {
            println!("{error:#}");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Of a server that only this machine reaches and that lives for a minute.
const PASSWORD: &str = "for-tests-alone";

fn is_root() -> Result<bool> {
    Ok(step::output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// The programs of the newest version there is.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir(PROGRAMS).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some((number(&entry.path())?, entry.path().join("bin")))).max();
    match newest {
        Some((_, programs)) => Ok(programs),
        None => bail!("no PostgreSQL under {PROGRAMS}: install it, on Debian with `apt-get install postgresql`"),
    }
}

/// An authority, and a certificate of it for `localhost`: not for 127.0.0.1, so that a test can see a wrong name refused.
fn certificates(folder: &Path) -> Result<()> {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        step::run("certificates", &mut command)
    };
    fs::write(folder.join("server.ext"), "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:false\n")?;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=keystrata-tests"))?;
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"))?;
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile server.ext",
    )
}
