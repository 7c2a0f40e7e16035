//! What is decoded, kept and given up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use snapshot_format::Codec;

use super::*;

const PAGE: u64 = 4096;

/// A frame of so many pages.
fn frame(number: u64, pages: u16) -> FrameKey {
    FrameKey {
        source: 0,
        frame: FrameRef {
            offset: number * 4096,
            payload_len: 100,
            pages,
            codec: Codec::Lz4,
        },
    }
}

fn content(key: FrameKey) -> Decoded {
    let byte = u8::try_from(key.frame.offset / 4096).expect("a small number");
    Ok(vec![byte; key.frame.content_len()].into())
}

/// Gets a frame. Returns whether it had to be decoded.
fn get(cache: &FrameCache, key: FrameKey) -> bool {
    let mut decoded = false;
    let got = cache.get(key, || {
        decoded = true;
        content(key)
    });
    assert_eq!(got, content(key));
    decoded
}

/// Returns when so many threads wait.
fn until_waiting(cache: &FrameCache, waits: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    while cache.counts().waits < waits {
        assert!(Instant::now() < end, "nobody waits: {:?}", cache.counts());
        thread::yield_now();
    }
}

/// Eight threads want a frame. The one that decodes it ends with `end` when all others wait.
fn eight_want_it(
    cache: &FrameCache,
    end: impl Fn() -> Decoded + Sync,
) -> Vec<thread::Result<Decoded>> {
    let decode = || {
        until_waiting(cache, 7);
        end()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| cache.get(frame(1, 4), decode)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    })
}

#[test]
fn what_many_want_is_decoded_once() {
    for limit in [0, 4 * PAGE] {
        let cache = FrameCache::new(limit);
        let got = eight_want_it(&cache, || content(frame(1, 4)));
        let got: Vec<_> = got
            .into_iter()
            .map(|got| got.expect("no panic").expect("content"))
            .collect();
        assert_eq!(got[0][0], 1);
        assert!(got.iter().all(|other| Arc::ptr_eq(other, &got[0])));
        let counts = cache.counts();
        assert_eq!((counts.decodes, counts.waits, counts.hits), (1, 7, 0));
        assert_eq!(counts.bytes, limit);
        // It is there, or wanted again.
        assert_eq!(get(&cache, frame(1, 4)), limit == 0);
    }
}

#[test]
fn a_failure_is_for_all_who_waited_and_for_nobody_after_them() {
    let cache = FrameCache::new(u64::MAX);
    let failure: Decoded = Err("the disk is tired".into());
    for got in eight_want_it(&cache, || failure.clone()) {
        assert_eq!(got.expect("no panic"), failure);
    }
    let counts = cache.counts();
    assert_eq!((counts.decodes, counts.frames, counts.bytes), (1, 0, 0));
    assert!(get(&cache, frame(1, 4)));
    assert!(!get(&cache, frame(1, 4)));
}

#[test]
fn nobody_waits_for_one_who_panicked() {
    let cache = FrameCache::new(u64::MAX);
    let got = eight_want_it(&cache, || panic!("on purpose"));
    let (panicked, told): (Vec<_>, Vec<_>) = got.into_iter().partition(Result::is_err);
    assert_eq!((panicked.len(), told.len()), (1, 7));
    for told in told {
        assert!(told.expect("no panic").is_err());
    }
    assert!(get(&cache, frame(1, 4)));
    let alone = catch_unwind(AssertUnwindSafe(|| {
        cache.get(frame(2, 4), || panic!("on purpose"))
    }));
    assert!(alone.is_err());
    assert!(get(&cache, frame(2, 4)));
}

#[test]
fn the_limit_is_reached_and_not_passed() {
    for (limit, most) in [
        (8 * PAGE, 2),
        (8 * PAGE - 1, 1),
        (12 * PAGE - 1, 2),
        (4 * PAGE, 1),
    ] {
        let cache = FrameCache::new(limit);
        for number in 0..20 {
            assert!(get(&cache, frame(number, 4)));
            let counts = cache.counts();
            assert!(counts.bytes <= limit, "{counts:?}");
            assert_eq!(counts.bytes, counts.frames * 4 * PAGE);
            assert_eq!(counts.frames, most.min(number + 1), "limit {limit}");
            assert_eq!(counts.frames + counts.evictions, number + 1);
            assert!(!get(&cache, frame(number, 4)), "the last one is kept");
        }
        // What does not fit at all takes nobody's place.
        let before = cache.counts();
        assert!(get(&cache, frame(30, 200)));
        assert_eq!(cache.counts().evictions, before.evictions);
        assert_eq!(cache.counts().bytes, before.bytes);
        assert!(get(&cache, frame(30, 200)));
    }
}

#[test]
fn a_large_frame_takes_the_place_of_several() {
    let cache = FrameCache::new(8 * PAGE);
    for number in 0..8 {
        get(&cache, frame(number, 1));
    }
    get(&cache, frame(8, 6));
    let counts = cache.counts();
    assert_eq!((counts.frames, counts.bytes), (3, 8 * PAGE));
    assert!(!get(&cache, frame(6, 1)) && !get(&cache, frame(7, 1)));
}

#[test]
fn what_is_used_stays() {
    let cache = FrameCache::new(3 * PAGE);
    for number in 0..3 {
        assert!(get(&cache, frame(number, 1)));
    }
    assert!(!get(&cache, frame(0, 1)));
    // In place of 1, which is the oldest that was not used.
    assert!(get(&cache, frame(3, 1)));
    for number in [0, 2, 3] {
        assert!(!get(&cache, frame(number, 1)), "frame {number}");
    }
    // What was used once does not stay for ever.
    for number in 10..16 {
        assert!(get(&cache, frame(number, 1)));
    }
    for number in [0, 2, 3] {
        let kept = cache.lock().frames.contains_key(&frame(number, 1));
        assert!(!kept, "frame {number}");
    }
}

#[test]
fn one_goes_even_if_all_are_used() {
    let cache = FrameCache::new(200 * PAGE);
    for _ in 0..2 {
        for number in 0..200 {
            get(&cache, frame(number, 1));
        }
    }
    assert!(get(&cache, frame(200, 1)));
    let counts = cache.counts();
    assert_eq!((counts.frames, counts.evictions), (200, 1));
    // The first that had had its chances.
    let gone = u64::try_from(CHANCES).expect("a small number");
    assert!(get(&cache, frame(gone, 1)));
    assert!(!get(&cache, frame(199, 1)));
}

#[test]
fn a_frame_is_known_by_all_of_its_reference_and_its_source() {
    let cache = FrameCache::new(u64::MAX);
    assert_ne!(cache.new_source(), cache.new_source());
    let key = frame(1, 4);
    assert!(get(&cache, key));
    assert!(get(&cache, FrameKey { source: 1, ..key }));
    assert!(get(&cache, frame(1, 5)));
    assert!(!get(&cache, key));
}
