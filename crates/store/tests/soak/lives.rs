//! What a child does until it is killed, one operation again and again, and tells of as soon as it is done.

use std::{path::Path, str::FromStr, sync::Arc};

use keystrata_hierarchy::{
    Account, CopyEvent, CopyMode, Hierarchy, KekId, Reroot, Rewrapped, copy_store,
    jobs::{Checkpoint, Task},
};

use super::{Current, Site, context, put, tell};

/// The operations that a kill may come into.
pub(crate) const OPERATIONS: [&str; 6] = ["create", "rotate", "rewrap", "reroot", "shred", "copy"];

/// Accounts of a site that its reroots move: more than lie between two checkpoints.
pub(crate) const MOVED: usize = 300;

/// Seals an object that holds its own name, and keeps it in a file.
pub(crate) async fn seal(site: &Site, account: &Account, name: &str) {
    let sealed = account.seal(name.as_bytes(), &context(name)).await.unwrap();
    put(&site.object(name), &sealed);
    tell(&format!("sealed {name}"));
}

pub(crate) async fn live(site: &Site, role: &str) {
    let (operation, more) = role.split_once(' ').unwrap();
    match operation {
        "reroot" => return reroot(site).await,
        "copy" => return copy(site, more).await,
        _ => {}
    }
    // As a fleet is deployed: what is new is wrapped by the root key that everything is moved to.
    let (step, _) = place_of(&site.folder.join("reroot"));
    let keys = site.keys(STEPS[step % STEPS.len()].0).await;
    // Not the process's id, which another of thousands may have had.
    let own = KekId::generate().unwrap();
    tell("began");
    for n in 0_u32.. {
        let name = format!("{own}-{n}");
        let account = keys.account(name.as_str()).unwrap();
        seal(site, &account, &format!("{name}~0")).await;
        match operation {
            "create" => {}
            "rotate" => rotate(site, &account, &name).await,
            "rewrap" => rewrap(site, &account, &name).await,
            "shred" => shred(site, &account, &name).await,
            other => panic!("no such operation: {other}"),
        }
    }
}

async fn rotate(site: &Site, account: &Account, name: &str) {
    for n in 1..5 {
        let version = account.rotate().await.unwrap();
        tell(&format!("rotated {name} {version}"));
        seal(site, account, &format!("{name}~{n}")).await;
    }
}

async fn rewrap(site: &Site, account: &Account, name: &str) {
    for _ in 0..3 {
        account.rotate().await.unwrap();
        for object in [format!("{name}~0"), format!("{name}~1")] {
            let place = site.object(&object);
            if !place.exists() {
                seal(site, account, &object).await;
                continue;
            }
            let mut envelope = std::fs::read(&place).unwrap();
            let Rewrapped::New(header) = account.rewrap(&envelope).await.unwrap() else { panic!("it was rotated") };
            envelope[..header.len()].copy_from_slice(&header);
            put(&place, &envelope);
            tell(&format!("rewrapped {object}"));
        }
    }
}

async fn shred(site: &Site, account: &Account, name: &str) {
    account.rotate().await.unwrap();
    seal(site, account, &format!("{name}~1")).await;
    // Whoever finds this does not know whether it came to it.
    put(&site.folder.join("shredding").join(name), b"");
    account.shred().await.unwrap();
    tell(&format!("shredded {name}"));
}

/// The steps of moving everything to the one root key and back.
const STEPS: [(Current, Reroot); 4] = [
    (Current::B, Reroot::Add),
    (Current::B, Reroot::Retire),
    (Current::A, Reroot::Add),
    (Current::A, Reroot::VerifyAndRetire),
];

/// Where the moving of a site is: which step, and the checkpoint within it.
fn place_of(file: &Path) -> (usize, Option<Checkpoint>) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|_| "0\n".to_owned());
    let (step, checkpoint) = text.split_once('\n').unwrap();
    let checkpoint = (!checkpoint.is_empty()).then(|| Checkpoint::from_str(checkpoint).unwrap());
    (step.parse().unwrap(), checkpoint)
}

/// Goes on with one step to its end, from its last checkpoint; gives its number.
pub(crate) async fn reroot_step(site: &Site) -> usize {
    let file = site.folder.join("reroot");
    let (number, checkpoint) = place_of(&file);
    let (current, step) = STEPS[number % STEPS.len()];
    let keys: Hierarchy = site.keys(current).await;
    let mut job = keys.job(Task::Reroot { step, under: None });
    if let Some(checkpoint) = checkpoint {
        tell("resumed");
        job = job.resume(checkpoint);
    }
    let mut failed = Vec::new();
    let done = job.run(|progress| {
        failed.extend(progress.failed.iter().map(|(path, error)| format!("{path}: {error}")));
        put(&file, format!("{number}\n{}", progress.checkpoint).as_bytes());
        tell(&format!("checkpoint {number}"));
    });
    let done = done.await.unwrap();
    assert_eq!((done.failed, failed.first()), (0, None));
    put(&file, format!("{}\n", number + 1).as_bytes());
    tell(&format!("step {number}"));
    number
}

/// Which root key everything is to be wrapped by after this step, and no other; `None` after one that adds.
pub(crate) fn wrapped_after(step: usize) -> Option<&'static str> {
    match STEPS[step % STEPS.len()] {
        (_, Reroot::Add) => None,
        (Current::A, _) => Some("a.key"),
        (Current::B, _) => Some("b.key"),
    }
}

async fn reroot(site: &Site) {
    tell("began");
    loop {
        reroot_step(site).await;
    }
}

/// Copies the store to one of this URI; gives how many accounts there are, and how many were there already.
pub(crate) async fn copy_all(site: &Site, to: &str) -> (u64, u64) {
    let from = site.store().await;
    let to = keystrata_store::create(to).await.unwrap();
    let copied = copy_store(&from, &*to, CopyMode::Write, |event| match event {
        CopyEvent::Copied(path) => tell(&format!("copied {path}")),
        CopyEvent::Same(_) => {}
        other => panic!("{other:?}"),
    });
    let report = copied.await.unwrap();
    assert_eq!((report.differ, report.failed), (0, 0));
    drop(Arc::clone(&to));
    (report.accounts, report.same)
}

async fn copy(site: &Site, to: &str) {
    tell("began");
    copy_all(site, to).await;
    tell("copied all");
    // Until it is killed.
    std::future::pending::<()>().await;
}
