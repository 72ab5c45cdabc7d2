//! Calls of two servers, one of which dies in the midst of one: `cargo run -p shm-mq --example
//! 7_rpc`
use dsm::{Domain, DomainConfig, Segment};
use shm_mq::rpc::{Call, CallError, Rpc, RpcConfig};
use std::time::{Duration, Instant};
use std::{env, error::Error, process};

/// Two clients, with up to eight calls each at a time.
const CONFIG: RpcConfig = RpcConfig::new(2, 8, 64, 64);

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment] = &env::args().collect::<Vec<_>>()[..] {
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        return serve(&domain, &segment);
    }
    let name = format!("rpc-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(Rpc::bytes_for(&CONFIG))?;
    // SAFETY: nobody else has the segment's handle yet.
    let rpc = unsafe { Rpc::create(segment.mapping(), 0, &CONFIG) }?;
    let arguments = [name, segment.handle().to_string()];
    let server = || process::Command::new(env::current_exe()?).args(&arguments).spawn();
    let servers = [server()?, server()?];

    let client = rpc.client(domain.member())?;
    client.wait_for_server(None)?;
    // All at once, and then their answers.
    let ask = |number: &&'static str| Ok((*number, client.ask(number.as_bytes(), None)?));
    let numbers = ["4", "nothing", "81", "-1", "2"];
    let calls: Result<Vec<(&str, Call)>, Box<dyn Error>> = numbers.iter().map(ask).collect();
    for (number, mut call) in calls? {
        let root = call.wait(None).map(|root| String::from_utf8_lossy(&root).into_owned());
        match root {
            Ok(root) => println!("the root of {number} is {root}"),
            Err(CallError::Refused { code }) => {
                let why = call.refusal().map(|why| String::from_utf8_lossy(&why).into_owned());
                println!("no root of {number}: error {code}, {}", why.unwrap_or_default());
            }
            Err(error) => println!("no root of {number}: {error}"),
        }
    }
    drop(client);
    for mut server in servers {
        server.wait()?;
    }
    Ok(())
}

/// Answers until nobody has asked for a second.
fn serve(domain: &Domain, segment: &Segment) -> Result<(), Box<dyn Error>> {
    let rpc = Rpc::attach(segment.mapping(), 0, 0)?;
    let mut server = rpc.server(domain.member())?;
    while let Ok(request) = server.take(Some(Instant::now() + Duration::from_secs(1))) {
        let text = String::from_utf8_lossy(&request).into_owned();
        match text.parse::<f64>() {
            Ok(number) if number >= 0.0 => request.answer(number.sqrt().to_string().as_bytes())?,
            Ok(_) => request.refuse(33, b"it is negative")?,
            // A mistake, and the end of this server.
            Err(_) => process::exit(1),
        }
    }
    Ok(())
}
