//! A service account's key, and the assertion that it signs to get an access token.

use std::fmt;

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Url;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{base64_key::SecretText, http::is_loopback};

/// What an access token is asked for: Cloud KMS and nothing else.
const SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";
/// Seconds that an assertion is good for; the most that Google takes.
const LIFETIME: u64 = 3600;

pub(super) struct ServiceAccount {
    email: String,
    key_id: String,
    pub(super) token_url: Url,
    key: KeyPair,
}

#[derive(Deserialize)]
struct File {
    r#type: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key_id: String,
    private_key: Option<SecretText>,
    #[serde(default)]
    token_uri: String,
}

impl ServiceAccount {
    /// Reads the JSON that Google gives out with a service account's key; the error says what is wrong with it.
    pub(super) fn parse(json: &[u8]) -> Result<Self, &'static str> {
        // The parser's error is dropped: it quotes values.
        let file: File = serde_json::from_slice(json).map_err(|_| "it is not the JSON of a service account's key")?;
        if file.r#type != "service_account" {
            return Err("its type is not service_account: make a key for a service account, or use auth=metadata");
        }
        let url = Url::parse(&file.token_uri).map_err(|_| "its token_uri is not a URL")?;
        if url.scheme() != "https" && !is_loopback(&url) {
            return Err("its token_uri is not https");
        }
        let pem = file.private_key.ok_or("it has no private_key")?;
        let der = PrivateKeyDer::from_pem_slice(pem.0.as_bytes()).map(Zeroizing::new);
        let Ok(PrivateKeyDer::Pkcs8(der)) = der.as_deref() else { return Err("its private_key is not PKCS#8 in PEM") };
        let key = KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| "its private_key is not an RSA key")?;
        Ok(Self { email: file.client_email, key_id: file.private_key_id, token_url: url, key })
    }

    /// An assertion (RFC 7523) made at `now`, in seconds since 1970.
    pub(super) fn assertion(&self, now: u64) -> Option<Zeroizing<String>> {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.key_id });
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.token_url.as_str(),
            "iat": now,
            "exp": now + LIFETIME,
        });
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let mut text = Zeroizing::new(format!("{}.{}", encode(&header), encode(&claims)));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).ok()?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(&signature, &mut text);
        Some(text)
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount").field("email", &self.email).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::AsDer,
        rsa::KeySize,
        signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
    };
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn file(key: &KeyPair, kind: &str, token_uri: &str) -> String {
        let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(key).unwrap();
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        json!({
            "type": kind, "client_email": "svc@acme.example", "private_key_id": "k1", "private_key": pem,
            "token_uri": token_uri,
        })
        .to_string()
    }

    #[test]
    fn an_assertion_is_signed_by_the_key_in_the_file() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let account =
            ServiceAccount::parse(file(&key, "service_account", "https://t.example/token").as_bytes()).unwrap();
        let assertion = account.assertion(1_000).unwrap();
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap()).unwrap();
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1_000), &json!(4_600)));
        assert_eq!((&claims["iss"], &claims["aud"]), (&json!("svc@acme.example"), &json!("https://t.example/token")));
    }

    #[test]
    fn other_files_are_refused_without_a_word_of_their_key() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        for text in [
            String::new(),
            "{}".into(),
            file(&key, "authorized_user", "https://t.example"),
            file(&key, "service_account", "http://t.example"),
            file(&key, "service_account", "https://t.example").replace("PRIVATE KEY", "PUBLIC KEY"),
        ] {
            assert!(ServiceAccount::parse(text.as_bytes()).is_err());
        }
    }
}
