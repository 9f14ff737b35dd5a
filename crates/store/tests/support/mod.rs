//! What the tests share: records, and children that are this same program.
#![allow(dead_code)] // no test uses all of it

use std::{
    path::Path,
    process::{Command, Stdio},
};

use keystrata_hierarchy::{KekId, KekRecord, KekState, KekVersion, KeyPath, RootKeyId};
use keystrata_primitives::{KekCheck, KekIdentity, Suite, WrappedSecret, Wrapper};

/// Tells a child which store to use.
pub(crate) const STORE: &str = "KEYSTRATA_TEST_STORE";

pub(crate) fn path(account: &str) -> KeyPath {
    KeyPath::account(account).unwrap()
}

pub(crate) fn record(account: &str) -> KekRecord {
    KekRecord {
        identity: KekIdentity {
            suite: Suite::default(),
            version: KekVersion::FIRST,
            id: KekId::generate().unwrap(),
            path: path(account),
        },
        state: KekState::Primary,
        check: KekCheck::from_bytes([0xc5; KekCheck::LEN]),
        created_at: 1_800_000_000,
        retired_at: 0,
        wraps: vec![WrappedSecret {
            wrapper: Wrapper::Root(RootKeyId::new("test:root").unwrap()),
            ciphertext: vec![0x5a; 73],
        }],
    }
}

/// A process of its own that runs the ignored test `name` of `program` on `store`.
pub(crate) fn child(program: &Path, name: &str, store: &Path) -> Command {
    let mut child = Command::new(program);
    child.args(["--ignored", "--exact", "--nocapture", name]).env(STORE, store).stdout(Stdio::piped());
    child
}
