//! Datasets written and read row by row: the same files whatever the way, and after every crash.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bylaw::dataset::{Dataset, MANIFEST, Manifest, Provenance, SHARD_ROWS, Status, Writer, shard, write_all};
use bylaw::record::{Message, Prompt};

fn rows(count: usize) -> Vec<Prompt> {
    (0..count)
        .map(|index| Prompt {
            id: format!("id-{index}"),
            messages: vec![Message::user(format!("Question {index}?"))],
            source: "test".into(),
            tags: vec!["t".into(); index % 3],
        })
        .collect()
}

fn provenance() -> Provenance {
    Provenance::new("test", 1)
}

/// Every file of a directory, hidden ones too.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn stream(dir: &Path, rows: &[Prompt], total: Option<u64>) -> Manifest {
    let mut writer = Writer::create(dir, provenance(), total).unwrap();
    for row in rows {
        writer.push(row).unwrap();
    }
    writer.finish().unwrap()
}

/// The files of the dataset, which a shard at a time makes without the writer.
fn expected(rows: &[Prompt]) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let mut chunks: Vec<&[Prompt]> = rows.chunks(SHARD_ROWS).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    let shards = chunks.iter().enumerate().map(|(index, chunk)| {
        let file = format!("data-{index:05}-of-{:05}.arrow", chunks.len());
        shard::write(dir.path(), &file, chunk).unwrap()
    });
    let manifest = Manifest::new(
        bylaw::dataset::Kind::Prompts,
        Status::Complete,
        shards.collect(),
        provenance(),
    );
    manifest.write(dir.path()).unwrap();
    files(dir.path())
}

/// Catches: shards cut by how rows arrive, a lost last batch, an empty shard after a full one, and
/// hidden files that stay.
#[test]
fn the_files_depend_on_the_rows_alone() {
    for count in [
        0,
        1,
        1024,
        1025,
        SHARD_ROWS,
        SHARD_ROWS + 1,
        2 * SHARD_ROWS,
        2 * SHARD_ROWS + 1500,
    ] {
        let rows = rows(count);
        let expected = expected(&rows);
        for total in [None, Some(count as u64)] {
            let dir = tempfile::tempdir().unwrap();
            let manifest = stream(dir.path(), &rows, total);
            assert_eq!(files(dir.path()), expected, "{count} rows, total {total:?}");
            assert_eq!(manifest, Manifest::read(dir.path()).unwrap());
            let read: Vec<Prompt> = Dataset::open(dir.path())
                .unwrap()
                .rows()
                .unwrap()
                .map(Result::unwrap)
                .collect();
            assert_eq!(read, rows);
        }
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), &rows, provenance()).unwrap();
        assert_eq!(files(dir.path()), expected, "{count} rows at once");
    }
}

/// Catches: what an attempt left that changes, or survives, the next one.
#[test]
fn an_abandoned_attempt_leaves_no_trace() {
    let rows = rows(2 * SHARD_ROWS + 10);
    let total = Some(rows.len() as u64);
    let expected = expected(&rows);
    for (first, second) in [(None, None), (None, total), (total, None), (total, total)] {
        for pushed in [0, 1025, SHARD_ROWS, SHARD_ROWS + 2000, rows.len()] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::create(dir.path(), provenance(), first).unwrap();
            writer.extend(&rows[..pushed]).unwrap();
            drop(writer);
            assert!(!Manifest::exists(dir.path()));
            assert_eq!(files(dir.path()).len(), pushed / SHARD_ROWS, "whole shards only");
            stream(dir.path(), &rows, second);
            assert_eq!(files(dir.path()), expected, "{pushed} rows, then all");
        }
    }
}

/// Catches: a crash between the renames, in a write, or before the manifest, that the next attempt
/// cannot make good.
#[test]
fn every_state_that_a_crash_can_leave_is_made_good() {
    let rows = rows(2 * SHARD_ROWS + 10);
    let expected = expected(&rows);
    let shard = |index: usize| format!("data-{index:05}-of-00003.arrow");
    let hidden = |index: usize| format!(".data-{index:05}.arrow");
    for renamed in 0..=3 {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..3 {
            let name = if index < renamed { shard(index) } else { hidden(index) };
            fs::write(dir.path().join(name), &expected[&shard(index)]).unwrap();
        }
        for partial in [
            "..data-00003.arrow.partial",
            ".data-00000-of-00003.arrow.partial",
            ".manifest.json.partial",
        ] {
            fs::write(dir.path().join(partial), "half").unwrap();
        }
        stream(dir.path(), &rows, None);
        assert_eq!(files(dir.path()), expected, "{renamed} renamed");
        // And over itself, complete.
        stream(dir.path(), &rows, Some(rows.len() as u64));
        assert_eq!(files(dir.path()), expected);
    }
}

/// Catches: a job's record of what it has done that is lost while its dataset is put together.
#[test]
fn the_manifest_of_a_running_job_stays_until_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let listed = shard::write(dir.path(), "data-00000-of-00009.arrow", &rows(3)).unwrap();
    let running = Manifest::new(
        bylaw::dataset::Kind::Prompts,
        Status::Running,
        vec![listed],
        provenance(),
    );
    running.write(dir.path()).unwrap();
    fs::write(dir.path().join("data-00001-of-00009.arrow"), "not listed").unwrap();
    let mut writer = Writer::create(dir.path(), provenance(), None).unwrap();
    writer.extend(&rows(5)).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap(), running);
    assert_eq!(
        files(dir.path()).into_keys().collect::<Vec<_>>(),
        ["data-00000-of-00009.arrow", MANIFEST]
    );
    assert_eq!(writer.finish().unwrap().rows, 5);
    assert_eq!(
        Dataset::<Prompt>::open(dir.path()).unwrap().read_all().unwrap(),
        rows(5)
    );

    let other = Provenance {
        seed: 2,
        ..provenance()
    };
    let error = Writer::<Prompt>::create(dir.path(), other, None).err().unwrap();
    assert!(error.to_string().contains("seed: 1 there, 2 here"), "{error}");
}

/// Catches: names that promise another number of shards, in a dataset that says it is complete.
#[test]
fn another_number_of_rows_than_was_said_is_refused() {
    for (said, came) in [(3, 2), (2, 3), (0, 1), (1, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(dir.path(), provenance(), Some(said)).unwrap();
        let pushed = writer.extend(&rows(came));
        let error = pushed.and_then(|()| writer.finish()).unwrap_err();
        assert!(
            error.to_string().contains(&format!("a dataset of {said} prompts")),
            "{error}"
        );
        assert!(!Manifest::exists(dir.path()));
    }
}

/// Catches: a failed write on another thread that nobody hears of.
#[test]
fn a_shard_that_cannot_be_written_ends_the_writing() {
    let rows = rows(3 * SHARD_ROWS + 1);
    for blocked in [
        ".data-00000-of-00004.arrow.partial",
        ".data-00003-of-00004.arrow.partial",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(dir.path(), provenance(), Some(rows.len() as u64)).unwrap();
        fs::create_dir(dir.path().join(blocked)).unwrap();
        let error = match writer.extend(&rows) {
            Ok(()) => writer.finish().unwrap_err(),
            Err(error) => {
                let again = writer.extend(&rows).unwrap_err();
                assert!(again.to_string().contains("after a failed write"), "{again}");
                error
            }
        };
        let name = blocked.trim_start_matches('.').trim_end_matches(".partial");
        assert!(
            error.to_string().contains(name) && error.help_text().is_some(),
            "{error}"
        );
        assert!(!Manifest::exists(dir.path()));
    }
}

/// Catches: a damaged shard whose rows are given out, an error that is passed over, and a reader
/// that waits for ever.
#[test]
fn reading_ends_at_the_first_shard_that_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(3 * SHARD_ROWS);
    let manifest = write_all(dir.path(), &rows, provenance()).unwrap();
    let dataset = Dataset::<Prompt>::open(dir.path()).unwrap();
    assert_eq!(
        dataset.rows().unwrap().next().unwrap().unwrap(),
        rows[0],
        "the others are not asked for"
    );
    let path = dir.path().join(&manifest.shards[1].file);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut read = dataset.rows().unwrap();
    for row in &rows[..SHARD_ROWS] {
        assert_eq!(&read.next().unwrap().unwrap(), row);
    }
    let error = read.next().unwrap().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("data-00001-of-00003.arrow: the shard's checksum"),
        "{error}"
    );
    assert!(read.next().is_none());
    assert!(dataset.read_all().is_err());
}
