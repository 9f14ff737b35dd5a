//! Records to seal: pieces of the files in a folder.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use walkdir::WalkDir;

/// The size of a row with a document in it; files are cut into pieces of at most this.
const RECORD_BYTES: u64 = 1024;

/// Folders of build output and history hold files by the hundred thousand that nobody would seal.
const SKIPPED: [&str; 3] = [".git", "target", "node_modules"];

/// As many files as make a good mix; a home folder is not walked to its end.
const MAX_FILES: usize = 20_000;

/// Records by their numbers, counted through all files.
type Records = BTreeMap<u64, Arc<[u8]>>;

/// One record for every object.
pub(super) struct Corpus {
    records: Vec<Arc<[u8]>>,
    /// Files that records were taken from.
    pub(super) files: usize,
    /// Bytes of all objects together.
    pub(super) bytes: u64,
}

impl Corpus {
    /// Takes `objects` records from the files below `folder`, spread evenly over them. With fewer records than objects
    /// the records are used again.
    pub(super) fn read(folder: &Path, objects: usize) -> anyhow::Result<Self> {
        let metadata = std::fs::metadata(folder).map_err(|error| {
            anyhow::anyhow!("cannot read the folder {}: {error}; give another --input", folder.display())
        })?;
        anyhow::ensure!(metadata.is_dir(), "{} is not a folder; give one to --input", folder.display());
        let files = files_below(folder);
        let total: u64 = files.iter().map(|(_, len)| len.div_ceil(RECORD_BYTES)).sum();
        anyhow::ensure!(
            total > 0,
            "there is no readable file with anything in it below {}; give another --input",
            folder.display()
        );

        let wanted = (0..objects as u64).map(|n| {
            // Evenly spread where there are more records than objects, round and round where there are fewer.
            if total >= objects as u64 { n * total / objects as u64 } else { n % total }
        });
        let wanted: Vec<u64> = wanted.collect();
        let (read, files) = read_records(&files, &wanted)?;
        let records: Vec<_> = wanted.iter().filter_map(|number| read.get(number).cloned()).collect();
        anyhow::ensure!(
            records.len() == objects,
            "files below {} changed while they were read; try again",
            folder.display()
        );
        let bytes = records.iter().map(|record| record.len() as u64).sum();
        Ok(Self { records, files, bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn record(&self, object: usize) -> &[u8] {
        &self.records[object]
    }
}

/// Files and their lengths, in the order of their names, so that two runs take the same records.
fn files_below(folder: &Path) -> Vec<(PathBuf, u64)> {
    let is_wanted = |name: &std::ffi::OsStr| !SKIPPED.iter().any(|skipped| name == *skipped);
    let walk = WalkDir::new(folder).sort_by_file_name().into_iter();
    // What cannot be listed is left out: a demo is no backup.
    let entries = walk.filter_entry(|entry| entry.depth() == 0 || is_wanted(entry.file_name())).filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    let sized = files.filter_map(|entry| {
        let len = entry.metadata().ok()?.len();
        let is_readable = len > 0 && File::open(entry.path()).is_ok();
        is_readable.then(|| (entry.into_path(), len))
    });
    sized.take(MAX_FILES).collect()
}

/// The wanted records, and how many files they come from.
fn read_records(files: &[(PathBuf, u64)], wanted: &[u64]) -> anyhow::Result<(Records, usize)> {
    let mut wanted: Vec<u64> = wanted.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let mut wanted = wanted.into_iter().peekable();
    let mut records = Records::new();
    let (mut first, mut used) = (0, 0);
    for (path, len) in files {
        let end = first + len.div_ceil(RECORD_BYTES);
        let mut file = None;
        while let Some(number) = wanted.next_if(|number| *number < end) {
            let failed = |error| anyhow::anyhow!("cannot read {}: {error}", path.display());
            if file.is_none() {
                file = Some(File::open(path).map_err(failed)?);
                used += 1;
            }
            if let Some(file) = &mut file {
                let start = (number - first) * RECORD_BYTES;
                file.seek(SeekFrom::Start(start)).map_err(failed)?;
                let mut record = Vec::new();
                file.take(RECORD_BYTES.min(len - start)).read_to_end(&mut record).map_err(failed)?;
                records.insert(number, record.into());
            }
        }
        first = end;
    }
    Ok((records, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, usize)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, len) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![name.as_bytes()[0]; *len]).unwrap();
        }
        folder
    }

    #[test]
    fn files_are_cut_into_records_and_used_again_where_there_are_too_few() {
        let folder = folder(&[("a", 1_500), ("b/c", 10), ("empty", 0), ("target/x", 5_000), (".git/y", 5_000)]);
        let corpus = Corpus::read(folder.path(), 7).unwrap();
        let lens: Vec<_> = (0..7).map(|n| (corpus.record(n).len(), corpus.record(n)[0])).collect();
        let round = [(1024, b'a'), (476, b'a'), (10, b'b')];
        assert_eq!(lens, [round[0], round[1], round[2], round[0], round[1], round[2], round[0]]);
        assert_eq!((corpus.files, corpus.bytes), (2, 2 * 1_510 + 1_024));
    }

    #[test]
    fn records_are_spread_over_all_files_where_there_are_enough() {
        let folder = folder(&[("a", 100 * 1024), ("b", 100 * 1024)]);
        let corpus = Corpus::read(folder.path(), 10).unwrap();
        let count = |letter| (0..10).filter(|n| corpus.record(*n)[0] == letter).count();
        assert_eq!((count(b'a'), count(b'b'), corpus.files), (5, 5, 2));
    }

    #[test]
    fn a_folder_without_content_is_refused() {
        let empty = folder(&[("empty", 0)]);
        assert!(Corpus::read(empty.path(), 1).err().unwrap().to_string().contains("--input"));
        let file = empty.path().join("empty");
        assert!(Corpus::read(&file, 1).err().unwrap().to_string().contains("not a folder"));
        assert!(Corpus::read(&empty.path().join("none"), 1).is_err());
    }
}
