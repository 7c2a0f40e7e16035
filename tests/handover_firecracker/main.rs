//! A hand-over as it comes over a real socket, with real userfaultfds: whole, in pieces, late, broken and with too much.
//! Whatever comes, no descriptor is left open but the userfaultfds that are handed on.

mod complete;
mod lab;
mod peer;
mod refused;
#[path = "../support/mod.rs"]
mod support;

#[test]
fn role() {
    support::play_role(&[("peer", peer::peer)]);
}
