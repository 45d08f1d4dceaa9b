//! Which addresses the upstream has, which of them are healthy, and whose turn
//! it is.
//!
//! Finding addresses and checking them is [`LoadBalancer`]'s; its choice of one
//! is not used, because it hashes each address that it looks at and leaves the
//! peer to be put together anew. Here both are done when something changes: a
//! list of ready-made peers is replaced as one, and a request takes the next.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use async_trait::async_trait;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_load_balancing::health_check::{HealthObserve, TcpHealthCheck};
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};

use super::idle::{Idle, Room};
use super::names::Names;

/// Longer than any process lives: 100 years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Makes the peer of a backend; `None` if it has no address to connect to.
pub type MakePeer = Box<dyn Fn(&Backend) -> Option<HttpPeer> + Send + Sync>;

/// The addresses that are known.
pub struct Known {
    balancer: LoadBalancer<RoundRobin>,
    make: MakePeer,
    room: Option<Arc<Room>>,
    listed: ArcSwap<Listed>,
    /// Held while the list is made, so that none replaces a newer one.
    listing: Mutex<()>,
    turn: AtomicUsize,
}

/// An address and how to connect to it.
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// How to connect to it.
    pub peer: HttpPeer,
    /// The connections to it that wait, where they do not in Pingora's pool.
    pub idle: Option<Arc<Idle>>,
}

#[derive(Default)]
struct Listed {
    /// What the lists were made of.
    backends: Arc<BTreeSet<Backend>>,
    all: Vec<Arc<Target>>,
    healthy: Vec<Arc<Target>>,
}

impl Known {
    /// Nothing is known yet: see [`Known::balancer`]. Names are looked up every
    /// `update_every`, addresses checked as `check` says and as often; in `room`
    /// connections wait, if they do not in Pingora's pool.
    pub fn new(
        names: Names,
        update_every: Duration,
        check: Option<(Box<TcpHealthCheck>, Duration)>,
        make: MakePeer,
        room: Option<Arc<Room>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|known: &Weak<Known>| {
            let mut backends = Backends::new(Box::new(names));
            let mut check_every = NEVER;
            if let Some((mut check, every)) = check {
                check.health_changed_callback = Some(Box::new(Changed(Weak::clone(known))));
                backends.set_health_check(check);
                check_every = every;
            }
            let mut balancer = LoadBalancer::from_backends(backends);
            balancer.update_frequency = Some(update_every);
            balancer.health_check_frequency = Some(check_every);
            balancer.parallel_health_check = true;
            Known {
                balancer,
                make,
                room,
                listed: ArcSwap::default(),
                listing: Mutex::new(()),
                turn: AtomicUsize::new(0),
            }
        })
    }

    /// What finds addresses and checks them.
    pub fn balancer(&self) -> &LoadBalancer<RoundRobin> {
        &self.balancer
    }

    /// The next address that is not among those that failed: a healthy one, or
    /// if none is left any other.
    pub fn next(&self, failed: &[SocketAddr]) -> Option<Arc<Target>> {
        let listed = self.listed();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let next = next_of(&listed.healthy, turn, failed);
        next.or_else(|| next_of(&listed.all, turn, failed)).cloned()
    }

    /// Whether any address is not among those that failed.
    pub fn is_any_left(&self, failed: &[SocketAddr]) -> bool {
        let listed = self.listed();
        listed.all.iter().any(|t| !failed.contains(&t.address))
    }

    /// How many addresses are known, and how many of them are healthy.
    pub fn count(&self) -> (usize, usize) {
        let listed = self.listed();
        (listed.all.len(), listed.healthy.len())
    }

    /// Closes connections that need not wait any more, again and again.
    pub async fn sweep(&self) {
        let Some(room) = &self.room else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(room.sweep_every()).await;
            for target in &self.listed().all {
                if let Some(idle) = &target.idle {
                    idle.sweep();
                }
            }
        }
    }

    fn listed(&self) -> Guard<Arc<Listed>> {
        let listed = self.listed.load();
        if Arc::ptr_eq(&listed.backends, &self.balancer.backends().get_backend()) {
            return listed;
        }
        drop(listed);
        self.list();
        self.listed.load()
    }

    /// Makes the lists anew.
    fn list(&self) {
        // It guards nothing that a panic could leave half done.
        let _listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.listed.load();
        let known = self.balancer.backends();
        let backends = known.get_backend();
        let mut listed = Listed::default();
        for backend in backends.iter() {
            let Some(&address) = backend.addr.as_inet() else {
                continue;
            };
            let Some(peer) = (self.make)(backend) else {
                continue;
            };
            let idle = self.room.as_ref().map(|room| {
                let kept = before.all.iter().find(|t| t.address == address);
                let kept = kept.and_then(|target| target.idle.clone());
                kept.unwrap_or_else(|| Idle::new(address, room))
            });
            let target = Arc::new(Target {
                address,
                peer,
                idle,
            });
            if known.ready(backend) {
                listed.healthy.push(Arc::clone(&target));
            }
            listed.all.push(target);
        }
        listed.backends = backends;
        self.listed.store(Arc::new(listed));
    }
}

/// The first from `turn` on, and round again, that is not among those that
/// failed.
fn next_of<'a>(
    targets: &'a [Arc<Target>],
    turn: usize,
    failed: &[SocketAddr],
) -> Option<&'a Arc<Target>> {
    let place = turn.checked_rem(targets.len())?;
    let (before, from) = targets.split_at_checked(place)?;
    let mut round = from.iter().chain(before);
    round.find(|target| !failed.contains(&target.address))
}

/// Told when an address becomes healthy or ceases to be.
struct Changed(Weak<Known>);

#[async_trait]
impl HealthObserve for Changed {
    async fn observe(&self, _: &Backend, _: bool) {
        if let Some(known) = self.0.upgrade() {
            known.list();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(count: u16) -> Vec<Arc<Target>> {
        let target = |port: u16| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let peer = HttpPeer::new(address, false, String::new());
            Arc::new(Target {
                address,
                peer,
                idle: None,
            })
        };
        (1..=count).map(target).collect()
    }

    #[test]
    fn every_address_has_its_turn() {
        let targets = targets(3);
        let picked: Vec<u16> = (0..6)
            .filter_map(|turn| next_of(&targets, turn, &[]))
            .map(|target| target.address.port())
            .collect();
        assert_eq!(picked, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn what_failed_is_passed_over_and_nothing_else() {
        let targets = targets(3);
        let failed: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
        for turn in 0..6 {
            let [first, second, _] = failed[..] else {
                panic!("three");
            };
            let left = next_of(&targets, turn, &[first, second]).unwrap();
            assert_eq!(left.address.port(), 3);
            assert!(next_of(&targets, turn, &failed).is_none());
        }
        assert!(next_of(&[], 7, &[]).is_none());
    }
}
