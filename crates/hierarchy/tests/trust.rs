//! Whoever writes the store, a tenant say, plants, moves, swaps and rolls back records. All is refused for what it is.
#![allow(clippy::unwrap_used)] // test code outside a #[test]

mod common;

use std::{error::Error, sync::Arc, time::Duration};

use common::{
    TTL, exact, row,
    tree::{path, process},
    tricky::{Tricky, TrickyRoot, settle},
};
use keystrata_hierarchy::{
    Hierarchy, KekId, KekRecord, KekState, KekStore, KekVersion, KeyError, KeyPath, OpenError, Placement, Roots,
    SealError,
};
use keystrata_primitives::{KekCheck, WrappedSecret, Wrapper};

/// Two groups, accounts `a…` in the first and `b…` in the second, and services inside accounts.
fn tree(path: &KeyPath, roots: &Roots) -> Placement {
    let segments: Vec<&str> = path.segments().collect();
    match segments[..] {
        [one] if one.starts_with("group") => Placement::account(roots),
        [one] if one.starts_with('a') => Placement::group(self::path(["group 1"])),
        [_] => Placement::group(self::path(["group 2"])),
        _ => Placement::service(),
    }
}

/// What a tenant can do: anything to the store.
struct Site {
    tricky: Tricky,
    envelopes: Vec<(KeyPath, Vec<u8>)>,
}

fn paths() -> [KeyPath; 6] {
    [path(["group 1"]), path(["group 2"]), path(["a"]), path(["a2"]), path(["b"]), path(["a", "mail"])]
}

impl Site {
    async fn new() -> Self {
        let tricky = Tricky::new();
        let keys = process(&tricky, exact(), tree);
        let mut envelopes = Vec::new();
        for path in paths() {
            let account = keys.account(&path).unwrap();
            account.seal(b"x", &row(1)).await.unwrap();
            account.rotate().await.unwrap();
            let sealed = account.seal(b"x", &row(1)).await.unwrap();
            envelopes.push((path, sealed));
        }
        Self { tricky, envelopes }
    }

    async fn record(&self, path: &KeyPath) -> KekRecord {
        self.tricky.store.inner.primary(path).await.unwrap().unwrap()
    }

    /// Shows `altered` in place of what has its path and KEK id.
    fn show(&self, altered: KekRecord) {
        let name = |record: &KekRecord| (record.identity.path.clone(), record.identity.id);
        self.tricky
            .store
            .show(move |record| Some(if name(&record) == name(&altered) { altered.clone() } else { record }));
    }

    /// What a process that knows nothing yet says to opening and to sealing.
    async fn refusals(&self, path: &KeyPath, ttl: Duration) -> [KeyError; 2] {
        let keys = process(&self.tricky, exact().kek_ttl(ttl), tree);
        let account = keys.account(path).unwrap();
        let envelope = &self.envelopes.iter().find(|(of, _)| of == path).unwrap().1;
        let OpenError::Key(opening) = account.open(envelope, &row(1)).await.unwrap_err() else { panic!() };
        let SealError::Key(sealing) = account.seal(b"x", &row(1)).await.unwrap_err() else { panic!() };
        settle().await;
        assert!(!opening.is_retryable() && !sealing.is_retryable(), "{opening}");
        assert!(keys.cached_keks() <= 3, "what is above it at most");
        [opening, sealing]
    }

    fn calls(&self) -> usize {
        self.tricky.root.calls()
    }
}

fn planted(mut record: KekRecord, wrapper: Wrapper) -> KekRecord {
    record.wraps = vec![WrappedSecret { wrapper, ..record.wraps[0].clone() }];
    record
}

#[tokio::test]
async fn a_kek_wrapped_by_a_root_of_the_tenants_own_is_refused_without_a_call() {
    let site = Site::new().await;
    let own = Arc::new(TrickyRoot::named("test:of the tenant"));
    let roots = Roots::new(Arc::clone(&own));
    for path in paths() {
        // Made by the tenant, who knows its secret.
        let theirs = Tricky::new();
        let mallory: Hierarchy = theirs
            .builder()
            .topology({
                let roots = roots.clone();
                move |_| Placement::account(&roots)
            })
            .build()
            .unwrap();
        mallory.account(&path).unwrap().seal(b"x", &row(1)).await.unwrap();
        let mut record = theirs.store.inner.primary(&path).await.unwrap().unwrap();
        let known = site.record(&path).await;
        (record.identity.id, record.identity.version) = (known.identity.id, known.identity.version);
        site.show(record);
        let calls = (site.calls(), own.calls());
        for ttl in [TTL, Duration::ZERO] {
            for refused in site.refusals(&path, ttl).await {
                assert!(matches!(refused, KeyError::WrongRoot { .. }), "{refused}");
                let text = refused.to_string();
                assert!(text.contains("test:of the tenant") && text.contains("only"), "{text}");
            }
        }
        assert_eq!((site.calls(), own.calls()), calls, "{path}");
    }
}

#[tokio::test]
async fn a_parent_that_the_topology_does_not_name_is_refused_without_a_call() {
    let site = Site::new().await;
    let own = site.record(&path(["b"])).await.identity.id; // a KEK that the tenant of `b` may use
    for (of, parent) in [
        (path(["a"]), path(["group 2"])),
        (path(["a"]), path(["a2"])),
        (path(["a"]), path(["b"])),
        (path(["a"]), path(["a"])),
        (path(["a", "mail"]), path(["group 1"])),
        (path(["a", "mail"]), path(["a", "mail"])),
        (path(["group 1"]), path(["group 2"])),
    ] {
        let known = site.tricky.store.inner.primary(&parent).await.unwrap().unwrap().identity.id;
        for kek_id in [known, own] {
            site.show(planted(site.record(&of).await, Wrapper::Parent { path: parent.clone(), kek_id }));
            let calls = site.calls();
            for ttl in [TTL, Duration::ZERO] {
                for refused in site.refusals(&of, ttl).await {
                    assert!(matches!(refused, KeyError::WrongParent { .. }), "{refused}");
                    assert!(refused.to_string().contains(&format!("a KEK of {parent}")), "{refused}");
                }
            }
            assert_eq!(site.calls(), calls);
        }
    }
}

#[tokio::test]
async fn another_kek_of_the_right_parent_did_not_wrap_it() {
    let site = Site::new().await;
    for (of, parent) in [(path(["a"]), path(["group 1"])), (path(["a", "mail"]), path(["a"]))] {
        let record = site.record(&of).await;
        for other in site.tricky.store.inner.records(&parent).await.unwrap() {
            let Wrapper::Parent { kek_id, .. } = record.wraps[0].wrapper else { panic!() };
            if other.identity.id == kek_id {
                continue;
            }
            let wrapper = Wrapper::Parent { path: parent.clone(), kek_id: other.identity.id };
            site.show(planted(record.clone(), wrapper));
            for ttl in [TTL, Duration::ZERO] {
                for refused in site.refusals(&of, ttl).await {
                    let cause = refused.source().unwrap().to_string();
                    assert!(matches!(refused, KeyError::Corrupt { .. }) && cause.contains("parent's KEK"), "{cause}");
                }
            }
        }
        // One that there is not.
        let wrapper = Wrapper::Parent { path: parent.clone(), kek_id: KekId::from_bytes([9; 16]) };
        site.show(planted(record, wrapper));
        for refused in site.refusals(&of, TTL).await {
            let KeyError::Parent { parent: named, source, .. } = &refused else { panic!("{refused}") };
            assert!(*named == parent && matches!(**source, KeyError::NotFound { .. }), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_record_copied_between_accounts_and_levels_is_refused() {
    let site = Site::new().await;
    for to in paths() {
        for from in paths() {
            if from == to {
                continue;
            }
            let (known, copied) = (site.record(&to).await, site.record(&from).await);
            // As it is: not the one that was asked for.
            let (copy, path) = (copied.clone(), to.clone());
            site.tricky
                .store
                .show(move |record| Some(if record.identity.path == path { copy.clone() } else { record }));
            for refused in site.refusals(&to, TTL).await {
                assert!(matches!(refused, KeyError::Corrupt { .. }), "{from} to {to}: {refused}");
            }
            // Under the name of the one that was: the wrap and the check are bound to where it was.
            let identity = keystrata_primitives::KekIdentity { suite: copied.identity.suite, ..known.identity.clone() };
            for wraps in [
                &copied.wraps,
                &vec![WrappedSecret { wrapper: known.wraps[0].wrapper.clone(), ..copied.wraps[0].clone() }],
            ] {
                site.show(KekRecord { identity: identity.clone(), wraps: wraps.clone(), ..copied.clone() });
                for ttl in [TTL, Duration::ZERO] {
                    for refused in site.refusals(&to, ttl).await {
                        let is_refusal = matches!(
                            refused,
                            KeyError::Corrupt { .. } | KeyError::WrongParent { .. } | KeyError::WrongRoot { .. }
                        );
                        assert!(is_refusal, "{from} to {to}: {refused:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_check_or_a_wrap_that_was_altered_or_is_of_nothing_is_refused_at_every_level() {
    let site = Site::new().await;
    for of in paths() {
        let record = site.record(&of).await;
        let check = |byte: u8| KekCheck::from_bytes([byte; 32]);
        let mut flipped = record.clone();
        flipped.wraps[0].ciphertext[40] ^= 1;
        let mut short = record.clone();
        short.wraps[0].ciphertext.truncate(71);
        let version = KekVersion::new(9).unwrap();
        let later = keystrata_primitives::KekIdentity { version, ..record.identity.clone() };
        let altered = [
            KekRecord { check: check(0), ..record.clone() },
            KekRecord { check: check(0xff), ..record.clone() },
            flipped,
            short,
            KekRecord { identity: later, ..record.clone() },
        ];
        for altered in altered {
            site.show(altered.clone());
            for ttl in [TTL, Duration::ZERO] {
                for refused in site.refusals(&of, ttl).await {
                    assert!(matches!(refused, KeyError::Corrupt { .. }), "{of}: {refused:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_above_is_told_to_whoever_is_below() {
    let site = Site::new().await;
    let (group, account) = (path(["group 1"]), path(["a"]));
    for (state, ttl) in
        [KekState::Disabled, KekState::Destroyed].into_iter().flat_map(|s| [(s, TTL), (s, Duration::ZERO)])
    {
        let mut wraps = site.record(&group).await.wraps;
        if state == KekState::Destroyed {
            wraps.clear();
        }
        site.show(KekRecord { state, wraps, ..site.record(&group).await });
        for refused in site.refusals(&account, ttl).await {
            let KeyError::Parent { path, parent, source } = &refused else { panic!("{refused}") };
            assert!(
                *path == account && *parent == group && matches!(**source, KeyError::WrongState { .. }),
                "{refused}"
            );
        }
    }
}

#[tokio::test]
async fn a_primary_that_was_rolled_back_is_refused_at_every_level_by_whoever_has_seen_the_newer() {
    let site = Site::new().await;
    for of in paths() {
        site.tricky.store.show_the_truth();
        let keys = process(&site.tricky, exact(), tree);
        let account = keys.account(&of).unwrap();
        account.seal(b"x", &row(1)).await.unwrap();
        let old = of.clone();
        site.tricky.store.show(move |mut record| {
            if record.identity.path == old {
                record.state =
                    if record.identity.version == KekVersion::FIRST { KekState::Primary } else { KekState::Retired };
            }
            Some(record)
        });
        site.tricky.clock.advance(TTL); // nothing is at hand any more
        let SealError::Key(refused) = account.seal(b"x", &row(1)).await.unwrap_err() else { panic!() };
        assert!(matches!(refused, KeyError::RolledBack { .. }), "{of}: {refused}");
        if of == path(["group 1"]) {
            // And so is what would be made under it.
            let SealError::Key(refused) = keys.account("a new one").unwrap().seal(b"x", &row(1)).await.unwrap_err()
            else {
                panic!()
            };
            let is_told =
                matches!(&refused, KeyError::Parent { source, .. } if matches!(**source, KeyError::RolledBack { .. }));
            assert!(is_told, "{refused}");
        }
    }
}

/// Two records that name each other's KEKs: neither is ever had, and nobody waits for ever.
#[tokio::test]
async fn records_that_name_each_other_are_a_typed_refusal_and_no_hang() {
    for ttl in [TTL, Duration::ZERO] {
        let tricky = Tricky::new();
        let place = |path: &KeyPath, roots: &Roots| {
            let other = if path.segments().next() == Some("a") { "b" } else { "a" };
            Placement::account(roots).formerly(Placement::group(self::path([other])))
        };
        let mut envelopes = Vec::new();
        for name in ["a", "b"] {
            let keys = process(&tricky, exact(), place);
            envelopes.push(keys.account(name).unwrap().seal(b"x", &row(1)).await.unwrap());
        }
        let (a, b) = (path(["a"]), path(["b"]));
        let id = async |of: &KeyPath| tricky.store.inner.primary(of).await.unwrap().unwrap().identity.id;
        let (id_a, id_b) = (id(&a).await, id(&b).await);
        let calls = tricky.root.calls();
        tricky.store.show(move |record| {
            let (path, kek_id) = if record.identity.path == a { (b.clone(), id_b) } else { (a.clone(), id_a) };
            Some(planted(record, Wrapper::Parent { path, kek_id }))
        });
        let keys = process(&tricky, exact().kek_ttl(ttl), place);
        let [a, b] = ["a", "b"].map(|name| keys.account(name).unwrap());
        let context = row(1);
        let both = async { tokio::join!(a.open(&envelopes[0], &context), b.open(&envelopes[1], &context)) };
        let (of_a, of_b) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("no hang");
        for refused in [of_a, of_b] {
            let OpenError::Key(refused) = refused.unwrap_err() else { panic!() };
            let mut cause = &refused;
            while let KeyError::Parent { source, .. } = cause {
                cause = source;
            }
            let text = cause.source().map(ToString::to_string).unwrap_or_default();
            assert!(matches!(cause, KeyError::Corrupt { .. }) && text.contains("those above it"), "{refused}: {text}");
        }
        assert_eq!((tricky.root.calls(), keys.cached_keks()), (calls, 0));
    }
}
