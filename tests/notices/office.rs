//! What the tests of notices share: a worker at work, and notices to offer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tollgate::billing::team::TeamId;
use tollgate::egress::{Egress, Settings};
use tollgate::ledger::Ledger;
use tollgate::ledger::memory::MemoryLedger;
use tollgate::ledger::redis::{Keys, RedisLedger, RedisSettings, Servers};
use tollgate::notices::{Hidden, Means, Notice, Notices, Recipient, Tokens, Via};
use tollgate::telemetry::Metrics;
use tollgate::telemetry::notices::{Fate, Kind, NoticeMetrics};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::outside::Outside;
use crate::redis_server::RedisServer;

/// How long anything may take that has no bound of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A window that no test outlives.
pub const LONG: Duration = Duration::from_secs(600);

/// What the flush at the end of a test may take.
pub const FLUSH: Duration = Duration::from_secs(10);

pub const REPLY_URL: &str = "https://hooks.slack.com/actions/T1/2/sEcReTpArT";

/// A worker at work.
pub struct Office {
    pub notices: Notices,
    pub metrics: NoticeMetrics,
    stop: oneshot::Sender<()>,
    work: JoinHandle<()>,
}

impl Office {
    pub fn open(outside: &Outside) -> Self {
        Self::with(outside, memory(), FLUSH)
    }

    pub fn with(outside: &Outside, ledger: Arc<dyn Ledger>, flush: Duration) -> Self {
        let metrics = Metrics::new().unwrap().notices;
        let (notices, worker) = Notices::new(means(outside, ledger), metrics.clone());
        let (stop, stopped) = oneshot::channel();
        let over = async move {
            let _ = stopped.await;
        };
        let work = tokio::spawn(worker.run(over, flush));
        Office {
            notices,
            metrics,
            stop,
            work,
        }
    }

    /// Ends it in order, after what waits was sent.
    pub async fn close(self) -> NoticeMetrics {
        // It may have ended by itself.
        let _ = self.stop.send(());
        timeout(PATIENCE, self.work).await.unwrap().unwrap();
        self.metrics
    }

    /// Waits until so many notices are counted, whatever became of them.
    pub async fn counted(&self, count: u64) {
        let until = Instant::now() + PATIENCE;
        while total(&self.metrics) < count {
            assert!(Instant::now() < until, "{:?}", fates(&self.metrics));
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What became of all notices, where there are any.
pub fn fates(metrics: &NoticeMetrics) -> Vec<(&'static str, &'static str, u64)> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for fate in Fate::ALL {
            let count = metrics.fared(kind, fate);
            if count > 0 {
                found.push((kind.name(), fate.name(), count));
            }
        }
    }
    found
}

pub fn total(metrics: &NoticeMetrics) -> u64 {
    fates(metrics).iter().map(|(_, _, count)| count).sum()
}

pub fn means(outside: &Outside, ledger: Arc<dyn Ledger>) -> Means {
    let egress = Egress::new(&Settings {
        proxy: Some(outside.proxy()),
        ca: Some(outside.ca()),
    });
    Means {
        egress: egress.unwrap(),
        ledger,
    }
}

pub fn memory() -> Arc<dyn Ledger> {
    Arc::new(MemoryLedger::new(BTreeMap::new()))
}

/// A connection of its own to a server, as another gateway has it.
pub async fn redis(server: &RedisServer) -> Arc<dyn Ledger> {
    let ledger = RedisLedger::new(&RedisSettings {
        servers: Servers::One(format!("redis://127.0.0.1:{}", server.port)),
        deadline: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(10),
        breaker_failures: 3,
        probe_interval: Duration::from_millis(50),
        tls: None,
        holds: None,
        keys: Keys {
            balance: "credits:{<team>}".to_owned(),
            field: None,
            api_key: "apikey:<sha256>".to_owned(),
            canary: None,
        },
    })
    .unwrap();
    tokio::spawn(ledger.run());
    ledger.settled(PATIENCE).await;
    Arc::new(ledger)
}

pub fn via() -> Via {
    Via {
        bot_token: each([("T1", "xoxb-first"), ("T2", "xoxb-second")]),
        api_token: Tokens::One(Hidden("lin_oauth_token".to_owned())),
        every: LONG,
    }
}

/// Tokens by workspace.
pub fn each<const N: usize>(tokens: [(&str, &str); N]) -> Tokens {
    let owned = |(id, token): (&str, &str)| (id.to_owned(), Hidden(token.to_owned()));
    Tokens::Each(tokens.into_iter().map(owned).collect())
}

pub fn notice(recipient: Recipient) -> Notice {
    Notice {
        team: TeamId::parse(b"acme").unwrap(),
        recipient,
        sentence: "Team acme <has> no credits.".to_owned(),
        billing_url: Some("https://shop.test/buy?team=acme&x=1".into()),
        via: Arc::new(via()),
        since: Instant::now(),
        request_id: "request-1".to_owned(),
    }
}

pub fn press() -> Recipient {
    Recipient::SlackReply(Hidden(REPLY_URL.to_owned()))
}

/// Something that was said at the top of a channel, or in a thread.
pub fn said(thread: Option<&str>, message: &str, user: Option<&str>) -> Recipient {
    Recipient::SlackThread {
        workspace: "T1".to_owned(),
        channel: "C1".to_owned(),
        thread: thread.map(str::to_owned),
        message: Some(message.to_owned()),
        user: user.map(str::to_owned),
    }
}

/// A thread that no other notice is about.
pub fn fresh_thread() -> Recipient {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    said(Some(&format!("1700000000.{count}")), "1.0", Some("U1"))
}

/// A session that no other notice is about.
pub fn fresh_session() -> Recipient {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    session("O1", &format!("c5f1a4f2-0000-4000-8000-{count:012}"))
}

/// A session of an organisation.
pub fn session(workspace: &str, session: &str) -> Recipient {
    Recipient::LinearSession {
        workspace: workspace.to_owned(),
        session: session.to_owned(),
    }
}

/// Keeps what is logged in this thread, at every level.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Until the guard is dropped. What libraries say through `log` as well.
    pub fn keep(&self) -> tracing::subscriber::DefaultGuard {
        let everything = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        // Fails where another test has done it.
        let _ = everything.with_writer(std::io::sink).finish().try_init();
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || log.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
