//! Whether requests may travel to an endpoint.
//!
//! What travels are wrapped secrets, which open nothing by themselves, and the credentials' session token, which does.

use std::net::IpAddr;

/// By TLS, or without leaving the machine. A user's name and password would end up in errors and logs.
pub(super) fn is_safe(url: &str) -> bool {
    let Some((scheme, host)) = parts(url) else { return false };
    scheme == "https" || is_loopback(host)
}

/// The variable that would send requests to the `http://` endpoint `url` through a proxy, which the SDK's client obeys for
/// loopback too.
pub(super) fn proxy_of(url: &str, variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let (_, host) = parts(url).filter(|(scheme, _)| *scheme == "http")?;
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let spares = |list: String| list.split(',').map(str::trim).any(|entry| entry == "*" || entry == host);
    if ["NO_PROXY", "no_proxy"].into_iter().filter_map(set).any(spares) {
        return None;
    }
    ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].into_iter().find(|name| set(name).is_some())
}

/// Scheme and host of a URL that names a host and no user.
fn parts(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "https" | "http"))?;
    let authority = rest.split(['/', '?', '#', '\\']).next().filter(|name| !name.is_empty() && !name.contains('@'))?;
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    Some((scheme, host))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_by_tls_or_stay_here() {
        for safe in ["https://db.example/x", "http://127.0.0.1:8000", "http://[::1]:1/", "http://localhost"] {
            assert!(is_safe(safe), "{safe}");
        }
        for open in [
            "http://db.example",
            "http://127.0.0.1@db.example",
            "http://127.0.0.1.example",
            "http://localhost:x@db.example",
            "http://[::2]",
            "http://[::1",
            "https://user@db.example",
            "https://",
            "ftp://localhost",
            "db.example",
        ] {
            assert!(!is_safe(open), "{open}");
        }
    }

    #[test]
    fn a_proxy_before_an_endpoint_of_this_machine_is_found() {
        let with = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(at, _)| *at == name).map(|(_, value)| (*value).to_owned())
        };
        for url in ["http://127.0.0.1:8000", "http://[::1]:8000/", "http://localhost"] {
            assert_eq!(proxy_of(url, with(&[("http_proxy", "proxy:3128")])), Some("http_proxy"), "{url}");
            assert_eq!(proxy_of(url, with(&[("ALL_PROXY", "p"), ("NO_PROXY", "a.example")])), Some("ALL_PROXY"));
            let spared = with(&[("HTTP_PROXY", "p"), ("NO_PROXY", "localhost, 127.0.0.1,::1")]);
            assert_eq!(proxy_of(url, spared), None, "{url}");
            assert_eq!(proxy_of(url, with(&[("HTTP_PROXY", "p"), ("no_proxy", "*")])), None);
            assert_eq!(proxy_of(url, with(&[("HTTP_PROXY", ""), ("HTTPS_PROXY", "p")])), None);
        }
        assert_eq!(proxy_of("https://db.example", with(&[("HTTP_PROXY", "p")])), None, "by TLS");
    }
}
