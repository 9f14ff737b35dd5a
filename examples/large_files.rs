//! Objects that do not fit in memory: sealed as a stream, opened as a stream, and read in the middle.
//!
//! `cargo run -p keystrata-examples --example large_files`

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use keystrata_hierarchy::{Account, Context, Hierarchy};
use keystrata_kms::LocalRootKey;
use keystrata_store::SqliteKekStore;
use tokio::task::block_in_place;

const LEN: u64 = 50_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let root = Arc::new(LocalRootKey::create(at("root.key"))?);
    let store = SqliteKekStore::open(at("keys.db")).await?;
    let acme = Hierarchy::builder().root_key(Arc::clone(&root)).store(store).build()?.account("acme")?;
    let film = Context::new().with("film", "42");

    seal(&acme, &film, &at("film.ks")).await?;
    let sealed = fs::metadata(at("film.ks"))?.len();
    println!("{LEN} bytes sealed into a file of {sealed}, 16 KiB in memory at a time");

    assert_eq!(open_all(&acme, &film, &at("film.ks")).await?, LEN);
    println!("read back from beginning to end, every byte the one that was written");

    let read = open_middle(&acme, &film, &at("film.ks")).await?;
    println!("1,000 bytes from the middle cost {read} bytes of reading");
    assert!(read < 100_000);

    // A file that was cut short is not taken for a shorter film.
    File::options().write(true).open(at("film.ks"))?.set_len(sealed / 2)?;
    let cut = open_all(&acme, &film, &at("film.ks")).await.expect_err("half of the file is gone");
    println!("cut in half: {cut}");
    assert_eq!(root.calls(), 1);
    Ok(())
}

/// Writes beside the file and renames: whoever opens it finds a whole envelope or none.
async fn seal(acme: &Account, of: &Context, path: &Path) -> anyhow::Result<()> {
    let unfinished = path.with_extension("part");
    let mut sealer = acme.sealer(BufWriter::new(File::create(&unfinished)?), of).await?;
    // Ciphers and disks keep a thread busy; other tasks go on elsewhere meanwhile.
    block_in_place(|| -> anyhow::Result<()> {
        io::copy(&mut frames().take(LEN), &mut sealer)?;
        // Without this the last chunk is missing, and nothing opens.
        let mut file = sealer.finish()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(fs::rename(&unfinished, path)?)
    })
}

/// How many bytes come out, all of them compared.
async fn open_all(acme: &Account, of: &Context, path: &Path) -> anyhow::Result<u64> {
    let mut opener = acme.opener(BufReader::new(File::open(path)?), of).await?;
    block_in_place(|| {
        let (mut expected, mut len) = (frames(), 0);
        let mut buffers = [[0; 8192], [0; 8192]];
        loop {
            let [got, wanted] = &mut buffers;
            let count = opener.read(got)?;
            if count == 0 {
                return Ok(len); // an end that was authenticated
            }
            expected.read_exact(&mut wanted[..count])?;
            assert_eq!(got[..count], wanted[..count]);
            len += count as u64;
        }
    })
}

/// How many bytes of the file are read for a thousand in the middle. The same works on an object store that answers ranges.
async fn open_middle(acme: &Account, of: &Context, path: &Path) -> anyhow::Result<u64> {
    let read = Arc::new(AtomicU64::new(0));
    let file = Counting { file: File::open(path)?, read: Arc::clone(&read) };
    let mut opener = acme.opener(file, of).await?;
    block_in_place(|| {
        opener.seek(SeekFrom::Start(LEN / 2))?;
        let mut scene = [0; 1000];
        opener.read_exact(&mut scene)?;
        let first = usize::try_from(LEN / 2)?;
        assert!(scene.iter().enumerate().all(|(index, byte)| *byte == frame(first + index)));
        Ok(read.load(Ordering::Relaxed))
    })
}

/// What is in the film, without keeping it anywhere.
fn frames() -> impl Read {
    struct Frames(usize);
    impl Read for Frames {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            for byte in out.iter_mut() {
                *byte = frame(self.0);
                self.0 += 1;
            }
            Ok(out.len())
        }
    }
    Frames(0)
}

fn frame(position: usize) -> u8 {
    u8::try_from(position * 7 % 251).expect("less than 251")
}

/// A file that counts what is read from it.
struct Counting {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(out)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Counting {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
