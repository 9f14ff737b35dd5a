//! Rewrapping many headers through an account beside the primitives in place: `cargo bench -p keystrata-benches --bench rewrap`
//! prints the table of `docs/benchmarks.md`.
//!
//! Each round rewraps the same headers by each way, one after the other, and the least time of each counts. One thread.

use std::{
    convert::Infallible,
    hint::black_box,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use keystrata_hierarchy::{
    Account, Context, HeaderBytes, Hierarchy, KekVersion, KeyPath, MemoryKekStore, Rewrapped, SecretKey,
    test_util::ScriptedRootKey,
};
use keystrata_primitives::{DerivedKek, KekId, KekIdentity, Suite, envelope};

const HEADERS: u32 = 2_000;
const TIME: Duration = Duration::from_secs(10);

/// A KEK of the primitives' own.
struct Own {
    identity: KekIdentity,
    derived: DerivedKek,
}

impl Own {
    fn new(suite: Suite, version: u32) -> Self {
        let identity = KekIdentity {
            suite,
            version: KekVersion::new(version).expect("not zero"),
            id: KekId::generate().expect("random bytes"),
            path: KeyPath::account("acme").expect("a valid name"),
        };
        let derived = identity.derive(&SecretKey::generate().expect("random bytes"));
        Self { identity, derived }
    }
}

fn header(envelope: &[u8]) -> HeaderBytes {
    *envelope.first_chunk().expect("an envelope begins with its header")
}

/// The least time of each way for one header, in nanoseconds.
struct Least([f64; 4]);

impl Least {
    fn take(&mut self, way: usize, since: Instant) {
        let each = since.elapsed().as_secs_f64() * 1e9 / f64::from(HEADERS);
        self.0[way] = self.0[way].min(each);
    }
}

fn measure(suite: Suite) -> [f64; 4] {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let keys = Hierarchy::builder().root_key(ScriptedRootKey::new("bench:root")).store(MemoryKekStore::new());
    let account = keys.suite(suite).build().expect("all that is required").account("acme").expect("a valid name");
    let (old, new) = (Own::new(suite, 1), Own::new(suite, 2));
    let own: Vec<HeaderBytes> = (0..HEADERS)
        .map(|_| {
            header(&envelope::seal(&old.derived.kek(&old.identity), &Context::none(), b"x").expect("random bytes"))
        })
        .collect();
    let seal = |_| header(&runtime.block_on(account.seal(b"x", &Context::none())).expect("the root key answers"));
    let sealed: Vec<HeaderBytes> = (0..HEADERS).map(seal).collect();
    runtime.block_on(account.rotate()).expect("the root key answers");
    let mut least = Least([f64::INFINITY; 4]);
    let began = Instant::now();
    while began.elapsed() < TIME {
        let mut headers = own.clone();
        let since = Instant::now();
        for header in &mut headers {
            let (old, new) = (old.derived.kek(&old.identity), new.derived.kek(&new.identity));
            *header = envelope::rewrap(&old, &new, header).expect("a header of this KEK");
        }
        least.take(0, since);
        black_box(headers);

        let mut headers = sealed.clone();
        let since = Instant::now();
        for header in &mut headers {
            *header = at_hand(&account, header);
        }
        least.take(1, since);
        black_box(headers);

        let mut headers = sealed.clone();
        let since = Instant::now();
        runtime.block_on(async {
            for header in &mut headers {
                let Ok(Rewrapped::New(new)) = account.rewrap(header).await else { unreachable!("it was rotated") };
                *header = new;
            }
        });
        least.take(2, since);
        black_box(headers);

        let rows: Vec<(usize, Vec<u8>)> = sealed.iter().map(|header| header.to_vec()).enumerate().collect();
        let since = Instant::now();
        let at_once = NonZeroUsize::MIN.saturating_add(15);
        let store = |_, old, new| async move {
            black_box((old, new));
            Ok::<_, Infallible>(true)
        };
        let tally = runtime.block_on(account.rewrap_each(rows, at_once, store)).expect("a runtime");
        least.take(3, since);
        assert_eq!(tally.rewrapped, u64::from(HEADERS));
    }
    least.0
}

fn at_hand(account: &Account, header: &HeaderBytes) -> HeaderBytes {
    match account.try_rewrap(header) {
        Ok(Some(Rewrapped::New(new))) => new,
        other => unreachable!("both KEKs are in memory: {other:?}"),
    }
}

fn main() {
    println!(
        "| suite | primitives, in place | `try_rewrap` | ratio | `rewrap` | ratio | `rewrap_each`, 16 at a time | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, suite) in [("1", Suite::XChaCha20Poly1305), ("2", Suite::Aes256Gcm)] {
        let [own, at_hand, one, each] = measure(suite);
        println!(
            "| {name} | {own:.0} ns | {at_hand:.0} ns | {:.3} | {one:.0} ns | {:.3} | {each:.0} ns | {:.3} |",
            own / at_hand,
            own / one,
            own / each
        );
    }
}
