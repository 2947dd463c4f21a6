//! What goes on while it is used: exec, attach, copies, forwarded ports, logs and helpers in running pods, each by both
//! protocols that kubectl speaks.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, bail, ensure};
use e2e::lab::Node;
use e2e::{PATIENCE, eventually, run};
use nix::sched::{CloneFlags, setns};
use sha2::{Digest, Sha256};

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("exec_in_a_terminal_follows_its_size", terminal),
    ("a_command_that_ends_before_its_input_tells_its_exit_code", early_end),
    ("attach_reaches_the_process_that_runs", attach),
    ("files_are_copied_both_ways", copies),
    ("forwarded_ports_carry_many_connections", forwarded),
    ("logs_are_chosen_by_container_time_and_selector", logs),
    ("a_helper_container_joins_a_running_pod", debug),
    ("refused_sessions_say_why", refused),
];

/// How kubectl is told to use WebSocket, its own choice, or SPDY.
const PROTOCOLS: [(&str, &str); 2] = [("websocket", "true"), ("spdy", "false")];

fn kubectl(node: &Node, websockets: &str, words: &[&str]) -> Command {
    let mut command = node.command("kubectl");
    command
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
        .args(words);
    command
}

/// A pod that waits, with a shell at hand.
fn sleeper(node: &Node, namespace: &str) -> anyhow::Result<()> {
    node.kubectl(&format!("create namespace {namespace}"))?;
    let words = format!("-n {namespace} run box --image=busybox:1.36 --restart=Never --command -- sh -c");
    let mut words: Vec<&str> = words.split(' ').collect();
    words.push("trap 'exit 0' TERM; sleep 86400 & wait");
    run(node.command("kubectl").args(&words))?;
    node.kubectl(&format!(
        "-n {namespace} wait --for=condition=Ready pod/box --timeout=60s"
    ))?;
    Ok(())
}

fn delete(node: &Node, namespace: &str) -> anyhow::Result<()> {
    node.kubectl(&format!("delete namespace {namespace} --timeout=80s"))
        .map(drop)
}

/// A program in a terminal of its own, which `script` makes and whose other end is ours.
struct Terminal {
    child: Child,
    device: String,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Terminal {
    fn open(node: &Node, websockets: &str, size: (u32, u32), kubectl: &str) -> anyhow::Result<Self> {
        let said = node.file(&format!("terminal-{websockets}"));
        let program = format!(
            "stty rows {} cols {}; tty > {}; exec kubectl {kubectl}",
            size.0,
            size.1,
            said.display()
        );
        let mut child = node
            .command("script")
            .env("TERM", "dumb")
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .args(["-qfec", &program, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut screen = child.stdout.take().context("stdout is piped")?;
        let (say, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if say.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let device = eventually("the terminal has a name", || {
            let name = std::fs::read_to_string(&said)?;
            ensure!(name.ends_with('\n'));
            Ok(name.trim().to_owned())
        })?;
        std::fs::remove_file(said)?;
        Ok(Terminal {
            child,
            device,
            screen: heard,
            seen: Vec::new(),
        })
    }

    fn types(&mut self, text: &str) -> anyhow::Result<()> {
        let keys = self.child.stdin.as_mut().context("stdin is piped")?;
        Ok(keys.write_all(text.as_bytes())?)
    }

    fn resize(&self, node: &Node, rows: u32, columns: u32) -> anyhow::Result<()> {
        node.sh(&format!("stty -F {} rows {rows} cols {columns}", self.device))
            .map(drop)
    }

    /// Reads the screen until it shows `text` after what was waited for before.
    fn shows(&mut self, text: &str) -> anyhow::Result<()> {
        loop {
            let shown = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = shown.find(text) {
                self.seen = shown.as_bytes()[at + text.len()..].to_vec();
                return Ok(());
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(more) => self.seen.extend(more),
                Err(_) => bail!("{text:?} is not shown: {shown:?}"),
            }
        }
    }

    fn ends(mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }
}

fn terminal(node: &Node) -> anyhow::Result<()> {
    sleeper(node, "terminal")?;
    for (name, websockets) in PROTOCOLS {
        let exec = "-n terminal exec -it box -- sh";
        let mut terminal = Terminal::open(node, websockets, (33, 101), exec).context(name)?;
        terminal.shows("# ")?;
        terminal.types("stty size\n")?;
        terminal.shows("33 101").context(name)?;
        terminal.resize(node, 40, 120)?;
        // The new size travels on a way of its own; the shell sees it as soon as it is there.
        terminal.types("until [ \"$(stty size)\" = \"40 120\" ]; do usleep 10000; done; echo resized $((1+1))\n")?;
        terminal.shows("resized 2").context(name)?;
        terminal.types("exit 5\n")?;
        let code = terminal.ends()?;
        ensure!(code == Some(5), "{name}: {code:?}");

        let run = format!("-n terminal run {name} -it --rm --restart=Never --image=busybox:1.36 -- sh");
        let mut terminal = Terminal::open(node, websockets, (24, 80), &run).context(name)?;
        terminal.shows("try pressing enter")?;
        terminal.types("echo seen $((3*3))\n")?;
        terminal.shows("seen 9").context(name)?;
        terminal.types("exit 4\n")?;
        terminal.shows("deleted").context(name)?;
        let code = terminal.ends()?;
        ensure!(code == Some(4), "{name}: {code:?}");
    }
    delete(node, "terminal")
}

fn early_end(node: &Node) -> anyhow::Result<()> {
    sleeper(node, "early")?;
    for (name, websockets) in PROTOCOLS {
        for round in 0..5 {
            let command = ["-n", "early", "exec", "-i", "box", "--", "sh", "-c", "exit 3"];
            let mut child = kubectl(node, websockets, &command)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut input = child.stdin.take().context("stdin is piped")?;
            // Small enough for the runtime, which would hang over more.
            drop(input.write_all(&[b'\n'; 40_000]));
            drop(input);
            let output = child.wait_with_output()?;
            ensure!(output.status.code() == Some(3), "{name}, round {round}: {output:?}");
        }
        let said = said_with(node, websockets, "-n early exec -i box -- cat", b"over\n")?;
        ensure!(said == "over\n", "{name}: {said:?}");
    }
    delete(node, "early")
}

/// What kubectl prints when it is given this input.
fn said_with(node: &Node, websockets: &str, words: &str, input: &[u8]) -> anyhow::Result<String> {
    let words: Vec<&str> = words.split(' ').collect();
    let mut child = kubectl(node, websockets, &words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(input)?;
    e2e::said("kubectl", child.wait_with_output()?)
}

fn attach(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace attach")?;
    for (name, websockets) in PROTOCOLS {
        let words = format!(
            "-n attach run {name} --image=busybox:1.36 --restart=Never --stdin --attach=false --command -- sh -c"
        );
        let mut words: Vec<&str> = words.split(' ').collect();
        words.push("while read line; do echo got $line; done; echo end; sleep 1");
        run(&mut kubectl(node, websockets, &words))?;
        node.kubectl(&format!(
            "-n attach wait --for=condition=Ready pod/{name} --timeout=60s"
        ))?;
        // Its input may be given once; it is told its end.
        let attached = format!("-n attach attach -i {name}");
        let said = said_with(node, websockets, &attached, b"one\ntwo\n").context(name)?;
        ensure!(
            said.contains("got one\ngot two\n") && said.contains("end\n"),
            "{name}: {said:?}"
        );
    }
    delete(node, "attach")
}

fn hash(path: &Path) -> anyhow::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The most memory that the cluster's process ever had, in KiB.
fn peak(node: &Node) -> anyhow::Result<u64> {
    let line = node.sh("grep VmHWM /proc/$(cat /run/coracle/coracle.pid)/status")?;
    let number = line.split_whitespace().nth(1).context("a number of KiB")?;
    Ok(number.parse()?)
}

fn copies(node: &Node) -> anyhow::Result<()> {
    sleeper(node, "copies")?;
    for ((name, websockets), megabytes) in PROTOCOLS.into_iter().zip([500, 100]) {
        let (large, back) = (node.file("large"), node.file("back"));
        run(Command::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "status=none"])
            .arg(format!("count={megabytes}"))
            .arg(format!("of={}", large.display())))?;
        let wanted = hash(&large)?;
        let before = peak(node)?;
        let (large, there) = (large.display().to_string(), format!("box:/root/{name}"));
        run(&mut kubectl(node, websockets, &["-n", "copies", "cp", &large, &there])).context(name)?;
        let inside = node.kubectl(&format!("-n copies exec box -- sha256sum /root/{name}"))?;
        ensure!(inside.starts_with(&wanted), "{name}, to the pod: {inside} for {wanted}");
        let here = back.display().to_string();
        run(&mut kubectl(node, websockets, &["-n", "copies", "cp", &there, &here])).context(name)?;
        let returned = hash(&back)?;
        ensure!(returned == wanted, "{name}, from the pod: {returned} for {wanted}");
        let grown = peak(node)?.saturating_sub(before);
        ensure!(grown < 32 << 10, "{name}: the copies took {grown} KiB of memory");
        node.kubectl(&format!("-n copies exec box -- rm /root/{name}"))?;
        std::fs::remove_file(large)?;
        std::fs::remove_file(back)?;
    }
    delete(node, "copies")
}

/// A connection to a port of the node's loopback interface.
fn dial(node: &Node, port: u16) -> anyhow::Result<TcpStream> {
    let namespace = File::open(format!("/proc/{}/ns/net", node.init()))?;
    // Namespaces belong to threads, and sockets stay in the one that they were made in.
    let dialed = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        anyhow::Ok(stream)
    });
    dialed
        .join()
        .map_err(|_| anyhow::anyhow!("the dialing thread panicked"))?
}

/// A kubectl that serves a local port, and which one.
struct Serving {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    pid: String,
    port: u16,
}

impl Serving {
    fn start(node: &Node, websockets: &str, words: &str) -> anyhow::Result<Self> {
        let mut child = node
            .command("sh")
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .args(["-c", &format!("echo $$; exec kubectl {words} 2>&1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let pid = lines.next().context("the shell tells its number")??;
        let said = lines.next().context("kubectl serves")??;
        // "Forwarding from 127.0.0.1:40001 -> 80", "Starting to serve on 127.0.0.1:40001"
        let port = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("127.0.0.1:")?.parse().ok())
            .with_context(|| said.clone())?;
        Ok(Serving {
            child,
            lines,
            pid,
            port,
        })
    }

    /// Ends it; what it has said.
    fn end(mut self, node: &Node) -> anyhow::Result<String> {
        node.sh(&format!("kill {}", self.pid))?;
        self.child.wait()?;
        Ok(self.lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"))
    }
}

/// Sends a value to redis, asks for it and compares.
fn there_and_back(stream: &mut TcpStream, key: usize, size: usize) -> anyhow::Result<()> {
    let value: Vec<u8> = (0..size).map(|at| (at * (key + 1) + at / 251) as u8).collect();
    let key = format!("key{key:03}");
    write!(stream, "*3\r\n$3\r\nSET\r\n$6\r\n{key}\r\n${size}\r\n")?;
    stream.write_all(&value)?;
    write!(stream, "\r\n*2\r\n$3\r\nGET\r\n$6\r\n{key}\r\n")?;
    let mut answer = vec![0; format!("+OK\r\n${size}\r\n").len() + size + 2];
    stream.read_exact(&mut answer)?;
    ensure!(answer.starts_with(format!("+OK\r\n${size}\r\n").as_bytes()));
    ensure!(
        answer[answer.len() - size - 2..answer.len() - 2] == value,
        "{key}: other bytes came back"
    );
    write!(stream, "*2\r\n$3\r\nDEL\r\n$6\r\n{key}\r\n")?;
    let mut deleted = [0; 4];
    stream.read_exact(&mut deleted)?;
    ensure!(&deleted == b":1\r\n");
    Ok(())
}

fn forwarded(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace forward")?;
    node.kubectl("-n forward run redis --image=redis:7 --port=6379 -- redis-server --save  --protected-mode no")?;
    node.kubectl("-n forward expose pod redis --port=16379 --target-port=6379")?;
    node.kubectl("-n forward wait --for=condition=Ready pod/redis --timeout=60s")?;
    for ((name, websockets), target) in PROTOCOLS.into_iter().zip(["pod/redis :6379", "service/redis :16379"]) {
        let serving = Serving::start(node, websockets, &format!("-n forward port-forward {target}")).context(name)?;
        let streams = (0..50)
            .map(|_| dial(node, serving.port))
            .collect::<anyhow::Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            let all: Vec<_> = streams
                .into_iter()
                .enumerate()
                .map(|(key, mut stream)| scope.spawn(move || there_and_back(&mut stream, key, 1 << 20)))
                .collect();
            all.into_iter()
                .try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a connection panicked"))?)
        })
        .context(name)?;
        there_and_back(&mut dial(node, serving.port)?, 0, 64 << 20).context(name)?;
        // A client that goes in the middle of an answer takes nothing along.
        let mut leaving = dial(node, serving.port)?;
        leaving.write_all(b"SET x y\r\n")?;
        leaving.write_all(&b"GET x\r\n".repeat(20_000))?;
        drop(leaving);
        there_and_back(&mut dial(node, serving.port)?, 0, 1000).context(name)?;
        serving.end(node)?;

        // kubectl itself ends a session whose port is closed, as it does everywhere; it says why.
        let mut serving = Serving::start(node, websockets, "-n forward port-forward pod/redis :9999").context(name)?;
        let mut stream = dial(node, serving.port)?;
        let mut nothing = [0; 1];
        ensure!(
            stream.read(&mut nothing).unwrap_or(0) == 0,
            "{name}: a closed port answered"
        );
        let said = serving
            .lines
            .by_ref()
            .map_while(Result::ok)
            .collect::<Vec<_>>()
            .join("\n");
        serving.child.wait()?;
        ensure!(said.contains("connection refused"), "{name}: {said}");
    }
    // Clients of old forward by plain messages: a channel for the data and one for errors, each named by its first frame.
    let serving = Serving::start(node, "true", "proxy --port=0")?;
    let path = "/api/v1/namespaces/forward/pods/redis/portforward?ports=6379";
    let mut stream = upgrade(node, serving.port, path, "v4.channel.k8s.io")?;
    // Channel 0, masked with zeros.
    stream.write_all(b"\x82\x87\0\0\0\0\0PING\r\n")?;
    let want = b"\x82\x03\x00\xeb\x18\x82\x03\x01\xeb\x18\x82\x08\x00+PONG\r\n";
    let mut got = vec![0; want.len()];
    stream.read_exact(&mut got)?;
    ensure!(got == want, "{got:?}");
    drop(stream);
    serving.end(node)?;
    delete(node, "forward")
}

/// A WebSocket; what was answered up to the first message is read.
fn upgrade(node: &Node, port: u16, path: &str, protocol: &str) -> anyhow::Result<TcpStream> {
    let mut stream = dial(node, port)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    ensure!(
        head.starts_with("http/1.1 101")
            && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
            && head.contains(&format!("sec-websocket-protocol: {protocol}")),
        "{head}"
    );
    Ok(stream)
}

const TWO: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "two", "labels": {"app": "logs"}}, "spec": {
    "terminationGracePeriodSeconds": 1,
    "containers": [
        {"name": "a", "image": "busybox:1.36", "command": ["sh", "-c",
            "if [ -e /keep/again ]; then echo second; sleep 86400; fi; touch /keep/again; seq 1 5; echo oops; exit 1"],
            "volumeMounts": [{"name": "keep", "mountPath": "/keep"}]},
        {"name": "b", "image": "busybox:1.36", "command": ["sh", "-c", "echo from b; sleep 86400"]}],
    "volumes": [{"name": "keep", "emptyDir": {}}]}}"#;

fn logs(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace logs")?;
    let manifest = node.file("two.json");
    std::fs::write(&manifest, TWO)?;
    node.kubectl(&format!("-n logs apply -f {}", manifest.display()))?;
    eventually("the first container runs again", || {
        let said = node.kubectl("-n logs logs two -c a")?;
        ensure!(said == "second\n", "{said:?}");
        Ok(())
    })?;
    let previous = node.kubectl("-n logs logs two -c a --previous")?;
    ensure!(previous == "1\n2\n3\n4\n5\noops\n", "{previous:?}");
    let tail = node.kubectl("-n logs logs two -c a --previous --tail=2")?;
    ensure!(tail == "5\noops\n", "{tail:?}");
    let few = node.kubectl("-n logs logs two -c a --previous --limit-bytes=3")?;
    ensure!(few == "1\n2", "{few:?}");
    let stamped = node.kubectl("-n logs logs two -c b --timestamps")?;
    let (stamp, text) = stamped.split_once(' ').context("a stamp")?;
    ensure!(
        stamp.ends_with('Z') && stamp.contains('T') && text == "from b\n",
        "{stamped:?}"
    );
    ensure!(node.kubectl("-n logs logs two -c b --since=1h")? == "from b\n");
    ensure!(node.kubectl(&format!("-n logs logs two -c b --since-time={stamp}"))? == "from b\n");
    ensure!(
        node.kubectl("-n logs logs two -c b --since-time=2999-01-01T00:00:00Z")?
            .is_empty()
    );
    // kubectl asks for them in no order.
    let all = node.kubectl("-n logs logs two --all-containers")?;
    ensure!(all == "second\nfrom b\n" || all == "from b\nsecond\n", "{all:?}");
    let selected = node.kubectl("-n logs logs -l app=logs --all-containers --prefix")?;
    ensure!(
        selected.contains("[pod/two/a] second\n") && selected.contains("[pod/two/b] from b\n"),
        "{selected:?}"
    );

    // The same through a proxy, as a page and as WebSocket messages.
    let serving = Serving::start(node, "true", "proxy --port=0")?;
    let log = "/api/v1/namespaces/logs/pods/two/log?container=b";
    let mut stream = dial(node, serving.port)?;
    write!(
        stream,
        "GET {log} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.starts_with("HTTP/1.1 200") && page.contains("from b\n"), "{page}");
    let mut messages = Vec::new();
    upgrade(node, serving.port, log, "binary.k8s.io")?.read_to_end(&mut messages)?;
    ensure!(messages == b"\x82\x07from b\n\x88\x02\x03\xe8", "{messages:?}");
    serving.end(node)?;
    delete(node, "logs")
}

fn debug(node: &Node) -> anyhow::Result<()> {
    sleeper(node, "debug")?;
    for (name, websockets) in PROTOCOLS {
        let words = format!("-n debug debug -it box --image=busybox:1.36 --target=box -c {name} -- sh");
        let mut terminal = Terminal::open(node, websockets, (24, 200), &words).context(name)?;
        terminal.shows("try pressing enter")?;
        terminal.types("ps | grep -c '[s]leep 86400'; echo seen $((3*3))\n")?;
        terminal.shows("seen 9").context(name)?;
        let running = format!(
            "-n debug get pod box -o jsonpath={{.status.ephemeralContainerStatuses[?(@.name==\"{name}\")].state.running.startedAt}}"
        );
        ensure!(!node.kubectl(&running)?.is_empty(), "{name}: not told to be running");
        // The processes of the target are seen.
        terminal.types("kill -0 $(pidof sleep) && echo reached $((4*4))\n")?;
        terminal.shows("reached 16").context(name)?;
        terminal.types("exit\n")?;
        terminal.ends()?;
        let ended = running.replace("running.startedAt", "terminated.reason");
        eventually("its end is told", || {
            let reason = node.kubectl(&ended)?;
            ensure!(reason == "Completed", "{reason:?}");
            Ok(())
        })?;
        let log = node.kubectl(&format!("-n debug logs box -c {name}"))?;
        ensure!(log.contains("seen 9"), "{log}");
    }
    ensure!(node.kubectl("-n debug get pod box -o jsonpath={.status.containerStatuses[0].restartCount}")? == "0");
    delete(node, "debug")
}

const HALF: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "half"}, "spec": {
    "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [
        {"name": "done", "image": "busybox:1.36", "command": ["true"]},
        {"name": "on", "image": "busybox:1.36", "command": ["sleep", "86400"]}]}}"#;

fn refused(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace refused")?;
    let manifest = node.file("half.json");
    std::fs::write(&manifest, HALF)?;
    node.kubectl(&format!("-n refused apply -f {}", manifest.display()))?;
    eventually("one container has ended", || {
        let reason = node
            .kubectl("-n refused get pod half -o jsonpath={.status.containerStatuses[?(@.name==\"done\")].state.terminated.reason}")?;
        ensure!(reason == "Completed");
        Ok(())
    })?;
    node.kubectl("-n refused create serviceaccount looker")?;
    node.kubectl("-n refused create role looker --verb=get --resource=pods,pods/exec,pods/log")?;
    node.kubectl("-n refused create rolebinding looker --role=looker --serviceaccount=refused:looker")?;
    for (name, websockets) in PROTOCOLS {
        for (words, want) in [
            (
                "exec half -c done -- ls",
                "error: unable to upgrade connection: container not found (\"done\")",
            ),
            (
                "attach half -c done",
                "error: unable to upgrade connection: container not found (\"done\")",
            ),
            ("exec half -c on -- nothing", "executable file not found in $PATH"),
            (
                "exec none -- ls",
                "Error from server (NotFound): pods \"none\" not found",
            ),
            (
                "exec half -c on --as=system:serviceaccount:refused:looker -- ls",
                "cannot create resource \"pods/exec\" in API group \"\" in the namespace \"refused\"",
            ),
        ] {
            let mut all = vec!["-n", "refused"];
            all.extend(words.split(' '));
            let output = kubectl(node, websockets, &all).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() == Some(1) && said.contains(want),
                "{name}: {words}: {}\n{said}",
                output.status
            );
        }
        // A client that is killed leaves no process behind that waits for its input.
        let words = "-n refused exec -i half -c on -- sh -c 'echo 127.0.0.1:1; exec cat'";
        let serving = Serving::start(node, websockets, words).context(name)?;
        let found = || node.kubectl("-n refused exec half -c on -- pidof cat").is_ok();
        ensure!(found(), "{name}: the command does not run");
        node.sh(&format!("kill -9 {}", serving.pid))?;
        eventually("the command has ended", || {
            ensure!(!found(), "{name}: the command runs on");
            Ok(())
        })?;
        drop(serving);
    }
    delete(node, "refused")
}
