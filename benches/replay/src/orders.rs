//! Which pages are touched, in which order.

use std::collections::BTreeSet;

use crate::image::Image;
use crate::measure::Random;

/// Pages that a snapshot's frame has unless asked for otherwise: no two touches of a random order are that near.
const FRAME: usize = 4;

/// At most so many pages with content, no two of a frame.
pub(crate) fn random(image: &Image, most: usize) -> Vec<usize> {
    let mut pages = image.content();
    Random::new(11).shuffle(&mut pages);
    let mut frames = BTreeSet::new();
    pages.retain(|page| frames.insert(page / FRAME));
    pages.truncate(most);
    pages
}

/// One page in 64, in order.
pub(crate) fn sparse(image: &Image) -> Vec<usize> {
    (0..image.pages).step_by(64).collect()
}

/// What a program touches that starts to work: pieces of 1 to 16 pages from all over its memory, an eighth of what has
/// content, 64 MiB at most.
pub(crate) fn working(image: &Image) -> Vec<usize> {
    let most = (image.content().len() / 8).min(16 << 10);
    flatten(pieces(image, 5), most)
}

/// The same, but a fifth of it is other pieces.
pub(crate) fn shifted(image: &Image) -> Vec<usize> {
    let before = working(image);
    let known: BTreeSet<usize> = before.iter().copied().collect();
    let fresh = pieces(image, 6).into_iter().flatten();
    let mut fresh = fresh.filter(|page| !known.contains(page));
    let mut seen = BTreeSet::new();
    // Block after block of 40 pages: the last 8 are others.
    let pages = before.iter().enumerate().map(|(at, &page)| match at % 40 {
        ..32 => page,
        _ => fresh.find(|page| seen.insert(*page)).unwrap_or(page),
    });
    pages.collect()
}

/// All pages with content once, in pieces of neighbours, shuffled.
fn pieces(image: &Image, seed: u64) -> Vec<Vec<usize>> {
    let mut random = Random::new(seed);
    let mut pieces: Vec<Vec<usize>> = Vec::new();
    let mut left = 0;
    for page in image.content() {
        let follows = pieces.last().and_then(|piece| piece.last()) == Some(&page.wrapping_sub(1));
        if left == 0 || !follows {
            left = 1 + usize::try_from(random.next() % 16).expect("small");
            pieces.push(Vec::new());
        }
        left -= 1;
        pieces.last_mut().expect("a piece").push(page);
    }
    random.shuffle(&mut pieces);
    pieces
}

fn flatten(pieces: Vec<Vec<usize>>, most: usize) -> Vec<usize> {
    let mut pages: Vec<usize> = pieces.into_iter().flatten().collect();
    pages.truncate(most);
    pages
}
