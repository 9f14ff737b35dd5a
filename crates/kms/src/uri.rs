//! What a root key's URI is made of: `scheme:name?parameter=value&…`.

use std::time::Duration;

use crate::open::OpenRootError;

/// How long one attempt may take unless the URI says otherwise: room for a new connection on a bad day, and short enough to
/// try again within a caller's patience.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// Below this a healthy KMS would fail.
const MIN_TIMEOUT_MS: u64 = 50;
/// Above this a half-open connection holds its caller for longer than anybody waits.
const MAX_TIMEOUT_MS: u64 = 60_000;

/// A URI taken apart. Parameters are taken one by one; those left at the end are misspelt.
#[derive(Debug)]
pub(crate) struct Uri {
    pub(crate) scheme: &'static Scheme,
    /// Between the scheme and the question mark, as written.
    pub(crate) name: String,
    params: Vec<(String, String)>,
}

/// A kind of root key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scheme {
    /// Before the colon.
    pub(crate) name: &'static str,
    /// What it stands for.
    pub(crate) service: &'static str,
    /// The cargo feature that compiles it.
    pub(crate) feature: &'static str,
    /// A whole URI to go by.
    pub(crate) example: &'static str,
}

pub(crate) static AWS: Scheme = Scheme {
    name: "aws-kms",
    service: "AWS KMS",
    feature: "aws",
    example: "aws-kms:arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
};
pub(crate) static VAULT: Scheme = Scheme {
    name: "vault-transit",
    service: "Vault or OpenBao transit",
    feature: "vault",
    example: "vault-transit:https://vault.example:8200/transit/keys/keystrata",
};
pub(crate) static GCP: Scheme = Scheme {
    name: "gcp-kms",
    service: "Google Cloud KMS",
    feature: "gcp",
    example: "gcp-kms:projects/acme/locations/europe-west3/keyRings/prod/cryptoKeys/keystrata",
};
pub(crate) static LOCAL: Scheme =
    Scheme { name: "local", service: "a local key file", feature: "", example: "local:/etc/keystrata/root.key" };

static SCHEMES: [&Scheme; 4] = [&AWS, &VAULT, &GCP, &LOCAL];

/// Parameters under which somebody may put a secret. A URI stands in files, process lists and logs, so none is taken.
const SECRET_PARAMS: &[&str] =
    &["token", "secret", "secret_id", "password", "secret_access_key", "access_key", "session_token", "credentials"];

impl Uri {
    /// Takes `text` apart.
    pub(crate) fn parse(text: &str) -> Result<Self, OpenRootError> {
        let (scheme, rest) = text.split_once(':').ok_or(OpenRootError::UnknownScheme)?;
        let scheme = SCHEMES.into_iter().find(|known| known.name == scheme).ok_or(OpenRootError::UnknownScheme)?;
        if *scheme == LOCAL {
            // A path may hold any character.
            return Ok(Self { scheme, name: rest.to_owned(), params: Vec::new() });
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(scheme.malformed("it holds white space"));
        }
        let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut params: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let Some(parameter) = SECRET_PARAMS.iter().find(|secret| key.eq_ignore_ascii_case(secret)) {
                return Err(OpenRootError::SecretInUri { parameter, service: scheme.service });
            }
            let Some(value) = percent_decoded(value) else {
                return Err(scheme.malformed("a % in it is not followed by two hexadecimal digits of UTF-8"));
            };
            if value.is_empty() || value.chars().any(char::is_control) || params.iter().any(|(other, _)| other == key) {
                return Err(scheme.malformed("each parameter has a value and stands once"));
            }
            params.push((key.to_owned(), value));
        }
        Ok(Self { scheme, name: name.to_owned(), params })
    }

    /// The value of a parameter, which is then known.
    #[cfg_attr(not(any(feature = "aws", feature = "vault", feature = "gcp")), allow(dead_code))]
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.params.iter().position(|(key, _)| key == name)?;
        Some(self.params.swap_remove(at).1)
    }

    /// The value of `timeout_ms`, or the usual time for one attempt.
    #[cfg_attr(not(any(feature = "aws", feature = "vault", feature = "gcp")), allow(dead_code))]
    pub(crate) fn take_timeout(&mut self) -> Result<Duration, OpenRootError> {
        let Some(text) = self.take("timeout_ms") else { return Ok(DEFAULT_TIMEOUT) };
        match text.parse() {
            Ok(ms @ MIN_TIMEOUT_MS..=MAX_TIMEOUT_MS) => Ok(Duration::from_millis(ms)),
            _ => Err(self.scheme.malformed("timeout_ms is a number from 50 to 60000")),
        }
    }

    /// Refuses parameters that nobody took: a misspelt one would silently not apply.
    #[cfg_attr(not(any(feature = "aws", feature = "vault", feature = "gcp")), allow(dead_code))]
    pub(crate) fn finish(self, known: &str) -> Result<(), OpenRootError> {
        if self.params.is_empty() { Ok(()) } else { Err(self.scheme.malformed(&format!("its parameters are {known}"))) }
    }
}

impl Scheme {
    /// The URI is not one of this scheme. The URI itself is not repeated: it may hold a secret in the wrong place.
    pub(crate) fn malformed(&'static self, why: &str) -> OpenRootError {
        OpenRootError::Malformed { service: self.service, why: why.to_owned(), example: self.example }
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_taken_apart() {
        let mut uri = Uri::parse("aws-kms:alias/k?region=eu-west-1&timeout_ms=500&profile=a%20b").unwrap();
        assert_eq!((uri.scheme, uri.name.as_str()), (&AWS, "alias/k"));
        assert_eq!(uri.take("profile").as_deref(), Some("a b"));
        assert_eq!(uri.take("region").as_deref(), Some("eu-west-1"));
        assert_eq!(uri.take("region"), None);
        assert_eq!(uri.take_timeout().unwrap(), Duration::from_millis(500));
        assert_eq!(uri.take_timeout().unwrap(), DEFAULT_TIMEOUT);
        uri.finish("none").unwrap();
    }

    #[test]
    fn a_local_path_is_taken_as_it_is() {
        assert_eq!(Uri::parse("local:/a b/c?d=%&token=x").unwrap().name, "/a b/c?d=%&token=x");
    }

    #[test]
    fn what_is_not_a_uri_is_refused_with_an_example_and_without_repeating_it() {
        for text in ["", "x", "vault:hunter2", "aws-kms", "hunter2:x"] {
            let error = Uri::parse(text).unwrap_err();
            assert!(matches!(error, OpenRootError::UnknownScheme));
            assert!(!error.to_string().contains("hunter2"));
        }
        for text in
            ["aws-kms:k?a=%", "aws-kms:k?a=%zz", "aws-kms:k?a=%ff", "gcp-kms:k?a", "gcp-kms:k?a=1&a=2", "aws-kms:a b"]
        {
            let message = Uri::parse(text).unwrap_err().to_string();
            assert!(message.contains("as in") && !message.contains('\n'), "{message}");
        }
        let mut uri = Uri::parse("aws-kms:k?timeout_ms=0").unwrap();
        assert!(uri.take_timeout().is_err());
        assert!(Uri::parse("aws-kms:k?regoin=x").unwrap().finish("region").is_err());
    }

    #[test]
    fn secrets_in_a_uri_are_refused_and_not_repeated() {
        for text in ["vault-transit:https://v.example/t/keys/k?token=hunter2", "aws-kms:k?Secret_Access_Key=hunter2"] {
            let error = Uri::parse(text).unwrap_err();
            assert!(matches!(error, OpenRootError::SecretInUri { .. }));
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
