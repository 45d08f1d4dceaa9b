//! The keys of a token issuer, kept fresh in the background.
//!
//! A [`Keyring`] is what requests see: the keys as they are now, never waited
//! for. Keys of a file or a secret stay as they are until a reload. Those of a
//! URL are asked for again and again by a [`Refresher`], off the request path;
//! an answer that cannot be used changes nothing: the keys that were there
//! stay, for however long that lasts, since without them nobody could start
//! anything. Only a token that names a key nobody has heard of makes a request
//! wait, for a moment, while the issuer is asked out of turn; that happens
//! rarely, however many such tokens come, and few wait at once. Whether the
//! issuer has answered is said with what came of it: without its word, a key
//! that is not known may be one that it has just begun to use.
//!
//! How keys are read and used is in [`keys`]; where they come from is the
//! wiring's business.

pub mod keys;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use self::keys::Keys;
use crate::telemetry::tokens::RefreshMetrics;

/// By how much, at most, a refresh comes before or after its time, in parts of
/// the time between two: gateways that began together do not ask together.
const JITTER_PART: f64 = 0.1;

/// The longest that reading a source may take, whatever it is made of.
const READ_MAX: Duration = Duration::from_secs(10);

/// How many requests may wait for an issuer at once: whoever makes up names of
/// keys, while the issuer is slow, must not keep everybody else's room.
const WAITING_MAX: usize = 1024;

/// Where an issuer's keys are asked for.
#[async_trait]
pub trait Source: Send + Sync {
    /// Asks. The error says why there is no answer, and no more of the address
    /// than anybody may know.
    async fn read(&self) -> Result<Keys, String>;
}

/// How often an issuer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// While all is well.
    pub refresh: Duration,
    /// After an answer that cannot be used: first so long, then twice as long
    /// each time, up to `retry_max` and never longer than `refresh`.
    pub retry: Duration,
    /// The longest wait after an answer that cannot be used.
    pub retry_max: Duration,
    /// Out of turn, for a key that is not known, at most once in this time.
    pub early_every: Duration,
    /// How long a request waits for that.
    pub early_wait: Duration,
}

impl Pace {
    /// The pace for a source that is asked this often.
    #[must_use]
    pub fn every(refresh: Duration) -> Self {
        Pace {
            refresh,
            retry: Duration::from_secs(1),
            retry_max: Duration::from_secs(10),
            early_every: Duration::from_secs(10),
            early_wait: Duration::from_secs(1),
        }
    }
}

/// The keys of an issuer. Clones share them.
#[derive(Clone)]
pub struct Keyring {
    shared: Arc<Shared>,
    /// Asks the refresher to look now. It ends with the last keyring.
    ask: Option<mpsc::Sender<()>>,
    pace: Pace,
}

struct Shared {
    held: ArcSwap<Held>,
    progress: watch::Sender<Progress>,
    /// When the issuer was last asked out of turn.
    early: Mutex<Option<Early>>,
    /// Room to wait for it.
    waiting: Semaphore,
}

/// What came of asking an issuer out of turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Whether the issuer has said what its keys are.
    pub word: Word,
    /// Whether it took time to find that out.
    pub waited: Waited,
}

/// An issuer's word on its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It was given a short time ago: what is there now is all that there is.
    Given,
    /// The issuer does not answer, or has not yet.
    Missing,
}

/// Whether time went by in which the ledger was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// No more than it takes to compute.
    No,
    /// For the issuer.
    Yes,
}

#[derive(Clone)]
struct Held {
    /// `None` until they were read once.
    keys: Option<Arc<Keys>>,
    /// When the issuer last said that these are its keys; before it ever did,
    /// when it was first to be asked.
    since: Instant,
}

/// Attempts to read the source, since the beginning.
#[derive(Clone, Copy, Default)]
struct Progress {
    begun: u64,
    ended: u64,
    /// The last of those that ended with the issuer's keys.
    answered: u64,
}

impl Progress {
    /// Whether an attempt that began after so many gave the issuer's word.
    fn word_since(&self, after: u64) -> Word {
        match self.answered > after {
            true => Word::Given,
            false => Word::Missing,
        }
    }
}

/// An attempt out of turn.
#[derive(Clone, Copy)]
struct Early {
    at: Instant,
    /// It is over when more attempts than this have ended.
    after: u64,
}

/// Asks an issuer for its keys, as long as somebody holds its [`Keyring`].
pub struct Refresher {
    shared: Arc<Shared>,
    asked: mpsc::Receiver<()>,
    source: Box<dyn Source>,
    pace: Pace,
    issuer: String,
    metrics: RefreshMetrics,
    failing: Failing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failing {
    No,
    Yes,
}

impl Shared {
    fn new(held: Held) -> Arc<Self> {
        Arc::new(Shared {
            held: ArcSwap::from_pointee(held),
            progress: watch::Sender::new(Progress::default()),
            early: Mutex::new(None),
            waiting: Semaphore::new(WAITING_MAX),
        })
    }
}

impl Keyring {
    /// Keys that stay as they are.
    #[must_use]
    pub fn fixed(keys: Keys) -> Self {
        Keyring::still(Some(Arc::new(keys)))
    }

    /// No keys, and there never will be any.
    #[must_use]
    pub fn empty() -> Self {
        Keyring::still(None)
    }

    fn still(keys: Option<Arc<Keys>>) -> Self {
        let since = Instant::now();
        Keyring {
            shared: Shared::new(Held { keys, since }),
            ask: None,
            pace: Pace::every(Duration::MAX),
        }
    }

    /// Keys that are asked for, once the refresher runs. What an earlier
    /// keyring of the same source has is used until then. `issuer` is for the
    /// log.
    #[must_use]
    pub fn refreshed(
        source: Box<dyn Source>,
        pace: Pace,
        issuer: &str,
        metrics: RefreshMetrics,
        before: Option<&Keyring>,
    ) -> (Self, Refresher) {
        let held = before.map(|before| Held::clone(&before.shared.held.load()));
        let shared = Shared::new(held.unwrap_or_else(|| Held {
            keys: None,
            since: Instant::now(),
        }));
        let (ask, asked) = mpsc::channel(1);
        let refresher = Refresher {
            shared: Arc::clone(&shared),
            asked,
            source,
            pace,
            issuer: issuer.to_owned(),
            metrics,
            failing: Failing::No,
        };
        let ask = Some(ask);
        (Keyring { shared, ask, pace }, refresher)
    }

    /// The keys as they are now; `None` if there never were any.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.shared.held.load().keys.clone()
    }

    /// How long ago the issuer last said that these are its keys, or, if it
    /// never did, how long it has been asked; `None` for keys that stay as they
    /// are.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.ask.as_ref()?;
        Some(self.shared.held.load().since.elapsed())
    }

    /// Has the issuer asked out of turn and waits a moment for it, unless that
    /// was done a short time ago. After that the keys may be others.
    pub async fn look_again(&self) -> Looked {
        let looked = |word, waited| Looked { word, waited };
        // Keys that stay as they are need nobody's word.
        let Some(ask) = &self.ask else {
            return looked(Word::Given, Waited::No);
        };
        let after = self.ask_early(ask);
        let mut progress = self.shared.progress.subscribe();
        let now = *progress.borrow();
        if now.ended > after {
            return looked(now.word_since(after), Waited::No);
        }
        let Ok(_room) = self.shared.waiting.try_acquire() else {
            return looked(Word::Missing, Waited::No);
        };
        let ended = progress.wait_for(|progress| progress.ended > after);
        drop(timeout(self.pace.early_wait, ended).await);
        let word = progress.borrow().word_since(after);
        looked(word, Waited::Yes)
    }

    /// Has the issuer asked, unless that was done a short time ago. It has
    /// been asked when more attempts than this have ended.
    fn ask_early(&self, ask: &mpsc::Sender<()>) -> u64 {
        let at = Instant::now();
        let early = &self.shared.early;
        let mut early = early.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent =
            |early: &Early| at.saturating_duration_since(early.at) < self.pace.early_every;
        if let Some(recent) = early.filter(is_recent) {
            return recent.after;
        }
        let after = self.shared.progress.borrow().begun;
        *early = Some(Early { at, after });
        // Full: somebody asked already. Closed: nobody answers.
        let _ = ask.try_send(());
        after
    }

    /// Waits until the issuer was asked for the first time, for at most so
    /// long.
    pub async fn settled(&self, within: Duration) {
        if self.ask.is_some() {
            let mut progress = self.shared.progress.subscribe();
            let ended = progress.wait_for(|progress| progress.ended > 0);
            drop(timeout(within, ended).await);
        }
    }
}

impl Refresher {
    /// Asks, until the last keyring is gone.
    pub async fn run(mut self) {
        let mut retry = self.pace.retry;
        loop {
            let pause = match self.refresh().await {
                Ok(()) => {
                    retry = self.pace.retry;
                    jittered(self.pace.refresh)
                }
                Err(()) => {
                    let pause = retry.min(self.pace.retry_max).min(self.pace.refresh);
                    retry = pause.saturating_mul(2);
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                asked = self.asked.recv() => {
                    if asked.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Asks once.
    async fn refresh(&mut self) -> Result<(), ()> {
        let count = |progress: &mut Progress| progress.begun = progress.begun.saturating_add(1);
        self.shared.progress.send_modify(count);
        let read = timeout(READ_MAX, self.source.read()).await;
        let read = read.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let result = match read {
            Ok(keys) => {
                self.shared.held.store(Arc::new(Held {
                    keys: Some(Arc::new(keys)),
                    since: Instant::now(),
                }));
                self.metrics.ok.inc();
                if self.failing == Failing::Yes {
                    tracing::info!(issuer = self.issuer, "the token issuer's keys are back");
                }
                self.failing = Failing::No;
                Ok(())
            }
            Err(error) => {
                self.metrics.failed.inc();
                // Once for all that follow: the metric goes on counting.
                if self.failing == Failing::No {
                    self.warn(&error);
                }
                self.failing = Failing::Yes;
                Err(())
            }
        };
        self.shared.progress.send_modify(|progress| {
            progress.ended = progress.begun;
            if result.is_ok() {
                progress.answered = progress.ended;
            }
        });
        result
    }

    fn warn(&self, error: &str) {
        let issuer = &self.issuer;
        if self.shared.held.load().keys.is_some() {
            tracing::warn!(
                issuer,
                error,
                "the token issuer's keys could not be refreshed: those that are known stay"
            );
        } else {
            tracing::warn!(
                issuer,
                error,
                "the token issuer's keys could not be loaded: nobody can be known by its tokens"
            );
        }
    }
}

/// About so long.
fn jittered(span: Duration) -> Duration {
    let part = rand::random_range(-JITTER_PART..=JITTER_PART);
    Duration::try_from_secs_f64(span.as_secs_f64() * (1.0 + part)).unwrap_or(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use std::collections::VecDeque;
    use tokio::task::JoinHandle;

    const SET: &str = r#"{"keys":[{"kid":"KID","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    /// How long a test waits for what should come.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// The name of the one key that there is, or that there is no answer.
    type Said = Result<&'static str, ()>;

    /// Says what it is told to, the last of it again and again, and counts;
    /// told nothing, it says nothing.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Script>>);

    #[derive(Default)]
    struct Script {
        says: VecDeque<Said>,
        asked: u64,
    }

    impl Told {
        fn say(&self, what: &[Said]) {
            self.0.lock().unwrap().says = what.iter().copied().collect();
        }

        fn asked(&self) -> u64 {
            self.0.lock().unwrap().asked
        }
    }

    #[async_trait]
    impl Source for Told {
        async fn read(&self) -> Result<Keys, String> {
            let said = {
                let mut script = self.0.lock().unwrap();
                script.asked = script.asked.saturating_add(1);
                match script.says.len() {
                    0 | 1 => script.says.front().copied(),
                    _ => script.says.pop_front(),
                }
            };
            match said {
                Some(Ok(kid)) => Ok(Keys::read(SET.replace("KID", kid).as_bytes()).unwrap()),
                Some(Err(())) => Err("it is away".to_owned()),
                None => std::future::pending().await,
            }
        }
    }

    fn patient() -> Pace {
        Pace {
            refresh: Duration::from_secs(3600),
            retry: Duration::from_millis(5),
            retry_max: Duration::from_millis(20),
            early_every: Duration::from_secs(3600),
            early_wait: PATIENCE,
        }
    }

    struct Setup {
        told: Told,
        keyring: Keyring,
        running: JoinHandle<()>,
        metrics: RefreshMetrics,
    }

    fn begin(pace: Pace, said: &[Said], before: Option<&Keyring>) -> Setup {
        let told = Told::default();
        told.say(said);
        let metrics = Metrics::new().unwrap().tokens.refreshes;
        let (keyring, refresher) = Keyring::refreshed(
            Box::new(told.clone()),
            pace,
            "https://issuer.example",
            metrics.clone(),
            before,
        );
        Setup {
            told,
            keyring,
            running: tokio::spawn(refresher.run()),
            metrics,
        }
    }

    fn knows(keyring: &Keyring, kid: &str) -> bool {
        keyring.keys().is_some_and(|keys| keys.knows(kid))
    }

    async fn eventually(claim: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "{claim}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn looked(word: Word, waited: Waited) -> Looked {
        Looked { word, waited }
    }

    #[tokio::test]
    async fn a_first_attempt_that_fails_is_tried_again_soon() {
        let setup = begin(patient(), &[Err(()), Err(()), Ok("a")], None);
        setup.keyring.settled(PATIENCE).await;
        eventually("the keys come", || knows(&setup.keyring, "a")).await;
        assert_eq!(setup.told.asked(), 3);
        assert_eq!((setup.metrics.failed.get(), setup.metrics.ok.get()), (2, 1));
    }

    #[tokio::test]
    async fn keys_stay_while_the_issuer_does_not_answer_and_go_when_it_says_so() {
        let pace = Pace {
            refresh: Duration::from_millis(2),
            ..patient()
        };
        let setup = begin(pace, &[Ok("a"), Err(())], None);
        eventually("it was asked in vain", || setup.metrics.failed.get() > 5).await;
        assert!(knows(&setup.keyring, "a"));
        let old = setup.keyring.age().unwrap();
        assert!(old > Duration::from_millis(2), "{old:?}");
        setup.told.say(&[Ok("b")]);
        eventually("the new key is known", || knows(&setup.keyring, "b")).await;
        assert!(!knows(&setup.keyring, "a"));
    }

    #[tokio::test]
    async fn many_that_look_again_ask_once_and_all_get_the_answer() {
        let setup = begin(patient(), &[Ok("a"), Ok("b")], None);
        setup.keyring.settled(PATIENCE).await;
        let looking: Vec<_> = (0..50)
            .map(|_| {
                let keyring = setup.keyring.clone();
                tokio::spawn(async move {
                    keyring.look_again().await;
                    knows(&keyring, "b")
                })
            })
            .collect();
        for looked in looking {
            assert!(looked.await.unwrap());
        }
        assert_eq!(setup.told.asked(), 2);
        let soon = setup.keyring.look_again().await;
        assert_eq!(soon, looked(Word::Given, Waited::No), "not again so soon");
        assert_eq!(setup.told.asked(), 2);
    }

    #[tokio::test]
    async fn after_a_while_the_issuer_is_asked_out_of_turn_again() {
        let pace = Pace {
            early_every: Duration::from_millis(20),
            ..patient()
        };
        let setup = begin(pace, &[Ok("a"), Ok("b"), Ok("c")], None);
        setup.keyring.settled(PATIENCE).await;
        let first = setup.keyring.look_again().await;
        assert_eq!(first, looked(Word::Given, Waited::Yes));
        assert!(knows(&setup.keyring, "b"));
        let begun = Instant::now();
        while setup.keyring.look_again().await.waited == Waited::No {
            assert!(begun.elapsed() < PATIENCE);
            tokio::task::yield_now().await;
        }
        assert!(knows(&setup.keyring, "c"));
    }

    #[tokio::test]
    async fn looking_again_waits_for_a_moment_and_no_longer() {
        let pace = Pace {
            early_wait: Duration::from_millis(30),
            ..patient()
        };
        let setup = begin(pace, &[Ok("a")], None);
        setup.keyring.settled(PATIENCE).await;
        setup.told.say(&[]);
        let begun = Instant::now();
        let late = setup.keyring.look_again().await;
        assert_eq!(late, looked(Word::Missing, Waited::Yes));
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(30), "{waited:?}");
        assert!(waited < PATIENCE, "{waited:?}");
        assert!(knows(&setup.keyring, "a"));
    }

    #[tokio::test]
    async fn the_word_of_an_issuer_is_missing_until_it_answers() {
        let pace = Pace {
            retry: PATIENCE,
            retry_max: PATIENCE,
            ..patient()
        };
        let setup = begin(pace, &[Ok("a"), Err(()), Ok("b")], None);
        setup.keyring.settled(PATIENCE).await;
        let failed = setup.keyring.look_again().await;
        assert_eq!(failed, looked(Word::Missing, Waited::Yes));
        let soon = setup.keyring.look_again().await;
        assert_eq!(soon, looked(Word::Missing, Waited::No), "and nobody waits");
        // Whoever had it asked, its word counts.
        setup.keyring.ask.as_ref().unwrap().try_send(()).unwrap();
        eventually("it answers", || knows(&setup.keyring, "b")).await;
        eventually("the attempt ends", || {
            setup.keyring.shared.progress.borrow().ended == 3
        })
        .await;
        let given = setup.keyring.look_again().await;
        assert_eq!(given, looked(Word::Given, Waited::No));
    }

    #[tokio::test]
    async fn so_many_wait_for_an_issuer_and_no_more() {
        let setup = begin(patient(), &[Ok("a")], None);
        setup.keyring.settled(PATIENCE).await;
        setup.told.say(&[]);
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let keyring = setup.keyring.clone();
                tokio::spawn(async move { keyring.look_again().await })
            })
            .collect();
        eventually("all of them wait", || {
            setup.keyring.shared.waiting.available_permits() == 0
        })
        .await;
        let more = setup.keyring.look_again().await;
        assert_eq!(more, looked(Word::Missing, Waited::No));
        for waiting in waiting {
            waiting.abort();
        }
        eventually("there is room again", || {
            setup.keyring.shared.waiting.available_permits() == WAITING_MAX
        })
        .await;
    }

    #[tokio::test]
    async fn a_keyring_begins_with_what_the_one_before_it_had() {
        let first = begin(patient(), &[Ok("a")], None);
        first.keyring.settled(PATIENCE).await;
        let second = begin(patient(), &[Err(())], Some(&first.keyring));
        second.keyring.settled(PATIENCE).await;
        assert!(knows(&second.keyring, "a"));
        let age = first.keyring.age();
        assert!(second.keyring.age() >= age, "nobody has said it again");
    }

    #[tokio::test]
    async fn nobody_is_asked_once_the_last_keyring_is_gone() {
        let setup = begin(patient(), &[Ok("a")], None);
        let clone = setup.keyring.clone();
        drop(setup.keyring);
        clone.settled(PATIENCE).await;
        assert!(!setup.running.is_finished());
        drop(clone);
        tokio::time::timeout(PATIENCE, setup.running)
            .await
            .expect("it ends")
            .unwrap();
    }

    #[tokio::test]
    async fn keys_of_a_file_are_never_asked_for() {
        let keys = Keys::read(SET.as_bytes()).unwrap();
        let keyring = Keyring::fixed(keys);
        let fixed = keyring.look_again().await;
        assert_eq!(fixed, looked(Word::Given, Waited::No));
        assert_eq!(keyring.age(), None);
        keyring.settled(PATIENCE).await;
        assert!(knows(&keyring, "KID"));
        assert!(Keyring::empty().keys().is_none());
    }
}
