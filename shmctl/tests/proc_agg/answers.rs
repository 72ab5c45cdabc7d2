//! The workers' answer is that of the plain pass.

use crate::scene::{BACKENDS, Scene, backends_of_the_dear, table};

/// Asks each backend and number of workers, with chunks of odd sizes.
#[track_caller]
fn agrees(scene: &mut Scene, words: &str, chunk_sizes: &[&str]) {
    let plain = scene.plain(words);
    for workers in [1, 2, 7] {
        for size in chunk_sizes {
            let ended = scene.run(&format!("{words} --workers {workers} --chunk-size {size}"));
            ended.assert_agrees(&plain);
            let report = ended.report();
            assert_eq!(
                (&report["backend"], &report["workers"]),
                (&scene.backend.into(), &workers.into())
            );
            scene.assert_nothing_left();
        }
    }
}

fn agrees_on_each_backend(words: impl Fn(&Scene) -> String, chunk_sizes: &[&str]) {
    BACKENDS.iter().for_each(|backend| agrees_on(backend, &words, chunk_sizes));
}

/// What costs much and has nothing to do with where the memory comes from.
fn agrees_on(backend: &'static str, words: impl Fn(&Scene) -> String, chunk_sizes: &[&str]) {
    let mut scene = Scene::new(backend);
    let words = words(&scene);
    agrees(&mut scene, &words, chunk_sizes);
}

/// `ci/agg.sh` asks each backend.
#[test]
fn accounts_agree() {
    for backend in backends_of_the_dear() {
        agrees_on(backend, Scene::accounts, &["1M", "99991"]);
    }
}

#[test]
fn chunks_of_odd_sizes_agree() {
    agrees_on_each_backend(|scene| scene.table(2000), &["7", "101", "4097", "1G"]);
}

#[test]
fn quoted_cells_with_line_ends_agree() {
    let rows = |row| format!("\"a\n{},b\r\n\"\"c\"\"\",{row}.5\nplain,1\n", row % 3);
    let text: String = (0..1000).map(rows).collect();
    let words = |scene: &Scene| {
        let path = scene.write("quoted.csv", format!("k,v\n{text}"));
        format!("{} --group-by k --sum v --avg v", path.display())
    };
    agrees_on_each_backend(words, &["1", "333", "1M"]);
}

#[test]
fn a_first_quote_behind_the_first_mebibyte_agrees() {
    let mut text = table(120_000);
    assert!(text.len() > 1 << 20);
    text.push_str(&"\"1\n1\",5\n2,\"6\"\n".repeat(1000));
    let words = |scene: &Scene| {
        let path = scene.write("late.csv", &text);
        format!("{} --group-by k --sum v --min v", path.display())
    };
    agrees_on("posix", words, &["10007", "1M"]);
}

#[test]
fn messages_larger_than_their_queue_agree() {
    // Each row is a group, and each chunk's groups are several times a queue.
    let words = |scene: &Scene| {
        let rows: String = (0..12_000).map(|row| format!("key {row},{row}\n")).collect();
        let path = scene.write("many.csv", format!("k,v\n{rows}"));
        format!("{} --group-by k --sum v --min v --max v --avg v", path.display())
    };
    agrees_on("posix", words, &["100003"]);
}

#[test]
fn no_row_and_one_row_agree() {
    for rows in [0, 1] {
        agrees_on_each_backend(|scene| scene.table(rows), &["1", "1M"]);
    }
}

#[test]
fn the_first_faulty_line_is_reported_as_by_the_plain_pass() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let mut lines: Vec<String> = table(20_000).lines().map(str::to_owned).collect();
        for (line, text) in [(19_990, "1,late"), (15_001, "1,2,3"), (15_003, "1,x")] {
            lines[line - 1] = text.to_owned();
        }
        let path = scene.write("faulty.csv", lines.join("\n"));
        let words = format!("{} --group-by k --sum v", path.display());
        let plain = scene.plain(&words).complaint(2).to_owned();
        assert!(plain.contains("line 15001: 3 cells"), "{plain}");
        for size in ["50", "1009", "1M"] {
            let ended = scene.run(&format!("{words} --workers 7 --chunk-size {size}"));
            assert_eq!(ended.complaint(2), plain);
            scene.assert_nothing_left();
        }
    }
}

#[test]
fn two_runs_at_once_agree() {
    at_once(&BACKENDS, 2, 2);
}

#[test]
fn eight_runs_at_once_agree() {
    at_once(&BACKENDS, 8, 3);
}

/// Each has more workers than the domain has room for by default, all together.
#[test]
fn four_runs_of_64_workers_at_once_agree() {
    at_once(backends_of_the_dear(), 4, 64);
}

fn at_once(backends: &[&'static str], runs: usize, workers: usize) {
    for backend in backends {
        let mut scene = Scene::new(backend);
        let words = scene.table(20_000);
        let plain = scene.plain(&words);
        let words = format!("{words} --workers {workers} --chunk-size 500");
        let leaders: Vec<_> = (0..runs).map(|_| scene.start(&words)).collect();
        for leader in leaders {
            leader.wait().assert_agrees(&plain);
        }
        scene.assert_nothing_left();
    }
}
