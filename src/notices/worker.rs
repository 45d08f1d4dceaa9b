//! [`Worker`]: takes notices from their queues, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::carry::Hands;
use super::letter::Waiting;

/// How many notices of a kind are on their way at once.
const SENDS_MAX: usize = 8;

/// Sends notices.
#[derive(Debug)]
pub struct Worker {
    lanes: [Lane; 2],
    hands: Arc<Hands>,
}

/// The notices of one kind.
#[derive(Debug)]
struct Lane {
    queue: mpsc::Receiver<Waiting>,
    sending: JoinSet<()>,
}

impl Worker {
    pub(super) fn new(queues: [mpsc::Receiver<Waiting>; 2], hands: Hands) -> Self {
        let lane = |queue| Lane {
            queue,
            sending: JoinSet::new(),
        };
        Worker {
            lanes: queues.map(lane),
            hands: Arc::new(hands),
        }
    }

    /// Sends notices until every [`super::Notices`] is gone or `stop` resolves;
    /// then what waits for at most `flush_within`. What is left is dropped and
    /// counted.
    ///
    /// Spawn it on the runtime that serves the requests.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send, flush_within: Duration) {
        let (close, closing) = watch::channel(false);
        let [first, second] = &mut self.lanes;
        let all = async {
            tokio::join!(
                first.run(&self.hands, closing.clone()),
                second.run(&self.hands, closing.clone())
            )
        };
        let out_of_time = async {
            stop.await;
            close.send_replace(true);
            sleep(flush_within).await;
        };
        tokio::select! {
            _ = all => {}
            () = out_of_time => {}
        }
        let mut left: usize = 0;
        for mut lane in self.lanes {
            lane.queue.close();
            left = left
                .saturating_add(lane.queue.len())
                .saturating_add(lane.sending.len());
            // Each counts itself as it goes.
            lane.sending.shutdown().await;
        }
        if left > 0 {
            tracing::warn!(notices = left, "notices were dropped at the end");
        }
    }
}

impl Lane {
    /// Sends until the queue is closed and empty, and everything has arrived;
    /// closes it when told to.
    async fn run(&mut self, hands: &Arc<Hands>, mut closing: watch::Receiver<bool>) {
        let mut closed = false;
        loop {
            tokio::select! {
                // A panic in one of them is its end, and it has been counted.
                Some(_) = self.sending.join_next() => {}
                taken = self.queue.recv(), if self.sending.len() < SENDS_MAX => match taken {
                    Some(waiting) => {
                        self.sending.spawn(Arc::clone(hands).carry(waiting));
                    }
                    None => break,
                },
                // An error says that nobody closes it any more.
                _ = closing.wait_for(|closing| *closing), if !closed => {
                    closed = true;
                    self.queue.close();
                }
            }
        }
        while self.sending.join_next().await.is_some() {}
    }
}
