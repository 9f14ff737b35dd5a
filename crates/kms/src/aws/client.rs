//! The SDK's client, of this process and this runtime.

use std::{fmt, sync::OnceLock, time::Duration};

use aws_sdk_kms::{
    Client, Config,
    config::{IdentityCache, retry::RetryConfig, timeout::TimeoutConfig},
};
use keystrata_hierarchy::RootKeyError;
use keystrata_memory::ProcessLocal;
use tokio::time::Instant;

use super::AwsKmsConfig;
use crate::{clients::Clients, open::OpenRootError, turn::Turn};

/// Clients of one configuration, without retries of their own and with a deadline on each attempt.
///
/// A forked child reads the configuration again: its parent's has connections to whoever gives out credentials, and locks
/// that nobody may release in the child.
pub(super) struct AwsClients {
    source: Source,
    attempt_timeout: Duration,
    local: ProcessLocal<Local>,
}

enum Source {
    /// The usual AWS configuration.
    Settings(AwsKmsConfig),
    /// That of a client of the caller's.
    Given(Box<Config>),
}

/// What belongs to one process.
struct Local {
    config: OnceLock<Config>,
    /// Held by whoever reads the configuration.
    turn: Turn,
    clients: Clients<Client>,
}

impl AwsClients {
    /// With the usual AWS configuration, which is read now.
    pub(super) async fn open(settings: AwsKmsConfig) -> Result<Self, OpenRootError> {
        let config = settings.load().await?;
        let attempt_timeout = settings.attempt_timeout;
        Ok(Self::of(Source::Settings(settings), &config, attempt_timeout))
    }

    /// With the configuration of `client`.
    pub(super) fn given(client: &Client, attempt_timeout: Duration) -> Self {
        let config = client.config();
        Self::of(Source::Given(Box::new(config.clone())), config, attempt_timeout)
    }

    fn of(source: Source, config: &Config, attempt_timeout: Duration) -> Self {
        // Longer than files are read, and a region is asked for.
        let limit = attempt_timeout.saturating_mul(8);
        let local = move || Local { config: OnceLock::new(), turn: Turn::new(limit), clients: Clients::new() };
        let clients = Self { source, attempt_timeout, local: ProcessLocal::new(local) };
        clients.keep(config);
        clients
    }

    /// The client of this process and runtime. In a forked child the first call reads the configuration.
    ///
    /// # Cancellation
    /// Whoever asks next reads it instead.
    pub(super) async fn get(&self) -> Result<Client, RootKeyError> {
        let local = self.local.get();
        let config = match local.config.get() {
            Some(config) => config,
            None => self.load(local).await?,
        };
        local.clients.get(|| Ok(Client::from_conf(config.clone())))
    }

    async fn load<'a>(&'a self, local: &'a Local) -> Result<&'a Config, RootKeyError> {
        let began = Instant::now();
        let claim = local.turn.take().await;
        if let Some(config) = local.config.get() {
            return Ok(config); // read while this waited
        }
        if let Some(error) = claim.failure_since(began) {
            return Err(error);
        }
        let config = match &self.source {
            Source::Settings(settings) => claim.noted(settings.load().await.map_err(unavailable))?,
            // The caller's provider of credentials is as it is; what it gave the parent is not used.
            Source::Given(config) => config.to_builder().identity_cache(IdentityCache::lazy().build()).build(),
        };
        Ok(self.keep(&config))
    }

    fn keep(&self, config: &Config) -> &Config {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.attempt_timeout)
            .operation_attempt_timeout(self.attempt_timeout)
            // Credentials are fetched within the operation; this bounds that too.
            .operation_timeout(self.attempt_timeout.saturating_mul(2))
            .build();
        let config = config.to_builder().retry_config(RetryConfig::disabled()).timeout_config(timeouts).build();
        self.local.get().config.get_or_init(|| config)
    }
}

impl fmt::Debug for AwsClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsClients").field("attempt_timeout", &self.attempt_timeout).finish_non_exhaustive()
    }
}

fn unavailable(error: OpenRootError) -> RootKeyError {
    match error {
        OpenRootError::Unusable { what, source } => RootKeyError::Unavailable { message: what, source },
        other => RootKeyError::unavailable(other.to_string()),
    }
}
