//! What the service answers.

use axum::{
    Router,
    body::Bytes,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::IntoResponse,
    routing::get,
};
use keystrata_hierarchy::{Account, Context};

use crate::{Service, refusal::Refusal};

pub(crate) fn all(service: Service) -> Router {
    Router::new()
        .route("/documents/{id}", get(read).put(write))
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/alive", get(async || "alive")) // says nothing of keys: a restart would lose those in memory
        .with_state(service)
}

/// The account of the tenant that the request is from. A service takes the name from a token that it has checked, not from a
/// header that anybody can set.
struct Tenant(Account);

impl FromRequestParts<Service> for Tenant {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Self::Rejection> {
        let refused = (StatusCode::BAD_REQUEST, "say who you are in the header x-tenant\n");
        let name = parts.headers.get("x-tenant").and_then(|name| name.to_str().ok()).ok_or(refused)?;
        service.keys.account(name).map(Self).map_err(|_| refused)
    }
}

/// Names the document, so that no envelope can be put in another's place.
fn context(id: &str) -> Context {
    Context::new().with("table", "document").with("id", id)
}

async fn write(
    Tenant(account): Tenant,
    Path(id): Path<String>,
    State(service): State<Service>,
    document: Bytes,
) -> Result<StatusCode, Refusal> {
    let envelope = account.seal(&document, &context(&id)).await?;
    let sql = "INSERT INTO keystrata_example_service.document VALUES ($1, $2, $3)
               ON CONFLICT (tenant, id) DO UPDATE SET envelope = excluded.envelope";
    let database = service.database.get().await?;
    database.execute(sql, &[&account.path().to_string(), &id, &envelope]).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(
    Tenant(account): Tenant,
    Path(id): Path<String>,
    State(service): State<Service>,
) -> Result<Vec<u8>, Refusal> {
    let sql = "SELECT envelope FROM keystrata_example_service.document WHERE tenant = $1 AND id = $2";
    // The connection goes back before a key is waited for: a slow KMS must not use up the pool.
    let row = {
        let database = service.database.get().await?;
        database.query_opt(sql, &[&account.path().to_string(), &id]).await?
    };
    let envelope: Vec<u8> = row.ok_or(Refusal::NoSuchDocument)?.get(0);
    Ok(account.open(&envelope, &context(&id)).await?)
}

/// For Prometheus. No account and no key id stands in it.
async fn metrics(State(service): State<Service>) -> String {
    service.metrics.render()
}

/// Whether traffic should come here. Unwraps a test key, so ask every few seconds and not with each request.
async fn ready(State(service): State<Service>) -> impl IntoResponse {
    let health = service.keys.health().await;
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let root_key = health.root_key.map_or_else(|error| error.to_string(), |time| format!("answered in {time:?}"));
    (status, format!("root key: {root_key}\nkeys in memory: {}\n", health.cached_keks))
}
