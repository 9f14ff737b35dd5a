//! Who gets at the store: TLS, passwords and rights.

use std::error::Error;

use keystrata_hierarchy::{Creation, KekState, KekStore, KekVersion, Rotation, Shred, StoreError, Update};
use keystrata_store::{PostgresConfig, PostgresKekStore};

use super::{
    postgres_database::{Database, authority, connect, server},
    support::{path, record},
};

/// The message of a refusal, which holds no password anywhere.
fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let mut all = format!("{error:?}");
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(error) = cause {
        all.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!all.contains("hunter2") && !all.contains("for-tests-alone"), "{all}");
    assert!(!error.to_string().contains('\n'), "{error}");
    error.to_string()
}

async fn open(url: &str) -> Result<PostgresKekStore, StoreError> {
    PostgresKekStore::open(PostgresConfig::from_url(url).unwrap()).await
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn tls_is_used_and_the_server_is_verified() {
    let database = Database::new().await;
    let url =
        |place: &str, more: &str| format!("{place}/postgres?schema={0}&application_name={0}{more}", database.schema);
    let roots = format!("&sslrootcert={}", authority());
    let store = open(&url(&server(), &roots)).await.unwrap();
    store.create(&record("acme")).await.unwrap();
    let sql = "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = $1";
    let is_encrypted: Vec<bool> = database.ask(sql, &[&database.schema]).await.iter().map(|row| row.get(0)).collect();
    assert!(!is_encrypted.is_empty() && is_encrypted.iter().all(|ssl| *ssl), "{is_encrypted:?}");

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=stranger", "-keyout", &file("key.pem"), "-out", &file("stranger.pem")])
        .output()
        .unwrap();
    assert!(made.status.success());
    std::fs::write(file("none.pem"), "nothing of the kind").unwrap();
    // The certificate is for the name `localhost`, not for the address.
    let by_address = server().replace("localhost", "127.0.0.1");
    for (what, url, says) in [
        ("another host's certificate", url(&by_address, &roots), "certificate"),
        ("a stranger's authority", url(&server(), &format!("&sslrootcert={}", file("stranger.pem"))), "certificate"),
        ("the system's authorities", url(&server(), ""), "certificate"),
        ("no authority", url(&server(), &format!("&sslrootcert={}", file("none.pem"))), "no certificates in PEM"),
        ("no file", url(&server(), &format!("&sslrootcert={}", file("missing.pem"))), "cannot be read"),
    ] {
        let message = unavailable(open(&url).await);
        assert!(message.contains(says), "{what}: {message}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_wrong_password_or_database_is_told() {
    let database = Database::new().await;
    let (_, place) = server().rsplit_once('@').map(|(user, place)| (user.to_owned(), place.to_owned())).unwrap();
    for (url, says) in [
        (format!("postgres://postgres:hunter2@{place}/postgres"), "password"),
        (format!("postgres://nobody:hunter2@{place}/postgres"), "password"),
        (format!("{}/nowhere", server()), "no such database"),
        ("postgres://postgres:hunter2@localhost:1/postgres".to_owned(), "cannot be reached"),
    ] {
        let message = unavailable(open(&format!("{url}?sslmode=disable&schema={}", database.schema)).await);
        assert!(message.contains(says), "{message}");
    }
    let config = PostgresConfig::from_url(&format!("postgres://postgres@{place}/postgres?sslmode=disable")).unwrap();
    let config = config.schema(&database.schema).unwrap();
    unavailable(PostgresKekStore::open(config.clone()).await);
    let store = PostgresKekStore::open(config.password("for-tests-alone")).await.unwrap();
    assert!(!format!("{store:?}").contains("for-tests-alone"));
}

/// As `docs/stores.md` has them.
const RIGHTS: &str = "GRANT USAGE ON SCHEMA $S TO $R;
    GRANT SELECT ON ALL TABLES IN SCHEMA $S TO $R;
    GRANT INSERT, UPDATE ON $S.account, $S.kek TO $R;
    GRANT DELETE ON $S.kek TO $R;
    GRANT INSERT, DELETE ON $S.wrap TO $R;";

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn least_rights_are_enough_and_less_is_told() {
    let database = Database::new().await;
    let url = database.role("app", "").await;
    let role = format!("{}_app", database.schema);
    assert!(unavailable(open(&url).await).contains("may not use the schema"));

    let rights = RIGHTS.replace("$S", &database.schema).replace("$R", &role);
    let (reading, writing) = rights.split_at(rights.find("GRANT INSERT").unwrap());
    database.run(reading).await;
    let reader = open(&url).await.unwrap();
    assert!(reader.head(&path("acme")).await.unwrap().is_none());
    assert!(unavailable(reader.create(&record("acme")).await).contains("user may not do this"));
    assert!(reader.head(&path("acme")).await.unwrap().is_none());

    database.run(writing).await;
    let store = open(&url).await.unwrap();
    let first = record("acme");
    assert_eq!(store.create(&first).await.unwrap(), Creation::Created);
    let mut second = record("acme");
    second.identity.version = KekVersion::new(2).unwrap();
    assert_eq!(store.rotate(first.identity.id, &second).await.unwrap(), Rotation::Rotated);
    let disabled = keystrata_hierarchy::KekRecord { state: KekState::Disabled, ..second.clone() };
    assert_eq!(store.update(&second, &disabled).await.unwrap(), Update::Updated);
    store.raise_min_version(&path("acme"), KekVersion::new(2).unwrap()).await.unwrap();
    // With a record that does not parse, which takes the right to delete.
    database.run("UPDATE kek SET record = '\\x00' WHERE version = 1").await;
    assert!(matches!(store.shred(&path("acme"), 1).await.unwrap(), Shred::Shredded(_)));

    for sql in ["DELETE FROM account", "UPDATE keystrata_schema SET version = 2", "DROP TABLE kek", "TRUNCATE wrap"] {
        let as_role = format!("SET ROLE {role}; SET search_path = {}; {sql}", database.schema);
        assert!(connect("postgres").await.batch_execute(&as_role).await.is_err(), "{sql}");
    }
    let other = url.replace(&format!("schema={}", database.schema), "schema=not_there");
    unavailable(PostgresKekStore::migrate(PostgresConfig::from_url(&other).unwrap()).await);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_without_connections_left_is_told() {
    let database = Database::new().await;
    let url = database.role("app", "CONNECTION LIMIT 1").await;
    let rights = RIGHTS.replace("$S", &database.schema).replace("$R", &format!("{}_app", database.schema));
    database.run(&rights).await;
    let first = open(&url).await.unwrap();
    assert!(unavailable(open(&url).await).contains("no connection left"));
    assert!(first.head(&path("acme")).await.unwrap().is_none(), "who has one goes on");
}
