//! The processes that were handed over, and which address spaces are theirs and their descendants'.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::target::TargetAbout;
use super::{Target, Watched};
use crate::addr::AddrRange;
use crate::session::SpaceId;

/// A process that was handed over.
#[derive(Debug)]
pub(super) struct Root {
    /// Which process it is; `None` if it cannot be seen from here.
    pub(super) target: Option<Arc<Target>>,
    /// What it has registered with a userfaultfd of which it keeps a descriptor.
    pub(super) kept_by_peer: Vec<AddrRange>,
    /// It must not outlive this program as long as something is owed to it, or to what it forked.
    pub(super) watched: Option<Watched>,
    /// What is to be there first, because others look at it in ways that do not fault.
    first: Vec<AddrRange>,
    /// Address spaces that exist: its own, and those of its descendants.
    family: BTreeSet<SpaceId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Roots {
    roots: BTreeMap<SpaceId, Root>,
    /// For each address space, that of the process that was handed over.
    ancestors: BTreeMap<SpaceId, SpaceId>,
}

impl Roots {
    pub(super) fn add(
        &mut self,
        id: SpaceId,
        target: Option<Arc<Target>>,
        kept_by_peer: Vec<AddrRange>,
    ) {
        let root = Root {
            target,
            kept_by_peer,
            watched: None,
            first: Vec::new(),
            family: BTreeSet::from([id]),
        };
        self.roots.insert(id, root);
        self.ancestors.insert(id, id);
    }

    /// A child was forked.
    pub(super) fn forked(&mut self, parent: SpaceId, child: SpaceId) {
        let Some(&root) = self.ancestors.get(&parent) else {
            return;
        };
        self.ancestors.insert(child, root);
        if let Some(root) = self.roots.get_mut(&root) {
            root.family.insert(child);
        }
    }

    /// An address space has ceased to exist. With the last of a family the process that was handed over is forgotten, and may outlive this
    /// program. Returns what is to be unregistered, if it was that process.
    pub(super) fn gone(&mut self, id: SpaceId) -> Vec<AddrRange> {
        let Some(ancestor) = self.ancestors.remove(&id) else {
            return Vec::new();
        };
        let Some(root) = self.roots.get_mut(&ancestor) else {
            return Vec::new();
        };
        root.family.remove(&id);
        let kept = match id == ancestor {
            true => std::mem::take(&mut root.kept_by_peer),
            false => Vec::new(),
        };
        if root.family.is_empty() {
            self.roots.remove(&ancestor);
        }
        kept
    }

    /// True for the address space of a process that was handed over, not of one that was forked since.
    pub(super) fn has(&self, id: SpaceId) -> bool {
        self.ancestors.get(&id) == Some(&id)
    }

    /// The address spaces of the processes that were handed over, as far as they exist.
    pub(super) fn spaces(&self) -> impl Iterator<Item = SpaceId> + '_ {
        self.ancestors
            .iter()
            .filter(|(id, root)| id == root)
            .map(|(&id, _)| id)
    }

    /// The process that was handed over and that this address space is of, or descends from. `None` if it is not known.
    pub(super) fn target_of(&self, id: SpaceId) -> Option<&Arc<Target>> {
        let root = self.ancestors.get(&id)?;
        self.roots.get(root)?.target.as_ref()
    }

    /// As long as the address space of a process that was handed over is here, or one of its descendants', it is watched.
    pub(super) fn watched(&mut self, id: SpaceId, watched: Option<Watched>) {
        if let Some(root) = self.roots.get_mut(&id) {
            root.watched = watched;
        }
    }

    /// What is to be in its address space first.
    pub(super) fn needs_first(&mut self, id: SpaceId, first: Vec<AddrRange>) {
        if let Some(root) = self.roots.get_mut(&id) {
            root.first = first;
        }
    }

    /// What is to be there first, in which address spaces.
    pub(super) fn first(&self) -> impl Iterator<Item = (SpaceId, AddrRange)> + '_ {
        let roots = self.roots.iter();
        roots.flat_map(|(&id, root)| root.first.iter().map(move |&range| (id, range)))
    }

    /// The processes that are known, each with the address space that it was handed over with.
    pub(super) fn processes(&self) -> impl Iterator<Item = (SpaceId, &Arc<Target>)> + '_ {
        let roots = self.roots.iter();
        roots.filter_map(|(&id, root)| Some((id, root.target.as_ref()?)))
    }

    /// The same without those.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> + '_ {
        self.roots.values().filter_map(|root| root.target.as_ref())
    }
}

/// What is to be known of the processes by whoever takes over.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    /// What the session is said to be of.
    host: TargetAbout,
    roots: Vec<RootAbout>,
    ancestors: Vec<(SpaceId, SpaceId)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RootAbout {
    id: SpaceId,
    target: Option<TargetAbout>,
    kept_by_peer: Vec<AddrRange>,
    first: Vec<AddrRange>,
}

impl Roots {
    /// For [`Roots::of_about`]. The session is said to be of `host`.
    pub(super) fn about(&self, host: &Target) -> Vec<u8> {
        let root = |(&id, root): (&SpaceId, &Root)| RootAbout {
            id,
            target: root.target.as_ref().map(|target| target.about()),
            kept_by_peer: root.kept_by_peer.clone(),
            first: root.first.clone(),
        };
        let about = About {
            host: host.about(),
            roots: self.roots.iter().map(root).collect(),
            ancestors: self.ancestors.iter().map(|(&id, &its)| (id, its)).collect(),
        };
        // It cannot fail: it is numbers and text, in memory.
        postcard::to_stdvec(&about).unwrap_or_default()
    }

    /// The processes that another process served, and those that were forked since, as far as their address spaces exist; and what
    /// the session is said to be of. The descriptors that name them are given by `pidfd`: by the address space of the process, or by
    /// the number at the time.
    ///
    /// # Errors
    /// If that is not what was written.
    pub(super) fn of_about(
        about: &[u8],
        forks: &[(SpaceId, SpaceId)],
        exists: impl Fn(SpaceId) -> bool,
        mut pidfd: impl FnMut(SpaceId, RawFd) -> Option<OwnedFd>,
    ) -> Result<(Self, Arc<Target>), postcard::Error> {
        let about: About = postcard::from_bytes(about)?;
        let mut roots = Self::default();
        let mut targets = BTreeMap::new();
        for RootAbout {
            id,
            target,
            kept_by_peer,
            first,
        } in about.roots
        {
            targets.extend(target.map(|target| (id, target)));
            roots.roots.insert(
                id,
                Root {
                    target: None,
                    kept_by_peer,
                    watched: None,
                    first,
                    family: BTreeSet::new(),
                },
            );
        }
        for (id, ancestor) in about.ancestors {
            roots.ancestors.insert(id, ancestor);
            if let Some(root) = roots.roots.get_mut(&ancestor) {
                root.family.insert(id);
            }
        }
        for &(parent, child) in forks {
            roots.forked(parent, child);
        }
        let gone: Vec<SpaceId> = roots.ancestors.keys().copied().collect();
        for id in gone.into_iter().filter(|&id| !exists(id)) {
            roots.gone(id);
        }
        // Who went on without a family is forgotten, and its descriptor may be another's by now.
        roots.roots.retain(|_, root| !root.family.is_empty());
        let mut host = None;
        for (id, root) in &mut roots.roots {
            let its = targets.remove(id);
            let is_host = its.as_ref() == Some(&about.host);
            root.target = its.and_then(|its| {
                let pidfd = pidfd(*id, its.pidfd)?;
                Some(Arc::new(Target::of_about(its, pidfd)))
            });
            if is_host {
                host.clone_from(&root.target);
            }
        }
        let host = match host {
            Some(host) => host,
            // Of a session that is over, or of which only children are left.
            None => {
                let its = about.host;
                let target = match pidfd(SpaceId(u64::MAX), its.pidfd) {
                    Some(pidfd) => Target::of_about(its, pidfd),
                    // What has its number now may be somebody else.
                    None => Target::of_the_dead(its).map_err(|_| postcard::Error::WontImplement)?,
                };
                Arc::new(target)
            }
        };
        Ok((roots, host))
    }

    /// From now on those that are known must not outlive this program, in the way that `watch` says.
    pub(super) fn watch(&mut self, watch: impl Fn(&Target) -> Option<Watched>) {
        for root in self.roots.values_mut() {
            root.watched = root.target.as_ref().and_then(|target| watch(target));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_forgotten_with_its_last_member() {
        let [root, child, grandchild, other] = [0, 1, 2, 3].map(SpaceId);
        let kept = AddrRange::new(0x1000, 0x2000);
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let me = Arc::new(Target::open(pid, "me".into()).expect("I exist"));
        let mut roots = Roots::default();
        roots.add(root, Some(me), vec![kept]);
        roots.add(other, None, Vec::new());
        roots.forked(root, child);
        roots.forked(child, grandchild);
        assert!(roots.has(root) && roots.has(other) && !roots.has(child));
        assert_eq!(roots.gone(root), [kept]);
        assert!(!roots.has(root));
        assert_eq!(roots.spaces().collect::<Vec<_>>(), [other]);
        // What was forked is still of the process that was handed over.
        assert!(roots.target_of(child).is_some() && roots.target_of(other).is_none());
        assert_eq!(roots.gone(child), []);
        assert_eq!(roots.targets().count(), 1);
        assert_eq!(roots.gone(grandchild), []);
        assert_eq!(roots.targets().count(), 0);
    }
}
