//! The server's end of a WebSocket (RFC 6455): handshake key, frames in and out.

use std::io;

use base64::Engine;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message that is taken; clients of the API send 32 KiB.
const MAX_MESSAGE: usize = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text or binary.
    Data(Bytes),
    Ping(Bytes),
    Close,
}

/// What a client wants to see in answer to its `Sec-WebSocket-Key`.
pub fn accept(key: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finish())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {what}"))
}

#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: BytesMut,
    /// Of a message in several frames.
    parts: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(inner: R) -> Self {
        Reader {
            inner,
            buffer: BytesMut::new(),
            parts: BytesMut::new(),
        }
    }

    /// The next message; none at the end of the connection. Not cancel-safe in the middle of a fragmented message only.
    pub async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some((last, op, data)) = frame(&mut self.buffer)? {
                match op {
                    8 => return Ok(Some(Message::Close)),
                    9 => return Ok(Some(Message::Ping(data))),
                    10 => continue,
                    0..=2 => {
                        if self.parts.len() + data.len() > MAX_MESSAGE {
                            return Err(bad("message too long"));
                        }
                        if last && self.parts.is_empty() {
                            return Ok(Some(Message::Data(data)));
                        }
                        self.parts.extend_from_slice(&data);
                        if last {
                            return Ok(Some(Message::Data(self.parts.split().freeze())));
                        }
                    }
                    _ => return Err(bad("unknown kind of frame")),
                }
                continue;
            }
            self.buffer.reserve(8 << 10);
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

fn frame(buffer: &mut BytesMut) -> io::Result<Option<(bool, u8, Bytes)>> {
    if buffer.len() < 2 {
        return Ok(None);
    }
    let (first, second) = (buffer[0], buffer[1]);
    if second & 0x80 == 0 {
        return Err(bad("a client's frames are masked"));
    }
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let head = 2 + extended + 4;
    if buffer.len() < head {
        return Ok(None);
    }
    let length = match extended {
        2 => u64::from(u16::from_be_bytes([buffer[2], buffer[3]])),
        8 => {
            let mut eight = [0; 8];
            eight.copy_from_slice(&buffer[2..10]);
            u64::from_be_bytes(eight)
        }
        _ => u64::from(second & 0x7f),
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|l| *l <= MAX_MESSAGE)
        .ok_or_else(|| bad("message too long"))?;
    if buffer.len() < head + length {
        return Ok(None);
    }
    let mut mask = [0; 4];
    mask.copy_from_slice(&buffer[head - 4..head]);
    buffer.advance(head);
    let mut data = buffer.split_to(length);
    for (position, byte) in data.iter_mut().enumerate() {
        *byte ^= mask[position % 4];
    }
    Ok(Some((first & 0x80 != 0, first & 0x0f, data.freeze())))
}

/// Writes one unmasked frame made of a short prefix and the data.
pub async fn write(out: &mut (impl AsyncWrite + Unpin), op: Op, prefix: &[u8], data: &[u8]) -> io::Result<()> {
    let length = prefix.len() + data.len();
    let mut frame = Vec::with_capacity(length + 10);
    frame.push(0x80 | op as u8);
    match length {
        0..=125 => frame.push(length as u8),
        126..=0xffff => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(prefix);
    frame.extend_from_slice(data);
    out.write_all(&frame).await?;
    out.flush().await
}

/// Says goodbye with a status code.
pub async fn close(out: &mut (impl AsyncWrite + Unpin), code: u16) -> io::Result<()> {
    write(out, Op::Close, &[], &code.to_be_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(op: u8, data: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![op];
        match data.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(data.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        out
    }

    #[test]
    fn the_handshake_answers_as_the_standard_says() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn messages_are_unmasked_and_joined() {
        let long = vec![7u8; 300];
        let mut wire = masked(0x82, b"\x00hello");
        wire.extend(masked(0x02, b"ab"));
        wire.extend(masked(0x89, b"p"));
        wire.extend(masked(0x80, b"cd"));
        wire.extend(masked(0x82, &long));
        wire.extend(masked(0x88, b""));
        let mut reader = Reader::new(&wire[..]);
        let mut all = Vec::new();
        while let Some(message) = reader.next().await.unwrap() {
            all.push(message);
        }
        let data = |bytes: &[u8]| Message::Data(Bytes::copy_from_slice(bytes));
        let want = [
            data(b"\x00hello"),
            Message::Ping(Bytes::from_static(b"p")),
            data(b"abcd"),
            data(&long),
            Message::Close,
        ];
        assert_eq!(all, want);
    }

    #[tokio::test]
    async fn an_unmasked_frame_is_refused() {
        let mut reader = Reader::new(&[0x82u8, 1, 0][..]);
        assert!(reader.next().await.is_err());
    }
}
