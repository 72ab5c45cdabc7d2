//! A leader and three workers, all this program. One worker is killed, as an accident would, and
//! replaced; then all are told to stop.
use bgworker::{Pacing, Program, Restart, Supervisor, SupervisorConfig, Worker, WorkerSpec};
use std::error::Error;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    match Worker::from_env()? {
        Some(worker) => work(&worker),
        None => lead()?,
    }
    Ok(())
}

fn work(worker: &Worker) {
    println!("{}, attempt {}: here", worker.name(), worker.attempt());
    // Here it would claim pieces of work; it would also leave if the leader died.
    worker.wait_until_stop(None);
}

fn lead() -> Result<(), Box<dyn Error>> {
    let supervisor = Supervisor::start(SupervisorConfig::default())?;
    let mut workers = Vec::new();
    for index in 0..3 {
        workers.push(supervisor.spawn(WorkerSpec {
            argument: index,
            restart: Restart::OnFailure(Pacing::default()),
            ..WorkerSpec::new(format!("worker {index}"), Program::This)
        })?);
    }
    supervisor.kill(workers[1]);
    while let Some(event) = supervisor.next_event(Some(Instant::now() + Duration::from_secs(1))) {
        println!("{event:?}");
    }
    for worker in supervisor.shutdown(Duration::from_secs(5)) {
        if let Some(end) = worker.last_exit {
            println!("{}: {} processes, the last ended with {end}", worker.name, worker.attempts);
        }
    }
    Ok(())
}
