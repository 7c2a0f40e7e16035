//! An output that fails, and a writer that is dropped: no hang, no thread left.

use crate::common::options;
use crate::common::plan::{ID, Plan, What, metadata};
use snapshot_format::{Codec, Region, WriteError, Writer, WriterOptions};
use std::io::{self, Cursor as Bytes, ErrorKind, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// An output that is full after so many bytes, and says so when it is dropped.
struct Failing {
    memory: Bytes<Vec<u8>>,
    left: u64,
    seeks: bool,
    _dropped: Sender<()>,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if some == 0 && !bytes.is_empty() {
            return Err(ErrorKind::StorageFull.into());
        }
        self.left -= some as u64;
        self.memory.write(&bytes[..some])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if self.seeks {
            self.memory.seek(to)
        } else {
            Err(ErrorKind::NotSeekable.into())
        }
    }
}

/// The output and the news of its end: the sender is dropped with the output.
fn failing(left: u64, seeks: bool) -> (Failing, Receiver<()>) {
    let (sender, receiver) = channel();
    let memory = Bytes::new(Vec::new());
    (
        Failing {
            memory,
            left,
            seeks,
            _dropped: sender,
        },
        receiver,
    )
}

/// The thread that had the output has let it go: it does not wait for anything any more.
#[track_caller]
fn assert_gone(news: &Receiver<()>) {
    let end = news.recv_timeout(Duration::from_secs(20));
    assert_eq!(
        end,
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected),
        "a thread hangs"
    );
}

/// Several batches of frames, whole batches of zeros between.
fn plan() -> Plan {
    Plan::raw(&[
        (What::Data(1), 1300),
        (What::Zeros, 3000),
        (What::Data(2), 600),
    ])
}

#[test]
fn an_output_that_is_full_is_told_wherever_it_is() {
    let plan = plan();
    let good = plan.write(options(Codec::Stored, 16));
    let forge = crate::common::forge::Forge {
        bytes: good.clone(),
    };
    let mut places = vec![0, 1, 4095, 4096, 4097];
    for kind in 1..=5 {
        let section = forge.section(kind);
        for at in [
            section.offset,
            section.offset + section.len / 2,
            section.range().end,
        ] {
            places.extend([at - 1, at, at + 1]);
        }
    }
    // All bytes, then the header once more: one byte less is not enough.
    places.extend([
        good.len() - 1,
        good.len(),
        good.len() + 1,
        good.len() + 4095,
    ]);
    for (place, jobs) in places.into_iter().zip([1, 2, 3].into_iter().cycle()) {
        let (out, news) = failing(place as u64, true);
        let options = WriterOptions {
            jobs,
            ..options(Codec::Stored, 16)
        };
        let error = plan.write_to(out, options, &[300]).map(|_| ()).unwrap_err();
        match error {
            WriteError::Output(source) => assert_eq!(source.kind(), ErrorKind::StorageFull),
            other => panic!("after {place} bytes: {other:?}"),
        }
        assert_gone(&news);
    }
    let (out, _news) = failing(good.len() as u64 + 4096, true);
    let (out, _) = plan
        .write_to(out, options(Codec::Stored, 16), &[300])
        .unwrap();
    assert!(out.memory.into_inner() == good);
}

#[test]
fn an_output_that_cannot_seek_is_told() {
    let (out, news) = failing(u64::MAX, false);
    let error = plan()
        .write_to(out, options(Codec::Lz4, 4), &[300])
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(&error, WriteError::Output(source) if source.kind() == ErrorKind::NotSeekable)
    );
    assert_gone(&news);
}

#[test]
fn a_caller_that_goes_on_after_an_error_gets_errors_and_no_hang() {
    for jobs in [1, 3] {
        let (out, news) = failing(100_000, true);
        let options = WriterOptions {
            jobs,
            ..options(Codec::Stored, 4)
        };
        let mut writer = Writer::new(out, options).unwrap();
        writer.begin_region(Region::raw(0, 1 << 30)).unwrap();
        let (mut errors, mut output_errors) = (0, 0);
        for _ in 0..300 {
            let committed = writer
                .space()
                .map(|space| space[0] ^= 1)
                .and_then(|()| writer.commit(512));
            if let Err(error) = committed {
                errors += 1;
                output_errors += u32::from(matches!(error, WriteError::Output(_)));
            }
        }
        assert!(errors > 200, "{errors} errors");
        assert_eq!(output_errors, 1, "the first says why");
        assert!(writer.zeros(600).is_err());
        drop(writer);
        assert_gone(&news);
    }
}

#[test]
fn a_header_is_written_last() {
    // Whatever goes wrong before the end, what is there is not a snapshot.
    let plan = plan();
    let good = plan.write(options(Codec::Stored, 16));
    let (out, _news) = failing(good.len() as u64, true);
    let file = std::sync::Arc::new(std::sync::Mutex::new(out));
    struct Shared(std::sync::Arc<std::sync::Mutex<Failing>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Seek for Shared {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.lock().unwrap().seek(to)
        }
    }
    let shared = Shared(std::sync::Arc::clone(&file));
    assert!(
        plan.write_to(shared, options(Codec::Stored, 16), &[300])
            .is_err()
    );
    let half = file.lock().unwrap().memory.get_ref().clone();
    assert_eq!(half.len(), good.len());
    assert!(half[4096..] == good[4096..] && half[..4096] == [0; 4096]);
    let error = snapshot_format::Snapshot::open(half).unwrap_err();
    assert!(
        matches!(error, snapshot_format::Error::NotASnapshot),
        "{error}"
    );
}

#[test]
fn a_writer_dropped_half_way_leaves_no_thread() {
    for jobs in [1, 2, 5] {
        for given in [0, 1, 511, 512, 513, 5000] {
            let (out, news) = failing(u64::MAX, true);
            let options = WriterOptions {
                jobs,
                ..options(Codec::Lz4, 4)
            };
            let mut writer = Writer::new(out, options).unwrap();
            writer.begin_region(Region::raw(0, 1 << 30)).unwrap();
            let mut left = given;
            while left > 0 {
                let space = writer.space().unwrap();
                space[0] ^= 1;
                let step = left.min(space.len() / 4096);
                writer.commit(step).unwrap();
                left -= step;
            }
            drop(writer);
            assert_gone(&news);
        }
    }
}

#[test]
fn a_refused_finish_leaves_no_thread() {
    let (out, news) = failing(u64::MAX, true);
    let mut writer = Writer::new(out, options(Codec::Lz4, 4)).unwrap();
    writer.begin_region(Region::raw(0, 4096)).unwrap();
    assert!(writer.finish(ID, &metadata()).is_err());
    assert_gone(&news);
}
