//! Three trees of keys over the same traffic, and what each costs in KMS calls.
//!
//! `cargo run -p keystrata-examples --example multi_level`

use std::{path::Path, sync::Arc};

use keystrata_hierarchy::{Context, Hierarchy, KeyPath, MemoryKekStore, Placement, Roots};
use keystrata_kms::LocalRootKey;

const ACCOUNTS: usize = 100;
const SERVICES: usize = 5;

/// Gives the place of a path in the tree.
type Place = fn(&Roots, &KeyPath) -> Placement;

/// root → account → object: each account can be revoked, moved and audited at the KMS by itself.
fn accounts(roots: &Roots, _: &KeyPath) -> Placement {
    Placement::account(roots)
}

/// root → account → service → object: what one service of an account holds opens nothing of another.
fn services(roots: &Roots, path: &KeyPath) -> Placement {
    match path.segments().count() {
        1 => Placement::account(roots),
        _ => Placement::service(),
    }
}

/// root → group → account → object: calls no longer grow with the accounts; the KMS sees groups.
fn groups(roots: &Roots, path: &KeyPath) -> Placement {
    let mut segments = path.segments();
    match (segments.next(), segments.next()) {
        (Some("groups"), _) => Placement::account(roots),
        (Some(account), _) => {
            let number = account.bytes().map(usize::from).sum::<usize>() % 4;
            Placement::group(KeyPath::new(["groups".to_owned(), number.to_string()]).expect("a short path"))
        }
        (None, _) => unreachable!("a path has a segment at least"),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let account = |n: usize| format!("account-{n}");
    let of_accounts = || (0..ACCOUNTS).map(|n| KeyPath::new([account(n)])).collect::<Result<Vec<_>, _>>();
    let of_services = (0..ACCOUNTS)
        .flat_map(|n| (0..SERVICES).map(move |s| KeyPath::new([account(n), format!("service-{s}")])))
        .collect::<Result<Vec<_>, _>>()?;

    let by_account = calls(folder.path(), accounts, &of_accounts()?).await?;
    let by_service = calls(folder.path(), services, &of_services).await?;
    let by_group = calls(folder.path(), groups, &of_accounts()?).await?;
    println!("KMS calls of one process, whatever it seals and opens within the time to live:");
    println!("{by_account:>5} for {ACCOUNTS} accounts");
    println!("{by_service:>5} for {SERVICES} services of each of {ACCOUNTS} accounts");
    println!("{by_group:>5} for {ACCOUNTS} accounts in 4 groups");
    assert_eq!((by_account, by_service, by_group), (100, 100, 4));
    Ok(())
}

/// The calls of a process that seals for all the paths, and the same again of one that opens all of it.
async fn calls(folder: &Path, place: Place, paths: &[KeyPath]) -> anyhow::Result<u64> {
    let file = tempfile::Builder::new().suffix(".key").tempfile_in(folder)?.into_temp_path();
    std::fs::remove_file(&file)?; // only its name is wanted
    let root = Arc::new(LocalRootKey::create(&file)?);
    let store = Arc::new(MemoryKekStore::new());
    let process = || {
        let roots = Roots::new(Arc::clone(&root));
        Hierarchy::builder().topology(move |path| place(&roots, path)).store(Arc::clone(&store)).build()
    };

    let (first, context) = (process()?, Context::new().with("object", "1"));
    let mut sealed = Vec::new();
    for path in paths {
        for _ in 0..10 {
            sealed.push((path, first.account(path)?.seal(b"data", &context).await?));
        }
    }
    let made = root.calls();

    let second = process()?;
    for (path, envelope) in &sealed {
        assert_eq!(second.account(*path)?.open(envelope, &context).await?, b"data");
    }
    assert_eq!(root.calls() - made, made);
    assert!(root.calls() < sealed.len() as u64);
    Ok(made)
}
