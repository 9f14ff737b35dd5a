//! Several key files as one root key, so that a local key can be rotated.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use keystrata_hierarchy::{GeneratedKey, RootContext, RootKey, RootKeyError, RootKeyId, SecretKey};

use super::{LocalRootKey, LocalRootKeyError as Error};

/// A folder of key files that are one root key: the primary wraps, all unwrap.
///
/// As with [`LocalRootKey`], the keys have no passphrase and lie in files: for development, tests and demos.
///
/// # Folder
/// One key file per key, named by its fingerprint and `.key`, and the file `ring`, one line: `keystrata-local-ring-v1:`, the
/// fingerprint of the first key, a colon, and that of the primary.
///
/// # Id
/// `local:` and the fingerprint of the first key, whichever is primary, so records stay valid through rotations.
///
/// # Wrapped form
/// The version `0x02`, the 16 bytes of the wrapping key's fingerprint, and what [`LocalRootKey`] makes. What the first key
/// wrapped while it was a single file ([`adopt`](Self::adopt)) unwraps as it is.
///
/// # Rotation
/// [`add`](Self::add), restart every process that has the folder open, then [`make_primary`](Self::make_primary): a process
/// that opened the folder before a key was added cannot unwrap what that key wraps. A key file may be deleted once every
/// wrapped key was [rewrapped](RootKey::rewrap_key); the first one's name lives on in the id.
pub struct LocalKeyRing {
    id: RootKeyId,
    folder: PathBuf,
    first: String,
    keys: Vec<LocalRootKey>,
    /// Index of the primary.
    primary: usize,
}

const RING: &str = "ring";
const PREFIX: &str = "keystrata-local-ring-v1:";
const FINGERPRINT_CHARS: usize = 32;
/// The first byte of a wrapped key, and how many bytes stand before the key's own form.
const WRAPPED_VERSION: u8 = 2;
const HEADER_LEN: usize = 17;

impl LocalKeyRing {
    /// Makes a ring of one fresh key in a new folder. Blocks on the disk.
    ///
    /// # Errors
    /// [`LocalRootKeyError::AlreadyExists`](Error::AlreadyExists) if anything is there; else why it could not be written.
    pub fn create(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = folder.as_ref();
        make_folder(folder)?;
        let first = new_key(folder)?;
        write_ring(folder, &first, &first)?;
        Self::open(folder)
    }

    /// Makes a ring, in a new folder, whose first key is a copy of the one in the file `key`: what it wrapped stays good, and
    /// the id the same. Blocks on the disk.
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`LocalRootKey::open`].
    pub fn adopt(folder: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let secret = super::file::read(key.as_ref())?;
        let first = fingerprint(&LocalRootKey::from_secret(&secret));
        make_folder(folder)?;
        super::file::write_new(&key_path(folder, &first), &secret)?;
        write_ring(folder, &first, &first)?;
        Self::open(folder)
    }

    /// Reads the ring and all keys in `folder`. Blocks on the disk.
    ///
    /// # Errors
    /// [`LocalRootKeyError`](Error), which names the file that is missing or broken and says what to do.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let (first, primary) = read_ring(folder)?;
        let unreadable = |source| Error::Unreadable { path: folder.into(), source };
        let mut keys = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_none_or(|extension| extension != "key") {
                continue;
            }
            let key = LocalRootKey::open(&path)?;
            // A file under another key's name would make rotation do what nobody asked for.
            if path.file_stem().is_none_or(|stem| *stem != *fingerprint(&key)) {
                return Err(Error::NotAKeyFile { path });
            }
            keys.push(key);
        }
        let primary = keys
            .iter()
            .position(|key| fingerprint(key) == primary)
            .ok_or_else(|| Error::Missing { path: key_path(folder, &primary) })?;
        Ok(Self { id: id_of(&first), folder: folder.into(), first, keys, primary })
    }

    /// Makes a fresh key in the folder, which wraps nothing before [`make_primary`](Self::make_primary), and gives its
    /// fingerprint. This ring does not have it yet: open the folder again. Blocks on the disk.
    ///
    /// # Errors
    /// As [`LocalRootKey::create`].
    pub fn add(&self) -> Result<String, Error> {
        new_key(&self.folder)
    }

    /// Lets the key of this fingerprint wrap from now on, here and for whoever opens the folder next. Blocks on the disk.
    ///
    /// # Errors
    /// [`LocalRootKeyError::Missing`](Error::Missing) if this ring has no such key; else why it could not be written.
    pub fn make_primary(&mut self, key: &str) -> Result<(), Error> {
        let index = self.keys.iter().position(|own| fingerprint(own) == key);
        let index = index.ok_or_else(|| Error::Missing { path: key_path(&self.folder, key) })?;
        write_ring(&self.folder, &self.first, key)?;
        self.primary = index;
        Ok(())
    }

    /// The fingerprints of all keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.keys.iter().map(fingerprint)
    }

    /// The fingerprint of the key that wraps.
    pub fn primary(&self) -> String {
        fingerprint(&self.keys[self.primary])
    }

    fn with_header(&self, body: &[u8]) -> Vec<u8> {
        let mut wrapped = Vec::with_capacity(HEADER_LEN + body.len());
        wrapped.push(WRAPPED_VERSION);
        wrapped.extend_from_slice(&self.keys[self.primary].fingerprint);
        wrapped.extend_from_slice(body);
        wrapped
    }
}

impl fmt::Debug for LocalKeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeyRing")
            .field("id", &self.id)
            .field("keys", &self.keys.len())
            .field("primary", &self.primary())
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RootKey for LocalKeyRing {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    async fn wrap_key(&self, secret: &SecretKey, context: &RootContext) -> Result<Vec<u8>, RootKeyError> {
        let body = self.keys[self.primary].wrap_key(secret, context).await?;
        Ok(self.with_header(&body))
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &RootContext) -> Result<SecretKey, RootKeyError> {
        let (key, body) = match wrapped.split_first_chunk::<HEADER_LEN>() {
            Some((&[WRAPPED_VERSION, ref fingerprint @ ..], body)) => {
                (self.keys.iter().find(|key| key.fingerprint == *fingerprint), body)
            }
            // From the time when the first key was alone.
            _ => (self.keys.iter().find(|key| fingerprint(key) == self.first), wrapped),
        };
        key.ok_or(RootKeyError::Rejected)?.unwrap_key(body, context).await
    }

    async fn generate_key(&self, context: &RootContext) -> Result<GeneratedKey, RootKeyError> {
        let GeneratedKey { secret, wrapped } = self.keys[self.primary].generate_key(context).await?;
        Ok(GeneratedKey { secret, wrapped: self.with_header(&wrapped) })
    }

    /// From any key of this ring to its primary.
    async fn rewrap_key(
        &self,
        from: &RootKeyId,
        wrapped: &[u8],
        context: &RootContext,
    ) -> Result<Option<Vec<u8>>, RootKeyError> {
        if *from != self.id {
            return Ok(None);
        }
        let secret = self.unwrap_key(wrapped, context).await?;
        self.wrap_key(&secret, context).await.map(Some)
    }
}

fn fingerprint(key: &LocalRootKey) -> String {
    format!("{:032x}", u128::from_be_bytes(key.fingerprint))
}

fn id_of(first: &str) -> RootKeyId {
    RootKeyId::new(&format!("local:{first}")).expect("38 plain characters")
}

fn key_path(folder: &Path, fingerprint: &str) -> PathBuf {
    folder.join(format!("{fingerprint}.key"))
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir(folder).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: folder.into() },
        _ => Error::Unwritable { path: folder.into(), source },
    })
}

fn new_key(folder: &Path) -> Result<String, Error> {
    let secret = SecretKey::generate().map_err(|source| Error::Randomness { source })?;
    let name = fingerprint(&LocalRootKey::from_secret(&secret));
    super::file::write_new(&key_path(folder, &name), &secret)?;
    Ok(name)
}

/// Replaces the ring file as a whole: a torn one would leave the keys without a primary.
fn write_ring(folder: &Path, first: &str, primary: &str) -> Result<(), Error> {
    let path = folder.join(RING);
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".keystrata-").tempfile_in(folder)?;
        file.write_all(format!("{PREFIX}{first}:{primary}\n").as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        super::file::sync_folder(folder)
    };
    write().map_err(|source| Error::Unwritable { path: path.clone(), source })
}

/// The first key's fingerprint and the primary's.
fn read_ring(folder: &Path) -> Result<(String, String), Error> {
    let path = folder.join(RING);
    let mut text = String::new();
    let read = fs::File::open(&path).and_then(|file| file.take(1024).read_to_string(&mut text));
    read.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.clone() },
        _ => Error::Unreadable { path: path.clone(), source },
    })?;
    let is_fingerprint = |text: &str| {
        text.len() == FINGERPRINT_CHARS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let names = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix('\n').unwrap_or(rest).split_once(':'));
    match names {
        Some((first, primary)) if is_fingerprint(first) && is_fingerprint(primary) => {
            Ok((first.into(), primary.into()))
        }
        _ => Err(Error::NotAKeyFile { path }),
    }
}

#[cfg(test)]
mod tests {
    use keystrata_hierarchy::test_util::conformance;
    use secrecy::ExposeSecret;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_conforms_before_and_after_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let ring = LocalKeyRing::create(&path).unwrap();
        conformance::root_key(async || LocalKeyRing::open(&path).unwrap()).await;
        let second = ring.add().unwrap();
        LocalKeyRing::open(&path).unwrap().make_primary(&second).unwrap();
        conformance::root_key(async || LocalKeyRing::open(&path).unwrap()).await;
    }

    #[tokio::test]
    async fn a_single_file_becomes_a_ring_and_rotates_without_losing_what_it_wrapped() {
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = (folder.path().join("root.key"), folder.path().join("keys"));
        let single = LocalRootKey::create(&file).unwrap();
        let context = RootContext::none();
        let old = single.generate_key(&context).await.unwrap();

        let ring = LocalKeyRing::adopt(&path, &file).unwrap();
        assert_eq!(ring.id(), single.id());
        let second = ring.add().unwrap();
        assert!(matches!(LocalKeyRing::adopt(&path, &file), Err(Error::AlreadyExists { .. })));
        let mut ring = LocalKeyRing::open(&path).unwrap();
        ring.make_primary(&second).unwrap();
        assert_eq!((ring.primary(), ring.id()), (second.clone(), single.id()));

        let back = ring.unwrap_key(&old.wrapped, &context).await.unwrap();
        assert_eq!(back.expose_secret(), old.secret.expose_secret());
        let new = ring.rewrap_key(single.id(), &old.wrapped, &context).await.unwrap().unwrap();
        fs::remove_file(key_path(&path, &ring.first)).unwrap();
        let ring = LocalKeyRing::open(&path).unwrap();
        assert_eq!(ring.keys().collect::<Vec<_>>(), [second]);
        assert_eq!(ring.unwrap_key(&new, &context).await.unwrap().expose_secret(), old.secret.expose_secret());
        assert!(matches!(ring.unwrap_key(&old.wrapped, &context).await, Err(RootKeyError::Rejected)));
    }

    #[test]
    fn a_broken_ring_says_which_file_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        assert!(matches!(LocalKeyRing::open(&path), Err(Error::Missing { .. })));
        let mut ring = LocalKeyRing::create(&path).unwrap();
        assert!(matches!(ring.make_primary("0123"), Err(Error::Missing { .. })));
        fs::rename(key_path(&path, &ring.first), path.join("other.key")).unwrap();
        assert!(matches!(LocalKeyRing::open(&path), Err(Error::NotAKeyFile { .. })));
        fs::remove_file(path.join("other.key")).unwrap();
        assert!(matches!(LocalKeyRing::open(&path), Err(Error::Missing { .. })));
        fs::write(path.join(RING), "keystrata-local-ring-v1:x:y\n").unwrap();
        assert!(matches!(LocalKeyRing::open(&path), Err(Error::NotAKeyFile { .. })));
    }
}
