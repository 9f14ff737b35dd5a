use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// A Vault that numbers the tokens of its logins, and knows none of them any more.
async fn forgetful_vault() -> Login {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = Url::parse(&format!("http://{}/v1/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let mut logins = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            let is_login = request.starts_with(b"POST /v1/auth/approle/login");
            logins += u32::from(is_login);
            let granted = format!(r#"{{"auth":{{"client_token":"t{logins}","lease_duration":3600}}}}"#);
            let (status, body) = if is_login { (200, granted) } else { (403, r#"{"errors":[]}"#.into()) };
            let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    let secret_id = VaultSecret::Value(SecretString::from("secret"));
    let credentials = Credentials::AppRole { mount: "approle".into(), role_id: "role".into(), secret_id };
    Login::new(Http::new("Vault", Duration::from_secs(10), None, true).unwrap(), api, None, credentials)
}

#[tokio::test]
async fn a_dead_token_that_was_renewed_is_no_other_token() {
    let login = forgetful_vault().await;
    let first = login.token().await.unwrap();
    // A renewal by somebody else keeps the text.
    login.keep(first.text.clone(), None).unwrap();
    let second = login.replace(&first).await.unwrap().unwrap();
    assert_eq!(second.text.as_str(), "t2");
    assert_eq!(login.replace(&first).await.unwrap().unwrap().text.as_str(), "t2", "somebody replaced it already");
}
