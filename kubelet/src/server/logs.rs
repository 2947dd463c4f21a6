//! A container's log: lines of the runtime's format come in from its file, plain text goes out, followed while the container runs.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{io::unix::AsyncFd, sync::mpsc};

/// As in the API's PodLogOptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    pub tail: Option<u64>,
    pub limit: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<&'static str>,
}

/// One line of the file: `2026-11-21T01:17:09.07Z stdout F text`. P instead of F: the line goes on in the next one.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    stamp: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (stamp, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    // An empty line has nothing after its tag.
    let text = parts.next().unwrap_or_default();
    let partial = tag.split(|b| *b == b':').next()? == b"P";
    (stream == b"stdout" || stream == b"stderr").then_some(Line {
        stamp,
        stream,
        partial,
        text,
    })
}

/// Turns the file's bytes into the text that was asked for.
#[derive(Debug)]
struct Filter {
    options: Options,
    /// A line whose end has not been written yet.
    rest: Vec<u8>,
    /// The last line said that it goes on.
    within: bool,
    sent: u64,
    /// Lines from here on are as late as was asked for; stamps only grow.
    late: bool,
}

impl Filter {
    fn new(options: Options) -> Self {
        let late = options.since.is_none();
        Filter {
            options,
            rest: Vec::new(),
            within: false,
            sent: 0,
            late,
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, after) = bytes.split_at(end);
            bytes = &after[1..];
            if self.rest.is_empty() {
                self.line(line, &mut out);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole, &mut out);
            }
        }
        self.rest.extend_from_slice(bytes);
        if let Some(limit) = self.options.limit {
            let left = usize::try_from(limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            out.truncate(left);
        }
        self.sent += out.len() as u64;
        out
    }

    fn full(&self) -> bool {
        self.options.limit.is_some_and(|limit| self.sent >= limit)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        // What the runtime did not write is not the container's.
        let Some(line) = parse(line) else { return };
        if let Some(since) = self.options.since.filter(|_| !self.late) {
            let stamp = std::str::from_utf8(line.stamp)
                .ok()
                .and_then(|s| s.parse::<Timestamp>().ok());
            if stamp.is_none_or(|s| s < since) {
                return;
            }
            self.late = true;
        }
        if self.options.stream.is_some_and(|s| s.as_bytes() != line.stream) {
            return;
        }
        if self.options.timestamps && !self.within {
            out.extend_from_slice(line.stamp);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.within = line.partial;
    }
}

/// Where the last `lines` lines of the file begin.
fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    const BLOCK: u64 = 8192;
    let length = file.seek(SeekFrom::End(0))?;
    let (mut left, mut end) = (lines, length);
    let mut block = vec![0; BLOCK as usize];
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let size = usize::try_from(end - start).unwrap_or(0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        let mut upto = size;
        while let Some(at) = memchr::memrchr(b'\n', &block[..upto]) {
            // The newline that ends the file belongs to the last line.
            if start + at as u64 + 1 != length {
                if left <= 1 {
                    return Ok(start + at as u64 + 1);
                }
                left -= 1;
            } else if lines == 0 {
                return Ok(length);
            }
            upto = at;
        }
        end = start;
    }
    Ok(if lines == 0 { length } else { 0 })
}

/// Tells when the container has ended and its log is complete.
#[async_trait::async_trait]
pub trait Ending: Send {
    async fn ended(&mut self);
}

/// Sends the log until its end, or the reader's.
pub async fn send(path: PathBuf, options: Options, mut ending: impl Ending, out: mpsc::Sender<io::Result<Bytes>>) {
    if let Err(error) = copy(&path, options, &mut ending, &out).await {
        // The reader may have gone, which is how most of these end.
        drop(out.send(Err(error)).await);
    }
}

async fn copy(
    path: &Path,
    options: Options,
    ending: &mut impl Ending,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let follow = options.follow;
    // Watched before it is read, so that nothing written in between is missed.
    let watch = if follow { Some(Watch::new(path)?) } else { None };
    let mut file = File::open(path)?;
    let start = match options.tail {
        Some(lines) => tail(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start))?;
    let mut filter = Filter::new(options);
    let mut buffer = vec![0; 32 << 10];
    let mut complete = !follow;
    loop {
        let read = file.read(&mut buffer)?;
        if read > 0 {
            let text = filter.feed(&buffer[..read]);
            if !text.is_empty() && out.send(Ok(text.into())).await.is_err() {
                return Ok(());
            }
            if filter.full() {
                return Ok(());
            }
            continue;
        }
        if let Some(next) = rotated(path, &file)? {
            file = next;
            continue;
        }
        let Some(watch) = watch.as_ref().filter(|_| !complete) else {
            return Ok(());
        };
        tokio::select! {
            biased;
            () = out.closed() => return Ok(()),
            () = ending.ended() => complete = true,
            changed = watch.changed() => changed?,
        }
    }
}

/// The file that has taken this one's place, when it was rotated away.
fn rotated(path: &Path, file: &File) -> io::Result<Option<File>> {
    let now = match fs::metadata(path) {
        Ok(meta) => meta,
        // Between the rename and the runtime's reopening.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let had = file.metadata()?;
    if (now.dev(), now.ino()) == (had.dev(), had.ino()) {
        Ok(None)
    } else {
        File::open(path).map(Some)
    }
}

/// inotify on the log's directory: its file grows, goes and comes there.
#[derive(Debug)]
struct Watch {
    fd: AsyncFd<Queue>,
}

#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let queue = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let dir = path.parent().unwrap_or(path);
        queue.add_watch(
            dir,
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO,
        )?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe to call; this descriptor is owned by what is given to it and never changes"
        )]
        let fd = AsyncFd::new(Queue(queue))?;
        Ok(Watch { fd })
    }

    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(_) => return Ok(()),
                Err(nix::Error::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::sync::oneshot;

    use super::*;

    const LOG: &str = "2026-11-21T01:00:00.1Z stdout F one\n2026-11-21T01:00:01.2Z stderr P tw\n\
        2026-11-21T01:00:01.3Z stderr F o\n2026-11-21T01:00:02Z stdout F\n2026-11-21T01:00:03Z stdout F three\n";

    struct Told(Option<oneshot::Receiver<()>>);

    #[async_trait::async_trait]
    impl Ending for Told {
        async fn ended(&mut self) {
            match &mut self.0 {
                Some(told) => drop(told.await),
                None => std::future::pending().await,
            }
        }
    }

    async fn read(path: &Path, options: Options) -> String {
        let (out, mut text) = mpsc::channel(4);
        let mut all = Vec::new();
        let sending = send(path.to_owned(), options, Told(None), out);
        let gathering = async {
            while let Some(part) = text.recv().await {
                all.extend_from_slice(&part.unwrap());
            }
        };
        tokio::join!(sending, gathering);
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn options_choose_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, LOG).unwrap();
        let some = Options::default;
        for (options, want) in [
            (some(), "one\ntwo\n\nthree\n"),
            (
                Options {
                    tail: Some(2),
                    ..some()
                },
                "\nthree\n",
            ),
            (
                Options {
                    tail: Some(0),
                    ..some()
                },
                "",
            ),
            (
                Options {
                    tail: Some(99),
                    ..some()
                },
                "one\ntwo\n\nthree\n",
            ),
            (
                Options {
                    limit: Some(5),
                    ..some()
                },
                "one\nt",
            ),
            (
                Options {
                    since: Some("2026-11-21T01:00:02Z".parse().unwrap()),
                    ..some()
                },
                "\nthree\n",
            ),
            (
                Options {
                    stream: Some("stderr"),
                    ..some()
                },
                "two\n",
            ),
            (
                Options {
                    timestamps: true,
                    tail: Some(4),
                    ..some()
                },
                "2026-11-21T01:00:01.2Z two\n2026-11-21T01:00:02Z \n2026-11-21T01:00:03Z three\n",
            ),
        ] {
            assert_eq!(read(&path, options.clone()).await, want, "{options:?}");
        }
    }

    #[tokio::test]
    async fn following_goes_on_over_a_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "2026-11-21T01:00:00Z stdout F one\n").unwrap();
        let (out, mut text) = mpsc::channel(4);
        let (end, ended) = oneshot::channel();
        let options = Options {
            follow: true,
            ..Options::default()
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(send(path.clone(), options, Told(Some(ended)), out));
        let next = |part: Option<io::Result<Bytes>>| part.unwrap().unwrap();
        assert_eq!(next(text.recv().await), "one\n");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-11-21T01:00:01Z stdout F two\n").unwrap();
        assert_eq!(next(text.recv().await), "two\n");
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        fs::write(&path, "2026-11-21T01:00:02Z stdout F three\n").unwrap();
        assert_eq!(next(text.recv().await), "three\n");
        end.send(()).unwrap();
        assert!(text.recv().await.is_none());
    }
}
