//! Which table, and how it is reached.

use std::{fmt, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Builder, retry::RetryConfig, timeout::TimeoutConfig};
use aws_types::service_config::ServiceConfigKey;
use keystrata_hierarchy::StoreError;

use super::{
    endpoint::{is_safe, proxy_of},
    error::unlogged,
};

/// Where a [`DynamoDbKekStore`](super::DynamoDbKekStore) is, and how it is reached. What is `None` comes from the usual AWS
/// configuration: the environment, the profile, the machine's or the container's role.
#[derive(Clone)]
pub struct DynamoDbConfig {
    pub(super) table: String,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) sdk: Option<aws_sdk_dynamodb::Config>,
    pub(super) call_timeout: Duration,
}

/// Why a URI or a setting is none. It repeats no part of the URI, which may hold a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DynamoDbConfigError(&'static str);

const FORM: DynamoDbConfigError = DynamoDbConfigError(
    "a DynamoDB store is named as in dynamodb:TABLE?region=eu-west-1; its parameters are region, endpoint, profile and call_timeout",
);

impl DynamoDbConfig {
    /// How long a call takes at most, unless said otherwise.
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

    /// A table of this name: 3 to 255 letters, digits, `_`, `.` and `-`.
    ///
    /// # Errors
    /// [`DynamoDbConfigError`] for any other name.
    pub fn new(table: &str) -> Result<Self, DynamoDbConfigError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !(3..=255).contains(&table.len()) || !table.chars().all(is_plain) {
            return Err(DynamoDbConfigError(
                "a DynamoDB table is named by 3 to 255 letters, digits, _, . and -, as in dynamodb:keystrata",
            ));
        }
        Ok(Self {
            table: table.to_owned(),
            region: None,
            endpoint: None,
            profile: None,
            sdk: None,
            call_timeout: Self::CALL_TIMEOUT,
        })
    }

    /// Reads `dynamodb:TABLE?region=…&endpoint=…&profile=…&call_timeout=…`; all parameters may be left out, and none is
    /// percent-encoded. `call_timeout` is in seconds.
    ///
    /// # Errors
    /// [`DynamoDbConfigError`].
    pub fn from_uri(uri: &str) -> Result<Self, DynamoDbConfigError> {
        let rest = uri.strip_prefix("dynamodb:").ok_or(FORM)?;
        let (table, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut config = Self::new(table)?;
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or(FORM)?;
            if seen.contains(&name) {
                return Err(FORM);
            }
            seen.push(name);
            config = match name {
                "region" => config.region(value)?,
                "endpoint" => config.endpoint(value)?,
                "profile" => config.profile(value),
                "call_timeout" => {
                    let seconds = value.parse().map_err(|_| CALL_TIMEOUT)?;
                    config.call_timeout(Duration::from_secs(seconds))?
                }
                _ => return Err(FORM),
            };
        }
        Ok(config)
    }

    /// The AWS region.
    ///
    /// # Errors
    /// [`DynamoDbConfigError`] for what is none: it becomes part of the host's name.
    pub fn region(mut self, region: &str) -> Result<Self, DynamoDbConfigError> {
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err(DynamoDbConfigError("the parameter region is an AWS region, as in eu-west-1"));
        }
        self.region = Some(region.to_owned());
        Ok(self)
    }

    /// Another endpoint than AWS's own: a VPC endpoint, or a stand-in for tests.
    ///
    /// # Errors
    /// [`DynamoDbConfigError`] unless it begins with `https://`, or with `http://` and stays on this machine.
    pub fn endpoint(mut self, url: &str) -> Result<Self, DynamoDbConfigError> {
        if !is_safe(url) {
            return Err(DynamoDbConfigError(
                "requests carry credentials, so the parameter endpoint begins with https://, or http:// on this machine, and \
                 names no user",
            ));
        }
        self.endpoint = Some(url.to_owned());
        Ok(self)
    }

    /// A profile of the AWS configuration files.
    pub fn profile(mut self, name: &str) -> Self {
        self.profile = Some(name.to_owned());
        self
    }

    /// A configuration of the SDK's client that you have made, in place of region, endpoint, profile and the usual AWS
    /// configuration: for credentials from elsewhere, say. Its retries and timeouts are replaced, its endpoint is not
    /// looked at.
    pub fn sdk_config(mut self, config: aws_sdk_dynamodb::Config) -> Self {
        self.sdk = Some(config);
        self
    }

    /// How long a call takes at most, retries included: 1 second to 10 minutes; default [`Self::CALL_TIMEOUT`]. One
    /// request takes a third of it at most.
    ///
    /// # Errors
    /// [`DynamoDbConfigError`] for any other time.
    pub fn call_timeout(mut self, time: Duration) -> Result<Self, DynamoDbConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_mins(10)).contains(&time) {
            return Err(CALL_TIMEOUT);
        }
        self.call_timeout = time;
        Ok(self)
    }

    /// For messages: where it is, and nothing secret.
    pub(super) fn shown(&self) -> String {
        format!("DynamoDB table {:?}", self.table)
    }

    /// What a client is made of. The SDK's own retries are off: see [`super::table`].
    pub(super) async fn load(&self) -> Result<aws_sdk_dynamodb::Config, StoreError> {
        let attempt = self.call_timeout / 3;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(attempt)
            .operation_attempt_timeout(attempt)
            // Credentials are fetched within the operation; this bounds that too.
            .operation_timeout(attempt * 2)
            .build();
        let config = match &self.sdk {
            Some(config) => config.to_builder(),
            None => Builder::from(&self.usual().await?),
        };
        Ok(config.retry_config(RetryConfig::disabled()).timeout_config(timeouts).build())
    }

    /// The usual AWS configuration, held to what is said here.
    async fn usual(&self) -> Result<SdkConfig, StoreError> {
        let unavailable =
            |what: String| StoreError::Unavailable { message: format!("{}: {what}", self.shown()), source: None };
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        let config = unlogged(Box::pin(loader.load())).await;
        if config.region().is_none() {
            return Err(unavailable("no AWS region is configured: add ?region=… to the URI, or set AWS_REGION".into()));
        }
        let endpoints: Vec<_> = match &self.endpoint {
            Some(own) => vec![own.clone()],
            None => configured_endpoints(&config),
        };
        if !endpoints.iter().all(|url| is_safe(url)) {
            return Err(unavailable(
                "the AWS endpoint of the environment or the profile is not https, nor http on this machine, or it names a \
                 user: requests carry credentials"
                    .into(),
            ));
        }
        if let Some(proxy) = endpoints.iter().find_map(|url| proxy_of(url, |name| std::env::var(name).ok())) {
            return Err(unavailable(format!(
                "{proxy} is set, so requests to an endpoint by http would leave this machine in clear: unset it, or name the \
                 endpoint's host in NO_PROXY"
            )));
        }
        Ok(config)
    }
}

impl fmt::Debug for DynamoDbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbConfig")
            .field("table", &self.table)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("profile", &self.profile)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

const CALL_TIMEOUT: DynamoDbConfigError = DynamoDbConfigError("call_timeout is 1 to 600 seconds");

/// What the environment and the profile name: for DynamoDB, in `AWS_ENDPOINT_URL_DYNAMODB` or in the profile's section of
/// services, and for all services.
fn configured_endpoints(config: &SdkConfig) -> Vec<String> {
    // As the SDK itself asks when it makes a client of this.
    let key =
        ServiceConfigKey::builder().service_id("DynamoDB").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    let specific = key.ok().and_then(|key| config.service_config()?.load_config(key));
    specific.into_iter().chain(config.endpoint_url().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_all() {
        let config = DynamoDbConfig::from_uri(
            "dynamodb:keystrata.prod?region=eu-west-1&endpoint=http://127.0.0.1:8000&profile=ops&call_timeout=7",
        );
        let config = config.unwrap();
        assert_eq!((config.table.as_str(), config.region.as_deref()), ("keystrata.prod", Some("eu-west-1")));
        assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!((config.profile.as_deref(), config.call_timeout), (Some("ops"), Duration::from_secs(7)));
        assert_eq!(config.shown(), r#"DynamoDB table "keystrata.prod""#);
        assert_eq!(DynamoDbConfig::from_uri("dynamodb:keys").unwrap().call_timeout, DynamoDbConfig::CALL_TIMEOUT);
    }

    #[test]
    fn what_is_none_is_refused_and_not_repeated() {
        for uri in [
            "",
            "keystrata",
            "dynamodb:",
            "dynamodb:ab",
            "dynamodb:hunter2/keys",
            "dynamodb://hunter2.example",
            "dynamodb:keys?hunter2",
            "dynamodb:keys?hunter2=hunter2",
            "dynamodb:keys?region=",
            "dynamodb:keys?region=hunter2.example/",
            "dynamodb:keys?region=eu-west-1&region=eu-west-2",
            "dynamodb:keys?endpoint=http://hunter2.example",
            "dynamodb:keys?endpoint=https://hunter2@db.example",
            "dynamodb:keys?call_timeout=0",
            "dynamodb:keys?call_timeout=hunter2",
            "dynamodb:keys?call_timeout=601",
        ] {
            let error = DynamoDbConfig::from_uri(uri).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2") && !text.contains('\n'), "{uri}: {text}");
        }
    }
}
