//! Which database, and how it is reached.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// Where a [`PostgresKekStore`](super::PostgresKekStore) is, and how it is reached.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(super) client: tokio_postgres::Config,
    pub(super) tls: Tls,
    pub(super) schema: String,
    pub(super) pool_size: usize,
    pub(super) call_timeout: Duration,
}

/// Whom to believe that they are the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    /// Nobody is asked: for this machine and for tunnels.
    Off,
    SystemRoots,
    Roots(PathBuf),
}

/// Why a URL or a setting is none. It repeats no part of the URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostgresConfigError(String);

const FORM: &str = "the URL of a PostgreSQL store is postgres://USER:PASSWORD@db.example:5432/DATABASE?schema=NAME";

impl PostgresConfig {
    /// Connections of one process at once, unless said otherwise. A read takes one for the time of one round trip.
    pub const POOL_SIZE: usize = 8;
    /// How long a call takes at most, unless said otherwise.
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
    /// The schema, unless said otherwise.
    pub const SCHEMA: &'static str = "keystrata";

    /// Reads `postgres://USER:PASSWORD@db.example:5432/DATABASE?…`, as libpq has it, percent-encoded.
    ///
    /// Several hosts are separated by commas and tried in turn; the first that takes writes is used. Of libpq's
    /// parameters these differ: `sslmode` is `verify-full` (also if left out; `require` and `verify-ca` mean the same
    /// here) or `disable`, and nothing in between, since a connection that may fall back to plain text is one. Over a Unix
    /// socket there is no TLS. `sslrootcert` is a PEM file of the authorities to trust instead of the system's. On top come
    /// `schema`, `pool_size` (1 to 1,000) and `call_timeout` in seconds.
    ///
    /// # Errors
    /// [`PostgresConfigError`].
    pub fn from_url(url: &str) -> Result<Self, PostgresConfigError> {
        let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut left = Vec::new();
        let mut ssl = None;
        let mut roots = None;
        let mut own = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| fault(FORM))?;
            match name {
                "sslmode" => ssl = Some(value),
                "sslrootcert" => roots = Some(PathBuf::from(decode(value)?)),
                "schema" | "pool_size" | "call_timeout" => own.push((name, decode(value)?)),
                _ => left.push(pair),
            }
        }
        let rest = if left.is_empty() { base.to_owned() } else { format!("{base}?{}", left.join("&")) };
        let client: tokio_postgres::Config = rest.parse().map_err(|_| fault(FORM))?;
        let names_all = !client.get_hosts().is_empty() && client.get_dbname().is_some() && client.get_user().is_some();
        if !is_url || !names_all {
            return Err(fault(FORM));
        }
        let is_local = client.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_)));
        let tls = match (ssl, roots) {
            (None, None) if is_local => Tls::Off,
            (Some("disable"), None) => Tls::Off,
            (Some("disable"), Some(_)) => return Err(fault("sslrootcert has no use with sslmode=disable: drop one")),
            (None | Some("require" | "verify-ca" | "verify-full"), roots) => roots.map_or(Tls::SystemRoots, Tls::Roots),
            _ => return Err(fault("sslmode is verify-full or disable")),
        };
        let mut config = Self {
            client,
            tls,
            schema: Self::SCHEMA.into(),
            pool_size: Self::POOL_SIZE,
            call_timeout: Self::CALL_TIMEOUT,
        };
        for (name, value) in own {
            let number = || value.parse().map_err(|_| fault(&format!("{name} is a whole number")));
            config = match name {
                "schema" => config.schema(&value)?,
                "pool_size" => config.pool_size(usize::try_from(number()?).unwrap_or(usize::MAX))?,
                _ => config.call_timeout(Duration::from_secs(number()?))?,
            };
        }
        Ok(config)
    }

    /// The password, if it is not in the URL: from a file or a secret store, say.
    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.client.password(password);
        self
    }

    /// The schema that the tables are in: a lower-case name of 1 to 63 letters, digits and underscores that begins with
    /// none of the digits and not with `pg_`. Several stores may lie in one database, each in its own.
    ///
    /// # Errors
    /// [`PostgresConfigError`] for any other name.
    pub fn schema(mut self, name: &str) -> Result<Self, PostgresConfigError> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins_well = !name.starts_with(|c: char| c.is_ascii_digit()) && !name.starts_with("pg_");
        if name.is_empty() || name.len() > 63 || !name.chars().all(is_plain) || !begins_well {
            return Err(fault(
                "a schema is 1 to 63 lower-case letters, digits and _, and begins with no digit and no pg_",
            ));
        }
        name.clone_into(&mut self.schema);
        Ok(self)
    }

    /// Connections at once, 1 to 1,000; default [`Self::POOL_SIZE`]. All processes together must stay below the server's
    /// `max_connections`.
    ///
    /// # Errors
    /// [`PostgresConfigError`] for any other number.
    pub fn pool_size(mut self, connections: usize) -> Result<Self, PostgresConfigError> {
        if !(1..=1000).contains(&connections) {
            return Err(fault("pool_size is 1 to 1000"));
        }
        self.pool_size = connections;
        Ok(self)
    }

    /// How long a call takes at most, waiting for a connection included: 1 second to 10 minutes; default
    /// [`Self::CALL_TIMEOUT`]. The server is told to give up by then too.
    ///
    /// # Errors
    /// [`PostgresConfigError`] for any other time.
    pub fn call_timeout(mut self, time: Duration) -> Result<Self, PostgresConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_mins(10)).contains(&time) {
            return Err(fault("call_timeout is 1 to 600 seconds"));
        }
        self.call_timeout = time;
        Ok(self)
    }

    /// What the client is told: besides the URL, to use only a server that takes writes, and to notice when it is gone.
    pub(super) fn for_client(&self) -> tokio_postgres::Config {
        let mut client = self.client.clone();
        client.ssl_mode(if self.tls == Tls::Off { SslMode::Disable } else { SslMode::Require });
        client.target_session_attrs(TargetSessionAttrs::ReadWrite);
        client.connect_timeout(self.call_timeout / 2).tcp_user_timeout(self.call_timeout);
        client.keepalives_idle(Duration::from_secs(30));
        if client.get_application_name().is_none() {
            client.application_name("keystrata");
        }
        client
    }

    /// For messages: where it is, and nothing secret.
    pub(super) fn shown(&self) -> String {
        let ports = self.client.get_ports();
        let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let host = |(index, host): (usize, &Host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port(index)),
            #[cfg(unix)]
            Host::Unix(path) => shown_path(path),
        };
        let hosts: Vec<_> = self.client.get_hosts().iter().enumerate().map(host).collect();
        let database = self.client.get_dbname().unwrap_or_default();
        format!("PostgreSQL database {database:?} at {}, schema {:?}", hosts.join(","), self.schema)
    }
}

#[allow(clippy::unnecessary_debug_formatting)] // a newline in a path must not split a message
pub(super) fn shown_path(path: &Path) -> String {
    format!("{path:?}")
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("at", &self.shown())
            .field("tls", &self.tls)
            .field("pool_size", &self.pool_size)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

fn fault(message: &str) -> PostgresConfigError {
    PostgresConfigError(message.to_owned())
}

/// Undoes percent-encoding.
fn decode(value: &str) -> Result<String, PostgresConfigError> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let code = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code =
            code.filter(|digits| !digits.starts_with('+')).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.ok_or_else(|| fault(FORM))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| fault(FORM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> PostgresConfig {
        PostgresConfig::from_url(url).unwrap()
    }

    #[test]
    fn a_url_says_all() {
        let config = config(
            "postgresql://app:s%40cret@db1.example:1,db2.example:2/keys?schema=tenants&pool_size=3&call_timeout=7",
        );
        assert_eq!(config.shown(), r#"PostgreSQL database "keys" at db1.example:1,db2.example:2, schema "tenants""#);
        assert_eq!((config.pool_size, config.call_timeout), (3, Duration::from_secs(7)));
        assert_eq!(config.client.get_password(), Some(&b"s@cret"[..]));
        assert_eq!(config.tls, Tls::SystemRoots);
        let printed = format!("{config:?}");
        assert!(!printed.contains("cret") && !printed.contains("app"), "{printed}");
    }

    #[test]
    fn plain_text_has_to_be_asked_for() {
        for (query, tls) in [
            ("", Tls::SystemRoots),
            ("?sslmode=verify-full", Tls::SystemRoots),
            ("?sslmode=require&sslrootcert=%2Fetc%2Fca.pem", Tls::Roots("/etc/ca.pem".into())),
            ("?sslmode=disable", Tls::Off),
        ] {
            let config = config(&format!("postgres://app@db.example/keys{query}"));
            assert_eq!(config.tls, tls, "{query}");
            let expected = if tls == Tls::Off { SslMode::Disable } else { SslMode::Require };
            assert_eq!(config.for_client().get_ssl_mode(), expected);
        }
        assert_eq!(config("postgres://app@%2Fvar%2Frun%2Fpostgresql/keys").tls, Tls::Off, "a socket needs none");
    }

    #[test]
    fn what_is_none_is_refused_and_not_repeated() {
        for url in [
            "",
            "keys.db",
            "host=db user=app password=hunter2 dbname=keys",
            "mysql://app:hunter2@db.example/keys",
            "postgres://app:hunter2@/keys",
            "postgres://app:hunter2@db.example",
            "postgres://app:hunter2@db.example/keys?sslmode=prefer",
            "postgres://app:hunter2@db.example/keys?sslmode=disable&sslrootcert=ca.pem",
            "postgres://app:hunter2@db.example/keys?hunter2",
            "postgres://app:hunter2@db.example/keys?hunter2=hunter2",
            "postgres://app:hunter2@db.example/keys?schema=Keys",
            "postgres://app:hunter2@db.example/keys?schema=pg_keys",
            "postgres://app:hunter2@db.example/keys?schema=a%22;drop",
            "postgres://app:hunter2@db.example/keys?schema=%zz",
            "postgres://app:hunter2@db.example/keys?pool_size=0",
            "postgres://app:hunter2@db.example/keys?pool_size=many",
            "postgres://app:hunter2@db.example/keys?call_timeout=601",
            "postgres://app:hunter2@db.example:port/keys",
        ] {
            let error = PostgresConfig::from_url(url).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2") && !text.contains('\n'), "{url}: {text}");
        }
    }
}
