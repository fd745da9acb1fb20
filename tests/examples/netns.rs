//! Two routers in network namespaces, whose link is cut, silenced and slowed down. `scripts/netns` runs it as root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tower_outbox::BoxError;
use tower_outbox::routing::Namespace;
use tower_outbox::wavemq_wire as wire;
use tower_outbox::wavemq_wire::wavemq_client::WavemqClient;

const STUCK: Duration = Duration::from_secs(60);
/// The messages of one fault, and the time between two.
const MESSAGES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);
/// The addresses for this process, and for the link between the routers.
const SITE: &str = "10.213.1.2";
const TOP: &str = "10.213.2.2";
const LINK: &str = "10.213.3.2";

fn run(command: &str) -> Result<(), BoxError> {
    let words: Vec<_> = command.split(' ').collect();
    match Command::new(words[0]).args(&words[1..]).status()?.success() {
        true => Ok(()),
        false => Err(format!("failed: {command}").into()),
    }
}

/// Two namespaces, each with a cable to this one, and a cable between them.
struct Network {
    site: String,
    top: String,
}

impl Network {
    fn new() -> Result<Self, BoxError> {
        let id = std::process::id();
        let network = Self { site: format!("outbox-site-{id}"), top: format!("outbox-top-{id}") };
        for (name, cable, here, there) in [
            (&network.site, format!("obs{id}"), "10.213.1.1", SITE),
            (&network.top, format!("obt{id}"), "10.213.2.1", TOP),
        ] {
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip -n {name} link set lo up"))?;
            run(&format!("ip link add {cable} type veth peer name eth0 netns {name}"))?;
            run(&format!("ip addr add {here}/24 dev {cable}"))?;
            run(&format!("ip link set {cable} up"))?;
            run(&format!("ip -n {name} addr add {there}/24 dev eth0"))?;
            run(&format!("ip -n {name} link set eth0 up"))?;
        }
        let Self { site, top } = &network;
        run(&format!("ip -n {site} link add link0 type veth peer name link0 netns {top}"))?;
        run(&format!("ip -n {site} addr add 10.213.3.1/24 dev link0"))?;
        run(&format!("ip -n {top} addr add {LINK}/24 dev link0"))?;
        run(&format!("ip -n {site} link set link0 up"))?;
        run(&format!("ip -n {top} link set link0 up"))?;
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.site, &self.top] {
            let _ = run(&format!("ip netns del {name}"));
        }
    }
}

/// A router in a namespace.
struct Router(Child);

impl Router {
    async fn start(namespace: &str, config: &Path, address: &str) -> Result<Self, BoxError> {
        // The command line tool stands beside the folder of examples.
        let mut tool = std::env::current_exe()?;
        tool.pop();
        tool.pop();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(tool.join("tower-outbox-cli"));
        command.args(["serve", "--wavemq"]).arg(config).stdin(Stdio::null());
        let router = Self(command.spawn()?);
        let listens = async {
            while TcpStream::connect((address, 4516)).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(STUCK, listens).await.map_err(|_| format!("the router at {address} does not listen"))?;
        Ok(router)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // `ip netns exec` becomes the router.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the certificate of a router with its key; returns the keys of its configuration.
fn certificate(
    folder: &Path,
    name: &str,
    authority: &rcgen::Issuer<'_, rcgen::KeyPair>,
) -> Result<String, BoxError> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec![LINK.to_owned()])?.signed_by(&key, authority)?;
    let (file, key_file) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    std::fs::write(&file, certificate.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    let (authority, grants) = (folder.join("ca.crt"), folder.join("grants.toml"));
    Ok(format!(
        "[Security]\nCertificate = {file:?}\nPrivateKey = {key_file:?}\nCACert = {authority:?}\nGrants = [{grants:?}]\n"
    ))
}

/// Writes the configurations of both routers.
fn configure(folder: &Path, namespace: &Namespace) -> Result<(PathBuf, PathBuf), BoxError> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    std::fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
    let authority = rcgen::Issuer::new(params, key);
    std::fs::write(
        folder.join("grants.toml"),
        format!(
            "[[GRANT]]\nSUBJECT = \"*\"\nVERBS = [\"publish\", \"subscribe\", \"query\", \"route\"]\nNAMESPACE = \"{namespace}\"\n"
        ),
    )?;
    let names = folder.join("namespace");
    std::fs::write(&names, namespace.to_string())?;
    let write = |name: &str, clients: &str, peers: &str, routing: &str| -> Result<PathBuf, BoxError> {
        let (file, queue) = (folder.join(format!("{name}.toml")), folder.join(name));
        let security = certificate(folder, name, &authority)?;
        std::fs::write(
            &file,
            format!(
                "[QueueConfig]\nqueueDataStore = {queue:?}\n[LocalConfig]\nlistenAddr = \"{clients}:4516\"\n\
                 [PeerConfig]\nlistenAddr = \"{peers}:4515\"\n{routing}\n{security}"
            ),
        )?;
        Ok(file)
    };
    let top = write("top", TOP, LINK, &format!("[RoutingConfig]\nDesignatedNamespaceFiles = [{names:?}]"))?;
    let uplink = format!("[[RoutingConfig.Router]]\nNamespace = \"{namespace}\"\nAddress = \"{LINK}:4515\"");
    Ok((write("site", SITE, "127.0.0.1", &uplink)?, top))
}

fn client(address: &str) -> Result<WavemqClient<Channel>, BoxError> {
    Ok(WavemqClient::new(Endpoint::from_shared(format!("http://{address}:4516"))?.connect_lazy()))
}

/// The numbers that a subscriber gets.
struct Subscriber {
    messages: Streaming<wire::SubscriptionMessage>,
    /// The next number that has not come yet, for each fault.
    next: BTreeMap<String, u32>,
    duplicates: u32,
}

impl Subscriber {
    async fn new(address: &str, namespace: &Namespace) -> Result<Self, BoxError> {
        let params = wire::SubscribeParams {
            namespace: namespace.as_bytes().to_vec().into(),
            uri: "*".to_owned(),
            identifier: "netns".to_owned(),
            expiry: 3_600,
            ..wire::SubscribeParams::default()
        };
        let messages = client(address)?.subscribe(params).await?.into_inner();
        Ok(Self { messages, next: BTreeMap::new(), duplicates: 0 })
    }

    /// Receives until all numbers of a fault have come. A number comes once or more, none before an earlier one.
    async fn all(&mut self, fault: &str) -> Result<(), BoxError> {
        while self.next.get(fault).copied().unwrap_or_default() < MESSAGES {
            let item = timeout(STUCK, self.messages.message()).await.map_err(|_| "messages are lost")??;
            let tbs = item.and_then(|item| item.message).and_then(|message| message.tbs).ok_or("it ended")?;
            let number: u32 = std::str::from_utf8(&tbs.payload[0].content)?.parse()?;
            let next = self.next.entry(tbs.uri).or_default();
            if number > *next {
                return Err(format!("{number} came before {next}").into());
            }
            self.duplicates += u32::from(number < *next);
            *next += u32::from(number == *next);
        }
        Ok(())
    }
}

async fn publish(namespace: &Namespace, fault: &str) -> Result<(), BoxError> {
    let mut site = client(SITE)?;
    for number in 0..MESSAGES {
        let object = wire::PayloadObject { schema: "n".to_owned(), content: number.to_string().into() };
        let params = wire::PublishParams {
            namespace: namespace.as_bytes().to_vec().into(),
            uri: fault.to_owned(),
            content: vec![object],
            ..wire::PublishParams::default()
        };
        if let Some(error) = timeout(STUCK, site.publish(params)).await??.into_inner().error {
            return Err(error.message.into());
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (folder, namespace) = (tempfile::tempdir()?, Namespace::named("site")?);
    let (site_config, top_config) = configure(folder.path(), &namespace)?;
    let network = Network::new()?;
    let _top = Router::start(&network.top, &top_config, TOP).await?;
    let _site = Router::start(&network.site, &site_config, SITE).await?;
    let mut local = Subscriber::new(SITE, &namespace).await?;
    let mut at_top = Subscriber::new(TOP, &namespace).await?;
    println!("{MESSAGES} messages at the site during each fault; seconds");
    println!("{:<28} {:>10} {:>22}", "fault", "local", "centre, after its end");
    let Network { site, top } = &network;
    let slow = |how: &str| format!("tc -n {site} qdisc add dev link0 root {how}");
    // Not every kernel has netem.
    let (netem, bucket) = (slow("netem delay 200ms loss 10%"), slow("tbf rate 64kbit burst 2kb limit 6kb"));
    let has_netem = run(&netem).and_then(|()| run(&format!("tc -n {site} qdisc del dev link0 root"))).is_ok();
    if !has_netem {
        println!("this kernel has no netem: the slow link is a token bucket");
    }
    for (fault, begin, end) in [
        ("none", None, None),
        (
            "link down",
            Some(format!("ip -n {site} link set link0 down")),
            Some(format!("ip -n {site} link set link0 up")),
        ),
        // Packets arrive at the centre, which cannot answer.
        (
            "no answers for 15 s",
            Some(format!("ip -n {top} route add blackhole 10.213.3.1/32")),
            Some(format!("ip -n {top} route del blackhole 10.213.3.1/32")),
        ),
        match has_netem {
            true => ("200 ms, 10 % lost", Some(netem), None),
            false => ("64 kbit/s, full buffers", Some(bucket), None),
        },
    ] {
        begin.as_deref().map_or(Ok(()), run)?;
        let begun = Instant::now();
        let publishing = async { publish(&namespace, fault).await.map(|()| begun.elapsed()) };
        let receiving = async { local.all(fault).await.map(|()| begun.elapsed()) };
        let (published, received) = tokio::try_join!(publishing, receiving)?;
        let late = received.saturating_sub(published).as_secs_f64();
        if fault.starts_with("no answers") {
            // Longer than routers wait for a sign of life.
            sleep(Duration::from_secs(15).saturating_sub(begun.elapsed())).await;
        }
        end.as_deref().map_or(Ok(()), run)?;
        let ended = Instant::now();
        at_top.all(fault).await?;
        println!("{fault:<28} {late:>10.3} {:>22.3}", ended.elapsed().as_secs_f64());
    }
    println!("none lost, in order; {} came again at the centre", at_top.duplicates);
    Ok(())
}
