//! How the command talks to the server that runs: a socket that only root may open, one line of JSON a message.
//! The server tells its [`Report`] at once and each time it changes; closing the connection ends it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Of the program that runs; another program than the one asking is replaced by `up`.
    pub build: String,
    pub pid: u32,
    /// What is done of the start, in order.
    pub steps: Vec<Step>,
    /// What stands in the way now.
    pub trouble: Option<String>,
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub name: String,
    pub detail: String,
}

/// Changes the report.
#[derive(Debug, Clone)]
pub(crate) struct Board(watch::Sender<Report>);

impl Board {
    pub(crate) fn new() -> Self {
        let report = Report {
            build: build(),
            pid: std::process::id(),
            ..Report::default()
        };
        Board(watch::channel(report).0)
    }
    /// A step of the start is done. A step that is done again (a part restarted) is not told twice.
    pub(crate) fn done(&self, name: &str, detail: impl Into<String>) {
        let detail = detail.into();
        self.0.send_if_modified(|report| {
            report.trouble = None;
            let news = report.steps.iter().all(|step| step.name != name);
            if news {
                report.steps.push(Step {
                    name: name.to_owned(),
                    detail,
                });
            }
            news
        });
    }
    pub(crate) fn trouble(&self, what: String) {
        self.0.send_modify(|report| report.trouble = Some(what));
    }
    pub(crate) fn ready(&self) {
        self.0.send_modify(|report| report.ready = true);
    }
}

/// Names the program that runs: its version and its file.
pub(crate) fn build() -> String {
    let file = std::fs::metadata("/proc/self/exe")
        .ok()
        .and_then(|meta| Some((meta.len(), meta.modified().ok()?)));
    let stamp = file.and_then(|(size, at)| {
        let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(format!("{size}-{}", since.as_nanos()))
    });
    format!("{} {}", env!("CARGO_PKG_VERSION"), stamp.unwrap_or_default())
}

/// Answers on the socket until `stop`.
pub(crate) async fn serve(socket: &Path, board: Board, stop: CancellationToken) -> anyhow::Result<()> {
    if let Err(error) = std::fs::remove_file(socket)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted?.0,
        };
        let mut reports = board.0.subscribe();
        let stop = stop.clone();
        connections.spawn(async move {
            // A reader that has gone ends its own connection and nothing else.
            let _ = tell(stream, &mut reports, stop).await;
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn tell(
    stream: UnixStream,
    reports: &mut watch::Receiver<Report>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (mut read, mut write) = stream.into_split();
    loop {
        let mut line = serde_json::to_vec(&*reports.borrow_and_update())?;
        line.push(b'\n');
        write.write_all(&line).await?;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            // The other end says nothing: readable means that it hung up.
            _ = tokio::io::AsyncReadExt::read_u8(&mut read) => return Ok(()),
            changed = reports.changed() => changed?,
        }
    }
}

/// A connection to the server that runs.
#[derive(Debug)]
pub(crate) struct Reports {
    lines: Lines<BufReader<OwnedReadHalf>>,
    // The server takes a closed half for a hang-up.
    _write: tokio::net::unix::OwnedWriteHalf,
}

impl Reports {
    /// `None` where no server runs.
    pub(crate) async fn connect(socket: &Path) -> Option<Self> {
        let (read, write) = UnixStream::connect(socket).await.ok()?.into_split();
        Some(Reports {
            lines: BufReader::new(read).lines(),
            _write: write,
        })
    }
    /// The next report; `None` when the server has ended.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Report>> {
        match self.lines.next_line().await {
            Ok(Some(line)) => Ok(Some(serde_json::from_str(&line)?)),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the server that runs says now; `None` where none runs.
pub(crate) async fn ask(socket: &Path) -> anyhow::Result<Option<Report>> {
    match Reports::connect(socket).await {
        Some(mut reports) => reports.next().await,
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_told_once_and_readiness_last() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        assert_eq!(ask(&socket).await.unwrap(), None);
        let (board, stop) = (Board::new(), CancellationToken::new());
        let server = serve(&socket, board.clone(), stop.clone());
        let client = async {
            let mut reports = loop {
                if let Some(reports) = Reports::connect(&socket).await {
                    break reports;
                }
                tokio::task::yield_now().await;
            };
            assert!(!reports.next().await.unwrap().unwrap().ready);
            board.done("API", "");
            board.done("API", "again");
            board.ready();
            let last = loop {
                let report = reports.next().await.unwrap().unwrap();
                if report.ready {
                    break report;
                }
            };
            assert_eq!(last.steps.len(), 1);
            stop.cancel();
            assert_eq!(reports.next().await.unwrap(), None);
        };
        let (served, ()) = tokio::join!(server, client);
        served.unwrap();
    }
}
