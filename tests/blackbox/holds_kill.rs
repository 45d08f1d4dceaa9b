//! Gateways and Redis killed under load, without warning. Afterwards every
//! start that reached the upstream has a hold that the ledger knows, no hold
//! outlives its time, and the sums are equal to the last micro-credit.
//!
//! `HOLDS_KILLS` makes it longer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::holds::{TOKEN, assert_sound, holding, read, standing, started};
use crate::support::wait::{SOON, eventually, millis, secs};
use crate::support::{Client, Gateway, Redis, Req, Upstream};

/// What the team has at first, in whole credits: more than all starts need.
const BALANCE: i64 = 1_000_000_000;

/// What the upstream was asked to start: holds, in order.
type Begun = Arc<Mutex<Vec<String>>>;

/// Everything that is killed, and who works meanwhile.
struct Scene {
    redis: Redis,
    team: String,
    begun: Begun,
    /// Public and admin listeners of the gateways that run now.
    doors: Mutex<Vec<(SocketAddr, SocketAddr)>>,
    over: AtomicBool,
    admitted: AtomicUsize,
}

/// A task API that notes the hold of each start; it answers nothing without.
fn noting() -> (Upstream, Begun) {
    let begun = Begun::default();
    let noted = Arc::clone(&begun);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        let hold = exchange.request.header("x-tollgate-hold");
        let hold = hold.unwrap_or_else(|| "none".to_owned());
        noted.lock().unwrap().push(hold.clone());
        exchange.json(200, &started(&hold))
    });
    (upstream, begun)
}

/// What a run cost, in micro-credits: the same whoever asks.
fn cost(hold: &str) -> i64 {
    let sum = hold.bytes().fold(7_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    i64::from(sum % 40_000_000)
}

/// Two runs of three are settled; the others are left to expire.
fn is_settled(place: usize) -> bool {
    !place.is_multiple_of(3)
}

/// Micro-credits as credits.
fn credits(micro: i64) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let micro = micro.unsigned_abs();
    format!("{sign}{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

/// Credits as micro-credits.
fn micro(credits: &str) -> i64 {
    let (sign, digits) = match credits.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, credits),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let padded = format!("{fraction:0<6}");
    sign * (whole.parse::<i64>().unwrap() * 1_000_000 + padded.parse::<i64>().unwrap())
}

impl Scene {
    fn door(&self, number: usize) -> Option<(SocketAddr, SocketAddr)> {
        let doors = self.doors.lock().unwrap();
        doors.get(number % doors.len().max(1)).copied()
    }

    /// Starts run after run until it is over.
    fn keep_starting(&self, number: usize) {
        let request = Req::start(&self.team).header("Connection", "close");
        while !self.over.load(Ordering::SeqCst) {
            let Some((public, _)) = self.door(number) else {
                continue;
            };
            match Client::try_ask(public, &request).map(|answer| answer.status) {
                Ok(200) => _ = self.admitted.fetch_add(1, Ordering::SeqCst),
                Ok(502..=504) | Err(_) => std::thread::sleep(millis(5)),
                Ok(status) => panic!("a start was answered with {status}"),
            }
        }
    }

    /// Settles one hold at this figure; `None`: ask again.
    fn settle(&self, number: usize, hold: &str, micro: i64) -> Option<()> {
        let (_, admin) = self.door(number)?;
        let path = format!("/v1/teams/{}/holds/{hold}/settle", self.team);
        let request = Req::new("POST", &path)
            .bearer(TOKEN)
            .header("Content-Type", "application/json")
            .header("Connection", "close")
            .body(json!({"credits": credits(micro)}).to_string());
        let answer = Client::try_ask(admin, &request).ok()?;
        match answer.status {
            200 => Some(()),
            502..=504 => None,
            status => panic!("{hold}: settled with {status}: {}", answer.text()),
        }
    }

    /// Settles what was begun until it is over, sometimes twice.
    fn keep_settling(&self, number: usize) {
        let mut place = number;
        while !self.over.load(Ordering::SeqCst) {
            let hold = self.begun.lock().unwrap().get(place).cloned();
            let Some(hold) = hold.filter(|hold| hold != "none") else {
                std::thread::sleep(millis(5));
                continue;
            };
            if is_settled(place) && self.settle(place, &hold, cost(&hold)).is_none() {
                std::thread::sleep(millis(5));
                continue;
            }
            place += 1;
        }
    }
}

/// How many times something is killed.
fn kills() -> usize {
    let set = std::env::var("HOLDS_KILLS").ok();
    set.map_or(6, |text| text.parse().expect("a number"))
}

/// Kills one after the other and brings it back.
fn kill_them(scene: &Scene, build: impl Fn() -> Builder) -> Vec<Gateway> {
    let mut fleet: Vec<Gateway> = (0..2).map(|_| build().start()).collect();
    let open = |fleet: &[Gateway]| {
        let doors = fleet.iter().map(|one| (one.http, one.admin)).collect();
        *scene.doors.lock().unwrap() = doors;
    };
    open(&fleet);
    for number in 0..kills() {
        let before = scene.admitted.load(Ordering::SeqCst);
        eventually(secs(20), "starts are admitted", || {
            (scene.admitted.load(Ordering::SeqCst) > before + 30).then_some(())
        });
        if number % 2 == 0 {
            scene.redis.kill();
            std::thread::sleep(millis(50));
            scene.redis.revive();
        } else {
            let gone = fleet.remove(0);
            gone.signal("KILL");
            gone.wait(SOON);
            fleet.push(build().start());
            open(&fleet);
        }
    }
    scene.over.store(true, Ordering::SeqCst);
    fleet
}

/// What the lines of the team's statement add up to.
fn sum_of_statement(gateway: &Gateway, team: &str) -> i64 {
    let (mut sum, mut after) = (0, String::new());
    loop {
        let path = format!("/v1/teams/{team}/statement?limit=1000&after={after}");
        let told = read(gateway, &path).json();
        for line in told["lines"].as_array().expect("lines") {
            sum += micro(line["credits"].as_str().expect("credits"));
        }
        match told["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return sum,
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_paid_twice_when_everything_is_killed() {
    let redis = Redis::private(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (upstream, begun) = noting();
    let scene = Scene {
        team: redis.team(&BALANCE.to_string()),
        redis,
        begun: Arc::clone(&begun),
        doors: Mutex::default(),
        over: AtomicBool::new(false),
        admitted: AtomicUsize::new(0),
    };
    let build = || {
        holding(&upstream)
            .redis(&scene.redis)
            .set("balances.writer", "tollgate")
            .set("balances.statement", json!({"length": 10_000_000}))
            .set("admission.hold_for", "5s")
    };
    let fleet = std::thread::scope(|scope| {
        for number in 0..6 {
            let scene = &scene;
            scope.spawn(move || scene.keep_starting(number));
        }
        scope.spawn(|| scene.keep_settling(0));
        scope.spawn(|| scene.keep_settling(1));
        let ending = Ending(&scene.over);
        let fleet = kill_them(&scene, build);
        drop(ending);
        fleet
    });
    check(&scene, &fleet[0], &begun.lock().unwrap());
}

/// Ends the work even if the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn check(scene: &Scene, gateway: &Gateway, begun: &[String]) {
    let distinct: BTreeSet<&String> = begun.iter().collect();
    assert!(
        !distinct.contains(&"none".to_owned()),
        "a start without a hold"
    );
    assert_eq!(distinct.len(), begun.len(), "two starts shared a hold");
    assert!(begun.len() >= scene.admitted.load(Ordering::SeqCst));
    let team = &scene.team;
    let known = |place: usize, hold: &str, micro: i64| {
        let claim = format!("the ledger knows {hold}");
        eventually(SOON, &claim, || scene.settle(place, hold, micro));
    };
    let mut spent = 0;
    for (place, hold) in begun.iter().enumerate().filter(|(at, _)| is_settled(*at)) {
        known(place, hold, cost(hold));
        spent += cost(hold);
    }
    eventually(secs(15), "no hold outlives its time", || {
        (standing(gateway, team).live == 0).then_some(())
    });
    for (place, hold) in begun.iter().enumerate().filter(|(at, _)| !is_settled(*at)) {
        known(place, hold, 0);
    }
    let after = BALANCE * 1_000_000 - spent;
    assert_eq!(micro(&standing(gateway, team).balance), after);
    assert_eq!(sum_of_statement(gateway, team), -spent);
    assert_sound(gateway, team);
}
