//! Servers that end connections, are read-only, or are too busy.

use std::sync::Arc;

use keystrata_hierarchy::{Creation, KekStore, KekVersion, Rotation, StoreError};
use keystrata_store::{PostgresConfig, PostgresKekStore};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    postgres_database::{Database, connect, server},
    support::{path, record},
};

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_rotation_that_is_killed_has_changed_nothing() {
    let database = Database::new().await;
    let store = Arc::new(database.open().await);
    let first = record("acme");
    store.create(&first).await.unwrap();
    let mut second = record("acme");
    second.identity.version = KekVersion::new(2).unwrap();

    database.run("BEGIN; SELECT 1 FROM account FOR UPDATE").await;
    let rotating = tokio::spawn({
        let (store, id, second) = (Arc::clone(&store), first.identity.id, second.clone());
        async move { store.rotate(id, &second).await }
    });
    database.wait_for_waiting(1).await;
    assert_eq!(database.kill("active").await, 1);
    let message = unavailable(rotating.await.unwrap());
    assert!(message.contains("try again"), "{message}");
    database.run("ROLLBACK").await;
    assert_eq!(store.primary(&path("acme")).await.unwrap(), Some(first.clone()));
    assert_eq!(store.records(&path("acme")).await.unwrap().len(), 1);
    assert_eq!(store.rotate(first.identity.id, &second).await.unwrap(), Rotation::Rotated);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_creation_that_is_killed_has_created_nothing() {
    let database = Database::new().await;
    let store = Arc::new(database.open().await);
    let acme = record("acme");
    // A creation by another process, not yet committed.
    database.run("BEGIN; INSERT INTO account VALUES (decode('010000000400000061636d65', 'hex'), NULL, 1)").await;
    let creating = tokio::spawn({
        let (store, acme) = (Arc::clone(&store), acme.clone());
        async move { store.create(&acme).await }
    });
    database.wait_for_waiting(1).await;
    database.kill("active").await;
    unavailable(creating.await.unwrap());
    database.run("ROLLBACK").await;
    assert!(store.record(&path("acme"), acme.identity.id).await.unwrap().is_none());
    assert_eq!(store.create(&acme).await.unwrap(), Creation::Created);
}

/// Ended by the server in the very act of committing.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_creation_that_is_killed_at_its_commit_can_be_tried_again() {
    let database = Database::new().await;
    let store = Arc::new(database.open().await);
    database
        .run(
            "CREATE FUNCTION bye() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER bye AFTER INSERT ON account DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION bye();",
        )
        .await;
    let acme = record("acme");
    unavailable(store.create(&acme).await);
    database.run("DROP TRIGGER bye ON account").await;
    assert!(store.record(&path("acme"), acme.identity.id).await.unwrap().is_none());
    assert_eq!(store.create(&acme).await.unwrap(), Creation::Created);
}

/// A way to the server that keeps back its answer to the first message that holds `cue`, and closes.
async fn swallowing(cue: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server().rsplit_once('@').unwrap().1.to_owned();
    tokio::spawn(async move {
        let mut cue = Some(cue);
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.unwrap();
            let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            let mut is_cued = false;
            loop {
                tokio::select! {
                    len = client.read(&mut from_client) => {
                        let Ok(len @ 1..) = len else { break };
                        let message = &from_client[..len];
                        let holds = |cue: &mut Vec<u8>| message.windows(cue.len()).any(|part| part == cue.as_slice());
                        is_cued |= cue.take_if(holds).is_some();
                        server.write_all(message).await.unwrap();
                    }
                    len = server.read(&mut from_server) => {
                        let Ok(len @ 1..) = len else { break };
                        if is_cued { break }
                        client.write_all(&from_server[..len]).await.unwrap();
                    }
                }
            }
        }
    });
    port
}

/// The server has committed and nobody was told so: the KEK id says what happened.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_lost_answer_is_resolved_by_the_kek_id() {
    let database = Database::new().await;
    let acme = record("acme");
    let port = swallowing(acme.identity.id.as_bytes().to_vec()).await;
    let (user, _) = server().rsplit_once('@').map(|(user, place)| (user.to_owned(), place.to_owned())).unwrap();
    let url = format!("{user}@127.0.0.1:{port}/postgres?sslmode=disable&pool_size=1&schema={}", database.schema);
    let store = PostgresKekStore::open(PostgresConfig::from_url(&url).unwrap()).await.unwrap();
    let message = unavailable(store.create(&acme).await);
    assert!(message.contains("try again"), "{message}");
    let stored = store.record(&path("acme"), acme.identity.id).await.unwrap();
    assert_eq!(stored, Some(acme.clone()), "it was stored all the same");
    assert_eq!(store.create(&acme).await.unwrap(), Creation::Exists);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_dropped_call_holds_no_lock() {
    let database = Database::new().await;
    let store = Arc::new(PostgresKekStore::open(database.config("&pool_size=2")).await.unwrap());
    let first = record("acme");
    store.create(&first).await.unwrap();
    let mut second = record("acme");
    second.identity.version = KekVersion::new(2).unwrap();
    database.run("BEGIN; SELECT 1 FROM account FOR UPDATE").await;
    for _ in 0..4 {
        let rotating = tokio::spawn({
            let (store, id, second) = (Arc::clone(&store), first.identity.id, second.clone());
            async move { store.rotate(id, &second).await }
        });
        database.wait_for_waiting(1).await;
        rotating.abort();
        assert!(rotating.await.is_err());
        // The pool has room for one that waits on; the next has to come through all the same.
    }
    database.run("ROLLBACK").await;
    assert_eq!(store.rotate(first.identity.id, &second).await.unwrap(), Rotation::Rotated);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_full_pool_and_a_long_lock_are_unavailable() {
    let database = Database::new().await;
    let store = Arc::new(PostgresKekStore::open(database.config("&pool_size=1&call_timeout=2")).await.unwrap());
    let first = record("acme");
    store.create(&first).await.unwrap();
    database.run("BEGIN; SELECT 1 FROM account FOR UPDATE").await;
    let waiting = tokio::spawn({
        let (store, id) = (Arc::clone(&store), first.identity.clone());
        async move { store.raise_min_version(&id.path, id.version).await }
    });
    database.wait_for_waiting(1).await;
    let message = unavailable(store.head(&path("acme")).await);
    assert!(message.contains("all 1 connections") && message.contains("pool_size"), "{message}");
    let message = unavailable(waiting.await.unwrap());
    assert!(message.contains("try again"), "{message}");
    database.run("ROLLBACK").await;
    assert!(store.head(&path("acme")).await.unwrap().is_some(), "the connection is replaced");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_turns_read_only_is_unavailable() {
    let database = Database::without_store().await;
    let name = &database.schema;
    database.admin.execute(&format!("CREATE DATABASE {name}"), &[]).await.unwrap();
    let url = format!("{}/{name}?sslmode=disable&application_name={name}", server());
    let config = PostgresConfig::from_url(&url).unwrap();
    PostgresKekStore::migrate(config.clone()).await.unwrap();
    let store = PostgresKekStore::open(config.clone()).await.unwrap();
    store.create(&record("acme")).await.unwrap();
    // Sessions of before go on until the server ends them, as it does when it is demoted.
    connect(name)
        .await
        .execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"), &[])
        .await
        .unwrap();
    database.kill("%").await;
    for message in [
        unavailable(store.create(&record("globex")).await),
        unavailable(store.primary(&path("acme")).await),
        unavailable(PostgresKekStore::open(config).await),
    ] {
        assert!(message.contains("no server there takes writes"), "{message}");
    }
    database.admin.execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"), &[]).await.unwrap();
    assert_eq!(store.create(&record("globex")).await.unwrap(), Creation::Created);
}
