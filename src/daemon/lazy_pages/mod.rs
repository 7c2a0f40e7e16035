//! `lazy-pages`: what `criu lazy-pages` does, with its command line, its socket, its signs of readiness and its exit status.
//!
//! | file           | holds                                                              |
//! |----------------|--------------------------------------------------------------------|
//! | `dump.rs`      | the images: what is owed to whom                                   |
//! | `content.rs`   | where those pages are: in the images, or in a snapshot             |
//! | `waiting.rs`   | the socket, until `criu restore` connects                          |
//! | `background.rs` | going on in the background, and standard error                    |
//! | `serving.rs`   | the processes that serve, one after the other                      |
//! | `receiving.rs` | what comes from `criu restore`, on a thread of its own             |
//! | `metrics.rs`   | numbers for a monitoring system                                    |

mod background;
mod content;
mod dump;
mod metrics;
mod receiving;
mod serving;
mod waiting;

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

use self::background::{Background, Began};
use self::dump::Dump;
use self::serving::{First, Work};
use self::waiting::Entrance;
use super::inherited::Inherited;
use super::limits::{raise_descriptors, share_memory};
use super::readiness::StatusDescriptor;
use crate::cli::lazy_pages::LazyPages;
use crate::cli::restore::{SetName, Touched};
use crate::failure::Failure;
use crate::serve;
use crate::takeover::{self, Alone, Kept};

/// Runs `uffd-restore lazy-pages`.
///
/// # Errors
/// [`Failure`]; nobody has been served.
pub(super) fn run(args: &LazyPages) -> Result<ExitCode, Failure> {
    args.check().map_err(Failure::Usage)?;
    // Before any descriptor is opened: what was inherited is known by its number.
    let mut inherited = Inherited::default();
    let status = args.status_fd;
    let status = status
        .map(|number| StatusDescriptor::take(&mut inherited, number))
        .transpose()?;
    // Before there is any other thread.
    serve::hold_signals()
        .map_err(|errno| Failure::Usage(format!("cannot hold signals: {errno}")))?;
    // Each file of the images takes a descriptor, and each process.
    let descriptors = raise_descriptors();
    share_memory();
    let paths = Paths::of(args)?;
    // What is wrong with them is found out before anybody can connect.
    let dump = Dump::open(&paths.images, paths.snapshot.as_deref(), args)?;
    dump.refuse_without_room(descriptors)?;
    std::env::set_current_dir(&paths.work).map_err(Failure::io("go to", &paths.work))?;
    let log = background::log(args.log_file.as_deref())?;
    let entrance = Entrance::make(&paths.work)?;
    let background = match args.daemon {
        true => match Background::begin(args.pidfile.as_deref(), log, args.json)? {
            Began::Here(background) => Some(background),
            Began::There(code) => {
                // The socket is the other's now.
                std::mem::forget(entrance);
                return Ok(code);
            }
        },
        false => None,
    };
    let kept = Kept::start_with(entrance.unread()?)?;
    let first = First {
        entrance,
        status,
        background,
    };
    // The first worker closes them, for the keeper as well.
    let first = ManuallyDrop::new(Cell::new(Some(first)));
    let work = Work::new(args, &paths, &dump, &kept);
    let alone = Alone::Ends("all that is restored had been handed over");
    takeover::keep(&kept, alone, |life| {
        if life.takes_over() {
            return work.take_over(life);
        }
        // It is there for the first one.
        first.take().map_or(Ok(true), |first| work.begin(first))
    })
}

/// Where everything is, whatever directory this program goes to.
struct Paths {
    images: PathBuf,
    work: PathBuf,
    snapshot: Option<PathBuf>,
    touched: Touched,
}

impl Paths {
    fn of(args: &LazyPages) -> Result<Self, Failure> {
        let whole = |path: &Path| absolute(path).map_err(Failure::io("find", path));
        let images = whole(&args.images_dir)?;
        let mut touched = args.touched.clone();
        if let Some(SetName::File(path)) = &mut touched.working_set {
            *path = whole(path)?;
        }
        if let Some(Some(path)) = &mut touched.record_working_set {
            *path = whole(path)?;
        }
        Ok(Self {
            work: args.work_dir.as_deref().map_or(Ok(images.clone()), whole)?,
            snapshot: args.snapshot.as_deref().map(whole).transpose()?,
            images,
            touched,
        })
    }
}
