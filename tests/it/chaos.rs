//! Chaos for real: workers as processes on a real RabbitMQ and a real store, rooms that fail, and a seeded schedule of
//! all that can break, while events are published all the time. When it is over, the judge of `pipeline` must find
//! nothing. `scripts/chaos` runs it for as long as is wanted, in each setting; here it is short.

mod crew;
mod diary;
mod disk;
mod ends;
mod lanes;
mod schedule;
mod stalls;
mod terms;
mod trouble;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use crate::pipeline::{Fault, Findings, Play, now};
use crate::support::broker::Broker;
use crate::support::gate::Gate;
use crate::support::postgres::Postgres;
use crate::support::process::Site;
use crate::support::services::{Services, Wanted};
use crew::{Crew, Place};
use diary::Diary;
use disk::Disk;
use lanes::Ground;
use stalls::{Story, Wait};
use terms::{CALL, GRACE, LEASE, Setting, Terms};

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(30);
/// MiB: room enough for what the store, or all of PostgreSQL, needs in half an hour.
const DISK_OF_SQLITE: u32 = 512;
const DISK_OF_POSTGRES: u32 = 1_024;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_nothing_is_lost() {
    let terms = Terms::asked();
    println!("{terms}");
    // Dropped in the opposite order: the services go last, but for the disk under them.
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut disk = terms.setting.is_shared().then(|| Disk::mount(folder.path(), DISK_OF_POSTGRES)).flatten();
    let services = Services::up(&Wanted {
        nodes: terms.setting.nodes(),
        four: terms.setting == Setting::Rabbitmq4,
        no_postgres: !terms.setting.is_shared(),
        data_of_postgres: disk.is_some().then(|| folder.path().to_owned()),
    })
    .await;
    let postgres = match terms.setting.is_shared() {
        true => Some(Postgres::at(services.postgres()).await),
        false => None,
    };
    let broker = Broker::at(services.nodes()).await;
    let set_up = |site: Site| {
        let site = patient(site);
        match &postgres {
            Some(postgres) => site.sharing(postgres),
            None => {
                disk = Disk::mount(&site.path(""), DISK_OF_SQLITE);
                site
            }
        }
    };
    let mut play = Play::drawn(terms.seed, terms.scale(), broker, set_up).await;
    play.confirms_lost = true;
    play.reach = CALL + Duration::from_secs(1);
    let diary = Diary::begin();
    if disk.is_none() {
        diary.say("no disk is filled: that needs root, and scripts/chaos");
    }
    let lanes = schedule::draw(terms, disk.is_some());
    let crew =
        Crew { places: places(terms, &play, postgres.as_ref()).await, site: &play.site, diary: &diary };
    crew.start().await;
    let ground =
        Ground { terms, play: &play, crew: &crew, services: &services, disk: disk.as_ref(), diary: &diary };
    ground.mend_rooms().await;
    go_through(&ground, &lanes).await;
    crew.stop().await;
    drop(crew);
    play.cuts = diary.cuts();
    play.broker.reconnect().await;
    judge(terms, &play, &diary).await;
    for first in lanes.iter().filter_map(|lane| lane.first()).filter(|first| first.at < terms.lasts / 2) {
        let kind = first.trouble.kind();
        assert!(diary.counted(kind) > 0, "{kind}: the schedule begins with it, and it did not happen");
    }
    if !terms.setting.is_shared() {
        // It lies over the site's folder, which can't be deleted before.
        drop(disk);
    }
}

/// Workers that are quick to see that something is wrong.
fn patient(site: Site) -> Site {
    let millis = |duration: Duration| format!("{}ms", duration.as_millis());
    site.with("DISPATCH__LEASE", &millis(LEASE))
        .with("HIPCHAT__TIMEOUT", &millis(CALL))
        .with("HIPCHAT__CONNECT_TIMEOUT", &millis(CALL))
        .with("SHUTDOWN__GRACE", &millis(GRACE))
        .with("RETRY__FIRST", "200ms")
        .with("RETRY__LONGEST", "2s")
        .with("AMQP__HEARTBEAT", "2s")
        .with("AMQP__YIELD_AFTER", "6s")
}

/// A place for each worker, with its own ways to the broker and to the store.
async fn places(terms: Terms, play: &Play, postgres: Option<&Postgres>) -> Vec<Place> {
    let mut places = Vec::new();
    for _ in 0..terms.setting.workers() {
        let (mut gates, mut urls) = (Vec::new(), Vec::new());
        for url in &play.broker.urls {
            let (login, rest) = url.split_once('@').expect("a URL with a user");
            let (node, vhost) = rest.split_once('/').expect("a URL with a virtual host");
            let gate = Gate::before(node.to_owned()).await;
            urls.push(format!("{login}@{}/{vhost}", gate.address));
            gates.push(gate);
        }
        let key = if urls.len() == 1 { "AMQP__URL" } else { "AMQP__URLS" };
        let mut own = vec![(key, urls.join(","))];
        let mut to_store = None;
        if let Some(postgres) = postgres {
            let gate = Gate::before(postgres.host_and_port()).await;
            own.push(("STORE__URL", postgres.url_by(&gate.address)));
            to_store = Some(gate);
        }
        places.push(Place::new(own, gates, to_store));
    }
    places
}

/// Publishes while everything breaks, and waits until all has ended.
async fn go_through(ground: &Ground<'_>, lanes: &[schedule::Lane]) {
    let (play, diary, began) = (ground.play, ground.diary, Instant::now());
    let all = async {
        let publish = play.publish_by(1, |lot| diary.confirmed(lot.len(), now()));
        tokio::join!(publish, join_all(lanes.iter().map(|lane| ground.walk(lane, began))));
        diary.say("no more troubles; waiting until all has ended");
        play.settles().await;
        diary.say("all has ended");
    };
    tokio::select! {
        () = all => {}
        () = ground.crew.look_after() => {}
        () = follow(play, diary) => {}
    }
}

/// A line now and then.
async fn follow(play: &Play, diary: &Diary) {
    let store = play.site.store().await;
    loop {
        tokio::time::sleep(PROGRESS).await;
        let messages: u64 = play.hipchat.figures().await.iter().map(|room| room.accepted).sum();
        let gauges = tokio::time::timeout(Duration::from_secs(2), store.gauges(now())).await;
        let waits = match gauges {
            Ok(Ok(gauges)) => format!("{} notifications wait", gauges.pending),
            Ok(Err(_)) | Err(_) => "the store is away".to_owned(),
        };
        diary.say(&format!(
            "-- {} events confirmed, {messages} messages in rooms, {waits}",
            diary.confirms().len()
        ));
    }
}

/// Says what was done and found, and fails if anything is wrong.
async fn judge(terms: Terms, play: &Play, diary: &Diary) {
    let (found, mut faults) = play.scene().examine().await;
    faults.extend(diary.all_amiss().into_iter().map(Fault::general));
    println!("{}: {}", terms.setting, diary.summary());
    if !faults.is_empty() {
        println!("again: {terms}");
        play.scene().fail(&faults).await;
    }
    println!("{}: {found}", terms.setting);
    match longest_stall(play, diary, &found).await {
        Some((lasted, since, room)) => {
            let (lasted, since) = (lasted.as_secs_f64(), diary.seconds_at(since));
            println!("longest stall: {lasted:.1} s ({room}, from {since:.1} s on)");
        }
        None => panic!("nothing was told at once"),
    }
    println!("again: {terms}");
    assert!(found.sent > 0 && found.digested > 0 && found.suppressed > 0 && found.malformed > 0);
}

async fn longest_stall(
    play: &Play,
    diary: &Diary,
    found: &Findings,
) -> Option<(SignedDuration, Timestamp, String)> {
    let (confirms, no_intake, mut all) = (diary.confirms(), diary.no_intake(), Vec::new());
    for room in (0..play.work.scale.rooms).map(|n| format!("room-{n}")) {
        let heard: Vec<Timestamp> =
            play.hipchat.messages(&room).await.iter().map(|posted| posted.received_at).collect();
        let of_room = found.prompt.iter().filter(|prompt| prompt.room == room);
        let waits: Vec<Wait> = of_room
            .map(|one| Wait { confirmed: confirms[one.event], taken_in: one.taken_in, told: one.told })
            .collect();
        let no_telling = diary.no_telling(&room);
        let story = Story {
            waits: &waits,
            heard: &heard,
            budget: play.work.scale.room,
            no_intake: &no_intake,
            no_telling: &no_telling,
        };
        all.extend(stalls::longest(&story).map(|(lasted, since)| (lasted, since, room)));
    }
    all.into_iter().max()
}
