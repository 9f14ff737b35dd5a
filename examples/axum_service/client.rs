//! Uses the service as its tenants would, and as an orchestrator and an unlucky day do.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use keystrata_hierarchy::{RootKeyError, test_util::ScriptedRootKey};
use reqwest::{Response, StatusCode, header::RETRY_AFTER};

pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self { http: reqwest::Client::new(), base: format!("http://{address}") }
    }

    pub(crate) async fn use_service(&self, kms: &Arc<ScriptedRootKey>) -> anyhow::Result<()> {
        self.write_and_read(kms).await?;
        self.cross_tenants().await?;
        self.throttled(kms).await?;
        self.outage(kms).await?;
        self.revoked(kms).await?;
        self.metrics().await
    }

    async fn write_and_read(&self, kms: &ScriptedRootKey) -> anyhow::Result<()> {
        for document in 0..100 {
            for tenant in ["acme", "globex"] {
                let (id, text) = (document.to_string(), format!("{tenant}'s document {document}"));
                assert_eq!(self.put(tenant, &id, &text).await?.status(), StatusCode::NO_CONTENT);
                assert_eq!(self.get(tenant, &id).await?.text().await?, text);
            }
        }
        assert_eq!(kms.calls(), 2);
        println!("400 requests of 2 tenants: 2 KMS calls");
        Ok(())
    }

    async fn cross_tenants(&self) -> anyhow::Result<()> {
        self.put("acme", "secret", "acme's alone").await?;
        assert_eq!(self.get("globex", "secret").await?.status(), StatusCode::NOT_FOUND);
        assert_eq!(self.http.get(self.at("/documents/1")).send().await?.status(), StatusCode::BAD_REQUEST);
        Ok(())
    }

    /// The quota at the KMS is used up when a new tenant comes. Each request is tried three times by the guard.
    async fn throttled(&self, kms: &ScriptedRootKey) -> anyhow::Result<()> {
        kms.script(|_| Err(RootKeyError::throttled("by the script")));
        let refused = self.put("initech", "1", "first").await?;
        println!("throttled: {} with {RETRY_AFTER}: {} s", refused.status(), seconds(&refused)?);
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        kms.script(|_| Ok(()));
        assert_eq!(self.put("initech", "1", "first").await?.status(), StatusCode::NO_CONTENT);
        Ok(())
    }

    /// The KMS is away: who has a key in memory goes on, who has none is told when to come back.
    async fn outage(&self, kms: &ScriptedRootKey) -> anyhow::Result<()> {
        assert_eq!(self.http.get(self.at("/ready")).send().await?.status(), StatusCode::OK);
        kms.script(|_| Err(RootKeyError::unavailable("by the script")));
        for _ in 0..2 {
            let refused = self.put("umbrella", "1", "first").await?;
            println!("outage: {} with {RETRY_AFTER}: {} s", refused.status(), seconds(&refused)?);
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        assert_eq!(self.http.get(self.at("/ready")).send().await?.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(self.http.get(self.at("/alive")).send().await?.status(), StatusCode::OK);
        assert_eq!(self.get("acme", "7").await?.status(), StatusCode::OK);

        kms.script(|_| Ok(()));
        // As an orchestrator asks, until it is told otherwise.
        let ready = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let answer = self.http.get(self.at("/ready")).send().await?;
                if answer.status() == StatusCode::OK {
                    return anyhow::Ok(answer);
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        let ready = ready.await??;
        println!("over: {}", ready.text().await?.trim().replace('\n', ", "));
        Ok(())
    }

    async fn revoked(&self, kms: &ScriptedRootKey) -> anyhow::Result<()> {
        kms.script(|call| match call.context.account() {
            Some("hooli") => Err(RootKeyError::denied("by the script")),
            _ => Ok(()),
        });
        let refused = self.put("hooli", "1", "first").await?;
        assert_eq!((refused.status(), refused.headers().contains_key(RETRY_AFTER)), (StatusCode::FORBIDDEN, false));
        println!("revoked: {}", refused.status());
        Ok(())
    }

    async fn metrics(&self) -> anyhow::Result<()> {
        let metrics = self.http.get(self.at("/metrics")).send().await?.text().await?;
        for name in ["keystrata_kek_loads_total", "keystrata_kms_attempts_total", "keystrata_kms_breaker_state"] {
            assert!(metrics.contains(name), "{name} is not in\n{metrics}");
        }
        for tenant in ["acme", "globex", "initech"] {
            assert!(!metrics.contains(tenant), "a tenant's name has no place in metrics");
        }
        for line in metrics.lines().filter(|line| line.starts_with("keystrata_kek_loads_total")) {
            println!("    {line}");
        }
        Ok(())
    }

    async fn put(&self, tenant: &str, id: &str, text: &str) -> anyhow::Result<Response> {
        let request = self.http.put(self.at(&format!("/documents/{id}"))).header("x-tenant", tenant);
        Ok(request.body(text.to_owned()).send().await?)
    }

    async fn get(&self, tenant: &str, id: &str) -> anyhow::Result<Response> {
        Ok(self.http.get(self.at(&format!("/documents/{id}"))).header("x-tenant", tenant).send().await?)
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

fn seconds(response: &Response) -> anyhow::Result<u64> {
    let header = response.headers().get(RETRY_AFTER).context("it says when to come back")?;
    Ok(header.to_str()?.parse()?)
}
