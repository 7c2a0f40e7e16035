//! Layouts at random: processes, mappings, entries, directories before. What is read is held against what each page was made to be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use uffd_restore::criu::Images;

use crate::numbers_in;
use crate::writer::{Dump, Entry, PAGE, Vma, pages};

const FIRST: u64 = 0x10000;
const PAGES: usize = 48;

/// What becomes of a page in one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    Present,
    Lazy,
    Elsewhere,
    InParent,
}

/// A page of the last directory, and of those before it: where the data is, if it is looked for there.
type Layer = Vec<(Kind, bool)>;

fn layer() -> impl Strategy<Value = Layer> {
    let kind = prop_oneof![
        Just(Kind::Absent),
        Just(Kind::Present),
        Just(Kind::Lazy),
        Just(Kind::Elsewhere),
        Just(Kind::InParent),
    ];
    // Runs of the same kind, and here and there an entry that ends although the next would continue it.
    let runs = prop::collection::vec((kind, 1usize..7, any::<bool>()), PAGES);
    runs.prop_map(|runs| {
        let pages = runs
            .into_iter()
            .flat_map(|(kind, pages, cut)| (0..pages).map(move |page| (kind, cut && page == 0)));
        pages.take(PAGES).collect()
    })
}

/// Where mappings end: after each of these pages one ends and the next begins.
fn borders() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(prop::bool::weighted(0.2), PAGES)
}

/// Flags of a kind, in the first directory or in one before.
fn flags(kind: Kind, is_first: bool) -> Option<u64> {
    Some(match (kind, is_first) {
        (Kind::Absent, _) => return None,
        (Kind::Present, _) => 4,
        (Kind::Lazy, _) => 6,
        (Kind::Elsewhere, _) => 2,
        (Kind::InParent, true) => 3,
        (Kind::InParent, false) => 1,
    })
}

/// What a page must be found to be: nothing, not in the images, or in the file of a directory. `None`: the images are wrong.
fn oracle(layers: &[Layer], page: usize) -> Option<Option<Option<usize>>> {
    for (depth, layer) in layers.iter().enumerate() {
        match (layer[page].0, depth) {
            (Kind::Absent | Kind::Present, 0) => return Some(None),
            (Kind::Absent, _) => return None,
            (Kind::Present | Kind::Lazy, _) => return Some(Some(Some(depth))),
            (Kind::Elsewhere, _) => return Some(Some(None)),
            (Kind::InParent, _) => {}
        }
    }
    None
}

/// The entries of a directory, and the bytes of its pages. The number of a page says which it is, and in which directory.
fn entries(layer: &Layer, depth: usize) -> (Vec<Entry>, Vec<u8>) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut numbers = Vec::new();
    for (page, (kind, cut)) in layer.iter().enumerate() {
        let at = FIRST + page as u64 * PAGE;
        let Some(flags) = flags(*kind, depth == 0) else {
            continue;
        };
        if flags & 4 != 0 {
            numbers.push((depth * 1000 + page) as u64);
        }
        match entries.last_mut() {
            Some((start, pages, last))
                if !cut && *last == flags && *start + *pages * PAGE == at =>
            {
                *pages += 1;
            }
            _ => entries.push((at, 1, flags)),
        }
    }
    (entries, pages(numbers))
}

fn write(layers: &[Layer], borders: &[bool]) -> Dump {
    let mut vmas = vec![Vma::lazy(FIRST, FIRST)];
    for (page, border) in borders.iter().enumerate() {
        let end = FIRST + (page as u64 + 1) * PAGE;
        if let Some(last) = vmas.last_mut() {
            last.end = end;
        }
        if *border && page + 1 < PAGES {
            vmas.push(Vma::lazy(end, end));
        }
    }
    let (first, bytes) = entries(&layers[0], 0);
    let dump = Dump::with(&vmas, &first, &bytes);
    let mut folder: PathBuf = dump.folder();
    for (depth, layer) in layers.iter().enumerate().skip(1) {
        let (entries, bytes) = entries(layer, depth);
        let next = dump.parent(
            Path::new(&folder),
            &format!("before-{depth}"),
            &entries,
            &bytes,
        );
        folder = next;
    }
    dump
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_page_is_found_where_it_was_put(layers in prop::collection::vec(layer(), 1..4), borders in borders(), repair: bool) {
        let mut layers = layers;
        if repair {
            repair_layers(&mut layers);
        }
        let dump = write(&layers, &borders);
        let expected: Option<Vec<_>> = (0..PAGES).map(|page| oracle(&layers, page)).collect();
        let read = Images::open(&dump.folder());
        let (Ok(images), Some(expected)) = (&read, &expected) else {
            prop_assert!(read.is_err() && expected.is_none(), "{:?}, {:?}", read, expected);
            return Ok(());
        };
        let process = &images.processes[0];
        let mut found = BTreeMap::new();
        for run in &process.lazy {
            prop_assert!(process.mappings.iter().any(|mapping| mapping.at.covers(run.at)));
            let first = usize::try_from((run.at.start.0 - FIRST) / PAGE).expect("small");
            let pages = usize::try_from(run.at.len() / PAGE).expect("small");
            let numbers = numbers_in(images, run);
            for page in 0..pages {
                found.insert(first + page, numbers.as_ref().map(|numbers| numbers[page]));
            }
        }
        for (page, expected) in expected.iter().enumerate() {
            let number = |depth| (depth * 1000 + page) as u64;
            prop_assert_eq!(found.get(&page).copied(), expected.map(|depth| depth.map(number)), "page {}", page);
        }
        let runs = process.lazy.windows(2);
        for pair in runs {
            prop_assert!(pair[0].at.end <= pair[1].at.start);
        }
    }
}

/// Makes images of which none is wrong.
fn repair_layers(layers: &mut [Layer]) {
    for page in 0..PAGES {
        if oracle(layers, page).is_none()
            && let Some(last) = layers.last_mut()
        {
            let wanted = if last[page].1 {
                Kind::Present
            } else {
                Kind::Lazy
            };
            last[page].0 = wanted;
            // Absent in between, where it is needed.
            for layer in layers.iter_mut().skip(1) {
                if layer[page].0 == Kind::Absent {
                    layer[page].0 = wanted;
                }
            }
        }
    }
}
