//! A container's log: lines of the runtime's format come in from its file, plain text goes out, followed while the container runs.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{io::unix::AsyncFd, sync::mpsc, time::Instant};

use super::rotate;

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
    let mut watch = if follow { Some(Watch::new(path)?) } else { None };
    let mut file = File::open(path)?;
    let start = match options.tail {
        Some(lines) => tail(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start))?;
    let mut filter = Filter::new(options);
    let mut buffer = vec![0; 32 << 10];
    let mut complete = false;
    let mut turn = Turn::default();
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
        let Some(watch) = watch.as_mut() else {
            return Ok(());
        };
        if let Some(next) = successor(path, &file)? {
            if turn.sure {
                (file, turn) = (next.file, Turn::default());
                continue;
            }
            let since = *turn.since.get_or_insert_with(Instant::now);
            if next.settled || watch.closed.contains(&next.after) || complete || since.elapsed() >= SETTLE {
                // What came between the last read and this finding.
                turn.sure = true;
                continue;
            }
            tokio::select! {
                biased;
                () = out.closed() => return Ok(()),
                changed = watch.changed() => changed?,
                () = tokio::time::sleep_until(since + SETTLE) => {}
            }
            continue;
        }
        if complete {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = out.closed() => return Ok(()),
            () = ending.ended() => complete = true,
            changed = watch.changed() => changed?,
        }
    }
}

/// The runtime goes on writing to a file that was put aside until it has opened the next one; if it is not seen to close the
/// old one, this long is waited.
const SETTLE: Duration = Duration::from_secs(1);

/// How far the change to the next file has come.
#[derive(Debug, Default)]
struct Turn {
    /// When the next file was first seen.
    since: Option<Instant>,
    /// Nothing more is written to this one: when it has been read to its end, it is done.
    sure: bool,
}

/// The file that comes after another.
#[derive(Debug)]
struct Next {
    file: File,
    /// What the other is called by now.
    after: OsString,
    /// The runtime has begun a third one since, and surely left the first.
    settled: bool,
}

/// The file that was begun after this one, when this one was put aside. A slow reader may be several files behind.
fn successor(path: &Path, file: &File) -> io::Result<Option<Next>> {
    let identity = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    let open = |path: &Path| match File::open(path) {
        Ok(file) => Ok(Some(file)),
        // Between the rename and the runtime's reopening, or removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let had = identity(&file.metadata()?);
    if fs::metadata(path).is_ok_and(|now| identity(&now) == had) {
        return Ok(None);
    }
    let aside = rotate::aside(path)?;
    let place = aside
        .iter()
        .position(|old| fs::metadata(old).is_ok_and(|meta| identity(&meta) == had));
    // One that was removed was older than all that are left.
    let next = aside.get(place.map_or(0, |place| place + 1));
    let after = place.and_then(|place| aside[place].file_name()).unwrap_or_default();
    let settled = next.is_some();
    let file = open(next.map_or(path, PathBuf::as_path))?;
    Ok(file.map(|file| Next {
        file,
        after: after.to_owned(),
        settled,
    }))
}

/// inotify on the log's directory: its file grows, goes and comes there.
#[derive(Debug)]
struct Watch {
    fd: AsyncFd<Queue>,
    /// Files that were closed by their writer.
    closed: HashSet<OsString>,
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
            AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_CLOSE_WRITE,
        )?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe to call; this descriptor is owned by what is given to it and never changes"
        )]
        let fd = AsyncFd::new(Queue(queue))?;
        Ok(Watch {
            fd,
            closed: HashSet::new(),
        })
    }

    async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let closed = events
                        .into_iter()
                        .filter(|e| e.mask.contains(AddWatchFlags::IN_CLOSE_WRITE));
                    self.closed.extend(closed.filter_map(|e| e.name));
                    return Ok(());
                }
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

    fn stamped(number: usize) -> String {
        format!("2026-11-21T01:00:00Z stdout F {number}\n")
    }

    /// A runtime that is told to begin another file still writes to the old one for a moment.
    #[tokio::test]
    async fn no_line_is_lost_or_repeated_over_many_rotations() {
        const ROUNDS: usize = 60;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "").unwrap();
        let (out, mut text) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let options = Options {
            follow: true,
            ..Options::default()
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(send(path.clone(), options, Told(Some(ended)), out));
        let append = |path: &Path| fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        let mut file = append(&path);
        let mut number = 0;
        let mut line = |file: &mut File| {
            file.write_all(stamped(number).as_bytes()).unwrap();
            number += 1;
        };
        for round in 0..ROUNDS {
            line(&mut file);
            tokio::task::yield_now().await;
            let aside = dir.path().join(format!("0.log.20261121-{round:06}"));
            fs::rename(&path, &aside).unwrap();
            line(&mut file);
            let next = append(&path);
            tokio::task::yield_now().await;
            line(&mut file);
            file = next;
            line(&mut file);
            if round % 7 == 0 {
                // The reader comes to the end of what there is.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
        end.send(()).unwrap();
        let mut all = Vec::new();
        while let Some(part) = text.recv().await {
            all.extend_from_slice(&part.unwrap());
        }
        let want: String = (0..4 * ROUNDS).map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8(all).unwrap(), want);
    }

    #[test]
    fn a_reader_that_is_files_behind_goes_on_with_the_next_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for (name, text) in [
            ("0.log.20260101-000000", "a"),
            ("0.log.20260102-000000", "b"),
            ("0.log", "c"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut file = File::open(dir.path().join("0.log.20260101-000000")).unwrap();
        for want in ["b", "c"] {
            file = successor(&path, &file).unwrap().unwrap().file;
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, want);
        }
        assert!(successor(&path, &file).unwrap().is_none());
        // Its own file was removed: the oldest that is left comes next.
        let gone = dir.path().join("gone");
        let file = File::create(&gone).unwrap();
        fs::remove_file(gone).unwrap();
        let mut text = String::new();
        let mut next = successor(&path, &file).unwrap().unwrap();
        next.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a");
    }
}
