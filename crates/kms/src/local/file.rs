//! The key file: one line of text, private to its owner, there whole or not at all.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keystrata_hierarchy::SecretKey;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::LocalRootKeyError as Error;

/// Before the version in every key file.
const MAGIC: &[u8] = b"keystrata-local-root-v";
/// The whole beginning of a key file of version 1.
const PREFIX: &[u8] = b"keystrata-local-root-v1:";
/// Characters of a key: 32 bytes in base64 without padding.
const KEY_CHARS: usize = 43;
/// Bytes of a key file with its newline.
const FILE_LEN: usize = PREFIX.len() + KEY_CHARS + 1;

/// Writes `secret` to a new file at `path`.
pub(super) fn write_new(path: &Path, secret: &SecretKey) -> Result<(), Error> {
    if path.file_name().is_none() {
        return Err(Error::NotAFile { path: path.into() });
    }
    let unwritable = |source| Error::Unwritable { path: path.into(), source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // A name of its own, mode 0600 from the start; removed again if anything fails before it has its final name.
    let mut file = tempfile::Builder::new().prefix(".keystrata-").tempfile_in(folder).map_err(unwritable)?;
    // A file system without permissions shows itself before the key is on it.
    check_private(path, file.as_file())?;

    let mut text = Zeroizing::new([0; FILE_LEN]);
    let (prefix, rest) = text.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    let (key, newline) = rest.split_at_mut(KEY_CHARS);
    URL_SAFE_NO_PAD.encode_slice(secret.expose_secret(), key).expect("32 bytes take 43 characters");
    newline.copy_from_slice(b"\n");

    file.write_all(&*text).and_then(|()| file.as_file().sync_all()).map_err(unwritable)?;
    file.persist_noclobber(path).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: path.into() },
        _ => unwritable(failed.error),
    })?;
    sync_folder(folder).map_err(unwritable)
}

/// Reads the key in the file at `path`.
pub(super) fn read(path: &Path) -> Result<SecretKey, Error> {
    let mut file = open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.into() },
        _ => Error::Unreadable { path: path.into(), source },
    })?;
    let unreadable = |source| Error::Unreadable { path: path.into(), source };
    // Asked of the open file, not of the path, which may name another file by now.
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(Error::NotAFile { path: path.into() });
    }
    check_private(path, &file)?;

    let mut text = Zeroizing::new([0; FILE_LEN + 1]);
    let mut len = 0;
    while len < text.len() {
        match file.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    parse(path, &text[..len])
}

fn parse(path: &Path, text: &[u8]) -> Result<SecretKey, Error> {
    let not_a_key_file = || Error::NotAKeyFile { path: path.into() };
    let too_short = || Error::TooShort { path: path.into() };
    if text.is_empty() {
        return Err(Error::Empty { path: path.into() });
    }
    if text.len() < PREFIX.len() && PREFIX.starts_with(text) {
        return Err(too_short());
    }
    let rest = text.strip_prefix(MAGIC).ok_or_else(not_a_key_file)?;
    let colon = rest.iter().position(|&byte| byte == b':').ok_or_else(not_a_key_file)?;
    match version(&rest[..colon]).ok_or_else(not_a_key_file)? {
        1 => {}
        version => return Err(Error::UnknownVersion { path: path.into(), version }),
    }
    let key = &rest[colon + 1..];
    let key = key.strip_suffix(b"\n").unwrap_or(key);
    match key.len() {
        KEY_CHARS => {}
        0..KEY_CHARS => return Err(too_short()),
        _ => return Err(Error::TooLong { path: path.into() }),
    }
    // One byte longer than a key: the decoder asks for its estimate.
    let mut decoded = Zeroizing::new([0; SecretKey::LEN + 1]);
    // The decoder's error is dropped: it names a character of the key.
    let len = URL_SAFE_NO_PAD.decode_slice(key, &mut *decoded).map_err(|_| not_a_key_file())?;
    SecretKey::from_slice(&decoded[..len]).map_err(|_| not_a_key_file())
}

/// A version as it is written: digits, the first of them not 0.
fn version(digits: &[u8]) -> Option<u32> {
    let is_canonical = digits.iter().all(u8::is_ascii_digit) && !digits.starts_with(b"0");
    if is_canonical { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // Without this flag, opening a pipe waits for somebody to write to it.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("one low bit");
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

#[cfg(unix)]
fn check_private(path: &Path, file: &File) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|source| Error::Unreadable { path: path.into(), source })?;
    let mode = metadata.permissions().mode() & 0o7777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(Error::NotPrivate { path: path.into(), mode }),
    }
}

/// Who may read a file is not in its mode here.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)] // the same signature everywhere
fn check_private(_: &Path, _: &File) -> Result<(), Error> {
    Ok(())
}

/// Makes a new name in `folder` last through a loss of power.
#[cfg(unix)]
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A folder cannot be opened as a file here; the file system orders its own changes.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)] // the same signature everywhere
pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> Result<SecretKey, Error> {
        parse(Path::new("root.key"), text)
    }

    fn text() -> Vec<u8> {
        // 32 times 0x07.
        b"keystrata-local-root-v1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc\n".to_vec()
    }

    #[test]
    fn a_key_file_has_one_text() {
        assert_eq!(text().len(), FILE_LEN);
        assert_eq!(parsed(&text()).unwrap().expose_secret(), &[7; 32]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        write_new(&path, &SecretKey::from_slice(&[7; 32]).unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), text());
    }

    #[test]
    fn every_cut_but_that_of_the_newline_is_too_short() {
        let text = text();
        assert!(matches!(parsed(b""), Err(Error::Empty { .. })));
        for len in 1..FILE_LEN - 1 {
            assert!(matches!(parsed(&text[..len]), Err(Error::TooShort { .. })), "{len}");
        }
        assert!(parsed(&text[..FILE_LEN - 1]).is_ok());
    }

    #[test]
    fn what_is_not_a_key_file_is_told_from_a_long_one_and_a_newer_one() {
        let mut longer = text();
        longer.insert(30, b'A');
        assert!(matches!(parsed(&longer), Err(Error::TooLong { .. })));
        longer = text();
        longer.push(b'\n');
        assert!(matches!(parsed(&longer), Err(Error::TooLong { .. })));

        let newer = b"keystrata-local-root-v2:whatever that release writes\n";
        assert!(matches!(parsed(newer), Err(Error::UnknownVersion { version: 2, .. })));
        for other in
            [&b"-----BEGIN PRIVATE KEY-----\n"[..], b"\0", b"keystrata-local-root-v01:AA", b"SQLite format 3\0"]
        {
            assert!(matches!(parsed(other), Err(Error::NotAKeyFile { .. })));
        }
        // Stray bits in the last character would give one key two texts; the other alphabet would too.
        for (index, bad) in [(66, b'd'), (30, b'+'), (30, b'='), (30, b' '), (30, 0xff)] {
            let mut altered = text();
            altered[index] = bad;
            assert!(matches!(parsed(&altered), Err(Error::NotAKeyFile { .. })), "{bad}");
        }
    }
}
