//! What must be true in the end.

use uffd_restore::addr::AddrRange;
use uffd_restore::session::SpaceId;
use uffd_restore::space::{AddressSpace, Found};

use crate::daemon::Daemon;
use crate::image::{self, Class};
use crate::memory::{Content, Entry, SLOTS, Truth, address, bytes};
use crate::world::World;

/// What the model says is owed, and what is missing and belongs to the snapshot, must be the same.
pub(crate) fn compare_model(world: &mut World, mm: usize, space: &AddressSpace) {
    for slot in 0..SLOTS {
        let registered = world.mms[mm].slots[slot].is_registered();
        let shared = world.mms[mm].slots[slot].is_shared();
        let (entry, truth) = (world.entry(mm, slot), world.truth(mm, slot));
        let found = space.at(address(slot));
        let right = match (found, truth) {
            // What is owed where nothing is registered is found out when it is to be installed.
            _ if !registered => true,
            // Somebody else may have brought it into the file.
            (Found::Owed(_), _) if shared && entry != Entry::Missing => true,
            (Found::Owed(page), Truth::Is(Content::Page(number))) => {
                page.0 == number && entry == Entry::Missing
            }
            (Found::Owed(_), _) => false,
            (Found::Nothing | Found::Poisoned, _) if entry != Entry::Missing => true,
            (Found::Nothing, Truth::Is(Content::Page(page))) => image::class(page) == Class::Zero,
            (Found::Poisoned, Truth::Is(Content::Page(page))) => image::class(page) == Class::Bad,
            (Found::Nothing | Found::Poisoned, Truth::PoisonOrZero | Truth::Is(_)) => true,
        };
        if !right {
            world.fail(|| {
                format!("model of mm{mm} slot {slot}: {found:?}, but {entry:?} and {truth:?}")
            });
        }
    }
}

/// Every page that is left, when nothing is owed any more.
pub(crate) fn compare_memory(world: &mut World) {
    for mm in 0..world.mms.len() {
        if world.mms[mm].dead {
            continue;
        }
        for slot in 0..SLOTS {
            if world.mms[mm].slots[slot].mapping.is_none() {
                continue;
            }
            // A page that is missing when the descriptor is closed is a page of zeros.
            let entry = match world.entry(mm, slot) {
                Entry::Missing => Entry::Holds(Content::Zero),
                entry => entry,
            };
            world.check(mm, slot, entry, "at the end");
        }
    }
}

/// Serves what is still owed.
pub(crate) fn finish(daemon: &mut Daemon<'_>) {
    settle(daemon);
    for id in daemon.members() {
        let mm = daemon.mm_of(id);
        if let Some(space) = daemon.session.space(id) {
            compare_model(&mut daemon.world.borrow_mut(), mm, space);
        }
    }
    for _ in 0..400 {
        let Some(id) = unfinished(daemon) else {
            compare_memory(&mut daemon.world.borrow_mut());
            return;
        };
        daemon.ask_ahead(id);
        settle(daemon);
    }
    let id = unfinished(daemon);
    let owed = id
        .and_then(|id| daemon.session.space(id))
        .map(AddressSpace::owes);
    daemon
        .world
        .borrow_mut()
        .fail(|| format!("{id:?} is never finished: {owed:?} bytes"));
}

fn unfinished(daemon: &Daemon<'_>) -> Option<SpaceId> {
    daemon
        .members()
        .into_iter()
        .find(|&id| !daemon.session.is_finished(id))
}

/// Turns and deliveries until nothing is left to do.
fn settle(daemon: &mut Daemon<'_>) {
    for _ in 0..100 {
        for id in daemon.members() {
            if daemon.world.borrow().mms[daemon.mm_of(id)].dead {
                daemon.end(id);
            }
        }
        for id in daemon.members() {
            daemon.turn(id);
        }
        while !daemon.late.is_empty() {
            daemon.deliver_one();
        }
        if !daemon.has_work() {
            return;
        }
    }
    daemon
        .world
        .borrow_mut()
        .fail(|| "there is always something left to do".into());
}

/// Everything that the model knows, for a person to read.
pub(crate) fn describe(daemon: &Daemon<'_>) -> String {
    let world = daemon.world.borrow();
    let mut text = String::new();
    for mm in 0..world.mms.len() {
        text += &format!("mm{mm}:\n{}", world.describe(mm));
    }
    for id in daemon.members() {
        let Some(space) = daemon.session.space(id) else {
            continue;
        };
        text += &format!("model of mm{}:\n", daemon.mm_of(id));
        for slot in 0..SLOTS {
            let range = AddrRange::at(address(slot), bytes(slot));
            let found = space.at(range.start);
            if found != Found::Nothing {
                text += &format!("  {slot} {found:?}\n");
            }
        }
    }
    for (index, thread) in world.threads.iter().enumerate() {
        text += &format!("t{index} of mm{}: {:?}\n", thread.mm, thread.state);
    }
    text
}
