//! What each library does, so that its figures can be judged: the table that goes with them.

/// The rows of the tables are named by these.
pub const SUITE_2: &str = "keystrata, suite 2";
/// See [`SUITE_2`].
pub const SUITE_1: &str = "keystrata, suite 1";
/// See [`SUITE_2`].
pub const SUITE_2_TASKS: &str = "keystrata, suite 2, tasks";
/// See [`SUITE_2`].
pub const GROUP: &str = "keystrata, group";
/// See [`SUITE_2`].
pub const BARE_2: &str = "bare AES-256-GCM, fresh key";
/// See [`SUITE_2`].
pub const BARE_1: &str = "bare XChaCha20-Poly1305, fresh key";
/// See [`SUITE_2`].
pub const BARE_ONE_KEY: &str = "bare AES-256-GCM, one key";
/// See [`SUITE_2`].
pub const ASHERAH: &str = "asherah, struct";
/// See [`SUITE_2`].
pub const ASHERAH_WIRE: &str = "asherah, wire form";
/// See [`SUITE_2`].
pub const ASHERAH_SAFER: &str = "asherah, safer mode";
/// See [`SUITE_2`].
pub const TINK: &str = "tink-aead";
/// See [`SUITE_2`].
pub const KMS_AEAD: &str = "kms-aead";
/// See [`SUITE_2`].
pub const AWS_ESDK: &str = "aws-esdk, hierarchical";
/// See [`SUITE_2`].
pub const AWS_ESDK_TASKS: &str = "aws-esdk, hierarchical, tasks";

/// What a library does for an object and for a tenant.
pub struct About {
    /// The library.
    pub name: &'static str,
    /// Its package in the lock file, if it is not ours.
    pub package: Option<&'static str>,
    /// Which key wraps which.
    pub levels: &'static str,
    /// The cipher, and whose it is.
    pub cipher: &'static str,
    /// Whether a sealed object opens under one key only.
    pub commits: &'static str,
    /// Whether a context of the caller's is authenticated.
    pub context: &'static str,
    /// Whether the tenant is authenticated where the DEK is wrapped.
    pub tenant: &'static str,
    /// How long a tenant's key stays in memory.
    pub memory: &'static str,
    /// What else makes its figures less, or more, than they look.
    pub note: &'static str,
}

/// All that are measured.
pub const ALL: &[About] = &[
    About {
        name: "keystrata",
        package: None,
        levels: "KMS → tenant → DEK",
        cipher: "AES-256-GCM or ChaCha20-Poly1305, AWS-LC",
        commits: "yes",
        context: "yes",
        tenant: "yes",
        memory: "until its deadline, then overwritten",
        note: "random bytes from the kernel; no cipher's key schedule is kept, each is built and wiped for one operation",
    },
    About {
        name: "asherah",
        package: Some("asherah"),
        levels: "KMS → system → tenant → DEK",
        cipher: "AES-256-GCM, ring",
        commits: "no",
        context: "no",
        tenant: "no: compared as text",
        memory: "while in use; the interval only checks again",
        note: "random bytes from a generator in user space; expanded tenant keys in ordinary memory, but for its safer mode; \
               the struct form is no bytes yet; one KMS call unwraps all tenants, so the KMS vouches for none by itself",
    },
    #[cfg(feature = "aws-esdk")]
    About {
        name: "aws-esdk",
        package: Some("aws-esdk"),
        levels: "KMS → tenant → DEK",
        cipher: "AES-256-GCM, AWS-LC",
        commits: "yes",
        context: "yes; it lies in clear in the object",
        tenant: "yes",
        memory: "until a call after its time finds it; not overwritten",
        note: "without the ECDSA P-384 signature of each object, which it makes unless told not to; a key that is in memory to encrypt \
               is asked for again to decrypt; a keyring serves one caller at a time, and blocks the threads of the others; DynamoDB \
               and KMS are in this process",
    },
    About {
        name: "kms-aead",
        package: Some("kms-aead"),
        levels: "KMS → DEK",
        cipher: "AES-256-GCM, ring",
        commits: "no",
        context: "on the data",
        tenant: "no",
        memory: "not kept",
        note: "the KMS, here a cipher in this process, is asked for every object",
    },
    About {
        name: "tink-aead",
        package: Some("tink-aead"),
        levels: "KMS → DEK",
        cipher: "AES-256-GCM, pure Rust",
        commits: "no",
        context: "on the data",
        tenant: "no",
        memory: "not kept",
        note: "the KMS, here a cipher in this process, is asked for every object",
    },
    About {
        name: "bare, fresh key",
        package: Some("aws-lc-rs"),
        levels: "a key for each object, left in clear",
        cipher: "as the suite's, AWS-LC",
        commits: "no",
        context: "no",
        tenant: "no",
        memory: "not kept",
        note: "no envelope at all",
    },
    About {
        name: "bare, one key",
        package: Some("aws-lc-rs"),
        levels: "one key for all objects",
        cipher: "AES-256-GCM, AWS-LC",
        commits: "no",
        context: "no",
        tenant: "no",
        memory: "for ever, with its schedule",
        note: "no envelope at all; wears out after 2³² objects",
    },
];

/// The version of a package that was compiled in.
pub fn version(package: &str) -> &'static str {
    const LOCK: &str = include_str!("../Cargo.lock");
    let name = format!("name = \"{package}\"");
    let mut lines = LOCK.lines().skip_while(|line| *line != name).skip(1);
    let version = lines.next().and_then(|line| line.strip_prefix("version = ")).unwrap_or("?");
    version.trim_matches('"')
}
