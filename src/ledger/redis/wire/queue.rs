//! [`Queue`]: what is to be written, who is owed a reply, and who waits.
//!
//! It does no I/O and holds the clock's readings that it is given. Whoever has
//! it locked keeps it for moments.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use redis::Value;
use tokio::time::Instant;

use super::{Pack, Replies};
use crate::ledger::redis::fault::Fault;

/// So many bytes stand ready to be written before commands wait apart. There,
/// whoever gave up is passed over when it would be its turn; its bytes stay
/// until then or until its deadline is swept.
const UNSENT_MAX_BYTES: usize = 64 * 1024;

/// The room that a buffer of them keeps once it was written: twice as much, for
/// one that is filled again and again grows by doubling.
const UNSENT_KEPT_BYTES: usize = 2 * UNSENT_MAX_BYTES;

/// So many places, and so much room in line, are kept though nobody waits.
const PLACES_KEPT: usize = 1024;

/// A queue.
pub(super) struct Queue {
    unsent: Vec<u8>,
    held_back: VecDeque<(Vec<u8>, Owed)>,
    /// In the order in which the commands stand in `unsent`, and before it in
    /// what was taken out of that.
    owed: VecDeque<Owed>,
    places: Places,
    /// The first of all deadlines, or an earlier moment.
    earliest: Option<Instant>,
    /// Wakes the driver, if it does not know yet that there is something to do.
    driver: Option<Waker>,
    /// Why nothing can be asked any more.
    end: Option<Fault>,
}

/// Replies that Redis owes.
struct Owed {
    /// Who waits for them, unless they came too late.
    place: Option<usize>,
    until: Option<Instant>,
    /// How many are still to come.
    left: usize,
}

/// What the driver has to know before it rests.
pub(super) struct Due {
    /// Whether there is something to be written.
    pub(super) unsent: bool,
    /// When the first of those who wait gives up.
    pub(super) earliest: Option<Instant>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Queue {
            unsent: Vec::new(),
            held_back: VecDeque::new(),
            owed: VecDeque::new(),
            places: Places::default(),
            earliest: None,
            driver: None,
            end: None,
        }
    }

    /// Puts something in, and returns the place where the replies will be, and
    /// the driver if it has to be woken.
    pub(super) fn push<P: Pack + ?Sized>(
        &mut self,
        what: &P,
        until: Option<Instant>,
        waker: &Waker,
    ) -> Result<(usize, Option<Waker>), Fault> {
        if let Some(fault) = &self.end {
            return Err(fault.clone());
        }
        let owed = Owed {
            place: Some(self.places.add(waker)),
            until,
            left: what.replies(),
        };
        let place = owed.place.unwrap_or_default();
        if let Some(until) = until
            && self.earliest.is_none_or(|earliest| until < earliest)
        {
            self.earliest = Some(until);
        }
        if self.held_back.is_empty() && self.unsent.len() < UNSENT_MAX_BYTES {
            what.pack(&mut self.unsent);
            self.owed.push_back(owed);
        } else {
            let mut bytes = Vec::new();
            what.pack(&mut bytes);
            self.held_back.push_back((bytes, owed));
        }
        Ok((place, self.driver.take()))
    }

    /// What is in a place, if it is there yet.
    pub(super) fn take(&mut self, place: usize, waker: &Waker) -> Poll<Result<Replies, Fault>> {
        self.places.take(place, waker)
    }

    /// Nobody waits there any more. What was sent stays owed, and what was not
    /// stays until its turn comes or its deadline is swept.
    pub(super) fn give_up(&mut self, place: usize) {
        self.places.give_up(place);
    }

    /// Exchanges what is to be written for a buffer that was, which is emptied
    /// and gives back the room that it needed for once.
    pub(super) fn unsent(&mut self, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.shrink_to(UNSENT_KEPT_BYTES);
        std::mem::swap(&mut self.unsent, buffer);
        while self.unsent.len() < UNSENT_MAX_BYTES
            && let Some((bytes, owed)) = self.held_back.pop_front()
        {
            if let Some(place) = owed.place
                && !self.places.free_if_given_up(place)
            {
                self.unsent.extend_from_slice(&bytes);
                self.owed.push_back(owed);
            }
        }
    }

    /// What is left to do. `driver` is woken when there is more.
    pub(super) fn rest(&mut self, driver: &Waker) -> Due {
        if self.driver.is_none() {
            self.driver = Some(driver.clone());
        }
        Due {
            unsent: !self.unsent.is_empty(),
            earliest: self.earliest,
        }
    }

    /// Hands replies out, and collects who has to be woken.
    pub(super) fn hand_out(
        &mut self,
        replies: impl Iterator<Item = Value>,
        wake: &mut Vec<Waker>,
    ) -> Result<(), Fault> {
        for reply in replies {
            let owed = self.owed.front_mut().ok_or_else(Fault::nonsense)?;
            owed.left = owed.left.saturating_sub(1);
            let (place, left) = (owed.place, owed.left);
            if left == 0 {
                self.owed.pop_front();
            }
            if let Some(place) = place {
                wake.extend(self.places.reply(place, reply, left));
            }
        }
        Ok(())
    }

    /// Tells those whose time is up, and returns the next deadline.
    pub(super) fn sweep(&mut self, now: Instant, wake: &mut Vec<Waker>) -> Option<Instant> {
        let mut earliest = None;
        let held_back = self.held_back.iter_mut().map(|(_, owed)| owed);
        for owed in self.owed.iter_mut().chain(held_back) {
            let (Some(place), Some(until)) = (owed.place, owed.until) else {
                continue;
            };
            if until <= now {
                owed.place = None;
                wake.extend(self.places.fail(place, Fault::Silent));
            } else if earliest.is_none_or(|earliest| until < earliest) {
                earliest = Some(until);
            }
        }
        self.held_back.retain(|(_, owed)| owed.place.is_some());
        self.earliest = earliest;
        self.places.shrink();
        self.owed.shrink_to(PLACES_KEPT);
        self.held_back.shrink_to(PLACES_KEPT);
        earliest
    }

    /// Tells everybody that nothing more will come, and why.
    pub(super) fn finish(&mut self, fault: &Fault, wake: &mut Vec<Waker>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(fault.clone());
        let held_back = self.held_back.drain(..).map(|(_, owed)| owed);
        for owed in self.owed.drain(..).chain(held_back) {
            if let Some(place) = owed.place {
                wake.extend(self.places.fail(place, fault.clone()));
            }
        }
        self.unsent = Vec::new();
    }
}

/// Where replies are left for those who wait for them.
#[derive(Default)]
struct Places {
    places: Vec<Place>,
    free: Vec<usize>,
}

enum Place {
    /// Somebody waits; some replies may be there.
    Waiting(Waker, Vec<Value>),
    /// To be fetched.
    Ready(Result<Replies, Fault>),
    /// Nobody waits, and there is still somebody who will look.
    GivenUp,
    Free,
}

impl Places {
    fn add(&mut self, waker: &Waker) -> usize {
        let place = Place::Waiting(waker.clone(), Vec::new());
        if let Some(index) = self.free.pop()
            && let Some(free) = self.places.get_mut(index)
        {
            *free = place;
            return index;
        }
        self.places.push(place);
        self.places.len().saturating_sub(1)
    }

    fn free(&mut self, index: usize) {
        if let Some(place) = self.places.get_mut(index) {
            *place = Place::Free;
            self.free.push(index);
        }
    }

    /// Gives back what a crowd needed, when it is gone.
    fn shrink(&mut self) {
        if self.places.len() > PLACES_KEPT && self.free.len() == self.places.len() {
            *self = Places::default();
        }
    }

    fn take(&mut self, index: usize, waker: &Waker) -> Poll<Result<Replies, Fault>> {
        match self.places.get_mut(index) {
            Some(Place::Waiting(known, _)) => {
                known.clone_from(waker);
                Poll::Pending
            }
            Some(place @ Place::Ready(_)) => {
                let ready = std::mem::replace(place, Place::Free);
                self.free.push(index);
                match ready {
                    Place::Ready(outcome) => Poll::Ready(outcome),
                    _ => Poll::Ready(Err(Fault::nonsense())),
                }
            }
            _ => Poll::Ready(Err(Fault::nonsense())),
        }
    }

    fn give_up(&mut self, index: usize) {
        match self.places.get_mut(index) {
            Some(place @ Place::Waiting(..)) => *place = Place::GivenUp,
            Some(Place::Ready(_)) => self.free(index),
            _ => {}
        }
    }

    /// Whether nobody waits there; then the place is free from now on.
    fn free_if_given_up(&mut self, index: usize) -> bool {
        let given_up = matches!(self.places.get(index), Some(Place::GivenUp));
        if given_up {
            self.free(index);
        }
        given_up
    }

    /// Leaves a reply, after which so many will come.
    fn reply(&mut self, index: usize, reply: Value, left: usize) -> Option<Waker> {
        let place = self.places.get_mut(index)?;
        match place {
            Place::Waiting(_, before) if left > 0 => {
                before.push(reply);
                None
            }
            Place::Waiting(_, before) => {
                let mut replies = std::mem::take(before);
                let replies = if replies.is_empty() {
                    Replies::One(reply)
                } else {
                    replies.push(reply);
                    Replies::All(replies)
                };
                let waiting = std::mem::replace(place, Place::Ready(Ok(replies)));
                waker_of(waiting)
            }
            Place::GivenUp if left == 0 => {
                self.free(index);
                None
            }
            _ => None,
        }
    }

    /// Leaves word that no reply will come there.
    fn fail(&mut self, index: usize, fault: Fault) -> Option<Waker> {
        let place = self.places.get_mut(index)?;
        match place {
            Place::Waiting(..) => waker_of(std::mem::replace(place, Place::Ready(Err(fault)))),
            Place::GivenUp => {
                self.free(index);
                None
            }
            _ => None,
        }
    }
}

fn waker_of(place: Place) -> Option<Waker> {
    match place {
        Place::Waiting(waker, _) => Some(waker),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::{Cmd, Pipeline};
    use std::time::Duration;

    fn get(number: usize) -> Cmd {
        let mut get = redis::cmd("GET");
        get.arg(format!("{number:0>500}"));
        get
    }

    fn count(bytes: &[u8]) -> usize {
        bytes.windows(3).filter(|window| window == b"GET").count()
    }

    fn push(queue: &mut Queue, what: &impl Pack, until: Option<Instant>) -> usize {
        let outcome = queue.push(what, until, Waker::noop());
        outcome.expect("the connection is there").0
    }

    fn take(queue: &mut Queue, place: usize) -> Option<Result<Replies, Fault>> {
        match queue.take(place, Waker::noop()) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn say(queue: &mut Queue, reply: i64) -> Result<(), Fault> {
        let reply = std::iter::once(Value::Int(reply));
        queue.hand_out(reply, &mut Vec::new())
    }

    #[test]
    fn what_stands_ready_is_bounded_and_who_gave_up_is_not_sent_later() {
        let mut queue = Queue::new();
        let now = Instant::now();
        let later = now.checked_add(Duration::from_secs(9));
        let places: Vec<_> = (0..1000)
            .map(|number| {
                let until = if number % 4 == 1 { Some(now) } else { later };
                push(&mut queue, &get(number), until)
            })
            .collect();
        assert!(queue.unsent.len() < UNSENT_MAX_BYTES + 1000);
        let ready = count(&queue.unsent);
        assert_eq!(ready + queue.held_back.len(), 1000);
        for place in places.iter().skip(2).step_by(4) {
            queue.give_up(*place);
        }
        assert_eq!(queue.sweep(now, &mut Vec::new()), later);
        let told = |outcome| matches!(outcome, Some(Err(Fault::Silent)));
        assert!(told(take(&mut queue, places[501])));
        assert!(take(&mut queue, places[500]).is_none());

        let mut sent = Vec::new();
        loop {
            let mut buffer = Vec::new();
            queue.unsent(&mut buffer);
            assert!(buffer.len() < UNSENT_MAX_BYTES + 1000);
            if buffer.is_empty() {
                break;
            }
            sent.extend(buffer);
        }
        assert_eq!(count(&sent), queue.owed.len());
        // Of those that were not ready, only who still waits was sent.
        assert_eq!(count(&sent), ready + (1000 - ready) / 2);
        for _ in 0..count(&sent) {
            assert_eq!(say(&mut queue, 1), Ok(()));
        }
        for place in places.iter().step_by(4) {
            assert!(matches!(
                take(&mut queue, *place),
                Some(Ok(Replies::One(_)))
            ));
        }
        assert!(queue.owed.is_empty());
    }

    #[test]
    fn what_a_crowd_needed_is_given_back() {
        let mut queue = Queue::new();
        let now = Instant::now();
        let mut large = redis::cmd("SET");
        large.arg("key").arg(vec![b'x'; 3 << 20]);
        let mut places = vec![push(&mut queue, &large, Some(now))];
        let crowd = 0..6000;
        places.extend(crowd.map(|number| push(&mut queue, &get(number), Some(now))));
        assert!(queue.unsent.capacity() > 3 << 20);
        assert!(queue.held_back.capacity() > PLACES_KEPT);

        let mut buffer = Vec::new();
        loop {
            queue.unsent(&mut buffer);
            if buffer.is_empty() {
                break;
            }
        }
        assert!(queue.owed.capacity() > PLACES_KEPT);
        for _ in 0..places.len() {
            assert_eq!(say(&mut queue, 1), Ok(()));
        }
        for place in places {
            assert!(matches!(take(&mut queue, place), Some(Ok(_))));
        }
        assert_eq!(queue.sweep(now, &mut Vec::new()), None);
        queue.unsent(&mut buffer);
        assert!(buffer.capacity() <= UNSENT_KEPT_BYTES);
        assert!(queue.unsent.capacity() <= UNSENT_KEPT_BYTES);
        assert!(queue.owed.capacity() <= PLACES_KEPT);
        assert!(queue.held_back.capacity() <= PLACES_KEPT);
        assert!(queue.places.places.capacity() <= PLACES_KEPT);
    }

    #[test]
    fn a_reply_that_nobody_waits_for_goes_to_nobody_else() {
        let mut queue = Queue::new();
        let (one, other) = (
            push(&mut queue, &get(1), None),
            push(&mut queue, &get(2), None),
        );
        let mut both = Pipeline::new();
        both.cmd("A").cmd("B");
        let (third, fourth) = (push(&mut queue, &both, None), push(&mut queue, &both, None));
        queue.give_up(one);
        queue.give_up(third);
        for reply in 1..=6 {
            assert_eq!(say(&mut queue, reply), Ok(()));
        }
        let outcome = take(&mut queue, other);
        assert!(matches!(outcome, Some(Ok(Replies::One(Value::Int(2))))));
        let Some(Ok(Replies::All(values))) = take(&mut queue, fourth) else {
            panic!("no replies");
        };
        assert_eq!(values, [Value::Int(5), Value::Int(6)]);
        assert_eq!(queue.places.free.len(), queue.places.places.len());
        assert!(matches!(say(&mut queue, 7), Err(Fault::Lost(_))));
    }

    #[test]
    fn at_the_end_everybody_is_told_and_nobody_can_ask() {
        let mut queue = Queue::new();
        let place = push(&mut queue, &get(1), None);
        let gone = Fault::Lost("gone".to_owned());
        queue.finish(&gone, &mut Vec::new());
        assert!(matches!(take(&mut queue, place), Some(Err(fault)) if fault == gone));
        assert!(queue.push(&get(2), None, Waker::noop()).is_err());
    }
}
