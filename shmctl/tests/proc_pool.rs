//! `shmctl pool` beside a process that uses the pool: what it shows is what that one does, what it
//! throws out is not what that one uses, and it leaves no seat taken behind it.
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::policy::Kind;
use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions, Session};
use dsm::{Domain, DomainConfig, NamedSpec, Segment};
use serde_json::{Value, json};
use shm_testkit::child::{Child, parent_says, tell_parent};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// A watchdog's limit: far more than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Where a page's value stands.
const PLACE: usize = 16;

shm_testkit::children! { has_a_page }

/// A domain that nobody else uses, with a pool over two files. Dropped in this order.
struct Scene {
    pool: Pool,
    domain: Domain,
    files: TempDir,
    unique: Unique,
}

/// For so many processes at a time, this one among them.
fn config(processes: u32) -> PoolConfig {
    PoolConfig {
        page_bytes: 1024,
        frames: 64,
        frames_max: 64,
        policy: Kind::Clock5,
        processes,
        sessions: 2,
        files: 4,
        entries: 1024,
        checksums: true,
    }
}

fn domain(name: &str) -> Domain {
    let backend = Some("posix".parse().unwrap());
    Domain::open(DomainConfig { backend, ..DomainConfig::new(name) }).unwrap()
}

fn segment(domain: &Domain, name: &str, size: u64) -> Segment {
    let spec = NamedSpec { size, ..NamedSpec::default() };
    domain.named_segment(name, &spec, |_| Ok::<_, Infallible>(())).unwrap().segment
}

fn key(id: u64) -> FileKey {
    FileKey { id, fork: 0 }
}

impl Scene {
    /// For this process, and one more at a time.
    fn new(hint: &str) -> Scene {
        Scene::of_processes(hint, 2)
    }

    fn of_processes(hint: &str, processes: u32) -> Scene {
        let (unique, files) = (Unique::new(hint), TempDir::new(hint));
        let domain = domain(unique.name());
        let pool = Scene::pool(&domain, "buffers", processes);
        Scene { pool, domain, files, unique }
    }

    fn pool(domain: &Domain, name: &str, processes: u32) -> Pool {
        let config = config(processes);
        let segment = segment(domain, name, Pool::bytes_for(&config).unwrap());
        Pool::open(segment.mapping(), &config, PoolOptions::default()).unwrap()
    }

    /// A file of this key, so many blocks long.
    fn file(&self, session: &Session, id: u64, blocks: u32) -> FileNumber {
        let options = FileOptions { create: true, blocks_max: Some(128) };
        let number =
            session.register(key(id), &self.path(&format!("file-{id}")), &options).unwrap();
        session.extend(number, blocks).unwrap();
        number
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmctl"));
        command.arg("pool").args(words).args(["--domain", self.unique.name()]);
        command.env("DYNAMIC_SHARED_MEMORY_TYPE", "posix").stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The table's rows, as words.
    #[track_caller]
    fn table(&self, words: &[&str]) -> Vec<String> {
        let output = self.run(words);
        assert!(output.status.success(), "{output:?}");
        let table = String::from_utf8(output.stdout).unwrap();
        let is_cell = |word: &&str| word.contains(|char: char| char.is_ascii_graphic());
        let row =
            |line: &str| line.split_whitespace().filter(is_cell).collect::<Vec<_>>().join(" ");
        table.lines().map(row).filter(|row| !row.is_empty()).collect()
    }

    #[track_caller]
    fn refused(&self, words: &[&str], cause: &str, remedy: &str) {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(output.stdout.is_empty());
        assert!(said.contains(cause) && said.contains(remedy), "{said}");
    }

    /// Leaves, and nothing is left.
    fn end(self) {
        let Scene { pool, domain, files, unique } = self;
        drop(pool);
        for named in domain.named() {
            domain.remove_named(&named.name).unwrap();
        }
        domain.destroy().unwrap();
        drop(files);
        unique.assert_nothing_left(LIMIT);
    }
}

fn change(session: &Session, file: FileNumber, block: u32) {
    let page = session.page(file, block).unwrap();
    page.exclusive().unwrap().write(&[(PLACE, b"changed!")]).unwrap();
}

#[test]
fn a_pool_in_use_is_shown_as_it_is() {
    within(LIMIT, || {
        let scene = Scene::new("pool-show");
        let session = scene.pool.session().unwrap();
        let (first, second) = (scene.file(&session, 7, 100), scene.file(&session, 8, 10));
        (0..16).for_each(|block| drop(session.page(first, block).unwrap()));
        change(&session, second, 5);
        (0..9).for_each(|_| drop(session.page(second, 5).unwrap()));
        let pinned = session.page(first, 3).unwrap();

        let list = scene.json(&["list"]);
        let row = &list["pools"][0];
        assert_eq!(
            (&row["pool"], &row["processes"]),
            (&json!("buffers"), &json!([std::process::id()]))
        );
        assert_eq!(
            (&row["frames"], &row["policy"], &row["files"]),
            (&json!(64), &json!("clock5"), &json!(2))
        );
        let summary = scene.json(&["summary"]);
        assert_eq!((&summary["used"], &summary["unused"]), (&json!(17), &json!(47)));
        assert_eq!((&summary["dirty"], &summary["pinned"]), (&json!(1), &json!(1)));
        assert_eq!(summary["use_count_mean"], json!(1.29));
        assert_eq!(
            summary["use_counts"][5],
            json!({"use_count": 5, "pages": 1, "dirty": 1, "pinned": 0})
        );
        assert_eq!(summary["use_counts"][6]["use_count"], Value::Null);

        let files = scene.json(&["files", "--pool", "buffers"]);
        let expected = json!({
            "id": 7, "fork": 0, "path": scene.path("file-7"), "blocks": 100, "buffers": 16,
            "dirty": 0, "pinned": 1, "percent_of_pool": 25.0, "percent_of_file": 16.0,
            "use_counts": [0, 15, 1, 0, 0, 0], "probation": 0,
        });
        assert_eq!(files["files"][0], expected);
        assert_eq!(
            scene.table(&["files"])[2..],
            [
                "7,0 file-7 100 16 25.0 16.0 0 15 1 0 0 0 0",
                "8,0 file-8 10 1 1.6 10.0 0 0 0 0 0 1 0",
            ]
        );

        let frames = scene.json(&["frames"]);
        let frames = frames["frames"].as_array().unwrap();
        let pid = std::process::id();
        let of_pin = json!({
            "frame": pinned.frame(), "id": 7, "fork": 0, "block": 3, "dirty": false,
            "pinned": true, "latch": null, "use_count": 2,
            "pinned_by": [{"participant": "0.1", "pid": pid, "dead": false}],
        });
        assert!(frames.len() == 17 && frames.contains(&of_pin), "{frames:?}");
        let frame = pinned.frame();
        assert!(scene.table(&["frames"]).contains(&format!("{pid} {frame} 7,0 3 2")));

        let stats = scene.json(&["stats"]);
        assert_eq!((&stats["reads"], &stats["hits"]), (&json!(17), &json!(10)));
        assert_eq!((&stats["hit_ratio"], &stats["extended"]), (&json!(37.04), &json!(110)));
        let calls = (&stats["read_calls"], &stats["hints"], &stats["recycled"]);
        assert_eq!(calls, (&json!(17), &json!(0), &json!(0)));
        assert!(scene.table(&["stats"]).contains(&"hit ratio % 37.04".to_owned()));
        assert!(scene.table(&["summary"]).contains(&"all 17 1 1".to_owned()));
        drop(pinned);
        drop(session);
        scene.end();
    });
}

/// A process that has a page alone until it is killed.
fn has_a_page(args: &[String]) {
    let pool = Scene::pool(&domain(&args[0]), "buffers", 3);
    let session = pool.session().unwrap();
    let page = session.page(pool.find_file(key(7)).unwrap(), 3).unwrap();
    let _exclusive = page.exclusive().unwrap();
    tell_parent("there");
    parent_says();
}

#[test]
fn who_is_at_a_page_is_shown_until_it_is_killed() {
    within(LIMIT, || {
        let scene = Scene::of_processes("pool-who", 3);
        let session = scene.pool.session().unwrap();
        let pinned = session.page(scene.file(&session, 7, 10), 3).unwrap();
        let mut child = Child::spawn("has_a_page", &[scene.unique.name()]);
        assert_eq!(child.hear(LIMIT), "there");
        let (me, other, frame) = (std::process::id(), child.pid(), pinned.frame());
        let row = || scene.json(&["frames"])["frames"][0].clone();
        let shown = row();
        let pids: Vec<_> =
            shown["pinned_by"].as_array().unwrap().iter().map(|user| &user["pid"]).collect();
        assert_eq!(pids, [&json!(me), &json!(other)]);
        assert_eq!(
            shown["latch"],
            json!({"mode": "exclusive", "participant": "1.1", "pid": other, "dead": false})
        );
        let line = format!("{me}, {other} exclusive by {other} {frame} 7,0 3 2");
        assert!(scene.table(&["frames"]).contains(&line));
        // Who looks cleans up first.
        child.kill();
        child.wait(LIMIT);
        let shown = row();
        assert_eq!((&shown["pinned_by"][0]["pid"], &shown["latch"]), (&json!(me), &Value::Null));
        assert_eq!(shown["pinned_by"].as_array().unwrap().len(), 1);
        drop(pinned);
        drop(session);
        scene.end();
    });
}

/// Of two seats this process has one: each command takes the other, and gives it back.
#[test]
fn pages_come_and_go_beside_one_who_reads_and_writes() {
    within(LIMIT, || {
        let scene = Scene::new("pool-act");
        let session = scene.pool.session().unwrap();
        let (first, second) = (scene.file(&session, 7, 100), scene.file(&session, 8, 40));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                let session = scene.pool.session().unwrap();
                for round in (0_u64..).take_while(|_| !is_over.load(Relaxed)) {
                    let page = session.page(first, round as u32 % 100).unwrap();
                    let mut exclusive = page.exclusive().unwrap();
                    let before = exclusive.view().u64(PLACE).unwrap();
                    assert_eq!(before, round / 100, "nothing that was changed is lost");
                    exclusive.write(&[(PLACE, &(before + 1).to_le_bytes())]).unwrap();
                }
            });
            for _ in 0..8 {
                let all = scene.json(&["evict", "--all"]);
                assert!(all["evicted"].as_u64().unwrap() > 0, "{all}");
                scene.json(&["prewarm", "--file", "7"]);
                scene.json(&["files"]);
            }
            is_over.store(true, Relaxed);
            busy.join().unwrap();
        });

        scene.json(&["evict", "--all"]);
        assert_eq!(scene.json(&["summary"])["used"], 0);
        let pinned = session.page(second, 0).unwrap();
        let frame = pinned.frame().to_string();
        let kept = json!({"evicted": 0, "flushed": 0, "skipped": 1});
        assert_eq!(scene.json(&["evict", "--frame", &frame]), kept);
        change(&session, second, 0);
        drop(pinned);
        let gone = json!({"evicted": 1, "flushed": 1, "skipped": 0});
        assert_eq!(scene.json(&["evict", "--frame", &frame]), gone);
        drop(session);
        scene.end();
    });
}

#[test]
fn a_pool_is_warmed_up_and_warmed_again() {
    within(LIMIT, || {
        let scene = Scene::new("pool-warm");
        let session = scene.pool.session().unwrap();
        scene.file(&session, 7, 100);
        scene.file(&session, 8, 40);
        let warm = |words: &[&str]| scene.json(&[&["prewarm"], words].concat())["blocks"].clone();
        assert_eq!(warm(&["--file", "8", "--mode", "prefetch"]), 40);
        assert_eq!(warm(&["--file", "8,0", "--mode", "read", "--first", "38"]), 2);
        assert_eq!(scene.pool.resident(), []);
        assert_eq!(warm(&["--file", "8", "--first", "10", "--last", "19"]), 10);
        assert_eq!(warm(&["--file", "7", "--last", "29"]), 30);
        let resident = scene.pool.resident();
        assert_eq!((resident.len(), resident[0], resident[39]), (40, (key(7), 0), (key(8), 19)));

        let dump = scene.path("pool.blocks");
        let path = dump.to_str().unwrap();
        assert_eq!(scene.json(&["dump", path])["pages"], 40);
        assert_eq!(scene.json(&["evict", "--file", "7"])["evicted"], 30);
        let loaded = json!({
            "loaded": 30, "resident": 10, "unknown": 0, "past_end": 0, "failed": 0, "left": 0
        });
        assert_eq!(scene.json(&["load", path]), loaded);
        assert_eq!(scene.pool.resident(), resident);
        let said = String::from_utf8(scene.run(&["load", path]).stdout).unwrap();
        assert!(said.starts_with("0 pages read in, 40 were there\n"), "{said}");

        fs::write(&dump, "2\n7,0,1\n7;0;2\n").unwrap();
        scene.refused(&["load", path], "is no dump: line 3", "as id,fork,block");
        scene.refused(&["load", "no/such/dump"], "cannot read no/such/dump", "No such file");
        scene.refused(&["dump", "no/such/dump"], "cannot write no/such/dump", "No such file");
        scene.refused(&["prewarm", "--file", "8", "--last", "40"], "--last 40", "has 40 blocks");
        drop(session);
        scene.end();
    });
}

#[test]
fn bad_input_is_a_line_that_says_what_to_do() {
    within(LIMIT, || {
        let scene = Scene::new("pool-bad");
        scene.refused(&["evict", "--frame", "64"], "no frame 64", "has 64, numbered from 0");
        scene.refused(&["evict", "--file", "9"], "no file 9,0", "shmctl pool files");
        scene.refused(&["evict", "--file", "nine"], "nine", "give ID or ID,FORK");
        scene.refused(&["evict"], "required", "--all");
        scene.refused(&["evict", "--all", "--frame", "1"], "--all", "cannot be used");
        scene.refused(&["files", "--pool", "other"], "no pool other", "shmctl pool list");
        let second = Scene::pool(&scene.domain, "second", 2);
        scene.refused(&["files"], "several pools", "--pool, one of buffers, second");
        assert_eq!(scene.json(&["files", "--pool", "second"])["pool"], "second");
        drop(second);
        let run = |domain| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_shmctl"));
            let command = command.args(["pool", "list", "--domain", domain]);
            String::from_utf8(command.output().unwrap().stderr).unwrap()
        };
        assert!(run("shmctl-no-such").contains("no domain shmctl-no-such: name that of a program"));
        assert!(run("no/such").contains("cannot name a domain: use"), "{}", run("no/such"));
        scene.end();
    });
}

#[test]
fn what_is_no_pool_is_not_touched() {
    within(LIMIT, || {
        let scene = Scene::new("pool-none");
        let other = segment(&scene.domain, "zeroes", 4096);
        let pools = scene.json(&["list"]);
        assert_eq!(pools["pools"].as_array().unwrap().len(), 1);
        scene.refused(&["summary", "--pool", "zeroes"], "no pool zeroes", "shmctl pool list");
        let word = |at| {
            let word =
                shm_core::mapping::Mapped::<shm_core::sync::AtomicU64>::new(other.mapping(), at);
            word.unwrap().load(shm_core::sync::Ordering::Relaxed)
        };
        assert!((0..512).all(|at| word(8 * at) == 0));
        drop(other);
        scene.end();
    });
}
