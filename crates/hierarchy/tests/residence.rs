//! How long a KEK's bytes are in memory, seen from another process.
//!
//! The test runs itself again as a child, which seals under a KEK that the parent can compute and then does as it is told;
//! meanwhile the parent reads its memory. Secret memory cannot be read so, which is shown too; all else runs on pages that
//! are locked only, where whatever is left would be found.
//!
//! Times are real here, and nothing sleeps: the parent looks until a key is gone, and for how long it may is the test.
#![cfg(target_os = "linux")]
#![allow(clippy::unchecked_time_subtraction, clippy::unwrap_used)] // constants and helpers of the tests

use std::{
    hint::black_box,
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keystrata_hierarchy::{
    Account, Backing, Context, GeneratedKey, Hierarchy, KekId, KekVersion, KeyError, KeyPath, MemoryKekStore, Policy,
    RootContext, RootKey, RootKeyError, RootKeyId, SecretKey, Suite,
};
use keystrata_memory::test_util::{Needle, count_in_process};
use keystrata_primitives::{KekIdentity, envelope::Header};
use secrecy::ExposeSecret;

const CHILD: &str = "KEYSTRATA_RESIDENCE_CHILD";

/// Long enough to find the key while it lives, on a busy machine too.
const TTL: Duration = Duration::from_secs(4);
/// Where a KEK ends by something else.
const FOR_EVER: Duration = Duration::from_secs(3_600);
/// How long after its end a key may be found: the sweeper's round, and what a busy machine takes to run it and to be read.
const GRACE: Duration = Duration::from_secs(1);

/// A byte of the secret, computed when it is needed: a table of them would be found.
fn secret_byte(index: usize) -> u8 {
    let mixed = black_box(index as u64 + 77).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0] ^ mixed.to_be_bytes()[3]
}

fn secret() -> SecretKey {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    bytes.iter_mut().enumerate().for_each(|(index, byte)| *byte = secret_byte(index));
    SecretKey::from_slice(&*bytes).unwrap()
}

/// A root key that wraps one and the same secret, so that the parent knows every KEK.
#[derive(Debug)]
struct KnownSecret {
    id: RootKeyId,
    denies: Arc<AtomicBool>,
}

#[async_trait]
impl RootKey for KnownSecret {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, _: &SecretKey, _: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        Ok(b"wrapped".to_vec())
    }

    async fn unwrap_key(&self, _: &[u8], _: &RootContext) -> Result<SecretKey, RootKeyError> {
        if self.denies.load(Ordering::SeqCst) { Err(RootKeyError::denied("revoked")) } else { Ok(secret()) }
    }

    async fn generate_key(&self, _: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        if self.denies.load(Ordering::SeqCst) {
            return Err(RootKeyError::denied("revoked"));
        }
        Ok(GeneratedKey { secret: secret(), wrapped: b"wrapped".to_vec() })
    }
}

/// The child's part; does nothing when run as a test.
#[test]
fn as_child() {
    let Ok(backing) = std::env::var(CHILD) else { return };
    let (backing, ttl) = match backing.as_str() {
        "secret" => (Backing::Secret, FOR_EVER),
        "locked" => (Backing::Locked, FOR_EVER),
        "expiring" => (Backing::Locked, TTL),
        other => panic!("unknown kind of child {other}"),
    };
    let denies = Arc::new(AtomicBool::new(false));
    let root = KnownSecret { id: RootKeyId::new("test:known").unwrap(), denies: Arc::clone(&denies) };
    let policy = Policy::builder().kek_ttl(ttl).ttl_jitter(0.0).refresh_ahead(false).build().unwrap();
    let builder = Hierarchy::builder().root_key(root).store(MemoryKekStore::new()).policy(policy);
    let mut keys = Some(builder.suite(Suite::Aes256Gcm).capacity(2).key_memory(backing).build().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seal = |account: &Account| runtime.block_on(account.seal(b"x", &Context::none()));
    let account = |name: &str, keys: &Option<Hierarchy>| keys.as_ref().unwrap().account(name).unwrap();
    let mut leaked = None;
    for line in std::io::stdin().lines() {
        let mut answer = String::from("done");
        match line.unwrap().as_str() {
            "seal" => {
                let sealed = seal(&account("acme", &keys)).unwrap();
                answer = Header::parse(&sealed).unwrap().kek_id().to_string();
            }
            "seal others" => {
                for n in 0..4 {
                    seal(&account(&format!("other {n}"), &keys)).unwrap();
                }
            }
            "be busy" => {
                let start = Instant::now();
                let other = account("other", &keys);
                while start.elapsed() < TTL + GRACE {
                    seal(&other).unwrap();
                }
            }
            "invalidate" => assert_eq!(keys.as_ref().unwrap().invalidate("acme").unwrap(), 1),
            "deny" => {
                denies.store(true, Ordering::SeqCst);
                // A call that has to be made is refused.
                let refused = runtime.block_on(account("acme", &keys).rotate());
                assert!(matches!(refused, Err(KeyError::Denied(_))));
            }
            "close" => keys.as_ref().unwrap().close(),
            "drop" => keys = None,
            "leak" => leaked = Some(secret()),
            other => panic!("unknown order {other}"),
        }
        println!("\n>{answer}");
    }
    drop(black_box(leaked));
}

struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(backing: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "as_child", "--nocapture", "--test-threads=1"])
            .env(CHILD, backing)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()).lines());
        Self { child, orders, answers }
    }

    fn begin(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let answer =
            self.answers.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix('>').map(str::to_owned));
        answer.expect("the child answers")
    }

    fn order(&mut self, order: &str) -> String {
        self.begin(order);
        self.answer()
    }

    /// What the child's KEK looks like in memory: its halves, those of the secret that it comes from, and its schedule.
    fn seal(&mut self) -> Vec<Needle> {
        let id = self.order("seal");
        let path = KeyPath::account("acme").unwrap();
        let id: KekId = id.parse().unwrap();
        let identity = KekIdentity { suite: Suite::Aes256Gcm, version: KekVersion::FIRST, id, path };
        let derived = identity.derive(&secret());
        let kek: [u8; 32] = *derived.expose_secret();
        let schedule = schedule(&kek);
        let mut needles = vec![
            Needle::new((0..16).map(secret_byte)),
            Needle::new((16..32).map(secret_byte)),
            Needle::new(kek[..16].to_vec()),
            Needle::new(kek[16..].to_vec()),
        ];
        needles.extend([2, 7, 14].map(|round| Needle::new(schedule[16 * round..][..16].to_vec())));
        needles
    }

    fn copies(&self, needles: &[Needle]) -> usize {
        count_in_process(self.child.id(), needles).unwrap().iter().sum()
    }

    /// Looks until nothing is found, and says when that was.
    fn until_gone(&self, needles: &[Needle], at_latest: Instant) -> Instant {
        loop {
            let looked_at = Instant::now();
            let found = self.copies(needles);
            if found == 0 {
                return looked_at;
            }
            assert!(looked_at < at_latest, "{found} copies are still there");
            std::thread::yield_now();
        }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// FIPS 197, section 5.2: the expanded key of AES-256, 15 round keys.
fn schedule(key: &[u8; 32]) -> Vec<u8> {
    let mut words: Vec<[u8; 4]> = key.as_chunks().0.to_vec();
    let mut constant = 1_u8;
    for index in 8..60 {
        let mut word = words[index - 1];
        if index % 8 == 0 {
            word.rotate_left(1);
            word = word.map(substitute);
            word[0] ^= constant;
            constant <<= 1;
        } else if index % 8 == 4 {
            word = word.map(substitute);
        }
        let before = words[index - 8];
        words.push(std::array::from_fn(|byte| word[byte] ^ before[byte]));
    }
    words.concat()
}

/// The S-box: the inverse in GF(2⁸), and an affine map.
fn substitute(byte: u8) -> u8 {
    let times = |mut a: u8, mut b: u8| {
        let mut product = 0;
        while b > 0 {
            product ^= if b & 1 == 1 { a } else { 0 };
            a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1b };
            b >>= 1;
        }
        product
    };
    let inverse = (0..254).fold(1, |power, _| times(power, byte));
    inverse ^ inverse.rotate_left(1) ^ inverse.rotate_left(2) ^ inverse.rotate_left(3) ^ inverse.rotate_left(4) ^ 0x63
}

#[test]
fn the_schedule_is_that_of_fips_197() {
    // Appendix A.3.
    let key = [
        0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81, 0x1f, 0x35,
        0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
    ];
    assert_eq!(schedule(&key)[236..], [0x70, 0x6c, 0x63, 0x1e]);
    assert_eq!(schedule(&key)[32..36], [0x9b, 0xa3, 0x54, 0x11]);
}

/// An unoptimised build moves keys about on the stack, and what it leaves there is no promise of anybody's: there only the
/// controls are checked. `cargo xtask test` runs this in a release build.
fn is_optimised() -> bool {
    let is_optimised = cfg!(not(debug_assertions));
    if !is_optimised {
        eprintln!("an unoptimised build: only the controls are checked");
    }
    is_optimised
}

#[test]
fn a_live_kek_is_found_in_locked_memory_and_not_in_secret_memory() {
    let mut locked = Process::start("locked");
    let needles = locked.seal();
    assert!(locked.copies(&needles) > 0, "the scan finds what is there");
    locked.order("leak");
    assert!(locked.copies(&needles[..1]) > 0, "a leaked secret is found");
    let mut secret = Process::start("secret");
    let needles = secret.seal();
    if is_optimised() {
        assert_eq!(secret.copies(&needles), 0, "secret memory cannot be read by others");
    }
}

/// A KEK ends by `orders`, and is gone when the last of them is done.
fn is_gone_after(orders: &[&str]) {
    let mut process = Process::start("locked");
    let needles = process.seal();
    assert!(process.copies(&needles) > 0, "the scan finds what is there");
    for order in orders {
        process.order(order);
    }
    if is_optimised() {
        assert_eq!(process.copies(&needles), 0, "after {orders:?}");
    }
}

#[test]
fn an_invalidated_kek_is_gone() {
    is_gone_after(&["invalidate"]);
}

#[test]
fn the_kek_of_an_account_that_the_kms_denies_is_gone() {
    is_gone_after(&["deny"]);
}

#[test]
fn an_evicted_kek_is_gone() {
    is_gone_after(&["seal others"]);
}

#[test]
fn the_kek_of_a_closed_or_dropped_engine_is_gone() {
    is_gone_after(&["close"]);
    is_gone_after(&["drop"]);
}

#[test]
fn an_expired_kek_is_gone_though_nothing_is_called() {
    let mut process = Process::start("expiring");
    let before = Instant::now();
    let needles = process.seal();
    let sealed = Instant::now();
    assert!(process.copies(&needles) > 0, "the scan finds what is there");
    if is_optimised() {
        let gone = process.until_gone(&needles, sealed + TTL + GRACE);
        assert!(gone >= before + TTL - GRACE, "it was there until its deadline");
    }
}

#[test]
fn an_expired_kek_is_gone_though_the_service_is_busy() {
    let mut process = Process::start("expiring");
    let needles = process.seal();
    let sealed = Instant::now();
    process.begin("be busy");
    assert!(process.copies(&needles[2..]) > 0, "the scan finds what is there");
    if is_optimised() {
        // Not the secret: every KEK here comes from it, that of the busy account too.
        process.until_gone(&needles[2..], sealed + TTL + GRACE);
    }
    process.answer();
}

#[test]
fn a_kek_whose_deadline_passed_while_the_process_was_stopped_is_gone_once_it_goes_on() {
    let mut process = Process::start("expiring");
    let needles = process.seal();
    let sealed = Instant::now();
    process.signal("-STOP");
    while sealed.elapsed() < TTL + GRACE {
        assert!(process.copies(&needles) > 0, "nobody can overwrite it now");
    }
    process.signal("-CONT");
    if is_optimised() {
        process.until_gone(&needles, Instant::now() + GRACE);
    }
}
