//! Where an AWS KMS key is and how it is reached.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::{Config, config};
use aws_types::service_config::ServiceConfigKey;

use super::{
    arn::{KeyArn, region_of},
    unlogged,
};
use crate::{
    open::OpenRootError,
    uri::{AWS, Uri},
};

/// Where an AWS KMS key is and how it is reached. What is `None` comes from the usual AWS configuration.
#[derive(Clone, Debug)]
pub struct AwsKmsConfig {
    /// Key ARN, alias ARN, `alias/NAME` or key id. No default.
    pub key: String,
    /// The region, where `key` is not an ARN, which names its own.
    pub region: Option<String>,
    /// Another endpoint than AWS's own: a VPC endpoint, or a stand-in for tests.
    pub endpoint: Option<String>,
    /// A profile of the AWS configuration files.
    pub profile: Option<String>,
    /// Longest time one attempt may take, connecting included; 3 s by default.
    pub attempt_timeout: Duration,
}

impl AwsKmsConfig {
    pub(crate) fn from_uri(mut uri: Uri) -> Result<Self, OpenRootError> {
        let config = Self {
            key: std::mem::take(&mut uri.name),
            region: uri.take("region"),
            endpoint: uri.take("endpoint"),
            profile: uri.take("profile"),
            attempt_timeout: uri.take_timeout()?,
        };
        uri.finish("region, endpoint, profile and timeout_ms")?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), OpenRootError> {
        let is_word =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-".contains(&b));
        let is_key = match self.key.strip_prefix("arn:") {
            Some(_) => KeyArn::parse(&self.key).is_some() || region_of(&self.key).is_some(),
            None => match self.key.strip_prefix("alias/") {
                Some(name) => is_word(name),
                None => is_word(&self.key) && !self.key.contains('/'),
            },
        };
        if !is_key {
            return Err(AWS.malformed("it is neither an ARN of a key or an alias, nor alias/NAME, nor a key id"));
        }
        if let (Some(asked), Some(own)) = (&self.region, region_of(&self.key))
            && asked != own
        {
            return Err(AWS.malformed("the parameter region is another than the ARN's: leave it out"));
        }
        if !self.endpoint.as_deref().is_none_or(is_safe_endpoint) {
            return Err(AWS.malformed(
                "keys travel in the answers, so the parameter endpoint begins with https://, or http:// on this machine, \
                 and names no user",
            ));
        }
        Ok(())
    }

    /// The usual AWS configuration, with what these settings say.
    pub(super) async fn load(&self) -> Result<Config, OpenRootError> {
        self.check()?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = region_of(&self.key).or(self.region.as_deref()) {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        let config = unlogged(Box::pin(loader.load())).await;
        if config.region().is_none() {
            return Err(OpenRootError::Unusable {
                what:
                    "no AWS region is configured: name the key by its ARN, add ?region=… to the URI, or set AWS_REGION"
                        .into(),
                source: None,
            });
        }
        if self.endpoint.is_none() && !configured_endpoints(&config).iter().all(|url| is_safe_endpoint(url)) {
            return Err(OpenRootError::Unusable {
                what:
                    "the AWS endpoint of the environment or the profile is not https, nor http on this machine, or it \
                       names a user: keys travel in the answers"
                        .into(),
                source: None,
            });
        }
        let endpoints = self.endpoint.iter().cloned().chain(configured_endpoints(&config));
        if let Some(proxy) = endpoints.into_iter().find_map(|url| proxy_of(&url, |name| std::env::var(name).ok())) {
            return Err(OpenRootError::Unusable {
                what: format!(
                    "{proxy} is set, so requests to an endpoint by http would leave this machine in clear: unset it, or \
                     name the endpoint's host in NO_PROXY"
                ),
                source: None,
            });
        }
        Ok(config::Builder::from(&config).build())
    }
}

/// The variable that would send requests to the `http://` endpoint `url` through a proxy, which the SDK's client obeys for
/// loopback too.
fn proxy_of(url: &str, variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let rest = url.strip_prefix("http://")?;
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let is_set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let spared = ["NO_PROXY", "no_proxy"].iter().filter_map(|name| variable(name)).any(|list| {
        list.split(',').map(str::trim).any(|entry| entry == "*" || (!entry.is_empty() && host_of(authority) == entry))
    });
    let proxies = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    if spared { None } else { proxies.into_iter().find(is_set) }
}

fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// What the environment and the profile name: for KMS, in `AWS_ENDPOINT_URL_KMS` or in the profile's section of services,
/// and for all services.
fn configured_endpoints(config: &SdkConfig) -> Vec<String> {
    // As the SDK itself asks when it makes a client of this.
    let key = ServiceConfigKey::builder().service_id("KMS").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    let specific = key.ok().and_then(|key| config.service_config()?.load_config(key));
    specific.into_iter().chain(config.endpoint_url().map(str::to_owned)).collect()
}

/// Whether keys may travel there: by TLS, or without leaving the machine. A user's name and password would end up in
/// errors and logs.
fn is_safe_endpoint(url: &str) -> bool {
    let (rest, is_tls) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        (None, None) => return false,
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return false;
    }
    let host = host_of(authority);
    is_tls || host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
#[expect(deprecated, reason = "the names it asks for instead are in a crate that nothing else here needs")]
mod tests {
    use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};

    use super::*;

    fn parse(text: &str) -> Result<AwsKmsConfig, OpenRootError> {
        AwsKmsConfig::from_uri(Uri::parse(text)?)
    }

    #[test]
    fn a_proxy_between_here_and_loopback_is_refused() {
        let with = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(at, _)| *at == name).map(|(_, value)| (*value).to_owned())
        };
        for url in ["http://127.0.0.1:4566", "http://[::1]:4566/", "http://localhost:4566"] {
            assert_eq!(proxy_of(url, with(&[("http_proxy", "proxy:3128")])), Some("http_proxy"), "{url}");
            assert_eq!(
                proxy_of(url, with(&[("ALL_PROXY", "proxy:3128"), ("NO_PROXY", "a.example")])),
                Some("ALL_PROXY")
            );
            assert_eq!(
                proxy_of(url, with(&[("HTTP_PROXY", "p"), ("NO_PROXY", "localhost, 127.0.0.1,::1")])),
                None,
                "{url}"
            );
            assert_eq!(proxy_of(url, with(&[("HTTP_PROXY", "p"), ("no_proxy", "*")])), None);
            assert_eq!(proxy_of(url, with(&[("HTTP_PROXY", ""), ("HTTPS_PROXY", "p")])), None);
        }
        assert_eq!(proxy_of("https://kms.example", with(&[("HTTP_PROXY", "p")])), None, "by TLS");
    }

    #[test]
    fn keys_are_named_by_arn_alias_or_id() {
        for key in [
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/prod/keystrata",
            "alias/keystrata",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
        ] {
            assert_eq!(parse(&format!("aws-kms:{key}")).unwrap().key, key);
        }
        let config =
            parse("aws-kms:alias/k?region=eu-west-1&endpoint=http://127.0.0.1:5000&profile=ops&timeout_ms=900");
        let config = config.unwrap();
        assert_eq!((config.region.as_deref(), config.profile.as_deref()), (Some("eu-west-1"), Some("ops")));
        assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:5000"));
        assert_eq!(config.attempt_timeout, Duration::from_millis(900));
    }

    #[test]
    fn other_names_and_contradictions_are_refused() {
        for text in [
            "aws-kms:",
            "aws-kms:alias/",
            "aws-kms:key/1234",
            "aws-kms:arn:aws:s3:::bucket",
            "aws-kms:arn:aws:kms:eu-west-1:111122223333:grant/x",
            "aws-kms:arn:aws:kms::111122223333:key/x",
            "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/x?region=us-east-1",
            "aws-kms:alias/k?endpoint=ftp://kms.example",
            "aws-kms:alias/k?regoin=eu-west-1",
            "aws-kms:alias/k?endpoint=http://kms.example",
            "aws-kms:alias/k?endpoint=https://user:pw@kms.example",
        ] {
            assert!(matches!(parse(text), Err(OpenRootError::Malformed { .. })), "{text}");
        }
    }

    #[tokio::test]
    async fn endpoints_of_a_profile_are_held_to_the_same() {
        let open = async |lines: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("config");
            std::fs::write(&file, format!("[profile p]\nregion = eu-west-1\n{lines}\n")).unwrap();
            let files = ProfileFiles::builder().with_file(ProfileFileKind::Config, file).build();
            let loader = aws_config::defaults(BehaviorVersion::latest()).profile_name("p").profile_files(files);
            configured_endpoints(&loader.load().await)
        };
        let services = "services = s\n[services s]\nkms =\n  endpoint_url = http://kms.example";
        assert_eq!(open(services).await, ["http://kms.example"]);
        let all = open("endpoint_url = http://all.example").await;
        assert!(!all.is_empty() && all.iter().all(|url| url == "http://all.example"), "{all:?}");
        assert!(open("").await.is_empty());
    }

    #[test]
    fn keys_travel_by_tls_or_not_at_all() {
        for safe in ["https://kms.example/x", "http://127.0.0.1:5000", "http://[::1]:1/", "http://localhost"] {
            assert!(is_safe_endpoint(safe), "{safe}");
        }
        for open in [
            "http://kms.example",
            "http://127.0.0.1@kms.example",
            "http://127.0.0.1.example",
            "http://localhost:x@kms.example",
            "http://[::2]",
            "https://user@kms.example",
            "https://",
            "kms.example",
        ] {
            assert!(!is_safe_endpoint(open), "{open}");
        }
    }
}
