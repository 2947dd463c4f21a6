//! A network namespace that lives as long as a thread of this process: nothing is left when a test fails or is killed.

use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub(crate) struct Space {
    jobs: mpsc::SyncSender<Job>,
    thread: i32,
}

/// Whether the test has to be skipped, said aloud.
pub(crate) fn skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    !root
}

impl Space {
    pub(crate) fn new() -> Self {
        let (jobs, todo) = mpsc::sync_channel::<Job>(1);
        let (told, thread) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may have namespaces");
            told.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in todo {
                job();
            }
        });
        let space = Self {
            jobs,
            thread: thread.recv().unwrap(),
        };
        space.ip("link set lo up");
        space
    }

    /// Runs a function inside and gives its result; a panic inside is one outside.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (told, result) = mpsc::sync_channel(1);
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            told.send(outcome).unwrap();
        };
        self.jobs.send(Box::new(job)).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A tool inside; gives what it says.
    pub(crate) fn tool(&self, tool: &'static str, arguments: &str) -> String {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(tool).args(&words).output().expect("the tool is installed");
            assert!(
                output.status.success(),
                "{tool} {words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// The `ip` tool inside.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.tool("ip", arguments)
    }

    /// The `bridge` tool inside.
    pub(crate) fn bridge(&self, arguments: &str) -> String {
        self.tool("bridge", arguments)
    }

    /// A cable from here to another namespace.
    pub(crate) fn pair(&self, here: &str, other: &Space, there: &str) {
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), other.thread);
        self.ip(&format!("link add {here} type veth peer name {there} netns {path}"));
    }

    /// Serves TCP on port 80 from inside, on a thread of its own.
    pub(crate) fn serve(&self, number: usize) {
        let listener = self.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
        std::thread::spawn(move || super::cases::serve(&listener, number));
    }

    /// Answers UDP from inside.
    pub(crate) fn serve_udp(&self, at: &'static str, number: usize) {
        let socket = self.run(move || UdpSocket::bind(at).unwrap());
        std::thread::spawn(move || {
            let mut question = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut question) {
                let _ = socket.send_to(number.to_string().as_bytes(), from);
            }
        });
    }
}
