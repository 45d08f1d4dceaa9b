//! Many changes with one write: what nobody waits for costs a fraction of what
//! it costs one by one.

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::cluster::Sent;
use super::fault::Fault;
use super::link::Link;
use super::supervisor::Core;

impl Core {
    /// Sends so many commands in one write, and draws the conclusions for the
    /// breaker from each reply. `shape` takes a reply that its command can
    /// have, and nothing else. A script that Redis does not know is a fault
    /// here: it is for the caller to send it in another way.
    pub(super) async fn together<T>(
        &self,
        count: usize,
        until: Instant,
        commands: impl FnOnce(&Link) -> Pipeline,
        shape: impl Fn(&Link, Sent, Value) -> Result<T, Fault>,
    ) -> Vec<Result<T, Fault>> {
        let all = |fault: Fault| (0..count).map(|_| Err(fault.clone())).collect();
        let link = match self.link() {
            Ok(link) => link,
            Err(fault) => return all(fault),
        };
        link.mark_used();
        let commands = commands(&link);
        let sent = Sent::now();
        let replies = self.within(until, link.ask_all(&commands)).await;
        let replies = replies.and_then(|replies| {
            if replies.len() == count {
                Ok(replies)
            } else {
                Err(Fault::nonsense())
            }
        });
        let replies = match replies {
            Ok(replies) => replies,
            Err(fault) => {
                return match self.conclude::<()>(&link, Err(fault.of_one_server())) {
                    Ok(()) => Vec::new(),
                    Err(fault) => all(fault),
                };
            }
        };
        let replies = replies.into_iter().map(|reply| match reply {
            Value::ServerError(error) => Err(Fault::from_server(&error).of_one_server()),
            reply => shape(&link, sent, reply),
        });
        replies
            .map(|outcome| match outcome {
                // Nothing is wrong with the server.
                Err(fault) if fault.is_unknown_script() => Err(fault),
                outcome => self.conclude(&link, outcome),
            })
            .collect()
    }
}
