use super::*;
use crate::{Context, KekId, KekIdentity, KekVersion, KeyPath, Suite, envelope};

const PLAINTEXT: &[u8] = b"four strata";

struct Account {
    key: [u8; 32],
    identity: KekIdentity,
}

impl Account {
    fn new(n: u8) -> Self {
        let path = KeyPath::account("acme").unwrap();
        let version = KekVersion::new(n.into()).unwrap();
        Self {
            key: [n; 32],
            identity: KekIdentity { suite: Suite::default(), version, id: KekId::from_bytes([n; 16]), path },
        }
    }

    fn kek(&self) -> Kek<'_> {
        Kek::new(&self.key, &self.identity)
    }
}

/// An object in a folder of its own, and the two KEKs.
struct Fixture {
    folder: tempfile::TempDir,
    path: PathBuf,
    old: Account,
    new: Account,
    sealed: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let (old, new) = (Account::new(1), Account::new(2));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let sealed = envelope::seal(&old.kek(), &Context::none(), PLAINTEXT).unwrap();
        fs::write(&path, &sealed).unwrap();
        Self { folder, path, old, new, sealed }
    }

    fn header(&self) -> [u8; HEADER_LEN] {
        *self.sealed.first_chunk().unwrap()
    }

    fn rewrapped(&self) -> [u8; HEADER_LEN] {
        rewrap(&self.old.kek(), &self.new.kek(), &self.header()).unwrap()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("object.ks-rewrap")
    }

    fn rewrap(&self) -> Result<FileRewrap, RewrapFileError> {
        rewrap_file(&self.path, &self.old.kek(), &self.new.kek())
    }

    fn opens_under(&self, account: &Account) -> bool {
        envelope::open(&account.kek(), &Context::none(), &fs::read(&self.path).unwrap())
            .is_ok_and(|open| open == PLAINTEXT)
    }

    /// No journal, and nothing else beside the object.
    fn assert_tidy(&self) {
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_file_is_rewrapped_once_and_its_chunks_stay() {
    let fixture = Fixture::new();
    assert_eq!(fixture.rewrap().unwrap(), FileRewrap::Done);
    assert!(fixture.opens_under(&fixture.new) && !fixture.opens_under(&fixture.old));
    let after = fs::read(&fixture.path).unwrap();
    assert_eq!(after[CHANGED.end..], fixture.sealed[CHANGED.end..]);
    assert_eq!(fixture.rewrap().unwrap(), FileRewrap::AlreadyDone);
    assert_eq!(fs::read(&fixture.path).unwrap(), after);
    assert_eq!(recover_file(&fixture.path).unwrap(), FileRecovery::Nothing);
    fixture.assert_tidy();
}

#[test]
fn an_interruption_before_any_step_recovers_with_and_without_keys() {
    for done in 0..=STEPS.len() {
        for with_keys in [false, true] {
            let fixture = Fixture::new();
            let rewrapped = fixture.rewrapped();
            let mut object = Object::lock(&fixture.path).unwrap();
            for step in STEPS.iter().take(done) {
                step(&mut object, &fixture.header(), &rewrapped).unwrap();
            }
            drop(object);
            let was_written = done > 2;
            if with_keys {
                let expected = if was_written { FileRewrap::AlreadyDone } else { FileRewrap::Done };
                assert_eq!(fixture.rewrap().unwrap(), expected, "after {done} steps");
                assert!(fixture.opens_under(&fixture.new));
            } else {
                recover_file(&fixture.path).unwrap();
                assert!(
                    fixture.opens_under(if was_written { &fixture.new } else { &fixture.old }),
                    "after {done} steps"
                );
            }
            fixture.assert_tidy();
        }
    }
}

#[test]
fn a_header_torn_at_any_byte_recovers() {
    for torn in CHANGED {
        for new_bytes_first in [true, false] {
            let fixture = Fixture::new();
            let (header, rewrapped) = (fixture.header(), fixture.rewrapped());
            Object::lock(&fixture.path).unwrap().write_journal(&header, &rewrapped).unwrap();
            let (front, back) = if new_bytes_first { (rewrapped, header) } else { (header, rewrapped) };
            let mut object = fixture.sealed.clone();
            object[..torn].copy_from_slice(&front[..torn]);
            object[torn..HEADER_LEN].copy_from_slice(&back[torn..]);
            fs::write(&fixture.path, object).unwrap();
            recover_file(&fixture.path).unwrap();
            assert!(fixture.opens_under(&fixture.new) || fixture.opens_under(&fixture.old), "torn at {torn}");
            fixture.assert_tidy();
        }
    }
}

#[test]
fn a_journal_cut_or_altered_anywhere_is_withdrawn() {
    let fixture = Fixture::new();
    let whole = journal(&fixture.header(), &fixture.rewrapped());
    let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
    let altered = (0..whole.len()).map(|at| {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        altered
    });
    let longer = [[&whole[..], &[0]].concat()];
    for bad in cut.chain(altered).chain(longer) {
        fs::write(fixture.journal(), bad).unwrap();
        assert_eq!(recover_file(&fixture.path).unwrap(), FileRecovery::Withdrawn);
        assert_eq!(fs::read(&fixture.path).unwrap(), fixture.sealed);
        fixture.assert_tidy();
    }
}

#[test]
fn a_stale_journal_does_not_touch_another_object() {
    let fixture = Fixture::new();
    fs::write(fixture.journal(), journal(&fixture.header(), &fixture.rewrapped())).unwrap();
    let other = envelope::seal(&fixture.old.kek(), &Context::none(), b"another object").unwrap();
    fs::write(&fixture.path, &other).unwrap();
    assert_eq!(recover_file(&fixture.path).unwrap(), FileRecovery::Withdrawn);
    assert_eq!(fs::read(&fixture.path).unwrap(), other);
    fixture.assert_tidy();
}

#[test]
fn a_third_header_of_the_same_object_is_not_overwritten() {
    let fixture = Fixture::new();
    fs::write(fixture.journal(), journal(&fixture.header(), &fixture.rewrapped())).unwrap();
    let third = rewrap(&fixture.old.kek(), &Account::new(3).kek(), &fixture.header()).unwrap();
    let mut object = fixture.sealed.clone();
    object[..HEADER_LEN].copy_from_slice(&third);
    fs::write(&fixture.path, &object).unwrap();
    for result in [fixture.rewrap().map(|_| ()), recover_file(&fixture.path).map(|_| ())] {
        assert!(matches!(result, Err(RewrapFileError::Unclear { journal }) if journal.ends_with("object.ks-rewrap")));
    }
    assert_eq!(fs::read(&fixture.path).unwrap(), object);
    assert!(fixture.journal().exists());
}

#[test]
fn refusals_leave_the_file_as_it_was() {
    let fixture = Fixture::new();
    let other_key = Account { key: [9; 32], ..Account::new(1) };
    let refused = rewrap_file(&fixture.path, &other_key.kek(), &fixture.new.kek());
    assert!(matches!(refused, Err(RewrapFileError::Rewrap(RewrapError::Rejected))));

    let held = Object::lock(&fixture.path).unwrap();
    assert!(matches!(fixture.rewrap(), Err(RewrapFileError::Busy)));
    drop(held);

    let mut object = Object::lock(&fixture.path).unwrap();
    object.write_journal(&fixture.header(), &fixture.rewrapped()).unwrap();
    assert!(matches!(object.check_unchanged(&fixture.rewrapped()), Err(RewrapFileError::Changed)));
    drop(object);

    assert_eq!(fs::read(&fixture.path).unwrap(), fixture.sealed);
    fixture.assert_tidy();

    for short in [0, 1, HEADER_LEN - 1] {
        fs::write(&fixture.path, &fixture.sealed[..short]).unwrap();
        assert!(matches!(fixture.rewrap(), Err(RewrapFileError::Rewrap(RewrapError::Envelope(_)))), "{short} bytes");
    }
    let missing = rewrap_file(fixture.folder.path().join("none"), &fixture.old.kek(), &fixture.new.kek());
    assert!(matches!(missing, Err(RewrapFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound));
}

#[test]
#[cfg(unix)]
fn a_journal_is_found_by_another_name_of_the_file() {
    let fixture = Fixture::new();
    Object::lock(&fixture.path).unwrap().write_journal(&fixture.header(), &fixture.rewrapped()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(&fixture.path, &link).unwrap();
    assert_eq!(recover_file(&link).unwrap(), FileRecovery::Withdrawn);
    fixture.assert_tidy();
}

#[test]
fn a_header_from_elsewhere_is_put_in_place_if_it_is_of_the_same_object() {
    let fixture = Fixture::new();
    let other = envelope::seal(&fixture.old.kek(), &Context::none(), PLAINTEXT).unwrap();
    let file = EnvelopeFile::lock(&fixture.path).unwrap();
    assert!(matches!(EnvelopeFile::lock(&fixture.path), Err(RewrapFileError::Busy)));
    let refused = file.replace_header(other.first_chunk().unwrap());
    assert!(matches!(refused, Err(RewrapFileError::OtherObject)));
    assert_eq!(fs::read(&fixture.path).unwrap(), fixture.sealed);

    let file = EnvelopeFile::lock(&fixture.path).unwrap();
    let rewrapped = rewrap(&fixture.old.kek(), &fixture.new.kek(), file.header()).unwrap();
    file.replace_header(&rewrapped).unwrap();
    assert!(fixture.opens_under(&fixture.new));
    fixture.assert_tidy();
}
