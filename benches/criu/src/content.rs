//! Memory of real programs, page by page: what the measured processes are filled with.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use snapshot_format::PAGE_SIZE;

/// Pages that are taken of one image before the next one's turn.
const TURN: usize = 256;

/// A page of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    image: u32,
    page: u32,
}

/// Raw memory files.
#[derive(Debug)]
pub(crate) struct Content(Vec<File>);

impl Content {
    pub(crate) fn open(images: &[PathBuf]) -> Self {
        Self(
            images
                .iter()
                .map(|image| File::open(image).expect("an image"))
                .collect(),
        )
    }

    pub(crate) fn read(&self, place: Place) -> [u8; PAGE_SIZE] {
        let mut bytes = [0; PAGE_SIZE];
        let file = &self.0[place.image as usize];
        file.read_exact_at(&mut bytes, u64::from(place.page) * PAGE_SIZE as u64)
            .expect("a page of an image");
        bytes
    }

    /// The first so many pages that are not zero: a mebibyte of each image in turn, zero pages left out.
    pub(crate) fn places(&self, count: usize) -> Vec<Place> {
        let mut places = Vec::with_capacity(count);
        let lens = self.0.iter().map(|file| {
            let len = file.metadata().expect("an image's length").len();
            usize::try_from(len).expect("64 bits") / PAGE_SIZE
        });
        let lens: Vec<usize> = lens.collect();
        let longest = lens.iter().copied().max().expect("an image");
        for turn in (0..longest).step_by(TURN) {
            for (image, &pages) in lens.iter().enumerate() {
                for page in turn..pages.min(turn + TURN) {
                    let place = Place {
                        image: u32::try_from(image).expect("few images"),
                        page: u32::try_from(page).expect("less than 16 TiB"),
                    };
                    if places.len() < count && self.read(place) != [0; PAGE_SIZE] {
                        places.push(place);
                    }
                }
            }
        }
        assert_eq!(
            places.len(),
            count,
            "the images have too few pages that are not zero"
        );
        places
    }
}
